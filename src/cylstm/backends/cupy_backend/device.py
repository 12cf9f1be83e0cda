"""What the cupy backend needs of a machine with GPUs: CuPy's, or in the tests the CPU in their place."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from .planner import Facts

Dim = tuple[int, int, int]
#: Bytes that the address of a result is a multiple of: what JAX takes for granted.
ALIGNMENT = 16


class Launch(Protocol):
    """A compiled kernel. The arguments are arrays, None for a null pointer, and NumPy scalars."""

    def __call__(self, grid: Dim, block: Dim, arguments: Sequence[Any], shared_memory: int = 0) -> None:
        """Launch it in the current stream; `shared_memory` is in bytes, beyond what the kernel declares."""


class GridKernel(Protocol):
    """A kernel whose blocks wait for one another: all of a launch have to run at once.

    Its last parameter, which a launch adds, is the address of an int, set where a block has waited in vain.
    """

    resident: int  # the blocks that run at once; none where the device cannot run one

    def __call__(self, grid: tuple[int, int, int], arguments: Sequence[Any]) -> None:
        """Launch it, with as many blocks as run at once, or fewer."""


class Device(Protocol):
    """One GPU. All but `number` and `current` are used where it is the current one."""

    number: int
    name: str
    xp: Any  # the array library: CuPy, or in the tests one that follows it
    facts: Facts

    def current(self) -> AbstractContextManager[Any]:
        """A context in which it is the current one."""

    def stream(self) -> Hashable:
        """The current stream of this thread. It is not destroyed as long as somebody holds the object."""

    def refuse_recording(self) -> None:
        """Raise a RuntimeError if what the current stream is given is being recorded in a graph.

        A replay would use memory that belongs to others by then, and a step of a stream the state of the first one.
        """

    def mark(self) -> Any:
        """The point that the current stream has been given work up to."""

    def wait(self, mark: Any) -> None:
        """Let the current stream wait for a mark. The host does not wait."""

    def order(self, first: Any, then: Any) -> None:
        """Let a stream wait for all that another one has been given. The host does not wait."""

    def functions(self, source: str, options: tuple[str, ...], names: tuple[str, ...]) -> Mapping[str, Launch]:
        """The kernels of a source text, compiled once for these options of the compiler."""

    def grid_kernel(
        self, name: str, source: str, definitions: tuple[str, ...], *, threads: int, shared_memory: int
    ) -> GridKernel:
        """A compiled kernel with blocks of so many threads and bytes."""

    def verify(self) -> None:
        """Raise a RuntimeError if blocks of a launch that has ended have waited for one another in vain.

        It is raised once in each thread that has called this before, whichever thread's launch it was.
        """

    def all_ones(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """An array whose bits are all 1."""

    def recorded(self, launch_all: Callable[[], None]) -> Callable[[], None]:
        """A function that does again, in the stream current then, what the launches of `launch_all` do."""

    def copy(self, source: Any, to: Any) -> None:
        """Copy the memory of an array to another one of its dtype and size; each lies in one piece."""

    def product(self, a: Any, b: Any, out: Any, *, add: bool = False, tf32: bool = False) -> None:
        """The matrix product of a and b into `out`, or added to it.

        Matrices of one dtype, each with its columns or its rows side by side; sums are float32 for 16 bits, which `out`
        may have too. With `tf32`, float32 may be rounded to TF32 before it is multiplied.
        """

    def lacks_memory(self, error: BaseException) -> bool:
        """Whether an error says that the memory of the device does not suffice, whichever library says it."""

    def free(self) -> None:
        """Give back to the device what is kept for arrays to come."""


class System(Protocol):
    """The GPUs of a machine."""

    def count(self) -> int:
        """How many there are."""

    def current(self) -> int:
        """The number of the current one."""

    def device(self, number: int) -> Device:
        """One of them, the same object each time."""


def copied(device: Device, array: Any) -> Any:
    """A copy of an array of the device, in one piece; None for None."""
    if array is None:
        return None
    if not array.flags.c_contiguous:
        return device.xp.ascontiguousarray(array)
    copy = device.xp.empty(array.shape, array.dtype)
    device.copy(array, copy)
    return copy


def part(device: Device, view: Any) -> Any:
    """A contiguous part of a larger array, as a result: itself, or a copy where other libraries could not read it."""
    return view if view.data.ptr % ALIGNMENT == 0 else copied(device, view)


class InVain:
    """Whether blocks have waited in vain: each thread that has worked with the device hears it once.

    Not the first one alone that asks, for the results that are nan may be another one's.

    Parameters
    ----------
    number : int
        That of the device.
    word : np.ndarray
        (1,) int32, which kernels set to 1.
    """

    def __init__(self, number: int, word: np.ndarray) -> None:
        self._number, self._word = number, word
        self._times = 0
        self._lock = threading.Lock()
        self._heard = threading.local()

    def verify(self) -> None:
        """As `Device.verify`."""
        with self._lock:
            before = self._times
            if self._word[0]:
                self._word[0] = 0
                self._times += 1
            now = self._times
        heard = getattr(self._heard, "times", before)
        self._heard.times = now
        if heard != now:
            raise RuntimeError(
                f"blocks of a kernel on cuda:{self._number} waited for one another in vain, for they did not all run "
                "at once: results of calls since the last one that was verified are nan; choose another tier by "
                "CYLSTM_CUPY_TIER"
            )
