"""Which rows the launches of a pass take, and which rows go before them. Shapes are those of `cylstm.backends.base`."""

from __future__ import annotations

import numpy as np

from ..schedule import walk


def of_sequences(table: np.ndarray, b_0: int, count: int) -> np.ndarray:
    """The table of steps, ``(..., 4)`` as `schedule.walk` has it, for sequences b_0 to b_0 + count - 1 alone."""
    first, rows, before, carried = np.moveaxis(table, -1, 0)
    parts = (first + b_0, np.clip(rows - b_0, 0, count), before + b_0, np.clip(carried - b_0, 0, count))
    return np.ascontiguousarray(np.stack(parts, axis=-1), np.int32)


def previous_rows(batch_sizes: np.ndarray, *, reverse: bool) -> np.ndarray:
    """The row before each packed row in the walk, or N + b where sequence b begins: (N,)."""
    table = walk(batch_sizes, reverse=reverse)[:: -1 if reverse else 1]  # as the rows are packed
    first, _, before, carried = np.repeat(table, batch_sizes, axis=0).astype(np.int64).T
    N = len(first)
    b = np.arange(N) - first
    return np.where(b < carried, before + b, N + b)
