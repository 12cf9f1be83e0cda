"""What a backward pass no longer needs is used by the next forward pass, and by nobody else meanwhile."""

from __future__ import annotations

import copy
import os
from typing import Any

import numpy as np
import pytest

import cylstm
from cylstm.backends.cython_backend.backend import Spares, Workspace, _spares

pytest.importorskip("cylstm.backends.cython_backend._lstm", reason="the compiled backend is not built")
pytestmark = pytest.mark.names_backend("cython")


@pytest.fixture(autouse=True)
def none_before() -> None:
    _spares.buffers.clear()


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
    spares, buffer = Spares(), np.ones((512, 512), np.float32)
    spares.give(buffer)
    taken = spares.take((2, 256, 256), np.dtype(np.float64))
    assert (taken.shape, taken.dtype, taken.flags.c_contiguous) == ((2, 256, 256), np.float64, True)
    assert np.shares_memory(taken, buffer)
    assert not spares.buffers


def test_little_is_kept_and_the_latest() -> None:
    spares = Spares()
    spares.give(np.empty(Spares.LARGE - 1, np.uint8))
    assert not spares.buffers
    for n in range(40):
        spares.give(np.full(5 << 20, n, np.uint8))
    assert sum(buffer.nbytes for buffer in spares.buffers) <= Spares.MOST
    assert spares.buffers[-1][0] == 39
    spares.give(np.empty(Spares.MOST + 1, np.uint8))
    assert not spares.buffers


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_does_not_wait_for_a_lock_of_its_parent() -> None:
    with _spares.lock:
        lock = _spares.lock
        pid = os.fork()
        if pid == 0:
            os._exit(int(_spares.lock is lock))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
