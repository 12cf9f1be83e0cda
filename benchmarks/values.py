"""Whether a contender computes the right thing: its results against those of PyTorch in float64."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from cases import Case
from contenders import Values

#: Largest error against float64 that a result may have: of the output and the states, which are below 1; of a gradient
#: relative to its largest element.
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}
GRADIENT_TOLERANCE = {"float32": 1e-4, "float64": 1e-11}


def error_of(got: Values, expected: Values) -> float:
    """The largest error of output and states, whose shapes are found to be right."""
    for name, array in got.items():
        if array.shape != expected[name].shape:
            raise ValueError(f"{name} must have shape {expected[name].shape}, got {array.shape}")
    return float(np.max([np.abs(array - expected[name]).max() for name, array in got.items()]))  # nan stays


class Check(NamedTuple):
    """The largest error of a result, and why it is wrong; "" where it is right."""

    error: float
    wrong: str = ""


def check(case: Case, got: Values, expected: Values) -> Check:
    """Compare a result with that in float64."""
    tolerance = (GRADIENT_TOLERANCE if case.training else TOLERANCE)[case.dtype]
    if (missing := expected.keys() - got.keys()) and got.keys() != {"output"}:  # Keras returns the output alone
        return Check(float("nan"), f"without {', '.join(sorted(missing))}")
    worst = 0.0
    for name, array in got.items():
        if array.shape != expected[name].shape:
            return Check(float("nan"), f"{name} has shape {array.shape} instead of {expected[name].shape}")
        error = np.abs(array - expected[name]).max()
        worst = np.maximum(worst, error / np.abs(expected[name]).max() if case.training else error)  # nan stays
    wrong = "" if worst <= tolerance else f"the error against float64 is {worst:.2g}, above {tolerance:g}"
    return Check(float(worst), wrong)
