"""What ``cylstm bench`` does: one LSTM on several backends in turn, with the error beside the time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from timeit import timeit
from typing import Any

import numpy as np

from .. import random
from ..backends import registry
from ..backends.cython_backend.threads import get_num_threads, set_num_threads
from ..backends.plugins import available_backends
from ..backends.precision import check_precision, in_force, refuse_training
from ..nn.lstm import LSTM

Pass = Callable[[], list[Any]]  # returns output and states, or in training all gradients; NumPy's or PyTorch's arrays

REST = 0.02  # seconds before each block of calls: threads of the one before may still spin, waiting for work
BLOCK = 0.02  # seconds that a block takes, where one call takes less
FEWEST_ROUNDS = 3


def benchmark(
    sizes: dict[str, Any],
    *,
    batch_size: int,
    steps: int,
    dtype: str,
    training: bool,
    precision: str | None = None,
    backends: Sequence[str] | None = None,
    peer: str | None = None,
    threads: int | None = None,
    seconds: float = 1.0,
) -> dict[str, Any]:
    """Measure each backend (None: all available ones that can) for about so many seconds, in interleaved rounds.

    `sizes` are arguments of `LSTM`. The rows of the report, fastest first, have the median time of a call, its ratio to
    the fastest, the rate, and the largest error against the numpy backend in double precision (of gradients: as a
    share of the largest value in each array). A named backend or peer works or raises.
    """
    if threads is not None:
        set_num_threads(threads)
    random.manual_seed(0)
    exact = LSTM(**sizes, dtype="complex128" if dtype.startswith("complex") else "float64", backend="numpy")
    parameters = {name: array.astype(dtype) for name, array in exact.named_parameters()}
    exact.load_state_dict(parameters)
    x = random.randn(steps, batch_size, exact.input_size, dtype=dtype)
    grad = random.randn(steps, batch_size, exact.hidden_size * (1 + exact.bidirectional), dtype=dtype)
    passes = {}
    in_use = in_force(check_precision(precision, dtype), np.dtype(dtype))
    if training:
        refuse_training(in_use, "leave out --training, or the precision")
    for name in _able(dtype, training, in_use) if backends is None else backends:
        registry.choose(name, dtype=dtype, training=training, precision=in_use)
        lstm = LSTM(**sizes, dtype=dtype, backend=name, precision=precision)
        lstm.load_state_dict(parameters)
        passes[name] = _pass(lstm, x, grad, training)
    if peer is not None:
        passes[peer] = _torch_pass(sizes, parameters, x, grad, training)
    expected = _pass(exact, x.astype(exact.dtype), grad.astype(exact.dtype), training)()
    errors = {name: _error(one(), expected, relative=training) for name, one in passes.items()}
    medians = sorted((median(blocks), name) for name, blocks in _measure(passes, seconds).items())
    weights = sum(array.size for name, array in parameters.items() if name.startswith("weight"))
    flops = weights * steps * batch_size * (8 if dtype.startswith("complex") else 2) * (3 if training else 1)
    rows = [
        {"name": name, "seconds": t, "ratio": t / medians[0][0], "gflops": flops / t / 1e9, "error": errors[name]}
        for t, name in medians
    ]
    report = {"lstm": repr(exact), "batch_size": batch_size, "steps": steps, "dtype": dtype, "training": training}
    report["precision"] = in_use
    return {**report, "threads": get_num_threads(), "rows": rows}


def _able(dtype: str, training: bool, precision: str) -> list[str]:
    here = {row.name: registry.load(row.name).capabilities for row in available_backends() if row.status == "available"}
    able = {name: can for name, can in here.items() if dtype in can.dtypes and precision in can.precisions}
    return [name for name, can in able.items() if not training or can.training]


def _pass(lstm: LSTM, x: np.ndarray, grad: np.ndarray, training: bool) -> Pass:
    if training:
        return lambda: [(gradients := lstm.vjp(x)[2](grad)).input, *gradients.parameters.values()]
    return lambda: [(result := lstm(x))[0], *result[1]]


def _torch_pass(sizes: Any, parameters: Any, x: np.ndarray, grad: np.ndarray, training: bool) -> Pass:
    try:
        import torch
    except ImportError as error:
        raise ImportError("--peer torch needs PyTorch: pip install torch") from error
    torch.set_num_threads(get_num_threads())
    input, grad_output = torch.from_numpy(x).requires_grad_(training), torch.from_numpy(grad)
    lstm = torch.nn.LSTM(**sizes, dtype=input.dtype)
    lstm.load_state_dict({name: torch.from_numpy(array) for name, array in parameters.items()})
    if training:
        return lambda: list(torch.autograd.grad(lstm(input)[0], [input, *lstm.parameters()], grad_output))

    def call() -> list[Any]:
        with torch.inference_mode():
            output, state = lstm(input)
            return [output, *state]

    return call


def _error(found: list[Any], expected: list[Any], *, relative: bool) -> float:
    pairs = zip(map(np.asarray, found), expected, strict=True)
    return float(np.max([np.abs(a - b).max() / (np.abs(b).max() if relative else 1) for a, b in pairs]))  # nan stays


def _measure(passes: dict[str, Pass], seconds: float) -> dict[str, list[float]]:
    """Seconds per call, block by block: one block of each in every round."""
    times: dict[str, list[float]] = {name: [] for name in passes}
    calls = {name: max(1, round(BLOCK / timeit(one, number=1))) for name, one in passes.items()}
    end = time.perf_counter() + seconds * len(passes)
    while time.perf_counter() < end or min(map(len, times.values())) < FEWEST_ROUNDS:
        for name, one in passes.items():
            time.sleep(REST)
            one()  # caches, and threads awake
            times[name].append(timeit(one, number=calls[name]) / calls[name])
    return times
