"""Which rows the launches of a pass take. Symbols and shapes are those of `cylstm.backends.base`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..schedule import last_rows, walk


def of_sequences(table: np.ndarray, b_0: int, count: int) -> np.ndarray:
    """The table of steps, ``(..., 4)`` as `schedule.walk` has it, for sequences b_0 to b_0 + count - 1 alone."""
    first, rows, before, carried = np.moveaxis(table, -1, 0)
    parts = (first + b_0, np.clip(rows - b_0, 0, count), before + b_0, np.clip(carried - b_0, 0, count))
    return np.ascontiguousarray(np.stack(parts, axis=-1), np.int32)


class Launches(NamedTuple):
    """The tables of a pass: one for each launch, of so many sequences."""

    tables: list[Any]  # (T, D, 4) each, on the device
    ends: list[Any]  # of each direction the rows that the walk ends in: a slice, or (B,) on the device

    @classmethod
    def of(cls, batch_sizes: np.ndarray, D: int, *, against: bool, rows: int, xp: Any) -> Launches:
        """Those of a forward pass, or of a backward pass, against it; a launch takes so many rows of the batch."""
        B, N = int(batch_sizes[0]), int(batch_sizes.sum())
        table = np.stack([walk(batch_sizes, reverse=(d == 1) != against) for d in range(D)], axis=1)
        tables = [xp.asarray(of_sequences(table, b_0, rows)) for b_0 in range(0, B, rows)]
        ends: list[Any] = []
        for d in range(D):
            if (d == 1) != against:
                ends.append(slice(0, B))
            else:
                ends.append(slice(N - B, N) if B == batch_sizes[-1] else xp.asarray(last_rows(batch_sizes)))
        return cls(tables, ends)

    @property
    def nbytes(self) -> int:
        """Bytes on the device, about."""
        return sum(int(np.prod(table.shape)) * 4 for table in self.tables)
