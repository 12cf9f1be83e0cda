"""Models of the same process that run before a call. Their pools of threads spin for a while afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from cases import Case, make_problem
from contenders import CONTENDERS

from .contenders import PEERS, onnx_session

#: A call of some milliseconds: long enough that all threads of a pool are awake at its end.
LSTM = Case(name="neighbour", regime="company", B=16, T=50, H=256)
#: Of the front end: two convolutions over time and a linear layer, (rows, channels, steps).
ROWS, CHANNELS, STEPS = 16, 64, 200


def neighbours(threads: int) -> dict[str, Callable[[], Any]]:
    """A call of an LSTM, and one of a front end, of PyTorch and of ONNX Runtime; each a model of its own."""
    problem = make_problem(LSTM)
    runners = {"torch": CONTENDERS["torch-onednn"], "onnxruntime": CONTENDERS["onnxruntime"]}
    lstms = {name: runners[name].prepare(LSTM, problem, threads).call for name in PEERS}
    return {
        "torch": _inferring(lstms["torch"]),
        "onnxruntime": lstms["onnxruntime"],
        "torch-front": _inferring(_torch_front()),
        "onnxruntime-front": _onnx_front(threads),
    }


def _inferring(call: Callable[[], Any]) -> Callable[[], Any]:
    import torch

    def inferring() -> Any:
        with torch.inference_mode():
            return call()

    return inferring


def _weights() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(2)
    C = CHANNELS
    shapes = {"first": (2 * C, C, 5), "second": (2 * C, 2 * C, 5), "linear": (2 * C, C)}
    return (
        rng.standard_normal((ROWS, C, STEPS)).astype(np.float32),
        {name: rng.uniform(-0.05, 0.05, shape).astype(np.float32) for name, shape in shapes.items()},
    )


def _torch_front() -> Callable[[], Any]:
    import torch
    from torch.nn.functional import conv1d

    x, weights = _weights()
    x = torch.from_numpy(x)
    first, second, linear = (torch.from_numpy(weights[name]) for name in ("first", "second", "linear"))

    def call() -> Any:
        y = torch.relu(conv1d(torch.relu(conv1d(x, first)), second))
        return y.transpose(1, 2) @ linear

    return call


def _onnx_front(threads: int) -> Callable[[], Any]:
    from onnx import TensorProto, helper, numpy_helper

    x, weights = _weights()
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Transpose", ["d"], ["e"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["e", "linear"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "front",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    session = onnx_session(model.SerializeToString(), threads)
    return lambda: session.run(["y"], {"x": x})
