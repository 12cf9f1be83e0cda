"""Checks bit for bit: a result does not depend on how the call is cut up."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ..arrays.packing import pack_padded_sequence, pad_packed_sequence
from ..backends.base import Backend
from ..backends.cython_backend.threads import get_num_threads, set_num_threads
from ..nn.lstm import LSTM
from .compare import assert_identical
from .module import called, draw
from .problems import Case, Problem, forward, make_problem, outputs, outputs_and_gradients, prepare

_CHUNKED = [Case(T=40, B=5, I=19, H=33, states=True), Case(T=40, B=1, I=64, H=64, states=True)]
_BATCHED = [Case(T=9, B=13, I=19, H=33, D=2, ragged=True, states=True), Case(T=9, B=4, I=64, H=64, states=True)]
_THREADED = [Case(T=9, B=13, I=19, H=65, D=2, ragged=True, states=True), Case(T=9, B=1, I=64, H=256)]
#: Options beyond PyTorch's are put into these.
SIZES_FOR_OPTIONS = [
    Case(T=11, B=7, I=19, H=65, P=21, ragged=True, states=True),
    Case(T=11, B=1, I=64, H=256, states=True),
]


def bitwise_chunks(backend: Backend, *, dtype: str, cases: list[Case] = _CHUNKED) -> None:
    """Step by step, in chunks and at once: the same bits."""
    for case in cases:
        problem = make_problem(case, dtype)
        prepared = prepare(backend, problem)
        whole = forward(backend, problem, prepared)
        for steps in (1, 7, 16):
            h: Any = problem.h_0
            c: Any = problem.c_0
            parts = []
            for t in range(0, case.T, steps):
                rows = slice(t * case.B, (t + steps) * case.B)
                part = problem._replace(
                    input=problem.input[rows], batch_sizes=problem.batch_sizes[t : t + steps], h_0=h, c_0=c
                )
                output, h, c, _ = forward(backend, part, prepared)
                parts.append(output)
            for name, got, want in zip(("output", "h_n", "c_n"), (np.concatenate(parts), h, c), whole, strict=False):
                assert_identical(got, want, f"{case}, {steps} steps at a time: {name}")


def bitwise_batch(backend: Backend, *, dtype: str, cases: list[Case] = _BATCHED) -> None:
    """A sequence alone, in a padded batch, and in a ragged batch: the same bits."""
    for case in cases:
        problem = make_problem(case, dtype)
        prepared = prepare(backend, problem)
        together = forward(backend, problem, prepared)
        starts = np.concatenate([[0], np.cumsum(problem.batch_sizes)])
        for b in range(case.B):
            rows = starts[: np.count_nonzero(problem.batch_sizes > b)] + b
            h_0, c_0 = (np.ascontiguousarray(a[:, b : b + 1]) for a in (problem.h_0, problem.c_0) if a is not None)
            one = problem._replace(
                input=problem.input[rows], batch_sizes=np.ones(len(rows), np.int64), h_0=h_0, c_0=c_0
            )
            output, h_n, c_n, _ = forward(backend, one, prepared)
            assert_identical(output, together.output[rows], f"{case}, sequence {b} alone: output")
            assert_identical(h_n, together.h_n[:, b : b + 1], f"{case}, sequence {b} alone: h_n")
            assert_identical(c_n, together.c_n[:, b : b + 1], f"{case}, sequence {b} alone: c_n")


def bitwise_threads(backend: Backend, *, dtype: str, cases: list[Case] = _THREADED) -> None:
    """Any number of threads: the same bits."""
    for case in cases:
        _same_for_all_threads(lambda problem: outputs(backend, problem), make_problem(case, dtype), str(case))


def bitwise_gradient_threads(backend: Backend, *, dtype: str) -> None:
    """Gradients with any number of threads: the same bits."""
    for case in _THREADED:
        for keep in ("gates", "states"):
            run = functools.partial(outputs_and_gradients, backend, keep=keep)
            _same_for_all_threads(run, make_problem(case, dtype), f"{case} keep={keep}")


def _same_for_all_threads(run: Callable[[Problem], dict[str, np.ndarray]], problem: Problem, about: str) -> None:
    before = get_num_threads()
    try:
        set_num_threads(1)
        expected = run(problem)
        for n in (2, 3, 4, 7):
            set_num_threads(n)
            for name, array in run(problem).items():
                assert_identical(array, expected[name], f"{about}, {n} threads: {name}")
    finally:
        set_num_threads(before)


def bitwise_module(backend: Backend, *, dtype: str) -> None:
    """LSTM at once, in chunks, by a stream, each sequence alone, packed: the same bits."""
    module = LSTM(5, 33, num_layers=2, dtype=dtype, backend=backend)
    x = draw(dtype, 12, 5, 5)
    whole = called(module, x)
    for steps in (1, 5):
        state: Any = None
        for t in range(0, len(x), steps):
            output, state = module(x[t : t + steps], state)
            assert_identical(output, whole["output"][t : t + steps], f"{steps} steps at a time: output")
        assert_identical(state[1], whole["c_n"], f"{steps} steps at a time: c_n")
    stream = module.stream(batch_size=5)
    for t, x_t in enumerate(x):
        assert_identical(np.array(stream(x_t)), whole["output"][t], "a stream: h")
    lengths = np.array([12, 7, 7, 3, 1])
    packed, _ = module(pack_padded_sequence(x, lengths))
    padded, _ = pad_packed_sequence(packed)
    for b, length in enumerate(lengths):
        assert_identical(module(x[:, b])[0], whole["output"][:, b], f"sequence {b} alone: output")
        assert_identical(padded[:length, b], whole["output"][:length, b], f"sequence {b} packed: output")


#: `bitwise_gradient_threads` is for backends with gradients.
EACH_DTYPE = (bitwise_chunks, bitwise_batch, bitwise_threads, bitwise_module)


def bitwise_options(backend: Backend, *, dtype: str, cases: list[Case]) -> None:
    """Likewise with options beyond PyTorch's: chunks, batches, threads."""
    bitwise_chunks(backend, dtype=dtype, cases=[case._replace(ragged=False) for case in cases])
    for function in (bitwise_batch, bitwise_threads):
        function(backend, dtype=dtype, cases=[case._replace(D=2) for case in cases])
