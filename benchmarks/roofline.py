"""What this machine allows: measured with cylstm's own kernels, and the least time that a case can take by it.

``python benchmarks/roofline.py`` prints the limits. Best times count here, not medians: a limit is what the machine can do.

- Multiply-adds: the slope of time over input_size, for a product whose weights lie in the first-level cache. In the slope
  there are neither activations nor the start of threads. NumPy's matrix product is measured beside it, and the better
  of the two is the limit.
- Bandwidth: one step at batch 1 reads every weight once; its time over the weights' bytes, from 16 KB to 64 MB, less the time
  with next to no weights.
- Barrier: what a step with half of the work per thread takes beyond half of the time.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
from cases import Case

from cylstm.backends import _lstm
from cylstm.backends.base import DirectionParameters
from cylstm.backends.cython_backend import CythonBackend

Curve = list[tuple[int, float]]  # (bytes, bytes per second), growing sizes


@dataclass
class Limits:
    """What the machine allows, in flops, bytes and seconds."""

    threads: int
    peak: dict[str, float]  # dtype: flops per second of all threads
    peak_one: dict[str, float]  # of one thread
    bandwidth: Curve  # of all threads
    bandwidth_one: Curve
    barrier: float  # seconds
    region: float  # seconds that starting and ending a parallel region takes
    activations: dict[str, float]  # dtype: seconds per hidden unit and row, on one thread

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def least_seconds(self, case: Case) -> float:
        """The least time for a case: as much as has to be read and multiplied, on one thread or on all of them."""
        one = _least(case, self.peak_one[case.dtype], self.bandwidth_one, self.activations[case.dtype], 0.0)
        all = _least(
            case, self.peak[case.dtype], self.bandwidth, self.activations[case.dtype] / self.threads, self.barrier
        )
        return min(one, all)


def _least(case: Case, peak: float, bandwidth: Curve, activation: float, barrier: float) -> float:
    rows, D, seconds = int(case.lengths.sum()), case.directions, 0.0
    size = np.dtype(case.dtype).itemsize
    for I, H, R in case.layer_sizes():
        ahead = 8 * H * I * D * rows if case.T > 1 else 0  # flops of the input's share, for all steps at once
        flops = 8 * H * (R if case.T > 1 else R + I) * D * rows / case.T + 2 * H * case.proj_size * D * rows / case.T
        weights = 4 * H * (R if case.T > 1 else R + I) * D * size + H * case.proj_size * D * size
        step = max(flops / peak, weights / interpolate(bandwidth, weights)) + (barrier if case.T > 1 else 0)
        seconds += ahead / peak + case.T * step + activation * H * D * rows
        if case.training:  # the same again for grad_input and the states, and products for the gradients of the weights
            seconds += 2 * ahead / peak + case.T * step + (case.T * flops) / peak
    return seconds


def interpolate(curve: Curve, size: float) -> float:
    """Bandwidth at a size, between the measured ones on a logarithmic scale."""
    sizes, speeds = zip(*curve, strict=True)
    return float(np.interp(math.log(size), [math.log(s) for s in sizes], speeds))


def measure_limits(threads: int, seconds: float = 20.0) -> Limits:
    """Measure. `seconds` is about what it takes."""
    patience = seconds / 60
    peak, peak_one = {}, {}
    for dtype in ("float32", "float64"):
        peak[dtype] = max(_peak(dtype, threads, patience), _matmul_peak(dtype, threads, patience))
        peak_one[dtype] = max(_peak(dtype, 1, patience), _matmul_peak(dtype, 1, patience))
    bandwidth_one = _bandwidth(1, patience, [16 << (10 + i) for i in range(13)])
    private = _private_cache()
    bandwidth, region = bandwidth_one, 0.0
    if threads > 1:
        # Below: each thread reads its share from a cache of its own. Above: the threads share what they read from.
        edge = max(threads * private // 2, 4 << 20)
        alone = [(threads * size, threads * speed) for size, speed in bandwidth_one if threads * size <= edge]
        region = max(0.0, _step_time(edge, threads, patience) - _step_time(edge // threads, 1, patience))
        sizes = [edge << i for i in range(1, 6) if edge << i <= 64 << 20]
        bandwidth = alone + _bandwidth(threads, patience, sizes, overhead=region)
    return Limits(
        threads, peak, peak_one, bandwidth, bandwidth_one, _barrier(threads, patience), region,
        {dtype: _activation(dtype, patience) for dtype in ("float32", "float64")},
    )  # fmt: skip


def _best(call: Callable[[], object], seconds: float) -> float:
    """The least time of a call, tried for some seconds."""
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begin)
    return best


def _probe(T: int, B: int, I: int, H: int, dtype: str, threads: int) -> Callable[[], object]:
    """A call of the kernels on packed rows, without anything of `cylstm.LSTM` around it."""
    rng = np.random.default_rng(0)
    weights = [rng.uniform(-0.01, 0.01, (4 * H, n)).astype(dtype) for n in (I, H)]
    layer = CythonBackend().prepare((DirectionParameters(*weights),))
    x = rng.standard_normal((T * B, I)).astype(dtype)
    output, h_n, c_n = np.empty((T * B, H), dtype), np.empty((1, B, H), dtype), np.empty((1, B, H), dtype)
    run = {"float32": _lstm.forward_float32, "float64": _lstm.forward_float64}[dtype]
    sizes = np.full(T, B)
    return lambda: run(layer, x, sizes, None, None, output, h_n, c_n, None, None, None, threads)


def _peak(dtype: str, threads: int, patience: float) -> float:
    B, H, T, narrow, wide = 48 * threads, 32, 16, 16, 80
    best = [_best(_probe(T, B, I, H, dtype, threads), 3 * patience) for I in (narrow, wide)]
    return 8 * H * (wide - narrow) * T * B / max(1e-9, best[1] - best[0])


def _matmul_peak(dtype: str, threads: int, patience: float) -> float:
    from threadpoolctl import threadpool_limits

    a = np.ones((1024, 1024), dtype)
    out = np.empty_like(a)
    with threadpool_limits(threads):
        return 2 * 1024**3 / _best(lambda: np.matmul(a, a, out=out), 3 * patience)


@cache
def _step_time(size: int, threads: int, patience: float) -> float:
    """Of one step at batch 1 with so many bytes of weights."""
    H = 32 if size < 1 << 18 else 128
    I = max(1, size // (16 * H) - H)
    return _best(_probe(1, 1, I, H, "float32", threads), patience)


def _bandwidth(threads: int, patience: float, sizes: list[int], overhead: float = 0.0) -> Curve:
    if not overhead:
        overhead = _best(_probe(1, 1, 1, 1, "float32", 1), patience)
    return [(size, size / (_step_time(size, threads, patience) - overhead)) for size in sizes]


def _barrier(threads: int, patience: float) -> float:
    T, H = 500, 128
    one, all = (_best(_probe(T, 1, 1, H, "float32", n), 4 * patience) / T for n in (1, threads))
    return max(0.0, all - one / threads) if threads > 1 else 0.0


def _activation(dtype: str, patience: float) -> float:
    """Seconds per hidden unit: three sigmoids and two hyperbolic tangents."""
    x = np.linspace(-3, 3, 2048).astype(dtype)
    out, isa = np.empty_like(x), CythonBackend().instruction_set
    sigmoid, tanh = (_best(lambda t=t: _lstm.activate(t, x, out, isa), patience) / x.size for t in (False, True))
    return 3 * sigmoid + 2 * tanh


def _private_cache() -> int:
    """Bytes of the second-level cache, which belongs to one core; 1 MB where the system does not tell."""
    try:
        return os.sysconf("SC_LEVEL2_CACHE_SIZE") or 1 << 20
    except (OSError, ValueError):
        return 1 << 20


def describe(limits: Limits) -> str:
    """The limits as text."""
    lines = [f"threads            {limits.threads}"]
    for dtype in limits.peak:
        lines.append(
            f"{dtype:18} {limits.peak[dtype] / 1e9:.0f} GFLOP/s ({limits.peak_one[dtype] / 1e9:.0f} on one thread)"
        )
    for name, curve in (("one thread", limits.bandwidth_one), (f"{limits.threads} threads", limits.bandwidth)):
        speeds = ", ".join(f"{_bytes(size)} {speed / 1e9:.0f}" for size, speed in curve)
        lines.append(f"GB/s, {name:12} {speeds}")
    lines.append(f"barrier            {limits.barrier * 1e6:.2f} µs")
    lines.append(f"parallel region    {limits.region * 1e6:.1f} µs")
    for dtype, seconds in limits.activations.items():
        lines.append(f"activations        {seconds * 1e9:.2f} ns per hidden unit, {dtype}")
    return "\n".join(lines)


def _bytes(size: int) -> str:
    return f"{size >> 20} MB" if size >= 1 << 20 else f"{size >> 10} KB"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    print(describe(measure_limits(arguments.threads)))
