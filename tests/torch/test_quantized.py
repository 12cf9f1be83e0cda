"""``quantize_dynamic`` of PyTorch: its modules, with their own integers and scales."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.ao import quantization

import cylstm
from cylstm.arrays.quantization import dequantized
from cylstm.nn.frozen import as_parameters

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
KINDS: Any = {nn.LSTM, nn.LSTMCell, nn.Linear}

OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
    {"num_layers": 2, "dropout": 0.25},
]


def quantize(module: nn.Module, how: str) -> Any:
    """The module as PyTorch's own tool makes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if how == "per channel":
            kinds = {kind: quantization.per_channel_dynamic_qconfig for kind in KINDS}
            return quantization.quantize_dynamic(nn.Sequential(module), kinds)[0]
        dtype = torch.float16 if how == "float16" else torch.qint8
        return quantization.quantize_dynamic(nn.Sequential(module), KINDS, dtype=dtype)[0]


def exact(lstm: cylstm.LSTM) -> cylstm.LSTM:
    """An LSTM in float64 with the weights that a converted one stands for."""
    options = {"num_layers": lstm.num_layers, "bidirectional": lstm.bidirectional, "batch_first": lstm.batch_first}
    wide = cylstm.LSTM(lstm.input_size, lstm.hidden_size, bias=lstm.bias, dtype="float64", backend="numpy", **options)
    whole = as_parameters(lstm.state_dict())
    wide.load_state_dict({n: a if isinstance(a, np.ndarray) else dequantized(a) for n, a in whole.items()})
    return wide


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("how", ["per tensor", "per channel"])
def test_lstm_of_qint8(options: dict[str, Any], how: str) -> None:
    torch.manual_seed(2)
    theirs = quantize(nn.LSTM(20, 32, **options).eval(), how)
    ours = cylstm.LSTM.from_torch(theirs)
    assert (ours.frozen, ours.precision, ours.training, ours.dropout) == (True, "int8", False, theirs.dropout)
    weights = theirs.get_weight()
    for name, tensor in weights.items():
        np.testing.assert_array_equal(getattr(ours, f"{name}_int8"), tensor.int_repr().numpy())
        meant = dequantized(as_parameters(ours.state_dict())[name])
        np.testing.assert_allclose(meant, tensor.dequantize().numpy(), rtol=1e-6)
    x = torch.randn(15, 4, 20)
    expected = exact(ours)(x.double())[0]
    got = ours(x)[0]
    their_error = np.abs(theirs(x)[0].detach().numpy() - expected).max()
    assert np.abs(got - expected).max() < 4e-3
    assert their_error < 4e-2
    assert list(ours.state_dict()) == [
        stored
        for name in cylstm.LSTM(20, 32, **options).state_dict()
        for stored in ([f"{name}_int8", f"{name}_scale"] if name.startswith("weight") else [name])
    ]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_lstm_of_float16_keeps_every_value(options: dict[str, Any]) -> None:
    module = nn.LSTM(20, 32, **options)
    ours = cylstm.LSTM.from_torch(quantize(module, "float16"))
    assert (ours.frozen, ours.dtype) == (False, np.float32)
    for name, tensor in module.state_dict().items():
        expected = tensor.half().float() if name.startswith("weight") else tensor
        np.testing.assert_array_equal(ours.state_dict()[name], expected.numpy())


def test_cell_of_qint8() -> None:
    theirs = quantize(nn.LSTMCell(20, 32), "per tensor")
    ours = cylstm.torch.from_torch(theirs)
    assert isinstance(ours, cylstm.LSTMCell)
    assert ours.frozen
    x = torch.randn(4, 20)
    h, c = ours(x)
    their_h, their_c = theirs(x)
    np.testing.assert_allclose(h, their_h.detach().numpy(), rtol=0, atol=2e-2)
    np.testing.assert_allclose(c, their_c.detach().numpy(), rtol=0, atol=2e-2)


@pytest.mark.parametrize("how", ["per tensor", "per channel", "float16"])
def test_linear(how: str) -> None:
    theirs = quantize(nn.Linear(20, 5), how)
    ours = cylstm.Linear.from_torch(theirs)
    weight = theirs.weight()
    np.testing.assert_array_equal(ours.weight, (weight.dequantize() if weight.is_quantized else weight).float().numpy())
    x = torch.randn(4, 20)
    np.testing.assert_allclose(ours(x), theirs(x).detach().numpy(), rtol=0, atol=5e-2)


def test_a_backend_may_be_named() -> None:
    theirs = quantize(nn.LSTM(3, 4), "per tensor")
    assert cylstm.LSTM.from_torch(theirs, backend="numpy").backend == "numpy"
    with pytest.raises(TypeError, match="backend must be None for a Linear"):
        cylstm.torch.from_torch(quantize(nn.Linear(3, 4), "per tensor"), backend="numpy")
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.LSTMCell"):
        cylstm.LSTMCell.from_torch(theirs)


def test_one_with_zero_points() -> None:
    observer = quantization.MinMaxObserver.with_args(dtype=torch.qint8, qscheme=torch.per_tensor_affine)
    config = quantization.QConfig(activation=quantization.default_dynamic_quant_observer, weight=observer)
    module = nn.LSTM(20, 32)
    with torch.no_grad():
        module.weight_hh_l0 += 0.3
    theirs = quantization.quantize_dynamic(nn.Sequential(module), {nn.LSTM: config})[0]
    assert theirs.get_weight()["weight_hh_l0"].q_zero_point() != 0
    ours, wide = cylstm.LSTM.from_torch(theirs), cylstm.LSTM(20, 32, dtype="float64", backend="numpy")
    wide.load_state_dict({n: w.dequantize() for n, w in theirs.get_weight().items()} | theirs.get_bias())
    x = torch.randn(15, 4, 20)
    np.testing.assert_allclose(ours(x)[0], wide(x.double())[0], rtol=0, atol=2e-2)


def test_other_quantized_modules_are_refused() -> None:
    theirs = quantization.quantize_dynamic(nn.Sequential(nn.GRU(3, 4)), {nn.GRU}, dtype=torch.qint8)[0]
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.LSTM, LSTMCell or Linear, got GRU"):
        cylstm.torch.from_torch(theirs)
