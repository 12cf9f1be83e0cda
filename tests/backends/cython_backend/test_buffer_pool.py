"""What a backward pass no longer needs is used by the next forward pass, and by nobody else meanwhile."""

from __future__ import annotations

import copy
import gc
import threading
from typing import Any

import numpy as np
import pytest

import cylstm
from cylstm.backends.cython_backend.backend import Workspace
from cylstm.backends.cython_backend.buffers import BufferPool, pool

pytest.importorskip("cylstm.backends.cython_backend._lstm", reason="the compiled backend is not built")
pytestmark = pytest.mark.names_backend("cython")


@pytest.fixture(autouse=True)
def none_before() -> None:
    pool.buffers.clear()


def addresses(pullback: Any) -> set[int]:
    """Where the workspaces of a pullback keep their arrays."""
    kept = next(cell.cell_contents for cell in pullback.__closure__ if isinstance(cell.cell_contents, list))
    return {array.ctypes.data for layer in kept for array in layer.workspace.kept if array is not None}


@pytest.mark.parametrize("recompute", [False, True])
def test_the_next_pass_has_the_memory_of_the_last(recompute: bool) -> None:
    lstm = cylstm.LSTM(64, 128, num_layers=2, backend="cython")
    x = cylstm.randn(400, 32, 64)
    _, _, pullback = lstm.vjp(x, recompute=recompute)
    before = addresses(pullback)
    _, _, second = lstm.vjp(x, recompute=recompute)
    assert not before & addresses(second)
    del pullback
    _, _, third = lstm.vjp(x, recompute=recompute)
    assert addresses(third) & before
    assert not addresses(third) & addresses(second)


def test_what_a_living_pullback_keeps_is_not_used() -> None:
    lstm = cylstm.LSTM(32, 64, backend="cython")
    first, second = cylstm.randn(100, 16, 32), cylstm.randn(100, 16, 32)
    output, _, pullback = lstm.vjp(first)
    expected = pullback(np.ones_like(output)).input.copy()
    for _ in range(3):
        lstm.vjp(second)[2](np.ones_like(output))
    np.testing.assert_array_equal(pullback(np.ones_like(output)).input, expected)


def test_a_workspace_is_not_copied() -> None:
    with pytest.raises(TypeError, match="cannot be copied"):
        copy.copy(Workspace(np.zeros((1, 1)), np.ones(1, np.int64), (None,) * 5))


def test_another_shape_and_dtype_of_the_same_size_fit() -> None:
    spares, buffer = BufferPool(), np.ones((512, 512), np.float32)
    spares.release(buffer)
    taken = spares.acquire((2, 256, 256), np.dtype(np.float64))
    assert (taken.shape, taken.dtype, taken.flags.c_contiguous) == ((2, 256, 256), np.float64, True)
    assert np.shares_memory(taken, buffer)
    assert not spares.buffers


def test_little_is_kept_and_the_latest() -> None:
    spares = BufferPool()
    spares.release(np.empty(BufferPool.MIN_BYTES - 1, np.uint8))
    assert not spares.buffers
    for n in range(40):
        spares.release(np.full(5 << 20, n, np.uint8))
    assert sum(buffer.nbytes for buffer in spares.buffers.values()) <= BufferPool.MAX_BYTES
    assert [*spares.buffers.values()][-1][0] == 39
    spares.release(np.empty(BufferPool.MAX_BYTES + 1, np.uint8))
    assert not spares.buffers


def test_a_collection_in_the_middle_takes_and_gives_buffers() -> None:
    """What the collector calls may come between any two steps of acquire and release."""
    spares = BufferPool()

    class Array(np.ndarray):
        @property
        def nbytes(self) -> int:
            while spares.buffers and self.meddles:
                self.meddles = False
                assert spares.acquire((size,), np.dtype(np.uint8)) is not None
                spares.release(np.empty(2 * size, np.uint8))
            return super().nbytes

    size = BufferPool.MIN_BYTES
    for _ in range(5):
        buffer = np.empty(size, np.uint8).view(Array)
        buffer.meddles = True
        spares.buffers[id(buffer)] = buffer
    taken = [spares.acquire((size,), np.dtype(np.uint8)) for _ in range(6)]
    assert all(not np.shares_memory(a, b) for n, a in enumerate(taken) for b in taken[:n])


def test_threads_never_get_the_same_buffer() -> None:
    spares, size = BufferPool(), BufferPool.MIN_BYTES
    errors = []

    def work(mark: int) -> None:
        for _ in range(2000):
            mine = spares.acquire((size,), np.dtype(np.uint8))
            mine[:64] = mark
            if not np.all(mine[:64] == mark):
                errors.append(mark)
            spares.release(mine)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sum(buffer.nbytes for buffer in spares.buffers.values()) <= BufferPool.MAX_BYTES


def test_a_pullback_that_a_finaliser_revives_is_an_error() -> None:
    """Its buffers were given to others."""
    lstm, saved = cylstm.LSTM(32, 64, backend="cython"), []

    class Keeper:
        def __init__(self, pullback: Any) -> None:
            self.pullback, self.me = pullback, self

        def __del__(self) -> None:
            saved.append(self)

    output, _, pullback = lstm.vjp(cylstm.randn(100, 16, 32))
    Keeper(pullback)
    del pullback
    gc.collect()
    lstm.vjp(cylstm.randn(100, 16, 32))
    with pytest.raises(RuntimeError, match="the workspace must be whole"):
        saved[0].pullback(np.ones_like(output))
