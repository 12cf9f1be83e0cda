"""The CPU in the place of GPUs: runs the kernels of the cupy backend, and has arrays that NumPy cannot read."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_array import DeviceArray, Library, here, on_device

from cylstm.backends.cupy_backend import CupyBackend
from cylstm.backends.cupy_backend.planner import UNITS, Facts, Tile
from cylstm.backends.cupy_backend.source import KERNELS, definitions, source

COMPILER = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: the kernels cannot run on the CPU here")

AVAILABLE, WHY_NOT = CupyBackend.is_available()
needs_gpu = pytest.mark.skipif(not AVAILABLE, reason=f"no GPU: {WHY_NOT}")
without_gpu = pytest.mark.skipif(AVAILABLE, reason="there is a GPU")

#: A small device: with it, small problems get all tiles.
SMALL = Facts(compute_capability=(9, 0), multiprocessors=2, shared_memory=48 * 1024)


@cache
def compiled(text: str, options: tuple[str, ...]) -> ctypes.CDLL:
    """C++ as a shared library."""
    folder = Path(tempfile.mkdtemp(prefix="cylstm-host-"))
    (folder / "kernels.cpp").write_text(text, "utf-8")
    command = [str(COMPILER), "-std=c++17", "-O1", "-shared", "-fPIC", "-ffp-contract=off", *options]
    done = subprocess.run(
        [*command, str(folder / "kernels.cpp"), "-o", str(folder / "kernels.so")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    library = ctypes.CDLL(str(folder / "kernels.so"))
    shutil.rmtree(folder)  # it stays loaded
    return library


@cache
def kernels(dtype: str, tile: Tile) -> ctypes.CDLL:
    """The kernels, each exported as ``launch_<name>(grid, block, arguments, sizes, number)``."""
    launches = [
        f'extern "C" int launch_{name}(int *grid, int *block, void **arguments, int *sizes, int n) '
        f"{{ return launch({name}, grid, block, arguments, sizes, n); }}"
        for name in KERNELS
    ]
    text = source().replace('extern "C" ', "")
    shim = Path(__file__).with_name("cuda_host.h").read_text("utf-8")
    return compiled("\n".join([shim, text, *launches]), definitions(dtype, tile))


class OutOfMemory(Exception):
    """As CuPy has one of its own."""


class HostDevice:
    """Stands for a GPU with these facts; see `cylstm.backends.cupy_backend.device.Device`."""

    xp = Library()
    out_of_memory = OutOfMemory

    def __init__(self, number: int = 0, facts: Facts = SMALL) -> None:
        self.number = number
        self.name = "CPU as GPU"
        self.facts = facts
        self.launches: list[tuple[str, Tile, tuple[int, int, int]]] = []
        self.waits = self.recordings = 0
        self.resident = 10_000  # blocks that run at once
        self.grids: list[tuple[int, int, int]] = []  # of launches whose blocks wait for one another

    def current(self) -> AbstractContextManager[None]:
        return on_device(self.number)

    def synchronize(self) -> None:
        self.waits += 1

    def stream(self) -> Hashable:
        return here.stream

    def grid_kernel(
        self, name: str, source: str, definitions: tuple[str, ...], *, threads: int, shared_memory: int
    ) -> Any:
        from grid_host import HostGridKernel

        return HostGridKernel(self, name, source, definitions, threads=threads, shared_memory=shared_memory)

    def recorded(self, launch_all: Callable[[], None]) -> Callable[[], None]:
        self.recordings += 1
        return launch_all

    def kernel(self, name: str, dtype: str, tile: Tile) -> Callable[[tuple[int, int, int], Sequence[Any]], None]:
        function = getattr(kernels(dtype, tile), f"launch_{name}")
        block = (ctypes.c_int * 3)(UNITS, tile.slices, 1)

        def launch(grid: tuple[int, int, int], arguments: Sequence[Any]) -> None:
            self.launches.append((name, tile, grid))
            cells, *as_c = as_cuda_takes(arguments)
            status = function((ctypes.c_int * 3)(*grid), block, *as_c)
            del cells
            assert status == 0, {1: "threads of a block do not meet", 2: "the arguments do not fit"}[status]

        return launch


def as_cuda_takes(arguments: Sequence[Any]) -> tuple[Any, ...]:
    """The arguments, which have to be kept; pointers to them, their sizes, their number: as cuLaunchKernel wants it."""
    cells = [np.array(_value(a)) for a in arguments]
    pointers = (ctypes.c_void_p * len(cells))(*(cell.ctypes.data for cell in cells))
    return cells, pointers, (ctypes.c_int * len(cells))(*(cell.itemsize for cell in cells)), len(cells)


def _value(argument: Any) -> np.generic:
    """An argument of a kernel: a scalar as it is, an array as its address."""
    if isinstance(argument, DeviceArray):
        assert argument.device.id == here.device
        assert argument.flags.c_contiguous
        return np.intp(argument._array.ctypes.data)
    assert argument is None or isinstance(argument, np.generic)
    return np.intp(0) if argument is None else argument


class HostSystem:
    """Stands for a machine with GPUs; see `cylstm.backends.cupy_backend.device.System`."""

    def __init__(self, count: int = 1, facts: Facts = SMALL) -> None:
        self.devices = [HostDevice(number, facts) for number in range(count)]

    def count(self) -> int:
        return len(self.devices)

    def current(self) -> int:
        return here.device

    def device(self, number: int) -> HostDevice:
        return self.devices[number]


class HostBackend(CupyBackend):
    """The cupy backend itself, on the CPU in the place of GPUs."""

    def __init__(self, device: int | None = None, *, tier: str | None = None, system: HostSystem | None = None) -> None:
        super().__init__(device, tier=tier, system=system or HostSystem())

    @classmethod
    def is_available(cls) -> tuple[bool, str]:
        return True, ""
