"""Cells that exporters take apart: recognised where they are PyTorch's, or said to be what they are."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from command_line import fails
from onnx import parser

import cylstm
import cylstm.onnx


class Cells(torch.nn.Module):
    """Steps of a cell, unrolled by the exporter, and a head."""

    def __init__(self, input_size: int, bias: bool) -> None:
        super().__init__()
        self.cell = torch.nn.LSTMCell(input_size, 4, bias)
        self.head = torch.nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, c = x.new_zeros(x.shape[1], 4), x.new_zeros(x.shape[1], 4)
        for x_t in x:
            h, c = self.cell(x_t, (h, c))
        return self.head(h)


def export(net: torch.nn.Module, given: tuple, path: Path, dynamo: bool = False) -> None:
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporters
            version = {} if dynamo else {"opset_version": 17}
            torch.onnx.export(net, given, path, dynamo=dynamo, verbose=False, **version)
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.parametrize(
    ("dynamo", "input_size", "bias"), [(False, 3, True), (False, 4, True), (True, 3, True), (True, 4, True)]
)
def test_a_cell_of_torchs_exporters(dynamo: bool, input_size: int, bias: bool, tmp_path: Path) -> None:
    cell = torch.nn.LSTMCell(input_size, 4, bias)
    state = (torch.randn(5, 4), torch.randn(5, 4))
    export(cell, (torch.randn(5, input_size), state), tmp_path / "m.onnx", dynamo)
    ours = cylstm.load(tmp_path / "m.onnx")
    assert isinstance(ours, cylstm.LSTMCell)
    for name, array in cell.state_dict().items():
        np.testing.assert_array_equal(getattr(ours, name), array)


def test_steps_of_a_cell_in_a_model(tmp_path: Path) -> None:
    net = Cells(3, True).eval()
    export(net, (torch.randn(3, 5, 3),), tmp_path / "m.onnx")
    ours = cylstm.load(tmp_path / "m.onnx", "cell")
    for name, array in net.cell.state_dict().items():
        np.testing.assert_array_equal(getattr(ours, name), array)
    with pytest.raises(ValueError, match="no LSTM node, but a graph that looks like one, with 1 cell made of"):
        cylstm.onnx.load(tmp_path / "m.onnx")


UNLIKE = [
    "a = Add(wx, wh)",
    "i_, f_, g_, o_ = Split<axis = 1>(a, parts)",
    "i = Sigmoid(i_)",
    "f = {gate}(f_)",
    "g = Tanh(g_)",
    "o = Sigmoid(o_)",
    "kept = Mul(f, c)",
    "new = Mul(i, g)",
    "c_new = Add(kept, new)",
    "squashed = Tanh(c_new)",
    "h_new = Mul(o, squashed)",
]


def taken_apart(*products: str, gate: str = "Sigmoid") -> onnx.ModelProto:
    """A cell of single operators, whose products are given."""
    text = "\n".join([*products, *UNLIKE]).format(gate=gate)
    arrays = {"W": np.ones((4, 16)), "R": np.ones((4, 16)), "Wt": np.ones((16, 4)), "b": np.ones(16)}
    graph = parser.parse_graph(f"g (float[5,4] x, float[5,4] h, float[5,4] c) => (float h_new) {{ {text} }}")
    constants = {name: array.astype(np.float32) for name, array in arrays.items()} | {"parts": np.full(4, 4)}
    graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in constants.items())
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


GEMMS = ("wx = Gemm<transB = 1>(x, Wt, b)", "wh = Gemm<transB = 1>(h, Wt, b)")
OTHERS = {
    "MatMul": taken_apart("wx = MatMul(x, W)", "wh = MatMul(h, R)"),
    "not transposed": taken_apart("wx = Gemm(x, W)", "wh = Gemm(h, R)"),
    "scaled": taken_apart("wx = Gemm<transB = 1, alpha = 2.0>(x, Wt, b)", GEMMS[1]),
    "which is h is not told": taken_apart(*GEMMS),
    "HardSigmoid": taken_apart(*GEMMS, gate="HardSigmoid"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_graphs_that_look_like_one_are_said_to_be(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(OTHERS[case], tmp_path / "m.onnx")
    assert "no LSTM node, but a graph that looks like one" in fails(capsys, "inspect", str(tmp_path / "m.onnx"))
    with pytest.raises(
        ValueError, match=r"must hold an LSTM node, got .*no LSTM node, but a graph that looks like one"
    ):
        cylstm.load(tmp_path / "m.onnx")
