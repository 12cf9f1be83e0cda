"""Which tier is the fastest on a device, as it was measured there: a table in a JSON file.

`cylstm.backends.cupy_backend.tune` writes such a file on the machine with the GPU; ``CYLSTM_CUPY_TIER`` names it. What was not
measured stays with the default tier.
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


class Shape(NamedTuple):
    """What a row is about: layers of one direction without projection."""

    dtype: str
    hidden_size: int
    batch_size: int
    training: bool  # forward and backward


class Row(NamedTuple):
    """The seconds that each tier took."""

    shape: Shape
    seconds: dict[str, float]

    @property
    def fastest(self) -> str:
        """The name of a tier."""
        return min(self.seconds, key=lambda tier: self.seconds[tier])


class Table(NamedTuple):
    """All that was measured on a device."""

    device: str  # its name, such as "NVIDIA H100 80GB HBM3"
    rows: tuple[Row, ...]

    def fastest(self, shape: Shape) -> str | None:
        """The tier that was the fastest for the nearest sizes; None where nothing near was measured."""
        near = [(distance, row) for row in self.rows if (distance := _distance(row.shape, shape)) <= math.log(REACH)]
        return min(near, key=lambda pair: pair[0])[1].fastest if near else None


def _distance(one: Shape, other: Shape) -> float:
    if (one.dtype, one.training) != (other.dtype, other.training) or not other.batch_size:
        return math.inf
    pairs = ((one.hidden_size, other.hidden_size), (one.batch_size, other.batch_size))
    return max(abs(math.log(a / b)) for a, b in pairs)


def measure(shapes: Iterable[Shape], tiers: Sequence[str], seconds: Callable[[str, Shape], float]) -> tuple[Row, ...]:
    """``seconds(tier, shape)`` of each tier for each shape."""
    return tuple(Row(shape, {tier: seconds(tier, shape) for tier in tiers}) for shape in shapes)


def write(path: Path, table: Table) -> None:
    """Write a table, one row per line."""
    rows = ",\n".join(json.dumps({**row.shape._asdict(), "seconds": row.seconds}) for row in table.rows)
    head = f'"format": {json.dumps(FORMAT)}, "device": {json.dumps(table.device)}'
    path.write_text(f'{{{head}, "rows": [\n{rows}\n]}}\n', "utf-8")


@lru_cache(maxsize=8)
def read(path: str, tiers: tuple[str, ...]) -> Table:
    """The table in a file, which is read once per process.

    Raises
    ------
    ValueError
        If there is no such file, or no such table in it.
    """
    try:
        content = json.loads(Path(path).read_text("utf-8"))
        if content["format"] != FORMAT or not isinstance(content["device"], str) or len(content["rows"]) > MOST_ROWS:
            raise ValueError(f"expected format {FORMAT!r}, the name of a device and at most {MOST_ROWS} rows")
        return Table(content["device"], tuple(_row(fields, tiers) for fields in content["rows"]))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path!r} is no table of measured tiers ({type(error).__name__}: {error}): write one by "
            "python -m cylstm.backends.cupy_backend.tune"
        ) from error


def _row(fields: dict[str, Any], tiers: tuple[str, ...]) -> Row:
    shape, seconds = Shape(*(fields[name] for name in Shape._fields)), fields["seconds"]
    if tuple(map(type, shape)) != (str, int, int, bool) or min(shape.hidden_size, shape.batch_size) < 1:
        raise ValueError(f"wrong row {fields!r}")
    if not seconds or not set(seconds) <= set(tiers) or not all(type(s) is float and s > 0 for s in seconds.values()):
        raise ValueError(f"wrong seconds in row {fields!r}; tiers are {', '.join(tiers)}")
    return Row(shape, seconds)
