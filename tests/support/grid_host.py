"""Kernels whose blocks wait for one another, on the CPU: all blocks run, and chance says which thread goes on."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from cuda_host import HostDevice, as_cuda_takes, compiled

_FOLDER = Path(__file__).parent
#: One launch at a time: blocks and fibers are global there.
_RUNS = threading.Lock()


#: Of each source, those that are compiled with it: a compiler's start is most of its work.
_TOGETHER: dict[str, tuple[str, ...]] = {}


def compile_together(sources: Sequence[str]) -> None:
    """Compile sources of one kernel at once, when the first of them is needed."""
    _TOGETHER.update(dict.fromkeys(sources, tuple(sources)))


@cache
def _library(name: str, sources: tuple[str, ...], definitions: tuple[str, ...]) -> ctypes.CDLL:
    """Kernels of one name, exported as ``run_<number>(grid, block, arguments, sizes, number, limits)``."""
    shim, instructions = ((_FOLDER / file).read_text("utf-8") for file in ("grid_host.h", "grid_host_instructions.h"))
    texts = [shim]
    for number, source in enumerate(sources):
        kernel = source.replace('extern "C" ', "")
        texts += [f"namespace number_{number} {{", kernel, instructions, "}"]
        texts += [
            f'extern "C" int run_{number}(int *grid, int *block, void **arguments, int *sizes, int n, long *limits) '
            f"{{ return launch(number_{number}::{name}, grid, block, arguments, sizes, n, limits); }}"
        ]
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
        self._in_vain = np.intp(device.in_vain.ctypes.data)
        self._grids = device.grids
        self._what = (name, source, definitions)
        self._threads, self._shared_memory = threads, shared_memory

    def __call__(self, grid: tuple[int, int, int], arguments: Sequence[Any]) -> None:
        assert grid[0] * grid[1] * grid[2] <= self.resident
        self._grids.append(grid)
        name, source, definitions = self._what
        sources = _TOGETHER.get(source, (source,))
        run = getattr(_library(name, sources, definitions), f"run_{sources.index(source)}")
        cells, *as_c = as_cuda_takes([*arguments, self._in_vain])
        with _RUNS:
            HostGridKernel.seed += 1
            limits = (ctypes.c_long * 3)(HostGridKernel.seed, self._shared_memory, self.turns)
            status = run((ctypes.c_int * 3)(*grid), (ctypes.c_int * 3)(self._threads, 1, 1), *as_c, limits)
        del cells
        assert status == 0, {1: "a thread never ends", 2: "the arguments do not fit"}[status]
