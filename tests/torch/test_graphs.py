"""Graphs of models with the drop-ins: traces, torch.fx, ONNX, AOTInductor; scripts and quantisation are refused."""

from __future__ import annotations

import copy
import io
import shutil
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, rnn
from torch_modules import both, close, leaves_of

import cylstm.torch

torch.set_num_threads(1)

# What PyTorch says of its own: traces, exports, quantisation
IGNORED = [
    "ignore:.*:DeprecationWarning",
    "ignore:.*:FutureWarning",
    "ignore:(.*is deprecated|.*are deprecated|Please use quant_min):UserWarning",
    "ignore:The tensor attributes .*_flat_weights:UserWarning",
    "ignore:Exporting a model to ONNX with a batch_size other than 1:UserWarning",
    "ignore::torch.jit.TracerWarning:torch.nn.modules.rnn",
]
pytestmark = [pytest.mark.filterwarnings(line) for line in IGNORED]


class Model(nn.Module):
    """A stack, a loop over a cell, and a layer on top."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTM(2, 3, num_layers=2, bidirectional=True, batch_first=True)
        self.cell = nn.LSTMCell(6, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, (h, c) = self.encoder(x)
        state = (x[:, 0, :4], c[0].repeat(1, 2)[:, :4])
        for t in range(3):
            state = self.cell(x[:, t], state)
        return self.head(state[0] + h[0, :, :1])


def models() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    theirs = Model()
    return theirs, cylstm.torch.replace(copy.deepcopy(theirs))


X = torch.linspace(-1, 1, 30).reshape(3, 5, 2).sin()
OTHER = torch.linspace(-2, 1, 16).reshape(2, 4, 2).cos()


# torch.jit ------------------------------------------------------------------------------------------------------------


def test_trace_with_gradients_and_without(tmp_path):
    theirs, ours = models()
    traced = torch.jit.trace(ours, (X,))
    for x in (X, OTHER):
        assert close(traced(x), theirs(x))
        grads = [torch.autograd.grad(m(x).sum(), list(m.parameters())) for m in (traced, theirs)]
        assert all(map(close, *grads))
    with torch.no_grad():
        again = torch.jit.trace(ours, (X,))
    torch.jit.save(traced, tmp_path / "model.pt")
    for loaded in (again, torch.jit.load(tmp_path / "model.pt")):
        assert close(loaded(OTHER), theirs(OTHER))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_trace_of_a_ragged_batch():
    theirs, ours = both(2, 3)

    def run(module: nn.Module, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = rnn.pack_padded_sequence(x, lengths, batch_first=True)
        return module(packed)[1][0]

    class Packing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = ours

        def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            return run(self.lstm, x, lengths)

    traced = torch.jit.trace(Packing(), (X, torch.tensor([5, 3, 1])))
    for x, lengths in ((X, torch.tensor([4, 4, 2])), (OTHER, torch.tensor([4, 1]))):
        assert close(traced(x, lengths), run(theirs, x, lengths))


@pytest.mark.parametrize("kind", ["LSTM", "LSTMCell"])
def test_script_says_restore(kind):
    ours = both(2, 3, kind=kind)[1]
    for module in (ours, nn.Sequential(nn.Sequential(ours))):
        with pytest.raises(RuntimeError, match=rf"torch\.{kind} cannot be scripted: call cylstm\.torch\.restore\(mod"):
            torch.jit.script(module)
    torch.jit.script(cylstm.torch.restore(ours))


# torch.fx and quantisation --------------------------------------------------------------------------------------------


def test_symbolic_trace_keeps_the_modules_whole():
    theirs, ours = models()
    graph = torch.fx.symbolic_trace(ours)
    calls = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    assert calls == [node.target for node in torch.fx.symbolic_trace(theirs).graph.nodes if node.op == "call_module"]
    assert type(graph.encoder) is cylstm.torch.LSTM
    for x in (X, OTHER):
        assert close(graph(x), theirs(x))
    again = torch.fx.symbolic_trace(cylstm.torch.restore(graph))
    assert close(again(X), theirs(X))


def test_quantisation_of_a_graph_says_restore():
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    _, ours = models()
    with pytest.warns(UserWarning, match=r"LSTM(Cell)? stays in the dtype of its parameters.*restore\(model\)"):
        prepared = prepare_fx(ours.eval(), get_default_qconfig_mapping(), (X,))
    prepared(X)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "LSTM")
        converted = convert_fx(prepared)
    assert type(converted.encoder) is cylstm.torch.LSTM
    assert "Quantized" in repr(converted.head)
    assert torch.allclose(converted(X), ours(X), atol=0.2)


def test_dynamic_quantisation_says_restore():
    theirs, ours = models()
    with pytest.warns(
        UserWarning, match=r"(LSTM|LSTMCell) stays in the dtype.*cylstm\.torch\.restore\(model\)"
    ) as seen:
        quantised = torch.ao.quantization.quantize_dynamic(ours, {nn.LSTM, nn.LSTMCell, nn.Linear})
    assert len([warning for warning in seen if "stays in the dtype" in str(warning.message)]) == 2
    assert type(quantised.encoder) is cylstm.torch.LSTM
    assert "Quantized" in repr(quantised.head)
    quantised = torch.ao.quantization.quantize_dynamic(cylstm.torch.restore(ours))
    assert "Quantized" in repr(quantised.encoder)
    assert theirs(X).shape == quantised(X).shape


# ONNX -----------------------------------------------------------------------------------------------------------------


def run_onnx(file: Any, **inputs: np.ndarray) -> list[np.ndarray]:
    import onnxruntime

    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, inputs)


@pytest.mark.parametrize("dynamo", [False, True])
def test_export_to_onnx_is_that_of_pytorch(dynamo, tmp_path):
    theirs, ours = models()
    parametrizations.weight_norm(ours.encoder, "weight_hh_l0")
    names = {"input_names": ["x"], "output_names": ["y"], "dynamo": dynamo, "verbose": False}
    torch.onnx.export(ours.eval(), (X,), tmp_path / "model.onnx", **names)
    (y,) = run_onnx(tmp_path / "model.onnx", x=X.numpy())
    assert close(torch.from_numpy(y), theirs(X).detach())
    assert type(ours.encoder).__mro__[1] is cylstm.torch.LSTM
    assert "LSTM" in (tmp_path / "model.onnx").read_bytes().decode("latin-1")
    assert ours(X).requires_grad  # the backend computes again


def test_export_of_a_drop_in_alone(tmp_path):
    theirs, ours = both(2, 3, batch_first=True)
    torch.onnx.export(ours, (X,), tmp_path / "a.onnx", input_names=["x"], dynamo=False)
    results = run_onnx(tmp_path / "a.onnx", x=X.numpy())
    for actual, expected in zip(results, leaves_of(theirs(X)), strict=True):
        assert close(torch.from_numpy(actual), expected.detach())


# torch.export and torch.compile ---------------------------------------------------------------------------------------


def test_export_keeps_the_operator():
    theirs, ours = models()
    program = torch.export.export(ours.eval(), (X,))
    assert "cylstm.lstm" in str(program.graph)
    assert close(program.module()(X), theirs(X))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    assert close(torch.export.load(file).module()(X), theirs(X))


@pytest.mark.skipif(shutil.which("g++") is None or sys.platform != "linux", reason="AOTInductor needs a C++ compiler")
def test_aot_inductor_package(tmp_path):
    theirs, ours = both(2, 3, batch_first=True)
    with torch.no_grad():
        program = torch.export.export(ours, (X,))
        path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
        results = torch._inductor.aoti_load_package(path)(X)
    assert all(map(close, leaves_of(results), leaves_of(theirs(X))))


# Constructors and conversions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [cylstm.torch.LSTM, cylstm.torch.LSTMCell])
def test_skip_init(kind):
    module = nn.utils.skip_init(kind, 2, 3, backend="numpy", dtype=torch.float64)
    assert (type(module), module.backend) == (kind, "numpy")
    module.reset_parameters()
    assert next(leaves_of(module(torch.ones(1, 2, dtype=torch.float64)))).isfinite().all()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_all_arguments_by_position(device):
    lstm = cylstm.torch.LSTM(2, 3, 2, False, True, 0.5, True, 1, device, torch.float64)
    cell = cylstm.torch.LSTMCell(2, 3, False, device, torch.float64)
    assert repr(lstm) == repr(nn.LSTM(2, 3, 2, False, True, 0.5, True, 1))
    assert repr(cell) == repr(nn.LSTMCell(2, 3, False))
    for parameter in (*lstm.parameters(), *cell.parameters()):
        assert (parameter.device.type, parameter.dtype) == (device, torch.float64)


@pytest.mark.parametrize("kind", ["LSTM", "LSTMCell"])
def test_conversion_that_swaps_the_tensors(kind):
    theirs, ours = both(2, 3, kind=kind)
    x = torch.randn(4, 2)
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        for module in (ours, theirs):
            next(leaves_of(module(x))).sum().backward()
            module.zero_grad()
            module.to(torch.float64)
        assert all(map(close, leaves_of(ours(x.double())), leaves_of(theirs(x.double()))))
        ours.to_empty(device="cpu").reset_parameters()
        ours(x.double())
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)
