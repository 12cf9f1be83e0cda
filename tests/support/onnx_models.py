"""ONNX models of one node, alone or inside graphs, and what ONNX Runtime gives for them."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, parser

import cylstm
import cylstm.onnx

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # overflows in ONNX's own cases for other operators
    from onnx.backend.test.case.node import collect_testcases

    NODE_TESTS = [case for case in collect_testcases("LSTM") if case.name.startswith("test_lstm")]


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
        scale = max(1, np.abs(other).max(initial=0))  # a relu has no bound
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale)


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
