"""Large buffers that are used again."""

from __future__ import annotations

import math

import numpy as np


class BufferPool:
    """Large buffers of workspaces that are gone, for those to come.

    The C library may give such memory back to the system, and fresh memory costs a page fault for every 4 KiB: a fifth
    of the time of training a stack of layers. The latest are kept, 64 MiB of them.

    There is no lock. A workspace may be collected at any moment, also in the middle of these methods. So a buffer is
    taken in one step, ``dict.pop``, which gives it to one caller alone.
    """

    MIN_BYTES = 1 << 17  # of one buffer
    MAX_BYTES = 1 << 26  # of all

    def __init__(self) -> None:
        self.buffers: dict[int, np.ndarray] = {}  # by its id, the latest last

    def acquire(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array whose values are left to chance."""
        size = math.prod(shape) * dtype.itemsize
        if size >= self.MIN_BYTES:
            for key, buffer in self.buffers.copy().items():
                if buffer.nbytes == size and self.buffers.pop(key, None) is not None:
                    return buffer.reshape(-1).view(dtype).reshape(shape)
        return np.empty(shape, dtype)

    def release(self, buffer: np.ndarray) -> None:
        """Take over an array that nobody else knows."""
        if buffer.nbytes < self.MIN_BYTES:
            return
        self.buffers[id(buffer)] = buffer
        kept = self.buffers.copy()
        total = sum(each.nbytes for each in kept.values())
        for key, oldest in kept.items():
            if total <= self.MAX_BYTES:
                break
            self.buffers.pop(key, None)
            total -= oldest.nbytes


pool = BufferPool()
