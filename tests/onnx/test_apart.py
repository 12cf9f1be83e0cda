"""Cells that exporters take apart: recognised where they are PyTorch's, or said to be what they are."""

from __future__ import annotations

import logging
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from command_line import fails
from onnx import parser
from onnx_models import assert_close, ort_run, random

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
    version = {} if dynamo else {"opset_version": 17}
    quiet(lambda: torch.onnx.export(net, given, path, dynamo=dynamo, verbose=False, **version))


def quiet(function: Any) -> None:
    """Call it without the warnings of exporters."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            function()
    finally:
        logging.disable(logging.NOTSET)


def modules(path: Path) -> list[dict[str, Any]]:
    """What ``cylstm inspect`` finds in a file."""
    from cylstm.cli.inspect import inspect_file

    return [entry for entry in inspect_file(path)["contents"] if "module" in entry]


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


CELL = [
    "a = Add(wx, wh)",
    "{outputs} = {cut}",
    "i = Sigmoid(i_)",
    "f = {gate}(f_)",
    "g = {squashing}(g_)",
    "o = Sigmoid(o_)",
    "kept = Mul(f, c)",
    "new = Mul(i, g)",
    "c_new = Add(kept, new)",
    "squashed = Tanh(c_new)",
    "h_new = Mul(o, squashed)",
]


def taken_apart(
    *products: str,
    gate: str = "Sigmoid",
    squashing: str = "Tanh",
    cut: str = "Split<axis = 1>(a, parts)",
    outputs: str = "i_, f_, g_, o_",
    I: int = 4,
) -> onnx.ModelProto:
    """A cell of single operators, whose products are given."""
    text = "\n".join([*products, *CELL]).format(gate=gate, squashing=squashing, cut=cut, outputs=outputs)
    rng = np.random.default_rng(0)
    drawn = {"V": (I, 16), "W": (4, 16), "R": (4, 16), "Wt": (16, 4), "b": (16,), "one": (1,)}
    arrays = {name: rng.standard_normal(shape) for name, shape in drawn.items()}
    graph = parser.parse_graph(
        f"g (float[5,{I}] x, float[5,4] h, float[5,4] c, float[{I},16] given) => (float[5,4] h_new) {{ {text} }}"
    )
    constants: dict[str, np.ndarray] = {name: array.astype(np.float32) for name, array in arrays.items()}
    constants |= {"parts": np.full(4, 4), "overlapping": np.array([4, 8, 2, 2]), "last": np.array([-1])}
    constants |= {f"n{n}": np.array([n]) for n in (0, 1, 2, 4, 12, 16)}
    graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in constants.items())
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


PLAIN = {
    "MatMul": taken_apart("wx = MatMul(x, V)", "wh = MatMul(h, W)", I=3),
    "a bias behind the sum": taken_apart("wx = MatMul(x, V)", "wh0 = MatMul(h, W)", "wh = Add(wh0, b)", I=3),
    "not transposed": taken_apart("wx = Gemm(x, V, b)", "wh = Gemm(h, W)", I=3),
    "h first": taken_apart("wh = MatMul(x, V)", "wx = Gemm(h, W, b)", I=3),
    "cut with computed bounds": taken_apart(
        "wx = MatMul(x, V)",
        "wh = MatMul(h, W)",
        "a1 = Add(wx, wh)",
        "s = Shape(a1)",
        "columns = Slice(s, n1, n2)",
        "quarter = Div(columns, n4)",
        "half = Add(quarter, quarter)",
        "f_ = Slice(a1, n0, quarter, n1)",
        "o_ = Slice(a1, quarter, half, n1)",
        "g_ = Slice(a1, half, n12, n1)",
        cut="Slice(a1, n12, n16, last)",
        outputs="i_",
        I=3,
    ),
}


@pytest.mark.parametrize("case", PLAIN)
def test_plain_sums_are_read_however_they_are_written(case: str, tmp_path: Path) -> None:
    onnx.save(PLAIN[case], tmp_path / "m.onnx")
    cell = cylstm.load(tmp_path / "m.onnx")
    x, h, c = random(5, 3), random(5, 4), random(5, 4)
    assert_close([cell(x, (h, c))[0]], ort_run(PLAIN[case], x=x, h=h, c=c, given=np.zeros((3, 16), np.float32)))


GEMMS = ("wx = Gemm<transB = 1>(x, Wt, b)", "wh = Gemm<transB = 1>(h, Wt, b)")
OTHERS = {
    "scaled": taken_apart("wx = Gemm<transB = 1, alpha = 2.0>(x, Wt, b)", GEMMS[1]),
    "which is h is not told": taken_apart(*GEMMS),
    "HardSigmoid": taken_apart("wx = MatMul(x, V)", "wh = MatMul(h, W)", gate="HardSigmoid"),
    "relu": taken_apart("wx = MatMul(x, V)", "wh = MatMul(h, W)", squashing="Relu"),
    "a sum of three": taken_apart("wx = MatMul(x, V)", "wh0 = MatMul(h, W)", "wc = MatMul(c, R)", "wh = Add(wh0, wc)"),
    "a product of one": taken_apart("wx = MatMul(h, W)", "wh = MatMul(h, R)"),
    "a bias of one number": taken_apart("wx0 = MatMul(x, V)", "wx = Add(wx0, one)", "wh = MatMul(h, W)"),
    "weights that are given": taken_apart("wx = MatMul(x, given)", "wh = MatMul(h, W)"),
    "gates that overlap": taken_apart("wx = MatMul(x, V)", "wh = MatMul(h, W)", cut="Split<axis = 1>(a, overlapping)"),
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


# Models of other exporters -------------------------------------------------------------------------------------------


def steps(cell: cylstm.LSTMCell, sequence: np.ndarray) -> np.ndarray:
    """h after each step, (T, B, H)."""
    state, output = None, []
    for x_t in sequence:
        state = cell(x_t, state)
        output.append(state[0])
    return np.array(output)


#: Models of TensorFlow 2.15 by tf2onnx 1.17, with the prefixes of their cells.
WITH_TENSORFLOW = {
    "unrolled": ("sequential/lstm/lstm_cell", "sequential/lstm_1/lstm_cell"),
    "both_ways": (
        "sequential_1/bidirectional/forward_lstm_2/lstm_cell",
        "sequential_1/bidirectional/backward_lstm_2/lstm_cell",
    ),
    "stacked_cells": ("first", "second"),  # RNN([LSTMCell, LSTMCell]): a Loop that passes its weights on
    "implementation_1": ("",),  # four products each of x and of h
    "without_bias": ("",),
    "masked": ("",),  # a step, and a Loop with another
}


@pytest.mark.parametrize("name", WITH_TENSORFLOW)
def test_cells_of_tf2onnx(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with zipfile.ZipFile(Path(__file__).parent / "data" / "tf2onnx-1.17.zip") as files:
        path.write_bytes(files.read(f"{name}.onnx"))
    prefixes = [entry["prefix"] for entry in modules(path)]
    assert len(prefixes) == len(WITH_TENSORFLOW[name])
    cells = [cylstm.load(path, prefix) for prefix in prefixes]
    x = np.random.default_rng(3).standard_normal((2, 3, 3)).astype(np.float32)
    model = onnx.load(path)
    [wanted] = ort_run(model, **{model.graph.input[0].name: x})
    rows = x.swapaxes(0, 1)
    if name == "both_ways":
        ours = np.concatenate([steps(cells[0], rows)[-1], steps(cells[1], rows[::-1])[-1]], axis=1)
    else:
        for cell in cells:
            rows = steps(cell, rows)
        ours = rows[-1]
    assert_close([ours], [wanted])


@pytest.mark.parametrize(("I", "H", "unroll"), [(3, 4, False), (4, 4, True)])
def test_cells_of_keras(I: int, H: int, unroll: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((5, I)), keras.layers.LSTM(H, return_sequences=True, unroll=unroll)])
    model.add(keras.layers.LSTM(H, unroll=unroll))
    x = np.random.default_rng(3).standard_normal((2, 5, I)).astype(np.float32)
    model(x)
    quiet(lambda: model.export(tmp_path / "m.onnx", format="onnx", verbose=False))
    rows = x.swapaxes(0, 1)
    for entry in modules(tmp_path / "m.onnx"):
        rows = steps(cylstm.load(tmp_path / "m.onnx", entry["prefix"]), rows)
    assert_close([rows[-1]], [model(x).detach().numpy()])


class Gates(torch.nn.Module):
    """An LSTM by hand: its gates by a function of its two layers."""

    def __init__(self, sums: Any, layers: int = 1, given: int = 3, columns: int = 16) -> None:
        super().__init__()
        self.sums = sums
        self.x = torch.nn.ModuleList(torch.nn.Linear(given, columns) for _ in range(layers))
        self.h = torch.nn.ModuleList(torch.nn.Linear(4, columns) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, c = x.new_zeros(x.shape[1], 4), x.new_zeros(x.shape[1], 4)
        for x_t in x:
            i, f, g, o = self.sums(self, x_t, h)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return h


BY_HAND: dict[str, Any] = {
    "chunks": (lambda m, x, h: (m.x[0](x) + m.h[0](h)).chunk(4, 1), 1, 3, 16),
    "chunks, as many inputs as units": (lambda m, x, h: (m.x[0](x) + m.h[0](h)).chunk(4, 1), 1, 4, 16),
    "in another order": (lambda m, x, h: [(m.x[0](x) + m.h[0](h)).chunk(4, 1)[k] for k in (3, 1, 0, 2)], 1, 3, 16),
    "a layer for each gate": (lambda m, x, h: [m.x[k](x) + m.h[k](h) for k in range(4)], 4, 3, 4),
}


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("case", BY_HAND)
def test_cells_by_hand(case: str, dynamo: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Gates(*BY_HAND[case]).eval()
    x = torch.randn(4, 2, BY_HAND[case][2])
    export(net, (x,), tmp_path / "m.onnx", dynamo)
    assert_close([steps(cylstm.load(tmp_path / "m.onnx"), x.numpy())[-1]], [net(x).detach().numpy()])


def test_stacked_cells_are_told_apart(tmp_path: Path) -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = torch.nn.LSTMCell(4, 4), torch.nn.LSTMCell(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = c = h_2 = c_2 = x.new_zeros(x.shape[1], 4)
            for x_t in x:
                h, c = self.first(x_t, (h, c))
                h_2, c_2 = self.second(h, (h_2, c_2))
            return h_2

    net = Two().eval()
    for dynamo in (False, True):
        export(net, (torch.randn(3, 2, 4),), tmp_path / f"{dynamo}.onnx", dynamo)
        for prefix, cell in (("first", net.first), ("second", net.second)):
            ours = cylstm.load(tmp_path / f"{dynamo}.onnx", prefix)
            for name, array in cell.state_dict().items():
                np.testing.assert_array_equal(getattr(ours, name), array)


def test_a_scripted_loop_over_a_cell(tmp_path: Path) -> None:
    """The older exporter writes a Loop with an LSTM node of one step."""
    net = Cells(3, True).eval()
    x = torch.randn(6, 2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(Scripted(net))
    export(scripted, (x,), tmp_path / "m.onnx")
    lstm = cylstm.load(tmp_path / "m.onnx")
    assert_close([lstm(x.numpy())[0][-1] @ net.head.weight.detach().numpy().T + net.head.bias.detach().numpy()],
                 [net(x).detach().numpy()])  # fmt: skip


class Scripted(torch.nn.Module):
    def __init__(self, net: Cells) -> None:
        super().__init__()
        self.cell, self.head = net.cell, net.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, c = torch.zeros(x.size(1), 4), torch.zeros(x.size(1), 4)
        for t in range(x.size(0)):
            h, c = self.cell(x[t], (h, c))
        return self.head(h)


def test_two_cells_of_one_matrix_and_one_that_is_not_plain(tmp_path: Path) -> None:
    """Columns of one stored matrix are two cells, and a peephole cell beside them is said to be there."""

    class Three(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x, self.h, self.peephole = torch.nn.Linear(3, 48), torch.nn.Linear(4, 48), torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> list[torch.Tensor]:
            sums, results = self.x(x) + self.h(h), []
            for k in range(3):
                i, f, g, o = sums[:, 16 * k : 16 * k + 16].chunk(4, 1)
                c_new = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                o = o + self.peephole.weight[0] * c_new if k == 2 else o
                results.append(torch.sigmoid(o) * torch.tanh(c_new))
            return results

    torch.manual_seed(0)
    net = Three().eval()
    given = (torch.randn(5, 3), torch.randn(5, 4), torch.randn(5, 4))
    for dynamo in (False, True):
        path = tmp_path / f"{dynamo}.onnx"
        export(net, given, path, dynamo)
        found = modules(path)
        assert len(found) == 2
        for entry, wanted in zip(found, net(*given), strict=False):
            ours = cylstm.load(path, entry["prefix"])(given[0].numpy(), (given[1].numpy(), given[2].numpy()))
            assert_close([ours[0]], [wanted.detach().numpy()])
        with pytest.raises(ValueError, match="is a cell made of single operators, and not PyTorch's"):
            cylstm.load(path)
