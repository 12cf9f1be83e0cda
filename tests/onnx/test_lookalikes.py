"""Cells of other kinds, by hand: they are said to look like an LSTM, and other gated networks are not."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from command_line import fails
from onnx import parser
from onnx_models import assert_close
from torch import nn
from torch.nn import functional as F

import cylstm
import cylstm.onnx

H = 4
SAID = "no LSTM node, but a graph that looks like one, with {} made of single operators"


class Steps(nn.Module):
    """Steps of a cell that is given as a function."""

    def __init__(self, step: Callable[..., Any]) -> None:
        super().__init__()
        self.step = step
        self.x, self.h, self.joined = nn.Linear(3, 4 * H), nn.Linear(H, 4 * H), nn.Linear(3 + H, 4 * H)
        self.norms = nn.ModuleList(nn.LayerNorm(size) for size in (4 * H, 4 * H, H))
        self.peepholes, self.gru, self.last = nn.Parameter(torch.randn(3, H)), nn.GRUCell(3, H), nn.Linear(H, H)

    def gates(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.x(x) + self.h(h)).chunk(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = c = x.new_zeros(x.shape[1], H)
        for x_t in x:
            h, c = self.step(self, x_t, h, c)
        return h


def cell(gates: Any, c: torch.Tensor, **functions: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The equations, with other functions in some places."""
    of = {name: functions.get(name, torch.sigmoid) for name in "ifo"}
    new, squash = (functions.get(name, torch.tanh) for name in ("g", "squash"))
    i, f, g, o = gates
    c = of["f"](f) * c + of["i"](i) * new(g)
    c = functions.get("kept", lambda c: c)(c)
    return of["o"](o) * squash(c), c


