"""Single LSTM nodes: ONNX's own tests, ONNX Runtime, and what is refused by its name."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import assert_close, node_model, ort_run, random, tensor

import cylstm
import cylstm.onnx

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # overflows in ONNX's own cases for other operators
    from onnx.backend.test.case.node import collect_testcases

    NODE_TESTS = [case for case in collect_testcases("LSTM") if case.name.startswith("test_lstm")]

#: Those that cylstm does not compute, and the word that its error must have.

REFUSED = {"test_lstm_with_peepholes": "peepholes"}


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
    with pytest.raises(ValueError, match=r"must hold an LSTM node, got 1 my\.operators\.LSTM"):
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


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("lengths", [[7, 8], [0, 7], [-1, 7], [2**40, 1]])
def test_lengths_beyond_the_sequences_are_errors(direction: str, lengths: list[int]) -> None:
    D = 2 if direction == "bidirectional" else 1
    lstm = cylstm.onnx.load(node_model(D, direction=direction))
    with pytest.raises(RuntimeError, match="sequence_lens must be from 1 to T = 7"):
        lstm(random(7, 2, 3), np.array(lengths))
