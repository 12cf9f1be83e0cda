"""The CPU in the place of GPUs: runs the kernels of the cupy backend, and has arrays that NumPy cannot read."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from device_array import DeviceArray, Library, here, on_device

from cylstm.arrays.arithmetic import widened
from cylstm.backends.cupy_backend import CupyBackend
from cylstm.backends.cupy_backend.device import Dim, InVain, Launch
from cylstm.backends.cupy_backend.gemm import gemm_of
from cylstm.backends.cupy_backend.planner import Facts

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
def kernels(source: str, options: tuple[str, ...], names: tuple[str, ...]) -> ctypes.CDLL:
    """The kernels, each exported as ``launch_<name>(grid, block, arguments, sizes, number)``."""
    launches = [
        f'extern "C" int launch_{name}(int *grid, int *block, void **arguments, int *sizes, int n) '
        f"{{ return launch({name}, grid, block, arguments, sizes, n); }}"
        for name in names
    ]
    text = source.replace('extern "C" ', "")
    shim = Path(__file__).with_name("cuda_host.h").read_text("utf-8")
    return compiled("\n".join([shim, text, *launches]), options)


class OutOfMemory(Exception):
    """As CuPy has one of its own."""


class Launched(NamedTuple):
    """A launch, as it was asked for."""

    name: str
    options: tuple[str, ...]
    grid: Dim
    block: Dim


class HostDevice:
    """Stands for a GPU with these facts; see `cylstm.backends.cupy_backend.device.Device`."""

    xp = Library()

    def __init__(self, number: int = 0, facts: Facts = SMALL) -> None:
        self.number = number
        self.name = "CPU as GPU"
        self.facts = facts
        self.launches: list[Launched] = []
        self.products: list[tuple[str, str, bool]] = []  # dtype of the operands, of the result, tf32
        self.waits: list[tuple[Hashable, Hashable]] = []  # a stream for another one
        self.recordings: list[list[str]] = []  # the names of their launches
        self.marks = self.replays = self.freed = 0
        self.recorded_by_others = False
        self._thread = threading.local()  # of a thread: what it records; other threads launch meanwhile
        self.resident = 10_000  # blocks that run at once
        self.grids: list[Dim] = []  # of launches whose blocks wait for one another
        self.in_vain = np.zeros(1, np.int32)  # whether some have waited in vain
        self._failures = InVain(number, self.in_vain)

    def current(self) -> AbstractContextManager[None]:
        return on_device(self.number)

    def stream(self) -> Hashable:
        return here.stream

    def grid_kernel(
        self, name: str, source: str, definitions: tuple[str, ...], *, threads: int, shared_memory: int
    ) -> Any:
        from grid_host import HostGridKernel

        return HostGridKernel(self, name, source, definitions, threads=threads, shared_memory=shared_memory)

    def verify(self) -> None:
        self._failures.verify()

    def all_ones(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        return (
            self.xp.full((int(np.prod(shape)) * np.dtype(dtype).itemsize,), 0xFF, np.uint8).view(dtype).reshape(shape)
        )

    def refuse_recording(self) -> None:
        if self.recorded_by_others:
            raise RuntimeError("calls cannot be recorded in a CUDA graph")

    def mark(self) -> Hashable:
        self.marks += 1
        return here.stream

    def wait(self, mark: Hashable) -> None:
        if mark != here.stream:
            self.waits.append((here.stream, mark))

    def order(self, first: Hashable, then: Hashable) -> None:
        self.waits.append((then, first))

    def recorded(self, launch_all: Callable[[], None]) -> Callable[[], None]:
        """As CUDA records: nothing runs meanwhile, pointers are kept as they are, and nothing is kept alive."""
        recording: list[tuple[Launched, Callable[[], None]]] = []
        self._thread.recording = recording
        try:
            launch_all()
        finally:
            self._thread.recording = None
        self.recordings.append([launched.name for launched, _ in recording])

        def replay() -> None:
            self.replays += 1
            for launched, run in recording:
                self.launches.append(launched)
                run()

        return replay

    def copy(self, source: DeviceArray, to: DeviceArray) -> None:
        a, b = _host(source), _host(to)
        assert a.flags.c_contiguous
        assert b.flags.c_contiguous
        assert (a.dtype, a.size) == (b.dtype, b.size)
        here.operations += 1
        b.reshape(-1)[...] = a.reshape(-1)

    def product(self, a: Any, b: Any, out: Any, *, add: bool = False, tf32: bool = False) -> None:
        if out.size and a.shape[1]:
            gemm_of(a, b, out)  # whether cuBLAS takes it
        assert a.dtype == b.dtype
        here.operations += 1
        self.products.append((a.dtype.name, out.dtype.name, tf32))
        x, y, to = (_host(array) for array in (a, b, out))
        result = widened(x) @ widened(y)
        to[...] = result + to if add else result

    def lacks_memory(self, error: BaseException) -> bool:
        return isinstance(error, OutOfMemory)

    def free(self) -> None:
        self.freed += 1

    def functions(self, source: str, options: tuple[str, ...], names: tuple[str, ...]) -> Mapping[str, Launch]:
        return {name: self._launch(name, source, options, names) for name in names}

    def _launch(self, name: str, source: str, options: tuple[str, ...], names: tuple[str, ...]) -> Launch:
        function = getattr(kernels(source, options, names), f"launch_{name}")

        def launch(grid: Dim, block: Dim, arguments: Sequence[Any], shared_memory: int = 0) -> None:
            assert not shared_memory, "the shim has no dynamic shared memory"
            launched = Launched(name, options, grid, block)
            cells, *as_c = as_cuda_takes(arguments)
            dims = (ctypes.c_int * 3)(*grid), (ctypes.c_int * 3)(*block)

            def run() -> None:
                assert cells  # kept for the pointers
                status = function(*dims, *as_c)
                assert status == 0, {1: "threads of a block do not meet", 2: "the arguments do not fit"}[status]

            recording = getattr(self._thread, "recording", None)
            if recording is not None:
                recording.append((launched, run))
            else:
                self.launches.append(launched)
                run()

        return launch


def as_cuda_takes(arguments: Sequence[Any]) -> tuple[Any, ...]:
    """The arguments, which have to be kept; pointers to them, their sizes, their number: as cuLaunchKernel wants it."""
    cells = [np.array(_value(a)) for a in arguments]
    pointers = (ctypes.c_void_p * len(cells))(*(cell.ctypes.data for cell in cells))
    return cells, pointers, (ctypes.c_int * len(cells))(*(cell.itemsize for cell in cells)), len(cells)


def _host(array: DeviceArray) -> np.ndarray:
    """The memory of an array of the current device."""
    assert array.device.id == here.device
    return array._array


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

    def __init__(
        self,
        device: int | None = None,
        *,
        tier: str | None = None,
        tf32: bool = False,
        system: HostSystem | None = None,
    ) -> None:
        super().__init__(device, tier=tier, tf32=tf32, system=system or HostSystem())

    @classmethod
    def is_available(cls) -> tuple[bool, str]:
        return True, ""
