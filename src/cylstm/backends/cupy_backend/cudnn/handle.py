"""Handles of cuDNN, each with the descriptors of the calls that it has made: one thread's at a time.

A handle holds memory of the device, so those that are idle serve all backends of the process. They are destroyed where
memory is lacking, and not at the end of the process, when CUDA may be gone before them.

Descriptors depend on sizes, lengths and algorithm alone and are never changed, so calls of the same ones share them.
They stay with the handle, for cuDNN does not say that two threads may use them at once.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from ctypes import byref, c_size_t, c_void_p
from typing import Any, NamedTuple

import numpy as np

from ..schedule import Recent, key_of
from ..variants import LayerShape
from .descriptors import Descriptors, descriptors, sequence_lengths
from .library import CudnnError, Library

#: The calls of different sizes whose descriptors a handle keeps.
MOST_CALLS = 64


class Call(NamedTuple):
    """What calls of the same sizes have in common."""

    descriptors: Descriptors
    sizes: dict[int, tuple[int, int]]  # by mode: the bytes of the work space, and of the reserve space


class Handle:
    """A handle on the device that is current when it is made."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.pointer = c_void_p()
        self._stream: Any = None  # it is not destroyed, so no other one gets its address
        self._calls: Recent[Call] = Recent(MOST_CALLS)
        library.call("cudnnCreate", byref(self.pointer))

    def follow(self, stream: Hashable) -> None:
        """Queue what comes in this stream."""
        if self._stream is None or stream != self._stream:
            self.library.call("cudnnSetStream", self.pointer, getattr(stream, "ptr", None))
            self._stream = stream

    def destroy(self) -> None:
        """Give up its memory and its descriptors. It waits for the device, and may not be used again."""
        self._calls.clear()
        with suppress(CudnnError):  # of work that was queued before, which others will hear of
            self.library.call("cudnnDestroy", self.pointer)

    def call(self, shape: LayerShape, batch_sizes: np.ndarray, algorithm: str, *, tf32: bool) -> Call:
        """The descriptors of a call.

        Raises
        ------
        CudnnError
            Where the algorithm does not compute it; some cases show only when it is called.
        """

        def make() -> Call:
            lengths = sequence_lengths(batch_sizes)
            return Call(descriptors(self.library, shape, lengths, algorithm=algorithm, tf32=tf32), {})

        return self._calls.get((shape, algorithm, tf32, key_of(batch_sizes)), make)

    def sizes(self, call: Call, mode: int) -> tuple[int, int]:
        """Bytes for the work of a call, and for what it leaves to the backward pass."""
        if mode not in call.sizes:
            work, reserve, d = c_size_t(), c_size_t(), call.descriptors
            self.library.call("cudnnGetRNNTempSpaceSizes", self.pointer, d.rnn, mode, d.x, byref(work), byref(reserve))
            call.sizes[mode] = work.value, reserve.value
        return call.sizes[mode]


class Handles:
    """The handles of a device, lent to one thread at a time."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._idle: list[Handle] = []
        self._lock = threading.Lock()

    @contextmanager
    def lent(self, stream: Hashable) -> Iterator[Handle]:
        """A handle that queues in a stream. The device is the current one."""
        with self._lock:
            handle = self._idle.pop() if self._idle else None
        if handle is None:
            handle = Handle(self.library)
        try:
            handle.follow(stream)
            yield handle
        finally:
            with self._lock:
                self._idle.append(handle)

    def forget(self) -> None:
        """Destroy those that nobody uses. The device is the current one."""
        with self._lock:
            idle, self._idle = self._idle, []
        for handle in idle:
            handle.destroy()


def handles_of(library: Library, device: int) -> Handles:
    """Those of a device, the same ones in the whole process."""
    handles: Handles = library.pools.setdefault(device, Handles(library))
    return handles
