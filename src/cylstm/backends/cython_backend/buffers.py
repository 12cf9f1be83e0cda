"""Large buffers that are used again."""

from __future__ import annotations

import math

import numpy as np

from ...locks import ForkSafe


class BufferPool(ForkSafe):
    """Large buffers of workspaces that are gone, for those to come.

    The C library may give such memory back to the system, and fresh memory costs a page fault for every 4 KiB: a fifth
    of the time of training a stack of layers. The latest are kept, 64 MiB of them.
    """

    MIN_BYTES = 1 << 17  # of one buffer
    MAX_BYTES = 1 << 26  # of all

    def __init__(self) -> None:
        super().__init__()  # with a re-entrant lock: a workspace may be collected while this thread holds it
        self.buffers: list[np.ndarray] = []

    def acquire(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array whose values are left to chance."""
        size = math.prod(shape) * dtype.itemsize
        if size >= self.MIN_BYTES:
            with self.lock:
                for n in range(len(self.buffers)):
                    if self.buffers[n].nbytes == size:
                        return self.buffers.pop(n).reshape(-1).view(dtype).reshape(shape)
        return np.empty(shape, dtype)

    def release(self, buffer: np.ndarray) -> None:
        """Take over an array that nobody else knows."""
        if buffer.nbytes >= self.MIN_BYTES:
            with self.lock:
                self.buffers.append(buffer)
                while sum(buffer.nbytes for buffer in self.buffers) > self.MAX_BYTES:
                    del self.buffers[0]


pool = BufferPool()
