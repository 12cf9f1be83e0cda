"""Three contenders, ready for a shape: cylstm on the cython backend, PyTorch and ONNX Runtime, as they come."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from cases import Case, Problem, make_problem
from contenders import CONTENDERS, Values, reference
from contenders.onnx_runtime import onnx_model
from values import TOLERANCE, error_of

import cylstm

OURS, ONE_THREAD, PEERS = "cylstm", "cylstm-1-thread", ("torch", "onnxruntime")
NAMES = (OURS, *PEERS, ONE_THREAD)
LABELS = {OURS: "cylstm", "torch": "PyTorch", "onnxruntime": "ONNX Runtime", ONE_THREAD: "cylstm, one thread"}
STEPS = 100


@dataclass(frozen=True)
class Shape:
    """What is computed: a whole sequence by a call, or one step with a state that is carried on."""

    name: str
    B: int
    H: int
    T: int = STEPS
    stream: bool = False

    @property
    def case(self) -> Case:
        return Case(name=self.name, regime="company", B=self.B, T=self.T, I=self.H // 2, H=self.H)


SHAPES = [
    *(Shape(f"{B}x{H}", B, H) for B in (1, 8, 64) for H in (128, 256, 512)),
    Shape("step256", 1, 256, T=1),
    *(Shape(f"stream{H}", 1, H, T=20, stream=True) for H in (128, 256, 512)),
]
QUICK = "1x256,64x256,stream256"


@dataclass
class Ready:
    """A contender, ready for a shape.

    Attributes
    ----------
    call : callable
        What is timed.
    values : callable
        What a call has returned, as NumPy arrays; of a stream the first steps from zeros on, computed now.
    context : callable
        A context manager around calls, in the Python thread that makes them.
    another : callable
        A call for another Python thread: of the same module, with a state of its own where there is one.
    """

    name: str
    call: Callable[[], Any]
    values: Callable[[Any], Values]
    context: Callable[[], AbstractContextManager]
    another: Callable[[], Callable[[], Any]]


@dataclass
class Prepared:
    """All contenders of a shape, their expected values, and how long a call of ours takes about."""

    shape: Shape
    ready: list[Ready]
    expected: Values
    pace: float

    def error(self, name: str, result: Any) -> float:
        """The largest error of a result against float64."""
        one = next(one for one in self.ready if one.name == name)
        with one.context():
            return error_of(one.values(result), self.expected)

    @staticmethod
    def wrong(error: float) -> bool:
        return not error <= TOLERANCE["float32"]


def prepare(shape: Shape, threads: int) -> Prepared:
    """Make the contenders of a shape, on so many threads each."""
    case = shape.case
    problem = make_problem(case)
    made = {OURS: _ours, "torch": _torch, "onnxruntime": _onnx_runtime}
    ready = [make(shape, case, problem, threads) for make in made.values()]
    if shape.T > 1 and not shape.stream:  # single steps take microseconds on any number of threads
        ready.append(_on_one_thread(ready[0]))
    with ready[0].context():
        pace = min(_seconds(ready[0].call) for _ in range(3))
    return Prepared(shape, ready, reference(case, problem, threads), pace)


def _seconds(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _on_one_thread(ours: Ready) -> Ready:
    """The same module, which computes on one thread in the meantime."""

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        before = cylstm.get_num_threads()  # 1 in the Python threads of a turn: it holds until the turn ends
        cylstm.set_num_threads(1)
        try:
            yield
        finally:
            cylstm.set_num_threads(before)

    return Ready(ONE_THREAD, ours.call, ours.values, context, ours.another)


def _ours(shape: Shape, case: Case, problem: Problem, threads: int) -> Ready:
    module = CONTENDERS["cylstm-cython"].module(case, problem, threads)  # type: ignore[attr-defined]
    if not shape.stream:
        runner = CONTENDERS["cylstm-cython"].prepare(case, problem, threads)
        return Ready(OURS, runner.call, runner.values, contextlib.nullcontext, lambda: runner.call)

    def steps(_: Any) -> Values:
        stream = module.stream(case.B)
        output = np.stack([stream(x_t) for x_t in problem.input])
        h_n, c_n = stream.state
        return {"output": output, "h_n": h_n, "c_n": c_n}

    def another() -> Callable[[], Any]:
        stream, x_t = module.stream(case.B), problem.input[0]
        return lambda: stream(x_t)

    return Ready(OURS, another(), steps, contextlib.nullcontext, another)


def _torch(shape: Shape, case: Case, problem: Problem, threads: int) -> Ready:
    import torch

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        torch.set_num_threads(threads)  # OpenMP asks each Python thread
        with torch.inference_mode():
            yield

    runner = CONTENDERS["torch-onednn"].prepare(case, problem, threads)
    if not shape.stream:
        return Ready("torch", runner.call, runner.values, context, lambda: runner.call)
    lstm = torch.nn.LSTM(case.input_size, case.H)
    lstm.load_state_dict({name: torch.from_numpy(array) for name, array in problem.parameters.items()})
    x_t = torch.from_numpy(problem.input[:1].copy())

    def another() -> Callable[[], Any]:
        state = torch.zeros(1, case.B, case.H), torch.zeros(1, case.B, case.H)

        def call() -> Any:
            nonlocal state
            output, state = lstm(x_t, state)
            return output

        return call

    def steps(_: Any) -> Values:
        outputs, state = [], None
        for x in torch.from_numpy(problem.input.copy()).split(1):
            output, state = lstm(x, state)
            outputs.append(output.numpy())
        h_n, c_n = state  # type: ignore[misc]
        return {"output": np.concatenate(outputs), "h_n": h_n.numpy(), "c_n": c_n.numpy()}

    return Ready("torch", another(), steps, context, another)


def _onnx_runtime(shape: Shape, case: Case, problem: Problem, threads: int) -> Ready:
    runner = CONTENDERS["onnxruntime"].prepare(case, problem, threads)
    if not shape.stream:
        return Ready("onnxruntime", runner.call, runner.values, contextlib.nullcontext, lambda: runner.call)
    session = onnx_session(_carrying(case.shortened(1), problem), threads)
    names = ["output", "h_n", "c_n"]
    zeros = np.zeros((1, case.B, case.H), np.float32)

    def another() -> Callable[[], Any]:
        feed = {"input": problem.input[:1], "h_0": zeros, "c_0": zeros}

        def call() -> Any:
            output, feed["h_0"], feed["c_0"] = session.run(names, feed)
            return output

        return call

    def steps(_: Any) -> Values:
        outputs, h, c = [], zeros, zeros
        for x in np.split(problem.input, case.T):
            output, h, c = session.run(names, {"input": x, "h_0": h, "c_0": c})
            outputs.append(output.reshape(1, case.B, case.H))
        return {"output": np.concatenate(outputs), "h_n": h, "c_n": c}

    return Ready("onnxruntime", another(), steps, contextlib.nullcontext, another)


def onnx_session(model: bytes, threads: int) -> Any:
    """A session on so many threads; all else as it comes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _carrying(case: Case, problem: Problem) -> bytes:
    """The model of a case, with the initial states as inputs."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load_from_string(onnx_model(case, problem.parameters))
    model.graph.node[0].input.extend(["h_0", "c_0"])
    states = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, case.B, case.H]) for name in ("h_0", "c_0")]
    model.graph.input.extend(states)
    return model.SerializeToString()
