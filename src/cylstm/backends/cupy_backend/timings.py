"""Times of the kernel variants, as they were measured on a device: a table in a JSON file.

``python -m cylstm.cli.tune_cupy`` writes such a file on the machine with the GPU; ``CYLSTM_CUPY_TIER`` names it. Users
know a kernel variant as a tier.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

FORMAT = "cylstm tiers 1"
MOST_ROWS = 1000
#: A row speaks for sizes up to this many times larger or smaller.
REACH = 2.0


class Workload(NamedTuple):
    """What was measured: calls of layers of one direction without projection."""

    dtype: str
    hidden_size: int
    batch_size: int
    training: bool  # forward and backward

    def distance(self, other: Workload) -> float:
        """The logarithm of the larger ratio of sizes; infinite for another dtype, and where there is nothing to do."""
        if (self.dtype, self.training) != (other.dtype, other.training) or not other.batch_size:
            return math.inf
        pairs = ((self.hidden_size, other.hidden_size), (self.batch_size, other.batch_size))
        return max(abs(math.log(a / b)) for a, b in pairs)


class TimingRow(NamedTuple):
    """The seconds that each kernel variant took."""

    workload: Workload
    seconds: dict[str, float]

    @property
    def fastest(self) -> str:
        """The name of a kernel variant."""
        return min(self.seconds, key=lambda variant: self.seconds[variant])


class TimingTable(NamedTuple):
    """All that was measured on a device."""

    device: str  # its name, such as "NVIDIA H100 80GB HBM3"
    rows: tuple[TimingRow, ...]

    def fastest(self, workload: Workload) -> str | None:
        """The kernel variant that was the fastest for the nearest sizes; None where nothing near was measured."""
        distances = [(row.workload.distance(workload), row) for row in self.rows]
        near = [(distance, row) for distance, row in distances if distance <= math.log(REACH)]
        return min(near, key=lambda pair: pair[0])[1].fastest if near else None


def measure(
    workloads: Iterable[Workload], variants: Sequence[str], seconds: Callable[[str, Workload], float]
) -> tuple[TimingRow, ...]:
    """``seconds(variant, workload)`` of each variant for each workload."""
    return tuple(
        TimingRow(workload, {variant: seconds(variant, workload) for variant in variants}) for workload in workloads
    )


def write(path: Path, table: TimingTable) -> None:
    """Write a table, one row per line."""
    rows = ",\n".join(json.dumps({**row.workload._asdict(), "seconds": row.seconds}) for row in table.rows)
    head = f'"format": {json.dumps(FORMAT)}, "device": {json.dumps(table.device)}'
    path.write_text(f'{{{head}, "rows": [\n{rows}\n]}}\n', "utf-8")


@lru_cache(maxsize=8)
def read(path: str, variants: tuple[str, ...]) -> TimingTable:
    """The table in a file, which is read once per process.

    Raises
    ------
    ValueError
        If there is no such file, or no such table in it.
    """
    try:
        content = json.loads(Path(path).read_text("utf-8"))
        if content["format"] != FORMAT or not isinstance(content["device"], str) or len(content["rows"]) > MOST_ROWS:
            raise ValueError(f"the table must have format {FORMAT!r}, a device and at most {MOST_ROWS} rows")
        return TimingTable(content["device"], tuple(_row(fields, variants) for fields in content["rows"]))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path!r} is no table of measured tiers ({type(error).__name__}: {error}): write one by "
            "python -m cylstm.cli.tune_cupy"
        ) from error


def _row(fields: dict[str, Any], variants: tuple[str, ...]) -> TimingRow:
    workload, seconds = Workload(*(fields[name] for name in Workload._fields)), fields["seconds"]
    if tuple(map(type, workload)) != (str, int, int, bool) or min(workload.hidden_size, workload.batch_size) < 1:
        raise ValueError(f"a row must have a dtype, two positive sizes and whether it trains, got {fields!r}")
    positive = all(type(s) is float and s > 0 for s in seconds.values())
    if not seconds or not positive or not set(seconds) <= set(variants):
        raise ValueError(f"seconds must be positive floats of the tiers {', '.join(variants)}, got {seconds!r}")
    return TimingRow(workload, seconds)
