"""The places where tests of the cupy backend run, and what brings arrays there and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cuda_host import HostBackend, needs_compiler, needs_gpu
from device_array import to_device

import cylstm
from cylstm.backends.cupy_backend import CupyBackend


def moved(value: Any, move: Callable[[np.ndarray], Any]) -> Any:
    """Every array of it on the device."""
    if isinstance(value, cylstm.PackedSequence):
        return value._replace(data=move(value.data))
    if isinstance(value, tuple):
        return tuple(moved(item, move) for item in value)
    return move(value) if isinstance(value, np.ndarray) else value


def on_host(value: Any) -> Any:
    """Every array of it on the host; it must have been on the device."""
    if isinstance(value, cylstm.PackedSequence):
        assert value.is_cuda
        assert not value.cpu().is_cuda
        return value.cpu()
    if isinstance(value, dict):
        return {name: on_host(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return tuple(map(on_host, value))
    assert not isinstance(value, np.ndarray)
    return value.get()


def assert_close(got: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        got, expected = tuple(got.values()), tuple(expected.values())
    if isinstance(expected, tuple):
        for one, other in zip(got, expected, strict=True):
            assert_close(one, other)
    elif expected is not None:
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def at(place: str, tier: str) -> tuple[CupyBackend, Callable[[np.ndarray], Any]]:
    """The backend at a place, and what moves arrays there."""
    if place == "CPU as GPU":
        return HostBackend(tier=tier), to_device
    import cupy

    return CupyBackend(tier=tier), cupy.asarray


PLACES = pytest.mark.parametrize("place", ["CPU as GPU", pytest.param("GPU", marks=needs_gpu)])
TIERS = pytest.mark.parametrize("tier", ["array", pytest.param("steps", marks=needs_compiler)])
