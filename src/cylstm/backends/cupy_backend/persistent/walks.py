"""The steps of a pass. Symbols and shapes are those of `cylstm.backends.base`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..schedule import last_rows, walk


class Walks(NamedTuple):
    """The walks of a pass through the steps, one of each direction."""

    steps: Any  # (T, D, 4), on the device: see `schedule.walk`
    ends: list[Any]  # of each direction the rows that the walk ends in: a slice, or (B,) on the device

    @classmethod
    def of(cls, batch_sizes: np.ndarray, D: int, *, against: bool, xp: Any) -> Walks:
        """Those of a forward pass, or of a backward pass, against it."""
        B, N = int(batch_sizes[0]), int(batch_sizes.sum())
        ends: list[Any] = []
        for d in range(D):
            if (d == 1) != against:
                ends.append(slice(0, B))
            else:
                ends.append(xp.asarray(last_rows(batch_sizes)) if batch_sizes[-1] < B else slice(N - B, N))
        steps = np.stack([walk(batch_sizes, reverse=(d == 1) != against) for d in range(D)], axis=1)
        return cls(xp.asarray(steps), ends)

    @property
    def nbytes(self) -> int:
        """Bytes on the device, about."""
        return int(np.prod(self.steps.shape)) * 4
