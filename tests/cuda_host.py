"""A launcher for the kernels of the cupy backend that runs them on the CPU, and the header as a library."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cylstm.backends.cuda.planner import UNITS, Facts, Tile
from cylstm.backends.cuda.source import KERNELS, definitions, source

COMPILER = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: the kernels cannot run on the CPU here")

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


class HostLauncher:
    """Stands for a GPU with these facts."""

    xp = np

    def __init__(self, facts: Facts = SMALL) -> None:
        self.facts = facts
        self.launches: list[tuple[str, Tile, tuple[int, int, int]]] = []

    def stream(self) -> Hashable:
        return 0

    def recorded(self, launch_all: Callable[[], None]) -> Callable[[], None]:
        return launch_all

    def kernel(self, name: str, dtype: str, tile: Tile) -> Callable[[tuple[int, int, int], Sequence[Any]], None]:
        function = getattr(kernels(dtype, tile), f"launch_{name}")
        block = (ctypes.c_int * 3)(UNITS, tile.slices, 1)

        def launch(grid: tuple[int, int, int], arguments: Sequence[Any]) -> None:
            self.launches.append((name, tile, grid))
            values = [a if isinstance(a, np.generic) else np.intp(0 if a is None else a.ctypes.data) for a in arguments]
            cells = [np.array(value) for value in values]  # as cuLaunchKernel wants it: pointers to the arguments
            pointers = (ctypes.c_void_p * len(cells))(*(cell.ctypes.data for cell in cells))
            sizes = (ctypes.c_int * len(cells))(*(cell.itemsize for cell in cells))
            status = function((ctypes.c_int * 3)(*grid), block, pointers, sizes, len(cells))
            assert status == 0, {1: "threads of a block do not meet", 2: "the arguments do not fit"}[status]

        return launch
