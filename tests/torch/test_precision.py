"""The precision of the drop-ins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import cylstm.torch

KINDS = {"LSTM": cylstm.torch.LSTM, "LSTMCell": cylstm.torch.LSTMCell}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]


def run(module: Any, x: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return module(x)[0].numpy()


def test_values_are_those_of_the_module_without_pytorch(kind: Any) -> None:
    x = torch.randn(6, 3)
    for precision in ("float32", "bfloat16", "int8"):
        module = kind(3, 8, precision=precision)
        own = cylstm.torch.from_torch(module)
        assert own.precision == precision
        result = own(x.numpy())[0]
        np.testing.assert_array_equal(run(module, x), result)
        module.precision = "bfloat16" if precision == "float32" else "float32"
        assert not np.array_equal(run(module, x), result)


def test_repr(kind: Any) -> None:
    assert "precision" not in repr(kind(3, 8))
    assert "precision" not in repr(kind(3, 8, precision="float32"))
    assert repr(kind(3, 8, precision="int8")).endswith("(3, 8, precision='int8')")


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_gradients_are_refused(kind: Any, precision: str) -> None:
    module, x = kind(3, 8, precision=precision), torch.randn(6, 3)
    message = (
        rf"for gradients, got '{precision}'.*inference only: call it inside torch\.inference_mode\(\) or torch\.no_grad"
    )
    with pytest.raises(RuntimeError, match=message):
        module(x)
    with torch.no_grad():
        module(x)
    module.requires_grad_(False)
    module(x)
    with pytest.raises(RuntimeError, match=message):
        module(x.requires_grad_())
    module.precision = "float32"
    module(x)[0].sum().backward()


@pytest.mark.parametrize(("value", "error"), [("int4", ValueError), (8, TypeError)])
def test_what_is_no_precision_is_refused(kind: Any, value: Any, error: type[Exception]) -> None:
    message = "precision must be 'float32', 'bfloat16', 'int8' or None"
    with pytest.raises(error, match=message):
        kind(3, 8, precision=value)
    module = kind(3, 8)
    module.precision = value
    with pytest.raises(error, match=message):
        run(module, torch.randn(6, 3))
    model = nn.Sequential(nn.LSTM(3, 8))
    with pytest.raises(error, match=message):
        cylstm.torch.replace(model, precision=value)
    with pytest.raises(error, match=message):
        cylstm.torch.replace(nn.Linear(3, 8), precision=value)
    assert type(model[0]) is nn.LSTM


def test_other_dtypes_have_no_precision(kind: Any) -> None:
    message = "precision must be 'float32' for parameters of dtype float64, got 'int8'"
    with pytest.raises(ValueError, match=message):
        kind(3, 8, precision="int8", dtype=torch.float64)
    module = kind(3, 8, precision="int8").double()
    with pytest.raises(ValueError, match=message):
        run(module, torch.randn(6, 3, dtype=torch.float64))
    model = nn.Sequential(nn.LSTM(3, 8), nn.LSTM(8, 8).double())
    with pytest.raises(ValueError, match=message):
        cylstm.torch.replace(model, precision="int8")
    assert [type(module) for module in model] == [nn.LSTM, nn.LSTM]


def test_replace_and_restore() -> None:
    model = nn.Sequential(nn.LSTM(3, 8), nn.Sequential(nn.LSTMCell(8, 8)))
    modules = [model[0], model[1][0]]
    cylstm.torch.replace(model, precision="int8")
    assert [module.precision for module in modules] == ["int8", "int8"]
    cylstm.torch.replace(model)
    assert [module.precision for module in modules] == ["int8", "int8"]
    cylstm.torch.replace(model, backend="numpy")
    assert [(module.backend, module.precision) for module in modules] == [("numpy", "int8")] * 2
    cylstm.torch.replace(model, precision="bfloat16")
    assert [(module.backend, module.precision) for module in modules] == [("numpy", "bfloat16")] * 2
    with pytest.raises(ValueError, match="precision must be None where back is True, got 'int8'"):
        cylstm.torch.replace(model, precision="int8", back=True)
    cylstm.torch.restore(model)
    assert [type(module) for module in modules] == [nn.LSTM, nn.LSTMCell]
    assert not hasattr(modules[0], "precision")


def test_compiled(kind: Any) -> None:
    module, x = kind(3, 8, precision="int8").eval(), torch.randn(6, 3)
    compiled = torch.compile(module, backend="aot_eager")
    np.testing.assert_array_equal(run(compiled, x), run(module, x))
