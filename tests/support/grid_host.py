"""Kernels whose blocks wait for one another, on the CPU: all blocks run, and chance says which thread goes on."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from cuda_host import HostDevice, as_cuda_takes, compiled

_FOLDER = Path(__file__).parent
#: One launch at a time: blocks and fibers are global there.
_RUNS = threading.Lock()


@cache
def grid_library(name: str, source: str, definitions: tuple[str, ...]) -> ctypes.CDLL:
    """A kernel, exported as ``run(grid, block, arguments, sizes, number, limits)``."""
    shim, instructions = (_FOLDER / file for file in ("grid_host.h", "grid_host_instructions.h"))
    run = (
        'extern "C" int run(int *grid, int *block, void **arguments, int *sizes, int n, long *limits) '
        f"{{ return launch({name}, grid, block, arguments, sizes, n, limits); }}"
    )
    texts = [shim.read_text("utf-8"), source.replace('extern "C" ', ""), instructions.read_text("utf-8"), run]
    return compiled("\n".join(texts), definitions)


class HostGridKernel:
    """See `cylstm.backends.cupy_backend.device.GridKernel`."""

    seed: ClassVar[int] = 0  # of the order in which threads go on; the next launch has the next one
    turns: ClassVar[int] = 500_000_000

    def __init__(
        self,
        device: HostDevice,
        name: str,
        source: str,
        definitions: tuple[str, ...],
        *,
        threads: int,
        shared_memory: int,
    ) -> None:
        self.resident = device.resident
        self._grids = device.grids
        self._what = (name, source, definitions)
        self._threads, self._shared_memory = threads, shared_memory

    def __call__(self, grid: tuple[int, int, int], arguments: Sequence[Any]) -> None:
        assert grid[0] * grid[1] <= self.resident
        self._grids.append(grid)
        library = grid_library(*self._what)
        cells, *as_c = as_cuda_takes(arguments)
        with _RUNS:
            HostGridKernel.seed += 1
            limits = (ctypes.c_long * 3)(HostGridKernel.seed, self._shared_memory, self.turns)
            status = library.run((ctypes.c_int * 3)(*grid), (ctypes.c_int * 3)(self._threads, 1, 1), *as_c, limits)
        del cells
        assert status == 0, {1: "a thread never ends", 2: "the arguments do not fit"}[status]
