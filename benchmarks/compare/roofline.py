"""What this machine allows: measured with cylstm's own kernels, and the least time that a case can take by it.

``python benchmarks/run.py limits`` prints the limits. Best times count, not medians: a limit is what can be done.

- Multiply-adds: the slope of time over input_size, for a product whose weights lie in the first-level cache. In the
  slope there are neither activations nor the start of threads. NumPy's matrix product is measured beside it, and the
  better of the two is the limit.
- Bandwidth: one step at batch 1 reads every weight once; its time against the weights' bytes, from 64 KB to 64 MB.
- Barrier: what a step with half of the work per thread takes beyond half of the time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
from cases import Case

import cylstm
from cylstm.backends.base import DirectionParameters
from cylstm.backends.cython_backend import CythonBackend, _layer

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

    def better(self, other: Limits) -> Limits:
        """Of two measurements the better one, for each limit: what disturbs makes them worse only."""

        def faster(a: Curve, b: Curve) -> Curve:
            return [(size, max(speed, speed_b)) for (size, speed), (_, speed_b) in zip(a, b, strict=True)]

        return Limits(
            self.threads,
            {dtype: max(speed, other.peak[dtype]) for dtype, speed in self.peak.items()},
            {dtype: max(speed, other.peak_one[dtype]) for dtype, speed in self.peak_one.items()},
            faster(self.bandwidth, other.bandwidth),
            faster(self.bandwidth_one, other.bandwidth_one),
            min(self.barrier, other.barrier),
            min(self.region, other.region),
            {dtype: min(seconds, other.activations[dtype]) for dtype, seconds in self.activations.items()},
        )

    def least_seconds(self, case: Case, *, skips_zeros: bool = False) -> float:
        """The least time for a case: as much as has to be read and multiplied, on one thread or on all of them.

        With `skips_zeros`, that of a contender that in a single step from zeros leaves out the state's share.
        """
        state, activation = not (skips_zeros and case.T == 1), self.activations[case.dtype]
        one = _least(case, state, self.peak_one[case.dtype], self.bandwidth_one, activation, 0.0)
        all = _least(case, state, self.peak[case.dtype], self.bandwidth, activation / self.threads, self.barrier)
        return min(one, all)


def _least(case: Case, state: bool, peak: float, bandwidth: Curve, activation: float, barrier: float) -> float:
    rows, D, seconds = int(case.lengths.sum()), case.directions, 0.0
    size = np.dtype(case.dtype).itemsize
    for I, H, R in case.layer_sizes():
        hoisted = 8 * H * I * D * rows if case.T > 1 else 0  # flops of the input's share, for all steps at once
        K = R if case.T > 1 else R * state + I
        flops = 8 * H * K * D * rows / case.T + 2 * H * case.proj_size * D * rows / case.T
        weights = 4 * H * K * D * size + H * case.proj_size * D * size
        act = activation * H * D * rows / case.T  # while other units are multiplied
        step = max(flops / peak, weights / interpolate(bandwidth, weights), act) + (barrier if case.T > 1 else 0)
        seconds += hoisted / peak + case.T * step
        if case.training:  # the same again for grad_input and the states, and products for the gradients of the weights
            seconds += 2 * hoisted / peak + case.T * step + (case.T * flops) / peak
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
        peak_one[dtype] = max(_peak(dtype, 1, patience), _matmul_peak(dtype, 1, patience))
        all = max(_peak(dtype, threads, patience), _matmul_peak(dtype, threads, patience))
        peak[dtype] = min(all, threads * peak_one[dtype])
    sizes = [64 << (10 + i) for i in range(11)]
    bandwidth_one = bandwidth = _bandwidth(1, patience, sizes)
    region = 0.0
    if threads > 1:
        # Small sizes: each thread reads its share from caches of its own. Large ones: the threads share a source.
        edge = threads << 20
        region = _region(threads, patience)
        bandwidth = [(threads * size, threads * speed) for size, speed in bandwidth_one if size < 1 << 20]
        shared = _bandwidth(threads, patience, [size for size in sizes if size >= edge])
        most = [(threads * size, threads * speed) for size, speed in bandwidth_one]  # as if nothing were shared
        bandwidth += [(size, min(speed, interpolate(most, size))) for size, speed in shared]
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
    """A call of the compiled backend, without anything of `cylstm.LSTM` around it."""
    rng = np.random.default_rng(0)
    backend = CythonBackend()
    weights = [rng.uniform(-0.01, 0.01, (4 * H, n)).astype(dtype) for n in (I, H)]
    layer = backend.prepare((DirectionParameters(*weights),))
    x, sizes = rng.standard_normal((T * B, I)).astype(dtype), np.full(T, B)
    cylstm.set_num_threads(threads)
    return lambda: backend.forward(layer, input=x, batch_sizes=sizes, h_0=None, c_0=None)


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


def _step(size: int, threads: int) -> Callable[[], object]:
    """One step at batch 1 with so many bytes of weights, of a layer with many inputs and 16 units for each thread."""
    rng, H = np.random.default_rng(0), 16 * max(2, threads)
    I = size // (16 * H) - H
    weights = [rng.uniform(-0.01, 0.01, (4 * H, n)).astype(np.float32) for n in (I, H)]
    backend = CythonBackend()
    stepper = backend.stepper((backend.prepare((DirectionParameters(*weights),)),), batch_size=1)
    x, out = rng.standard_normal(I).astype(np.float32), np.empty(H, np.float32)
    return lambda: stepper.step(x, out, threads)


def _beyond(call: Callable[[], object], other: Callable[[], object], seconds: float) -> float:
    """The least time of one call less that of another, by turns: both see the same moods of the machine."""
    best, end = [math.inf, math.inf], time.perf_counter() + seconds
    while time.perf_counter() < end:
        for n, run in enumerate((call, other)):
            for _ in range(10):  # the first of them read again what the other has pushed out of the caches
                begin = time.perf_counter()
                run()
                best[n] = min(best[n], time.perf_counter() - begin)
    return best[0] - best[1]


def _bandwidth(threads: int, patience: float, sizes: list[int]) -> Curve:
    """Bytes per second beyond what the call and a layer of 32 KB take. A smaller size is never slower."""
    smallest = 32 << 10
    region = _region(threads, patience) if threads > 1 else 0.0
    speeds = []
    for size in sizes:
        seconds = _beyond(_step(size, threads), _step(smallest, 1), patience) - region
        speeds.append((size - smallest) / seconds if seconds > 0 else 0.0)  # 0: lost in the noise, the next size counts
    return [(size, max(speeds[i:])) for i, size in enumerate(sizes)]


@cache
def _region(threads: int, patience: float) -> float:
    """Seconds that a parallel region costs: a step on all threads against the share of one of them on one thread."""
    share = 1 << 20
    return max(0.0, _beyond(_step(threads * share, threads), _step(share, 1), patience))


def _barrier(threads: int, patience: float) -> float:
    T, H = 500, 128
    one, all = (_best(_probe(T, 1, 1, H, "float32", n), 4 * patience) / T for n in (1, threads))
    return max(0.0, all - one / threads) if threads > 1 else 0.0


def _activation(dtype: str, patience: float) -> float:
    """Seconds per hidden unit: three sigmoids and two hyperbolic tangents."""
    x = np.linspace(-3, 3, 2048).astype(dtype)
    out, isa = np.empty_like(x), CythonBackend().instruction_set()
    sigmoid, tanh = (_best(lambda t=t: _layer.activate(t, x, out, isa), patience) / x.size for t in (False, True))
    return 3 * sigmoid + 2 * tanh


def describe(limits: Limits) -> str:
    """The limits as text."""
    lines = [f"threads            {limits.threads}"]
    lines += [
        f"{dtype:18} {limits.peak[dtype] / 1e9:.0f} GFLOP/s ({limits.peak_one[dtype] / 1e9:.0f} on one thread)"
        for dtype in limits.peak
    ]
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
