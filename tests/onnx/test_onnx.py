"""ONNX files: nodes of every kind against ONNX's own tests, models of PyTorch's exporters, ONNX Runtime, damage."""

from __future__ import annotations

import contextlib
import itertools
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, parser

import cylstm
import cylstm.onnx

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # overflows in ONNX's own cases for other operators
    from onnx.backend.test.case.node import collect_testcases

    NODE_TESTS = [case for case in collect_testcases("LSTM") if case.name.startswith("test_lstm")]

#: Those that cylstm does not compute, and the word that its error must have.
REFUSED = {"test_lstm_with_peepholes": "peepholes"}


def tensor(name: str, array: np.ndarray) -> TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(array), name)


def random(*shape: int) -> np.ndarray:
    return cylstm.randn(*shape) / 2


def node_model(
    D: int = 1, I: int = 3, H: int = 4, *, bias: bool = True, more: dict[str, np.ndarray] | None = None, **attributes
) -> onnx.ModelProto:
    """A model of one LSTM node with constant weights; ``more`` are further constants by ONNX's names."""
    constants = {"W": random(D, 4 * H, I), "R": random(D, 4 * H, H)} | ({"B": random(D, 8 * H)} if bias else {})
    constants |= more or {}
    names = ["X", *(name if name in constants else "" for name in cylstm.onnx.convention.INPUTS[1:])]
    while not names[-1]:
        names.pop()
    node = helper.make_node("LSTM", names, ["Y", "Y_h", "Y_c"], name="lstm", hidden_size=H, **attributes)
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, None if name != "X" else [None, None, I])
        for name in ("X", "Y", "Y_h", "Y_c")
    }
    graph = helper.make_graph(
        [node],
        "graph",
        [values["X"]],
        [values[name] for name in ("Y", "Y_h", "Y_c")],
        [tensor(name, array) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def ort_run(model: onnx.ModelProto, **inputs: np.ndarray) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, inputs)


def assert_close(got, wanted, tolerance: float = 1e-6) -> None:
    for one, other in zip(got, wanted, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)


# ONNX's own tests ---------------------------------------------------------------------------------------------------


def test_there_are_node_tests() -> None:
    names = {case.name for case in NODE_TESTS}
    assert len(names) >= 6
    assert set(REFUSED) <= names


@pytest.mark.parametrize("case", NODE_TESTS, ids=lambda case: case.name)
def test_node_tests_of_onnx(case) -> None:
    """The weights are inputs of these models."""
    [node] = case.model.graph.node
    for inputs, outputs in case.data_sets:
        given = dict(zip([value.name for value in case.model.graph.input], inputs, strict=True))
        weights = {name: given[name] for name in given.keys() & {"W", "R", "B", "P"}}
        if case.name in REFUSED:
            with pytest.raises(ValueError, match=REFUSED[case.name]):
                cylstm.onnx.load(case.model, inputs=weights)
            continue
        lstm = cylstm.onnx.load(case.model, inputs=weights)
        states = {name: given[name] for name in given.keys() & set(lstm.states)}
        results = dict(zip(["Y", "Y_h", "Y_c"], lstm(given["X"], **states), strict=True))
        assert_close([results[name] for name in node.output if name], outputs)


# One node against ONNX Runtime --------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [None, [7, 2, 5, 1, 7]])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_a_node_is_what_onnx_runtime_computes(direction: str, bias: bool, lengths: list[int] | None) -> None:
    D = 2 if direction == "bidirectional" else 1
    more = {"initial_h": random(D, 5, 4), "initial_c": random(D, 5, 4)}
    if lengths:
        more["sequence_lens"] = np.array(lengths, np.int32)
    model = node_model(D, bias=bias, more=more, direction=direction)
    X = random(7, 5, 3)
    lstm = cylstm.onnx.load(model)
    wanted = ort_run(model, X=X)
    assert_close(lstm(X), wanted)
    assert_close(lstm(X, more.get("sequence_lens"), more["initial_h"], more["initial_c"]), wanted)

    swapped = {name: state.swapaxes(0, 1) for name, state in more.items() if state.ndim == 3}
    batchwise = onnx.ModelProto()
    batchwise.CopyFrom(model)
    batchwise.graph.node[0].attribute.append(helper.make_attribute("layout", 1))
    for constant in batchwise.graph.initializer:
        if constant.name in swapped:
            constant.CopyFrom(tensor(constant.name, swapped[constant.name]))
    Y, Y_h, Y_c = cylstm.onnx.load(batchwise)(X.swapaxes(0, 1))
    assert_close([Y.transpose(1, 2, 0, 3), Y_h.swapaxes(0, 1), Y_c.swapaxes(0, 1)], wanted)


def test_one_state_alone() -> None:
    more = {"initial_c": random(1, 2, 4)}
    model, X = node_model(more=more), random(5, 2, 3)
    assert_close(cylstm.onnx.load(model)(X), ort_run(model, X=X))


@pytest.mark.parametrize(
    ("attributes", "word"),
    [
        ({"clip": 1.0}, "clip=1"),
        ({"input_forget": 1}, "input_forget"),
        ({"activations": ["HardSigmoid", "Tanh", "Tanh"]}, "HardSigmoid"),
        ({"direction": "sideways"}, "sideways"),
        ({"layout": 2}, "layout=2"),
        ({"zoneout": 0.1}, "zoneout"),
        ({"more": {"P": np.ones((1, 12), np.float32)}}, "peepholes"),
        ({"more": {"R": np.ones((1, 16, 5), np.float32)}}, "does not fit together"),
        ({"more": {"B": np.ones((1, 8), np.float32)}}, "does not fit together"),
        ({"more": {"B": np.ones((1, 32), np.float64)}}, "float64"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(attributes: dict, word: str, tmp_path: Path) -> None:
    model = node_model(**attributes)
    with pytest.raises(ValueError, match=word):
        cylstm.onnx.load(model)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=word):
        cylstm.load(tmp_path / "m.onnx")


def test_what_says_the_default_is_computed() -> None:
    more = {"P": np.zeros((1, 12), np.float32)}
    model, X = node_model(more=more, activations=["Sigmoid", "Tanh", "Tanh"], input_forget=0), random(5, 2, 3)
    assert_close(cylstm.onnx.load(model)(X), ort_run(model, X=X))


def test_a_relative_is_refused_by_name() -> None:
    model = node_model()
    model.graph.node[0].op_type, model.graph.node[0].domain = "DynamicQuantizeLSTM", "com.microsoft"
    with pytest.raises(ValueError, match="DynamicQuantizeLSTM"):
        cylstm.onnx.load(model)


def test_another_operator_of_the_name_is_none() -> None:
    model = node_model()
    model.graph.node[0].domain = "my.operators"
    with pytest.raises(ValueError, match=r"no LSTM node; it holds 1 my\.operators\.LSTM"):
        cylstm.onnx.load(model)


@pytest.mark.parametrize("case", ["reverse", "states", "lengths"])
def test_a_plain_lstm_cannot_be_these(case: str, tmp_path: Path) -> None:
    model = {
        "reverse": lambda: node_model(direction="reverse"),
        "states": lambda: node_model(more={"initial_h": random(1, 2, 4)}),
        "lengths": lambda: node_model(more={"sequence_lens": np.array([3, 5], np.int32)}),
    }[case]()
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=r"cylstm\.onnx\.load"):
        cylstm.load(tmp_path / "m.onnx")
    X = random(5, 2, 3)
    assert_close(cylstm.onnx.load(tmp_path / "m.onnx")(X), ort_run(model, X=X))


def test_what_the_model_computes_must_be_given() -> None:
    model = node_model(more={"initial_h": random(1, 2, 4)})
    [state] = [one for one in model.graph.initializer if one.name == "initial_h"]
    model.graph.initializer.remove(state)
    model.graph.input.append(helper.make_tensor_value_info("initial_h", TensorProto.FLOAT, [1, 2, 4]))
    lstm, X, h = cylstm.onnx.load(model), random(5, 2, 3), random(1, 2, 4)
    with pytest.raises(TypeError, match="initial_h"):
        lstm(X)
    assert_close(lstm(X, initial_h=h), ort_run(model, X=X, initial_h=h))


def test_wrong_arguments() -> None:
    for model in (node_model().SerializeToString(), None):
        with pytest.raises(TypeError, match=r"a path or an onnx\.ModelProto"):
            cylstm.onnx.load(model)
    lstm = cylstm.onnx.load(node_model())
    with pytest.raises(ValueError, match="three dimensions"):
        lstm(random(5, 3))
    with pytest.raises(TypeError, match=r"integers, got float64: use \.astype"):
        lstm(random(5, 2, 3), sequence_lens=np.array([5.0, 2.5]))
    with pytest.raises(ValueError, match="sequence_lens"):
        lstm(random(5, 2, 3), np.array([5, 5, 5]))
    with pytest.raises(RuntimeError, match="input_size"):
        lstm(random(5, 2, 4))


# The way of the weights ---------------------------------------------------------------------------------------------


def with_weights_through(*text: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A model whose W comes through nodes given as text, from an initializer ``w`` of the shape (16, 3)."""
    plain = node_model()
    W = numpy_helper.to_array(next(one for one in plain.graph.initializer if one.name == "W"))
    model = onnx.ModelProto()
    model.CopyFrom(plain)
    [old] = [one for one in model.graph.initializer if one.name == "W"]
    model.graph.initializer.remove(old)
    model.graph.initializer.append(tensor("w", W[0]))
    [lstm] = model.graph.node
    del model.graph.node[:]
    model.graph.node.extend([*map(parser.parse_node, text), lstm])
    return model, plain


WAYS = {
    "Constant": ["axes = Constant<value = int64[1] {0}>()", "W = Unsqueeze(w, axes)"],
    "Identity": ["axes = Constant<value_ints = [0]>()", "u = Unsqueeze(w, axes)", "W = Identity(u)"],
    "Slice and Concat": [
        "axes = Constant<value_ints = [0]>()",
        "zero = Constant<value_ints = [0]>()",
        "half = Constant<value_ints = [8]>()",
        "end = Constant<value_ints = [9223372036854775807]>()",
        "upper = Slice(w, zero, half, axes)",
        "lower = Slice(w, half, end)",
        "whole = Concat<axis = 0>(upper, lower)",
        "W = Unsqueeze(whole, axes)",
    ],
    "Transpose twice": [
        "axes = Constant<value_ints = [0]>()",
        "t = Transpose(w)",
        "u = Unsqueeze(t, axes)",
        "W = Transpose<perm = [0, 2, 1]>(u)",
    ],
    "Reshape": ["shape = Constant<value_ints = [1, 16, -1]>()", "W = Reshape(w, shape)"],
    "Cast": [
        "axes = Constant<value_ints = [0]>()",
        "d = Cast<to = 11>(w)",
        "f = Cast<to = 1>(d)",
        "W = Unsqueeze(f, axes)",
    ],
    "Split": [
        "axes = Constant<value_ints = [0]>()",
        "sizes = Constant<value_ints = [4, 12]>()",
        "a, b = Split<axis = 0>(w, sizes)",
        "whole = Concat<axis = 0>(a, b)",
        "W = Unsqueeze(whole, axes)",
    ],
    "backwards twice": [
        "axes = Constant<value_ints = [0]>()",
        "start = Constant<value_ints = [-1]>()",
        "stop = Constant<value_ints = [-9223372036854775807]>()",
        "step = Constant<value_ints = [-1]>()",
        "r = Slice(w, start, stop, axes, step)",
        "rr = Slice(r, start, stop, axes, step)",
        "W = Unsqueeze(rr, axes)",
    ],
    "Shape": [
        "shape = Shape(w)",
        "one = Constant<value_ints = [1]>()",
        "target = Concat<axis = 0>(one, shape)",
        "expanded = Expand(w, target)",
        "axes = Constant<value_ints = [0]>()",
        "squeezed = Squeeze(expanded, axes)",
        "W = Unsqueeze(squeezed, axes)",
    ],
}


@pytest.mark.parametrize("way", WAYS)
def test_weights_through_nodes(way: str) -> None:
    model, plain = with_weights_through(*WAYS[way])
    X = random(5, 2, 3)
    assert_close(cylstm.onnx.load(model)(X), ort_run(plain, X=X))
    assert_close(ort_run(model, X=X), ort_run(plain, X=X))


def test_weights_that_are_computed_are_refused() -> None:
    model, _ = with_weights_through("axes = Constant<value_ints = [0]>()", "e = Exp(w)", "W = Unsqueeze(e, axes)")
    with pytest.raises(ValueError, match="Exp"):
        cylstm.onnx.load(model)


def test_weights_that_are_inputs_are_refused_or_given() -> None:
    [case] = [case for case in NODE_TESTS if case.name == "test_lstm_defaults"]
    with pytest.raises(ValueError, match="'W' is an input"):
        cylstm.onnx.load(case.model)
    _, W, R = case.data_sets[0][0]
    lstm = cylstm.onnx.load(case.model, inputs={"W": W, "R": R})
    assert_close([lstm(case.data_sets[0][0][0])[1]], case.data_sets[0][1])
    with pytest.raises(ValueError, match=r"takes no input 'w'; it takes 'R', 'W', 'X'"):
        cylstm.onnx.load(case.model, inputs={"w": W, "R": R})
    with pytest.raises(ValueError, match=r"takes no input 'W'; it takes 'X'"):  # which the model holds
        cylstm.onnx.load(node_model(), inputs={"W": W})
    with pytest.raises(TypeError, match="W must be an array"):
        cylstm.onnx.load(case.model, inputs={"W": W.tolist(), "R": R})


# Subgraphs and functions --------------------------------------------------------------------------------------------


def inside(kind: str) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model with an LSTM node inside If, Loop, Scan or a function, and inputs for it; the weights are outside."""
    model = node_model()
    [lstm] = model.graph.node
    del model.graph.node[:]
    value = helper.make_tensor_value_info
    outer = [value("Y", TensorProto.FLOAT, None)]
    X = random(5, 2, 3)
    if kind == "If":
        branch = helper.make_graph([lstm], "branch", [], [value("Y", TensorProto.FLOAT, [5, 1, 2, 4])])
        other = helper.make_graph(
            [parser.parse_node("Z = ConstantOfShape(shape)")],
            "other",
            [],
            [value("Z", TensorProto.FLOAT, [5, 1, 2, 4])],
        )
        model.graph.initializer.append(tensor("shape", np.array([5, 1, 2, 4])))
        model.graph.input.append(value("condition", TensorProto.BOOL, []))
        model.graph.node.append(helper.make_node("If", ["condition"], ["Y"], then_branch=branch, else_branch=other))
        inputs = {"X": X, "condition": np.array(True)}
    elif kind == "Loop":
        body = helper.make_graph(
            [lstm, parser.parse_node("go_on = Identity(go)")],
            "body",
            [value("n", TensorProto.INT64, []), value("go", TensorProto.BOOL, [])],
            [value("go_on", TensorProto.BOOL, []), value("Y", TensorProto.FLOAT, None)],
        )
        model.graph.initializer.append(tensor("trips", np.array(1)))
        model.graph.node.append(helper.make_node("Loop", ["trips", ""], ["stacked"], body=body))
        model.graph.node.append(parser.parse_node("Y = Squeeze(stacked, first)"))
        model.graph.initializer.append(tensor("first", np.array([0])))
        inputs = {"X": X}
    elif kind == "Scan":
        body = helper.make_graph(
            [lstm], "body", [value("X", TensorProto.FLOAT, [5, 2, 3])], [value("Y", TensorProto.FLOAT, [5, 1, 2, 4])]
        )
        model.graph.input[0].CopyFrom(value("Xs", TensorProto.FLOAT, [1, 5, 2, 3]))
        model.graph.node.append(helper.make_node("Scan", ["Xs"], ["Ys"], body=body, num_scan_inputs=1))
        model.graph.node.append(parser.parse_node("Y = Squeeze(Ys, first)"))
        model.graph.initializer.append(tensor("first", np.array([0])))
        inputs = {"Xs": X[np.newaxis]}
    else:
        opset = [helper.make_opsetid("", 17)]
        function = helper.make_function("own", "Encoder", ["X", "W", "R", "B"], ["Y"], [lstm], opset)
        function.node[0].attribute[0].ref_attr_name = "size"
        function.attribute.append("size")
        model.functions.append(function)
        model.opset_import.append(helper.make_opsetid("own", 1))
        model.graph.node.append(helper.make_node("Encoder", ["X", "W", "R", "B"], ["Y"], domain="own", size=4))
        function.node[0].attribute[0].ClearField("i")
        inputs = {"X": X}
    del model.graph.output[:]
    model.graph.output.extend(outer)
    return model, inputs


@pytest.mark.parametrize("kind", ["If", "Loop", "Scan", "function"])
def test_nodes_in_subgraphs_are_found(kind: str) -> None:
    model, inputs = inside(kind)
    Y, *_ = cylstm.onnx.load(model)(inputs["X"] if "X" in inputs else inputs["Xs"][0])
    assert_close([Y], ort_run(model, **inputs))


def test_weights_that_a_loop_changes_are_refused() -> None:
    model, _ = inside("Loop")
    [loop] = [node for node in model.graph.node if node.op_type == "Loop"]
    loop.attribute[0].g.input.append(helper.make_tensor_value_info("W", TensorProto.FLOAT, [1, 16, 3]))
    with pytest.raises(ValueError, match="'W' is an input"):
        cylstm.onnx.load(model)


# Several LSTMs ------------------------------------------------------------------------------------------------------


def test_several_are_listed_and_one_is_chosen(tmp_path: Path) -> None:
    model, other = node_model(), node_model(direction="reverse")
    for one in other.graph.initializer:
        one.name += "2"
        model.graph.initializer.append(one)
    node = other.graph.node[0]
    node.name = ""
    node.input[1:] = [name + "2" for name in node.input[1:]]
    node.output[:] = ["back", "", ""]
    model.graph.node.append(node)
    third = node_model(clip=3.0).graph.node[0]
    third.output[:] = ["third", "", ""]
    model.graph.node.append(third)  # the same name again, with the weights of the first
    path = tmp_path / "m.onnx"
    onnx.save(model, path)

    assert list(cylstm.onnx.find(path)) == ["lstm", "back", "lstm_2"]
    with pytest.raises(ValueError, match="'lstm', 'back', 'lstm_2'"):
        cylstm.onnx.load(path)
    with pytest.raises(ValueError, match=r"3 LSTMs.*'lstm\.', 'back\.', 'lstm_2\.'"):
        cylstm.load(path)
    with pytest.raises(ValueError, match="'nothing'"):
        cylstm.onnx.load(path, "nothing")
    with pytest.raises(ValueError, match="clip=3"):
        cylstm.load(path, "lstm_2")
    with pytest.raises(ValueError, match="reverse"):
        cylstm.load(path, "back")
    assert cylstm.onnx.load(path, "back").direction == "reverse"
    X = random(5, 2, 3)
    output, _ = cylstm.load(path, "lstm")(X)
    assert_close([output], [ort_run(node_only(model), X=X)[0][:, 0]])


def node_only(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its first node alone."""
    first = onnx.ModelProto()
    first.CopyFrom(model)
    del first.graph.node[1:]
    return first


def two_layers(between: list[str], **second: int) -> onnx.ModelProto:
    lower, upper = node_model(), node_model(I=4, **second)
    for one in upper.graph.initializer:
        one.name += "2"
    node = upper.graph.node[0]
    node.name, node.input[:] = "upper", ["Z", *(name + "2" for name in node.input[1:])]
    node.output[:] = ["Y2", "Y_h2", "Y_c2"]
    lower.graph.initializer.extend([*upper.graph.initializer, tensor("one", np.array([1]))])
    lower.graph.node.extend([*map(parser.parse_node, between), node])
    del lower.graph.output[:]
    lower.graph.output.append(helper.make_tensor_value_info("Y2", TensorProto.FLOAT, None))
    return lower


def test_stacked_layers_are_one_module(tmp_path: Path) -> None:
    model, X = two_layers(["Z = Squeeze(Y, one)"]), random(5, 2, 3)
    lstm = cylstm.onnx.load(model)
    assert lstm.module.num_layers == 2
    Y, _, _ = lstm(X)
    assert_close([Y], ort_run(model, X=X))


@pytest.mark.parametrize("case", ["used elsewhere", "an output", "other size", "in between", "mixed up"])
def test_layers_that_are_not_one_stay_apart(case: str) -> None:
    squeeze = "Z = Squeeze(Y, one)"
    if case == "other size":
        model = two_layers([squeeze], H=6)
    elif case == "in between":
        model = two_layers(["S = Squeeze(Y, one)", "Z = Relu(S)"])
    elif case == "mixed up":  # the batch becomes the steps
        model = two_layers(["S = Squeeze(Y, one)", "Z = Transpose<perm = [1, 0, 2]>(S)"])
    else:
        model = two_layers([squeeze])
    if case == "used elsewhere":
        model.graph.node.append(parser.parse_node("R2 = Relu(Z)"))
    if case == "an output":
        model.graph.output.append(helper.make_tensor_value_info("Y", TensorProto.FLOAT, None))
    assert list(cylstm.onnx.find(model)) == ["lstm", "upper"]


# PyTorch's exporters ------------------------------------------------------------------------------------------------


class Net(torch.nn.Module):
    def __init__(self, with_states: bool, **options: object) -> None:
        super().__init__()
        self.with_states = with_states
        self.lstm = torch.nn.LSTM(3, 4, **options)
        self.head = torch.nn.Linear(8 if self.lstm.bidirectional else 4, 2)

    def forward(self, x, h, c):
        output, (h_n, c_n) = self.lstm(x, (h, c)) if self.with_states else self.lstm(x)
        return self.head(output), h_n, c_n


OPTIONS = [
    {},
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 3, "batch_first": True, "bias": False},
    {"num_layers": 2, "with_states": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("exporter", ["TorchScript", "TorchScript, not folded", "dynamo"])
def test_models_of_torchs_exporters(exporter: str, options: dict, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Net(**{"with_states": False, **options}).eval()
    LD, path = net.lstm.num_layers * (2 if net.lstm.bidirectional else 1), tmp_path / "m.onnx"
    B = 6 if net.lstm.batch_first else 5
    x, h, c = torch.randn(6, 5, 3), torch.randn(LD, B, 4), torch.randn(LD, B, 4)
    kind = {"dynamo": True} if exporter == "dynamo" else {"dynamo": False, "opset_version": 17}
    if exporter.endswith("not folded"):
        kind["do_constant_folding"] = False
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporters
            torch.onnx.export(net, (x, h, c), path, verbose=False, **kind)
    finally:
        logging.disable(logging.NOTSET)

    lstm = cylstm.load(path)
    wanted = {name: getattr(net.lstm, name) for name in ("num_layers", "batch_first", "bidirectional")}
    assert {name: getattr(lstm, name) for name in wanted} == wanted
    for name, array in net.lstm.state_dict().items():
        np.testing.assert_array_equal(getattr(lstm, name), array)
    with torch.no_grad():
        output, (h_n, c_n) = net.lstm(x, (h, c) if net.with_states else None)
    got, (got_h, got_c) = lstm(x, (h, c) if net.with_states else None)
    assert_close([got, got_h, got_c], [output.numpy(), h_n.numpy(), c_n.numpy()])


# Export -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_export_is_what_onnx_runtime_computes(num_layers: int, states: bool, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    for bidirectional, bias, batch_first in itertools.product([False, True], repeat=3):
        lstm = cylstm.LSTM(3, 4, num_layers, bias, batch_first, bidirectional=bidirectional)
        cylstm.onnx.save(lstm, path, states=states)
        onnx.checker.check_model(onnx.load(path), full_check=True)
        x, B = random(7, 5, 3), 7 if batch_first else 5
        LD = num_layers * (1 + bidirectional)
        hx = (random(LD, B, 4), random(LD, B, 4)) if states else None
        inputs = {"input": x} | ({"h_0": hx[0], "c_0": hx[1]} if hx else {})
        output, (h_n, c_n) = lstm(x, hx)
        assert_close([output, h_n, c_n], ort_run(onnx.load(path), **inputs))
        back = cylstm.load(path)
        assert repr(back) == repr(lstm)
        assert all(np.array_equal(back.state_dict()[name], array) for name, array in lstm.state_dict().items())


@pytest.mark.parametrize("opset_version", range(14, onnx.defs.onnx_opset_version() + 1))
def test_every_opset(opset_version: int) -> None:
    lstm = cylstm.LSTM(3, 4, 2)
    model = cylstm.onnx.export(lstm, opset_version=opset_version, name="encoder")
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == opset_version
    assert cylstm.onnx.find(model)["encoder"].nodes == ("encoder", "encoder_1")


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_dtypes_come_back(dtype: str, tmp_path: Path) -> None:
    lstm = cylstm.LSTM(3, 4, 2, dropout=0.25, bidirectional=True, dtype=dtype)
    cylstm.save(lstm, tmp_path / "m.onnx")
    back = cylstm.load(tmp_path / "m.onnx")
    assert (repr(back), back.dtype) == (repr(lstm), lstm.dtype)
    assert all(np.array_equal(back.state_dict()[name], array) for name, array in lstm.state_dict().items())


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="proj_size=2"):
        cylstm.save(cylstm.LSTM(3, 4, proj_size=2), tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="complex64"):
        cylstm.save(cylstm.LSTM(3, 4, dtype="complex64"), tmp_path / "m.onnx")
    with pytest.raises(TypeError, match="Linear"):
        cylstm.save(cylstm.Linear(3, 4), tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="opset_version from 14"):
        cylstm.onnx.export(cylstm.LSTM(3, 4), opset_version=13)
    with pytest.raises(ValueError, match=r"bfloat16 cannot be exported to opset 17: .* from opset 22 on"):
        cylstm.save(cylstm.LSTM(3, 4, dtype="bfloat16"), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
    onnx.checker.check_model(cylstm.onnx.export(cylstm.LSTM(3, 4, dtype="bfloat16"), opset_version=22), full_check=True)


# Damaged and hostile files ------------------------------------------------------------------------------------------


def test_truncated_files(tmp_path: Path) -> None:
    whole, path = cylstm.onnx.export(cylstm.LSTM(3, 4)).SerializeToString(), tmp_path / "m.onnx"
    for size in {*range(0, len(whole), 37), len(whole) - 1}:
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"m\.onnx"):
            cylstm.load(path)


def test_random_bytes(tmp_path: Path) -> None:
    whole = bytearray(cylstm.onnx.export(cylstm.LSTM(3, 4, 2)).SerializeToString())
    random_bytes, path = np.random.default_rng(0), tmp_path / "m.onnx"
    for _ in range(300):
        changed = whole.copy()
        for position in random_bytes.integers(0, len(whole), 3):
            changed[position] = random_bytes.integers(0, 256)
        path.write_bytes(changed)
        with contextlib.suppress(ValueError):  # else only a weight was changed, or a name
            assert isinstance(cylstm.load(path), cylstm.LSTM)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        cylstm.load(tmp_path / "m.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ValueError, match="regular file"):
        cylstm.load(tmp_path / "folder.onnx")


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "missing.data"])
def test_external_data_stays_in_the_folder(location: str, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(1000))
    folder = tmp_path / "folder"
    folder.mkdir()
    model = node_model()
    for one in model.graph.initializer:
        one.ClearField("raw_data")
        one.data_location = TensorProto.EXTERNAL
        one.external_data.add(key="location", value=location)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=r"m\.onnx"):
        cylstm.load(folder / "m.onnx")


def test_external_data_that_was_left_behind(tmp_path: Path) -> None:
    lstm = cylstm.LSTM(3, 4)
    model = cylstm.onnx.export(lstm)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    np.testing.assert_array_equal(cylstm.load(tmp_path / "m.onnx").weight_ih_l0, lstm.weight_ih_l0)
    (tmp_path / "m.onnx.data").unlink()
    with pytest.raises(ValueError, match=r"is in the file 'm\.onnx\.data', which is not there: copy it along"):
        cylstm.load(tmp_path / "m.onnx")


def cycle() -> onnx.ModelProto:
    return with_weights_through("a = Identity(b)", "b = Identity(a)", "W = Identity(b)")[0]


def growing() -> onnx.ModelProto:
    """Each node doubles the weights."""
    doubled = [f"w{n + 1} = Concat<axis = 0>(w{n}, w{n})" for n in range(40)]
    return with_weights_through("w0 = Identity(w)", *doubled, "W = Identity(w40)")[0]


def expanding() -> onnx.ModelProto:
    return with_weights_through("shape = Constant<value_ints = [1099511627776, 16, 3]>()", "W = Expand(w, shape)")[0]


def long_chain() -> onnx.ModelProto:
    names = [f"n{i}" for i in range(5000)]
    chain = [f"{b} = Identity({a})" for a, b in itertools.pairwise(["w", *names])]
    return with_weights_through(*chain, f"W = Identity({names[-1]})")[0]


def calling_itself() -> onnx.ModelProto:
    model, _ = inside("function")
    call = model.graph.node[0]
    model.functions[0].node.append(call)
    model.functions[0].node.append(call)
    return model


def negative_shape() -> onnx.ModelProto:
    model = node_model()
    model.graph.initializer[0].dims[0] = -1
    return model


def too_large_shape() -> onnx.ModelProto:
    model = node_model()
    model.graph.initializer[0].dims[0] = 2**60
    return model


def no_such_name() -> onnx.ModelProto:
    model = node_model()
    model.graph.node[0].input[1] = "nowhere"
    return model


def no_lstm() -> onnx.ModelProto:
    model = node_model()
    model.graph.node[0].op_type = "GRU"
    return model


@pytest.mark.parametrize(
    "make",
    [cycle, growing, expanding, long_chain, calling_itself, negative_shape, too_large_shape, no_such_name, no_lstm],
)
def test_hostile_models(make: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(make().SerializeToString())
    with pytest.raises(ValueError, match=r"m\.onnx"):
        cylstm.load(tmp_path / "m.onnx")
