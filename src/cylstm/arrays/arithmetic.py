"""The dtype of the arithmetic, the sigmoid, and silence, for NumPy's arrays and those that follow its protocols."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numpy as np

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def arithmetic_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype that arrays of a dtype are computed in: float32 for float16 and bfloat16, else the same."""
    return np.dtype(np.float32) if dtype.itemsize == 2 else dtype


def widened(a: np.ndarray, copy: bool = False) -> np.ndarray:
    """The array in the dtype of the arithmetic; the array itself where it has it and no copy is requested."""
    if a.dtype != arithmetic_dtype(a.dtype):
        return a.astype(arithmetic_dtype(a.dtype))
    return a.copy() if copy else a


def silent(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let infinite and nan go through without a warning, as in PyTorch and in compiled code."""

    @functools.wraps(function)
    def called(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        with np.errstate(all="ignore"):
            return function(*arguments, **named)

    return called


def sigmoid(a: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-a)), without a warning where exp(-a) is infinite: 0 is the right limit.

    Of complex numbers the exponential is taken that is at most 1: an infinite one times the direction of the imaginary
    part would give nan.
    """
    if a.dtype.kind == "c":
        left = a.real < 0
        e = np.exp(np.where(left, a, -a))
        return np.where(left, e, np.ones_like(e)) / (1 + e)
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-a))
