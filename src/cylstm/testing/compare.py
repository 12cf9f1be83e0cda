"""Comparisons: within a tolerance, or bit for bit. Each raises an AssertionError that says what is off, and where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Tolerance(NamedTuple):
    """Largest error allowed, as a share of max(1, largest expected magnitude in the array)."""

    values: float
    gradients: float


#: The one table of tolerances. The numbers that are compared have magnitude 1; a wrong LSTM is off by 0.01 and more.
TOLERANCES = {
    "bfloat16": Tolerance(values=8e-2, gradients=1.6e-1),  # eight times float16's, as is its rounding
    "float16": Tolerance(values=1e-2, gradients=2e-2),
    "float32": Tolerance(values=5e-6, gradients=2e-5),
    "float64": Tolerance(values=1e-13, gradients=1e-12),
    "complex64": Tolerance(values=1e-5, gradients=5e-5),
    "complex128": Tolerance(values=1e-13, gradients=1e-12),
}


def assert_close(
    actual: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], dtype: str, tolerance: float, about: object
) -> None:
    """Every array of `expected` is in `actual`: same shape, the requested dtype, same values within the tolerance."""
    for name in sorted(set(actual) ^ set(expected)):
        raise AssertionError(f"{about}: {name} is {'missing' if name in expected else 'returned but not expected'}")
    wrong = []
    for name, want in expected.items():
        got = actual[name]
        if not isinstance(got, np.ndarray):
            raise AssertionError(f"{about}: {name} must be a NumPy array, got {type(got).__name__}")
        if got.shape != want.shape or got.dtype != np.dtype(dtype):
            raise AssertionError(
                f"{about}: {name} must have shape {want.shape} and dtype {dtype}, got {got.shape} and {got.dtype}"
            )
        if not want.size:
            continue
        with np.errstate(invalid="ignore"):
            error = np.abs(got.astype(want.dtype) - want)
        error[(got == want) | (np.isnan(got) & np.isnan(want))] = 0  # equal infinities differ by NaN
        magnitude = np.abs(want[np.isfinite(want)])
        limit = tolerance * max(1.0, magnitude.max(initial=0.0))
        if not (error <= limit).all():
            worst = tuple(map(int, np.unravel_index(np.argmax(np.nan_to_num(error, nan=np.inf)), error.shape)))
            wrong.append(
                f"{name} off by {error[worst]:.3g} (allowed {limit:.1g}) at {worst}: {got[worst]}, not {want[worst]}"
            )
    if wrong:
        raise AssertionError(f"{about}: {'; '.join(wrong)}")


def assert_consistent(
    actual: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], dtype: str, about: object
) -> None:
    """Results of one backend agree with each other, within the tolerance of its dtype."""
    assert_close(actual, expected, dtype, TOLERANCES[dtype].gradients, about)


def assert_identical(actual: np.ndarray, expected: np.ndarray, about: str) -> None:
    """Equal bit for bit."""
    different = int(np.count_nonzero(actual != expected))
    assert not different, (
        f"{about}: {different} of {expected.size} numbers differ, by up to {abs(actual - expected).max()}"
    )


def copies(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Copies of the arrays, to compare with later."""
    return {name: array.copy() for name, array in arrays.items()}
