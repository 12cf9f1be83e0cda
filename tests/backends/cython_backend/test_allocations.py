"""A step of a stream asks the C library for no memory: its calls are counted by a library that is loaded before it."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest
from processes import run

pytest.importorskip("cylstm.backends.cython_backend._lstm", reason="the compiled backend is not built")
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
pytestmark = [
    pytest.mark.names_backend("cython"),
    pytest.mark.skipif(COMPILER is None, reason="there is no C compiler"),
    pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only of glibc the inner functions are known"),
]

COUNTER = """
#include <stddef.h>
static long count;
#define COUNTED(type, name, inner, parameters, ...) \\
    extern type inner parameters; \\
    type name parameters { __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED); return inner(__VA_ARGS__); }
COUNTED(void *, malloc, __libc_malloc, (size_t size), size)
COUNTED(void *, calloc, __libc_calloc, (size_t items, size_t size), items, size)
COUNTED(void *, realloc, __libc_realloc, (void *old, size_t size), old, size)
COUNTED(void *, memalign, __libc_memalign, (size_t alignment, size_t size), alignment, size)
COUNTED(void *, aligned_alloc, __libc_memalign, (size_t alignment, size_t size), alignment, size)
long allocations(void) { return __atomic_load_n(&count, __ATOMIC_RELAXED); }
"""

COUNT = """
import ctypes, sys
import numpy as np, cylstm
from cylstm.backends.cython_backend import _lstm

counter = ctypes.CDLL({library!r})
counter.allocations.restype = ctypes.c_long

def count(call):
    for _ in range(3):
        call()
    blocks, before = sys.getallocatedblocks(), counter.allocations()
    for _ in range(1000):
        call()
    return counter.allocations() - before, sys.getallocatedblocks() - blocks

_lstm.open_regions(True)
cylstm.set_num_threads({threads})
for I, H, layers, B, P in (64, 64, 1, 1, 0), (300, 200, 2, 3, 0), (256, 512, 2, 8, 100):
    lstm = cylstm.LSTM(I, H, layers, proj_size=P, backend="cython")
    stream, x_t, out = lstm.stream(batch_size=B), cylstm.randn(B, I), np.empty((B, P or H), np.float32)
    mallocs, blocks = count(lambda: stream(x_t, out))
    assert mallocs == 0, mallocs
    assert blocks < 10, blocks  # of Python, on its own memory: they are given back
mallocs, _ = count(lambda: np.empty(10_000))
print(mallocs >= 1000)  # it does count
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("counter")
    (folder / "counter.c").write_text(COUNTER)
    subprocess.run([COMPILER, "-O1", "-shared", "-fPIC", "counter.c", "-o", "counter.so"], cwd=folder, check=True)
    return folder / "counter.so"


@pytest.mark.parametrize("threads", [1, 2])
def test_a_step_into_out_allocates_nothing(library: Path, threads: int) -> None:
    code = COUNT.format(library=str(library), threads=threads)
    assert run(code, LD_PRELOAD=str(library), OMP_NUM_THREADS="2") == "True"
