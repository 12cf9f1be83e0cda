"""Graphs around LSTM nodes: the way of the weights, subgraphs and functions, several LSTMs in one model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, parser
from onnx_models import NODE_TESTS, assert_close, inside, node_model, ort_run, random, tensor, with_weights_through

import cylstm
import cylstm.onnx

# The way of the weights ---------------------------------------------------------------------------------------------


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
    with pytest.raises(ValueError, match=r"inputs must be among those of the model \('R', 'W', 'X'\), got 'w'"):
        cylstm.onnx.load(case.model, inputs={"w": W, "R": R})
    with pytest.raises(ValueError, match=r"of the model \('X'\), got 'W'"):  # which the model holds
        cylstm.onnx.load(node_model(), inputs={"W": W})
    with pytest.raises(TypeError, match="W must be an array"):
        cylstm.onnx.load(case.model, inputs={"W": W.tolist(), "R": R})


# Subgraphs and functions --------------------------------------------------------------------------------------------


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
    with pytest.raises(ValueError, match=r"must hold one LSTM, got 3.*'lstm\.', 'lstm_2\.', 'back\.'"):
        cylstm.load(path)
    with pytest.raises(ValueError, match="'nothing'"):
        cylstm.onnx.load(path, "nothing")
    assert cylstm.load(path, "lstm_2").clip == 3
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


@pytest.mark.parametrize("case", ["used elsewhere", "an output", "other size", "in between", "mixed up", "6", "10"])
def test_layers_that_are_not_one_stay_apart(case: str) -> None:
    squeeze = "Z = Squeeze(Y, one)"
    if case == "other size":
        model = two_layers([squeeze], H=6)
    elif case == "in between":
        model = two_layers(["S = Squeeze(Y, one)", "Z = Relu(S)"])
    elif case.isdecimal():  # to int32 and float16, which round
        model = two_layers(["S = Squeeze(Y, one)", f"C = Cast<to = {case}>(S)", "Z = Cast<to = 1>(C)"])
    elif case == "mixed up":  # the batch becomes the steps
        model = two_layers(["S = Squeeze(Y, one)", "Z = Transpose<perm = [1, 0, 2]>(S)"])
    else:
        model = two_layers([squeeze])
    if case == "used elsewhere":
        model.graph.node.append(parser.parse_node("R2 = Relu(Z)"))
    if case == "an output":
        model.graph.output.append(helper.make_tensor_value_info("Y", TensorProto.FLOAT, None))
    assert list(cylstm.onnx.find(model)) == ["lstm", "upper"]


BESIDE = [
    "f = Slice(Y, zero, one, one)",
    "r = Slice(Y, one, two, one)",
    "fs = Squeeze(f, one)",
    "rs = Squeeze(r, one)",
    "beside = Concat<axis = 2>({first}, {second})",
    "batch_first = Transpose<perm = [1, 0, 2]>(beside)",
    "Z = Transpose<perm = [1, 0, 2]>(batch_first)",
]


def bidirectional_layers(first: str, second: str) -> onnx.ModelProto:
    """Two bidirectional layers; between them each direction is taken out and put beside the other."""
    lower, upper = (node_model(2, I, direction="bidirectional") for I in (3, 8))
    for one in upper.graph.initializer:
        one.name += "2"
    node = upper.graph.node[0]
    node.name, node.input[:] = "upper", ["Z", *(name + "2" for name in node.input[1:])]
    node.output[:] = ["Y2", "Y_h2", "Y_c2"]
    numbers = [tensor(name, np.array([value])) for value, name in enumerate(["zero", "one", "two"])]
    lower.graph.initializer.extend([*upper.graph.initializer, *numbers])
    lower.graph.node.extend([*(parser.parse_node(line.format(first=first, second=second)) for line in BESIDE), node])
    del lower.graph.output[:]
    lower.graph.output.append(helper.make_tensor_value_info("Y2", TensorProto.FLOAT, None))
    return lower


def test_bidirectional_layers_as_converters_from_tensorflow_write_them() -> None:
    model, X = bidirectional_layers("fs", "rs"), random(5, 2, 3)
    lstm = cylstm.onnx.load(model)
    assert (lstm.module.num_layers, lstm.module.bidirectional) == (2, True)
    assert_close(lstm(X)[:1], ort_run(model, X=X))


def test_directions_the_other_way_round_stay_apart() -> None:
    assert list(cylstm.onnx.find(bidirectional_layers("rs", "fs"))) == ["lstm", "upper"]
    assert list(cylstm.onnx.find(bidirectional_layers("fs", "fs"))) == ["lstm", "upper"]
