"""The list of arguments that the stand-in for CuPy goes by, against CuPy itself, which is imported and not called."""

from __future__ import annotations

import inspect
from operator import attrgetter

import numpy as np
import pytest
from cupy_signatures import ARGUMENTS, METHODS, check_call
from device_array import Library, to_device

import cylstm

cupy = pytest.importorskip("cupy")
pytestmark = pytest.mark.names_backend("cupy")


@pytest.mark.parametrize("name", ARGUMENTS)
def test_functions(name: str) -> None:
    assert list(inspect.signature(attrgetter(name)(cupy)).parameters) == ARGUMENTS[name].split()


@pytest.mark.parametrize("name", METHODS)
def test_methods(name: str) -> None:
    """By the first line of what they say, for they are compiled."""
    method = name.removeprefix("ndarray.")
    line = getattr(cupy.ndarray, method).__doc__.split("\n")[0]
    inside = line[line.index("(") + 1 : line.rindex(")")]
    found = [part.split("=")[0].split()[-1] for part in inside.split(",")]
    assert [argument for argument in found if argument != "self"] == METHODS[name].split()


def test_the_stand_in_refuses_what_cupy_does_not_have() -> None:
    xp, there = Library(), to_device(np.zeros(3))
    for call in (
        lambda: xp.zeros(3, device="cpu"),
        lambda: np.full(3, 1.0, like=there),  # NumPy 2 hands its `device` on
        lambda: there.astype(np.float32, device=None),
        lambda: np.add(there, there, where=True),
        lambda: xp.stack([there], 0, None, 1, 2, 3),
    ):
        with pytest.raises(TypeError, match=r"of CuPy (got an unexpected keyword argument|takes \d+ arguments)"):
            call()
    with pytest.raises(AssertionError, match="einsum of CuPy is not listed"):
        check_call("einsum", (), ())


@pytest.mark.parametrize("value", [0.25, np.float64(0.25), 1, True])
def test_rows_beyond_a_sequence_are_filled_on_the_device(value: float) -> None:
    sequences = [to_device(np.ones((length, 2), np.float32)) for length in (3, 1)]
    padded = cylstm.pad_sequence(sequences, padding_value=value).get()
    assert (padded[1:, 1] == value).all()
    assert (padded[:, 0] == 1).all()
