"""``python -m cylstm.cli.tune_cupy tiers.json``: measures the tiers of the cupy backend on a GPU, and writes a table.

``CYLSTM_CUPY_TIER=tiers.json`` chooses by it from then on. Each tier has to pass the conformance kit first. No line
of `measured_seconds` and `main` has run on a GPU yet.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from ..backends.cupy_backend import CupyBackend
from ..backends.cupy_backend.planner import TYPES, VARIANTS
from ..backends.cupy_backend.timings import MOST_ROWS, TimingTable, Workload, measure, write
from ..nn.lstm import LSTM
from ..random import randn
from ..testing import check_backend


def measured_seconds(run: Callable[[], Any], *, warm_up: int = 3, repeats: int = 9) -> float:
    """The median time of a function on the current GPU, by CUDA's events."""
    import cupy

    for _ in range(warm_up):
        run()
    times = []
    for _ in range(repeats):
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(cupy.cuda.get_elapsed_time(start, end) / 1000)
    return median(times)


def combinations(
    dtypes: Sequence[str], hidden_sizes: Sequence[int], batch_sizes: Sequence[int], training: Sequence[bool]
) -> list[Workload]:
    """Every combination.

    Raises
    ------
    ValueError
        If they are more than a table may have, or a size is not positive.
    """
    workloads = [Workload(*values) for values in product(dtypes, hidden_sizes, batch_sizes, training)]
    if not 0 < len(workloads) <= MOST_ROWS or min(min(w.hidden_size, w.batch_size) for w in workloads) < 1:
        raise ValueError(f"sizes must be positive and make 1 to {MOST_ROWS} combinations, got {len(workloads)}")
    return workloads


def _lstm_seconds(variant: str, workload: Workload, steps: int) -> float:
    import cupy

    dtype, H, B, training = workload
    lstm = LSTM(H, H, dtype=dtype, backend=CupyBackend(tier=variant))
    x = cupy.asarray(randn(steps, B, H, dtype=dtype))
    if not training:
        return measured_seconds(lambda: lstm(x))

    def both() -> None:
        output, _, pullback = lstm.vjp(x)
        pullback(output)

    return measured_seconds(both)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m cylstm.cli.tune_cupy", description=__doc__)
    parser.add_argument("path", type=Path, help="the table to write, ending in .json")
    parser.add_argument("--dtypes", nargs="+", choices=list(TYPES), default=["float32"])
    parser.add_argument("--hidden-sizes", nargs="+", type=int, default=[64, 128, 256, 512, 1024, 2048])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 4, 16, 64, 256])
    parser.add_argument("--steps", type=int, default=64, help="length of the sequences (64)")
    given = parser.parse_args(arguments)
    if given.path.suffix != ".json":
        parser.error(f"path must end in .json, got {str(given.path)!r}")
    try:
        workloads = combinations(given.dtypes, given.hidden_sizes, given.batch_sizes, (False, True))
    except ValueError as error:
        parser.error(str(error))
    available, why_not = CupyBackend.is_available()
    if not available:
        parser.exit(2, f"nothing can be measured here: {why_not}\n")
    import cupy

    device: str = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    for tier in VARIANTS:
        print(f"{device}: the conformance kit on the tier {tier!r}", flush=True)
        check_backend(CupyBackend(tier=tier))
    rows = measure(workloads, VARIANTS, lambda variant, workload: _lstm_seconds(variant, workload, given.steps))
    write(given.path, TimingTable(device, rows))
    for row in rows:
        print(*row.workload, *(f"{tier} {1e3 * seconds:.3f} ms" for tier, seconds in row.seconds.items()))


if __name__ == "__main__":
    main()
