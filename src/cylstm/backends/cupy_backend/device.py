"""What the cupy backend needs of a machine with GPUs: CuPy's, or in the tests the CPU in their place."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from .planner import Facts, Tile


class GridKernel(Protocol):
    """A kernel whose blocks wait for one another: all of a launch have to run at once."""

    resident: int  # the blocks that run at once; none where the device cannot run one

    def __call__(self, grid: tuple[int, int, int], arguments: Sequence[Any]) -> None:
        """Launch it, with as many blocks as run at once, or fewer."""


class Device(Protocol):
    """One GPU. All but `number` and `current` are used where it is the current one."""

    number: int
    name: str
    xp: Any  # the array library: CuPy, or in the tests one that follows it
    facts: Facts
    out_of_memory: type[Exception]

    def current(self) -> AbstractContextManager[Any]:
        """A context in which it is the current one."""

    def synchronize(self) -> None:
        """Wait for the current stream of this thread."""

    def stream(self) -> Hashable:
        """What stands for the current stream of this thread."""

    def kernel(self, name: str, dtype: str, tile: Tile) -> Callable[[tuple[int, int, int], Sequence[Any]], None]:
        """A compiled kernel: call it with the grid and the arguments, each an array, None, or a NumPy scalar."""

    def grid_kernel(
        self, name: str, source: str, definitions: tuple[str, ...], *, threads: int, shared_memory: int
    ) -> GridKernel:
        """A compiled kernel with blocks of so many threads and bytes."""

    def recorded(self, launch_all: Callable[[], None]) -> Callable[[], None]:
        """A function that does again, in the current stream, what the launches of `launch_all` do."""


class System(Protocol):
    """The GPUs of a machine."""

    def count(self) -> int:
        """How many there are."""

    def current(self) -> int:
        """The number of the current one."""

    def device(self, number: int) -> Device:
        """One of them, the same object each time."""
