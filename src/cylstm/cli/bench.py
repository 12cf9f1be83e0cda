"""What ``cylstm bench`` does: one LSTM on several backends in turn, with the error beside the time."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from timeit import timeit
from typing import Any

import numpy as np

from .. import random
from ..backends import registry
from ..backends.cython_backend.threads import get_num_threads
from ..backends.errors import BackendError
from ..backends.plugins import available_backends
from ..backends.precision import check_precision, in_force, refuse_training
from ..files.formats import load
from ..nn.lstm import LSTM
from ..nn.options import named
from ..progress import Progress
from ..words import with_article
from .peers import Pass, Problem, peer_passes

REST = 0.02  # seconds before each block of calls: threads of the one before may still spin, waiting for work
BLOCK = 0.02  # seconds that a block takes, where one call takes less
FEWEST_ROUNDS = 3


def benchmark(
    lstm: LSTM,
    *,
    batch_size: int,
    steps: int,
    training: bool,
    precision: str | None = None,
    backends: Sequence[str] | None = None,
    peers: Sequence[str] | None = None,
    seconds: float = 1.0,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Measure each backend (None: all available ones that can) for about so many seconds, in interleaved rounds.

    The rows of the report, fastest first, have the median time of a call, its ratio to the fastest, the rate, and the
    largest error against the numpy backend in double precision (of gradients: as a share of the largest value in each
    array). A named backend or peer works or raises; of no name at all (an empty sequence), peers are those that are
    installed and can.
    """
    if lstm.frozen:
        raise ValueError("the LSTM must have its float32 parameters, got a frozen one: measure the model before")
    sizes, parameters, dtype = _sizes(lstm), lstm.state_dict(), lstm.dtype.name
    exact = LSTM(**sizes, dtype="complex128" if dtype.startswith("complex") else "float64", backend="numpy")
    exact.load_state_dict(parameters)
    random.manual_seed(0)
    x = random.randn(steps, batch_size, exact.input_size, dtype=dtype)
    features = (exact.proj_size or exact.hidden_size) * (1 + exact.bidirectional)
    grad = random.randn(steps, batch_size, features, dtype=dtype)
    problem = Problem(sizes, parameters, x, grad, training)
    passes = {}
    in_use = in_force(check_precision(precision, dtype), np.dtype(dtype))
    if training:
        refuse_training(in_use, "leave out --training, or the precision")
    for name in _able(lstm, training, in_use) if backends is None else backends:
        with registry.selecting(name, "--backend"):
            registry.choose(dtype=dtype, training=training, precision=in_use, **lstm._needs)
            one = copy.deepcopy(lstm)
            one.backend, one.precision, one.batch_first = name, precision, False
            passes[name] = _pass(one, x, grad, training)
    passes |= peer_passes(problem, peers)
    expected = _pass(exact, x.astype(exact.dtype), grad.astype(exact.dtype), training)()
    errors = {name: _error(one(), expected, relative=training) for name, one in passes.items()}
    medians = sorted((median(blocks), name) for name, blocks in _measure(passes, seconds, progress).items())
    weights = sum(array.size for name, array in parameters.items() if name.startswith("weight"))
    flops = weights * steps * batch_size * (8 if dtype.startswith("complex") else 2) * (3 if training else 1)
    rows = [
        {"name": name, "seconds": t, "ratio": t / medians[0][0], "gflops": flops / t / 1e9, "error": errors[name]}
        for t, name in medians
    ]
    report = {"lstm": repr(exact), "batch_size": batch_size, "steps": steps, "dtype": dtype, "training": training}
    report["precision"] = in_use
    return {**report, "threads": get_num_threads(), "rows": rows}


def random_lstm(sizes: dict[str, Any], dtype: str) -> LSTM:
    """An LSTM of these sizes with the same random weights each time, whatever the dtype."""
    random.manual_seed(0)
    exact = LSTM(**sizes, dtype="complex128" if dtype.startswith("complex") else "float64", backend="numpy")
    exact.backend = None
    return exact.to(dtype=dtype)


def model_lstm(path: Path, prefix: str, dtype: str | None) -> LSTM:
    """The LSTM of a model file, converted if a dtype is given.

    Raises
    ------
    FileNotFoundError, ValueError, ImportError
        As :func:`cylstm.load` does; ValueError also if it is no LSTM.
    """
    lstm = load(path, prefix)
    if not isinstance(lstm, LSTM):
        raise ValueError(f"{path} must hold an LSTM, got {with_article(type(lstm).__name__)}")
    return lstm if dtype is None else lstm.to(dtype=dtype)


def _sizes(lstm: LSTM) -> dict[str, Any]:
    """The arguments of PyTorch's LSTM, and the options beyond them that are not the default."""
    names = ("input_size", "hidden_size", "num_layers", "bias", "bidirectional", "proj_size")
    return {name: getattr(lstm, name) for name in names} | named(lstm._options)


def _able(lstm: LSTM, training: bool, precision: str) -> list[str]:
    able = []
    for row in available_backends():
        if row.status == "available":
            with contextlib.suppress(BackendError):
                registry.choose(row.name, dtype=lstm.dtype.name, training=training, precision=precision, **lstm._needs)
                able.append(row.name)
    return able


def _pass(lstm: LSTM, x: np.ndarray, grad: np.ndarray, training: bool) -> Pass:
    if training:
        return lambda: [(gradients := lstm.vjp(x)[2](grad)).input, *gradients.parameters.values()]
    return lambda: [(result := lstm(x))[0], *result[1]]


def _error(found: list[Any], expected: list[Any], *, relative: bool) -> float:
    pairs = zip(map(np.asarray, found), expected, strict=True)
    return float(np.max([np.abs(a - b).max() / (np.abs(b).max() if relative else 1) for a, b in pairs]))  # nan stays


def _measure(passes: dict[str, Pass], seconds: float, progress: bool | None) -> dict[str, list[float]]:
    """Seconds per call, block by block: one block of each in every round."""
    times: dict[str, list[float]] = {name: [] for name in passes}
    calls = {name: max(1, round(BLOCK / timeit(one, number=1))) for name, one in passes.items()}
    begin, total = time.perf_counter(), seconds * len(passes)
    with Progress(100, "", shown=progress) as bar:
        while (spent := time.perf_counter() - begin) < total or min(map(len, times.values())) < FEWEST_ROUNDS:
            bar.advance(max(0, min(99, round(100 * spent / (total or 1))) - bar.done))
            for name, one in passes.items():
                time.sleep(REST)
                one()  # caches, and threads awake
                times[name].append(timeit(one, number=calls[name]) / calls[name])
        bar.advance(100 - bar.done)
    return times