def normalised(m: Steps, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> Any:
    gates = (m.norms[0](m.x(x)) + m.norms[1](m.h(h))).chunk(4, 1)
    return cell(gates, c, squash=lambda c: torch.tanh(m.norms[2](c)))


def coupled(m: Steps, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> Any:
    _, f, g, o = m.gates(x, h)
    f = torch.sigmoid(f)
    c = f * c + (1 - f) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def peephole(m: Steps, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> Any:
    i, f, g, o = m.gates(x, h)
    p = m.peepholes
    c = torch.sigmoid(f + p[0] * c) * c + torch.sigmoid(i + p[1] * c) * torch.tanh(g)
    return torch.sigmoid(o + p[2] * c) * torch.tanh(c), c


def gru(m: Steps, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> Any:
    r, z, n, _ = m.x(x).chunk(4, 1)
    r_h, z_h, n_h, _ = m.h(h).chunk(4, 1)
    r, z = torch.sigmoid(r + r_h), torch.sigmoid(z + z_h)
    return (1 - z) * torch.tanh(n + r * n_h) + z * h, c


def gru_reset_before(m: Steps, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> Any:
    r, z, n, _ = m.gates(x, h)
    n = torch.tanh(n + m.last(torch.sigmoid(r) * h))
    return n + torch.sigmoid(z) * (h - n), c


def two_forgotten(m: Steps, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> Any:
    """Of a tree."""
    i, f, g, o = m.gates(x, h)
    c = torch.sigmoid(f) * c + torch.sigmoid(f + 1) * c.roll(1, 0) + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def exponential(m: Steps, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> Any:
    i, f, g, o = m.gates(x, h)
    c = torch.exp(f) * c + torch.exp(i) * torch.tanh(g)
    return torch.sigmoid(o) * (c / (torch.exp(f) + torch.exp(i))), c


def unit_states(m: Steps, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> Any:
    h, c = cell((m.x(x) + F.normalize(m.h(h), dim=1)).chunk(4, 1), c)
    return F.normalize(h, dim=1), c


def of_functions(**functions: Any) -> Callable[..., Any]:
    return lambda m, x, h, c: cell(m.gates(x, h), c, **functions)


def everywhere(function: Any) -> dict[str, Any]:
    return dict.fromkeys("ifo", function)


CELLS: dict[str, Callable[..., Any]] = {
    "layer norm": normalised,
    "coupled": coupled,
    "peephole": peephole,
    "two forget gates": two_forgotten,
    "exponential gates": exponential,
    "normalised states": unit_states,
    "clipped": of_functions(kept=lambda c: c.clamp(-3, 3)),
    "hard sigmoid of three operators": of_functions(**everywhere(lambda a: (0.2 * a + 0.5).clamp(0, 1))),
    "sigmoid by hand": of_functions(**everywhere(lambda a: 1 / (1 + torch.exp(-a)))),
    "sigmoid by tanh": of_functions(**everywhere(lambda a: 0.5 * torch.tanh(a / 2) + 0.5)),
    "nothing squashed": of_functions(g=lambda a: a, squash=lambda c: c),
    "softsign": of_functions(g=F.softsign, squash=F.softsign),
    "gates that add up": of_functions(f=lambda a: torch.softmax(a, 1).cumsum(1)),
}
GRUS = {"GRUCell": lambda m, x, h, c: (m.gru(x, h), c), "GRU": gru, "GRU, reset before": gru_reset_before}


class Highway(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 6) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            gate, new = layer(x).chunk(2, -1)
            gate = torch.sigmoid(gate)
            x = gate * x + (1 - gate) * torch.relu(new)
        return x


class Gated(nn.Module):
    """Gates of all kinds without a state: GLU, residual, of channels, of time."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 6), nn.LayerNorm(3)
        self.convolutions = nn.ModuleList(nn.Conv1d(3, 6, 3, padding=1) for _ in range(3))
        self.attention = nn.MultiheadAttention(3, 1, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for convolution in self.convolutions:
            x = self.norm(x + F.glu(self.linear(x), -1))
            a, b = convolution(x.transpose(1, 2)).chunk(2, 1)
            y = F.silu(a) + F.silu(b)
            y = y * torch.sigmoid(y.mean(2, keepdim=True))
            x = x + (torch.tanh(a) * torch.sigmoid(b) + F.hardswish(y)).transpose(1, 2)
        return self.attention(x, x, x, need_weights=False)[0]


def exported(net: nn.Module, path: Path, dynamo: bool, opset: int | None = None) -> Path:
    options = {} if opset is None else {"opset_version": opset}
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(net.eval(), (torch.randn(3, 2, 3),), path, dynamo=dynamo, verbose=False, **options)
    finally:
        logging.disable(logging.NOTSET)
    return path


EXPORTERS = {"TorchScript": (False, 17), "TorchScript, norms taken apart": (False, 14), "dynamo": (True, None)}


#: The graphs of the other exporter are like these, and it is slow: it takes some.
CASES = [(name, exporter) for name in [*CELLS, *GRUS] for exporter in list(EXPORTERS)[:2]]
CASES += [(name, "dynamo") for name in ("layer norm", "peephole", "GRUCell", "sigmoid by hand")]


@pytest.mark.parametrize(("name", "exporter"), CASES)
def test_cells_of_other_kinds(name: str, exporter: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = exported(Steps((CELLS | GRUS)[name]), tmp_path / "m.onnx", *EXPORTERS[exporter])
    said = SAID.format("1 cell")
    if name in ("GRUCell", "GRU"):
        said += ", gated as those of a GRU"
    said += ". Where the equations are PyTorch's, export a torch.nn.LSTM in the place of cells"
    if name == "layer norm" and "apart" in exporter:  # the first step has other constants
        said = SAID.format("2 cells")
    for open_it in (cylstm.load, cylstm.onnx.load, cylstm.onnx.find):
        with pytest.raises(ValueError, match=rf"must hold an LSTM node, got .*: {said}"):
            open_it(path)
    assert said in fails(capsys, "inspect", str(path))


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("net", [Highway, Gated])
def test_gates_without_a_state_are_no_cells(net: type[nn.Module], dynamo: bool, tmp_path: Path) -> None:
    path = exported(net(), tmp_path / "m.onnx", dynamo)
    assert {"Sigmoid", "Mul", "Add"} <= {node.op_type for node in onnx.load(path).graph.node}
    with pytest.raises(ValueError, match=r"must hold an LSTM node, got [^:]*$"):
        cylstm.load(path)


class Loop(nn.Module):
    """A loop that stays one, with more in its body than a cell."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.h, self.norm = nn.Linear(3, 16), nn.Linear(4, 16), nn.LayerNorm(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, c = torch.zeros(x.size(1), 4), torch.zeros(x.size(1), 4)
        for t in range(x.size(0)):
            i, f, g, o = (self.x(x[t]) + self.h(h)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(self.norm(c))
            h = torch.where(x[t].sum(1, keepdim=True) > 0, h, 0.5 * h)
        return h


class GRULoop(Loop):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.zeros(x.size(1), 4)
        for t in range(x.size(0)):
            a, b = self.x(x[t]), self.h(h)
            r, z = torch.sigmoid(a[:, :4] + b[:, :4]), torch.sigmoid(a[:, 4:8] + b[:, 4:8])
            n = torch.tanh(a[:, 8:12] + r * b[:, 8:12])
            h = n + z * (h - n)
        return h


@pytest.mark.parametrize("net", [Loop, GRULoop])
def test_bodies_of_loops(net: type[nn.Module], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(net())
    path = exported(scripted, tmp_path / "m.onnx", False, 17)
    assert "Loop" in {node.op_type for node in onnx.load(path).graph.node}
    with pytest.raises(ValueError, match=SAID.format("1 cell")):
        cylstm.load(path)


#: From the sums a and c to the new c, in the text of a graph.
GATES = """
    i_, f_, g_, o_ = Split<axis = 1, num_outputs = 4>(a)
    i = Sigmoid(i_)
    f = Sigmoid(f_)
    g = Tanh(g_)
    o = Sigmoid(o_)
    kept = Mul(f, c)
    new = Mul(i, g)
    c_new = Add(kept, new)
"""


def test_the_body_of_a_scan(tmp_path: Path) -> None:
    """The carry of PyTorch's scan, a cell with a normalised state."""
    body = """
        body (float[2,4] h, float[2,4] c, float[2,3] x) => (float[2,4] h_new, float[2,4] c_new, float[2,4] y) {
            wx = MatMul(x, V)
            wh = MatMul(h, W)
            a = Add(wx, wh)
            GATES
            normal = LayerNormalization(c_new, ones)
            squashed = Tanh(normal)
            h_new = Mul(o, squashed)
            y = Identity(h_new)
        }"""
    rng = np.random.default_rng(0)
    shapes = {"V": (3, 16), "W": (4, 16), "ones": (4,)}
    inputs = [onnx.helper.make_tensor_value_info(n, 1, s) for n, s in (("h", [2, 4]), ("c", [2, 4]), ("x", [5, 2, 3]))]
    outputs = [
        onnx.helper.make_tensor_value_info(n, 1, s) for n, s in (("h_n", [2, 4]), ("c_n", [2, 4]), ("y", [5, 2, 4]))
    ]
    names = [[one.name for one in ends] for ends in (inputs, outputs)]
    scan = onnx.helper.make_node(
        "Scan", *names, body=parser.parse_graph(body.replace("GATES", GATES)), num_scan_inputs=1
    )
    constants = [onnx.numpy_helper.from_array(rng.normal(size=s).astype("f4"), n) for n, s in shapes.items()]
    graph = onnx.helper.make_graph([scan], "g", inputs, outputs, constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    with pytest.raises(ValueError, match=SAID.format("1 cell")):
        cylstm.onnx.load(model)


# Cells by hand that are PyTorch's, however they are written ----------------------------------------------------------

PLAIN: dict[str, Callable[..., Any]] = {
    "one product of [x, h]": lambda m, x, h, c: cell(m.joined(torch.cat([x, h], 1)).chunk(4, 1), c),
    "one product of [h, x]": lambda m, x, h, c: cell(m.joined(torch.cat([h, x], 1)).chunk(4, 1), c),
    "a forget bias of one number": lambda m, x, h, c: cell(m.gates(x, h), c, f=lambda a: torch.sigmoid(a + 1.0)),
    "[x, h], and a forget bias": lambda m, x, h, c: cell(
        m.joined(torch.cat([x, h], 1)).chunk(4, 1), c, f=lambda a: torch.sigmoid(a + 1.0)
    ),
}


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("name", PLAIN)
def test_plain_cells_of_joined_products_and_with_a_forget_bias(name: str, dynamo: bool, tmp_path: Path) -> None:
    net = Steps(PLAIN[name])
    ours = cylstm.load(exported(net, tmp_path / "m.onnx", dynamo))
    assert isinstance(ours, cylstm.LSTMCell)
    x, state = torch.randn(4, 2, 3), None
    for x_t in x.numpy():
        state = ours(x_t, state)
    assert_close([state[0]], [net(x).detach().numpy()])


@pytest.mark.parametrize("axes", [", zero", ""])
def test_a_product_that_is_the_bias_of_another(axes: str, tmp_path: Path) -> None:
    """tf2onnx joins MatMul and Add where a batch is one sequence: Gemm(x, V, MatMul(h, W)), with a Squeeze between."""
    text = """
        g (float[1,3] x, float[1,4] h, float[1,4] c) => (float[1,4] h_new) {
            wh = MatMul(h, W)
            flat = Squeeze(wh AXES)
            products = Gemm(x, V, flat)
            a = Add(products, b)
            GATES
            squashed = Tanh(c_new)
            h_new = Mul(o, squashed)
        }"""
    graph, rng = parser.parse_graph(text.replace("GATES", GATES).replace(" AXES", axes)), np.random.default_rng(0)
    arrays = {name: rng.normal(size=shape).astype("f4") for name, shape in (("V", (3, 16)), ("W", (4, 16)), ("b", 16))}
    arrays["zero"] = np.array([0])
    graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    import onnxruntime

    x, h, c = (rng.normal(size=(1, size)).astype("f4") for size in (3, 4, 4))
    wanted = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(None, {"x": x, "h": h, "c": c})
    assert_close([cylstm.load(tmp_path / "m.onnx")(x, (h, c))[0]], wanted)


def test_large_graphs_are_looked_at_quickly() -> None:
    """Sums of everything, and products of everything with everything."""
    names = [f"v{k}" for k in range(3000)]
    nodes = [onnx.helper.make_node("Sigmoid", ["x"], ["v0"])]
    for k in range(1, 3000):
        kind, many = ("Sum", names[max(0, k - 400) : k]) if k % 2 else ("Mul", [names[k - 1], names[k // 2]])
        nodes.append(onnx.helper.make_node(kind, many, [names[k]]))
    ends = [onnx.helper.make_tensor_value_info(name, 1, [2]) for name in ("x", names[-1])]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:]), ir_version=8)
    begin = time.process_time()
    with pytest.raises(ValueError, match="must hold an LSTM node"):
        cylstm.onnx.load(model)
    assert time.process_time() - begin < 10
