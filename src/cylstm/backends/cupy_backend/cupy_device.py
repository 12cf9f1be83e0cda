"""The GPUs as CuPy has them: compiles, launches, records. No line of this file has run on a GPU yet."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

import cupy

from .planner import UNITS, Facts, Tile
from .source import KERNELS, definitions, source


class CupySystem:
    """All GPUs of this machine; see `cylstm.backends.cupy_backend.device.System`."""

    def __init__(self) -> None:
        self.device = lru_cache(maxsize=None)(CupyDevice)

    def count(self) -> int:
        return cupy.cuda.runtime.getDeviceCount()

    def current(self) -> int:
        return cupy.cuda.Device().id


class CupyDevice:
    """One GPU; see `cylstm.backends.cupy_backend.device.Device`."""

    xp = cupy
    out_of_memory = cupy.cuda.memory.OutOfMemoryError

    def __init__(self, number: int) -> None:
        device = cupy.cuda.Device(number)
        attributes = device.attributes
        self.number = number
        self.name: str = cupy.cuda.runtime.getDeviceProperties(number)["name"].decode()
        self.facts = Facts(
            compute_capability=(attributes["ComputeCapabilityMajor"], attributes["ComputeCapabilityMinor"]),
            multiprocessors=attributes["MultiProcessorCount"],
            shared_memory=attributes["MaxSharedMemoryPerBlock"],
        )
        self._kernels = lru_cache(maxsize=None)(self._compiled)
        self._grid_kernels = lru_cache(maxsize=None)(CupyGridKernel)

    def current(self) -> AbstractContextManager[Any]:
        return cupy.cuda.Device(self.number)

    def synchronize(self) -> None:
        cupy.cuda.get_current_stream().synchronize()

    def stream(self) -> Hashable:
        return cupy.cuda.get_current_stream().ptr

    def kernel(self, name: str, dtype: str, tile: Tile) -> Callable[[tuple[int, int, int], Sequence[Any]], None]:
        function = self._kernels(dtype, tile)[name]
        block = (UNITS, tile.slices, 1)
        return lambda grid, arguments: function(grid, block, tuple(arguments))

    def _compiled(self, dtype: str, tile: Tile) -> dict[str, Any]:
        """All kernels for a dtype and a tile."""
        module = cupy.RawModule(code=source(), options=("-std=c++17", *definitions(dtype, tile)))
        return {name: module.get_function(name) for name in KERNELS}

    def grid_kernel(
        self, name: str, source: str, definitions: tuple[str, ...], *, threads: int, shared_memory: int
    ) -> CupyGridKernel:
        return self._grid_kernels(name, source, definitions, threads, shared_memory, self.facts.multiprocessors)

    def recorded(self, launch_all: Callable[[], None]) -> Callable[[], None]:
        # On a stream of its own: CUDA does not record the default stream.
        with cupy.cuda.Stream(non_blocking=True) as stream:
            stream.begin_capture()
            try:
                launch_all()
            finally:
                graph = stream.end_capture()
        return graph.launch


class CupyGridKernel:
    """A kernel in cooperative launches; see `cylstm.backends.cupy_backend.device.GridKernel`."""

    def __init__(
        self, name: str, source: str, definitions: tuple[str, ...], threads: int, shared_memory: int, multiprocessors: int
    ) -> None:
        module = cupy.RawModule(code=source, options=("-std=c++17", *definitions), enable_cooperative_groups=True)
        self._function = module.get_function(name)
        self._threads, self._shared_memory = threads, shared_memory
        try:
            self._function.max_dynamic_shared_size_bytes = shared_memory
        except cupy.cuda.driver.CUDADriverError:  # more than a block of this device may have
            self.resident = 0
        else:
            of_one = cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor
            self.resident = multiprocessors * of_one(self._function.kernel.ptr, threads, shared_memory)

    def __call__(self, grid: tuple[int, int, int], arguments: Sequence[Any]) -> None:
        self._function(grid, (self._threads, 1, 1), tuple(arguments), shared_mem=self._shared_memory)
