"""The dtype of the arithmetic, and the sigmoid, for NumPy's arrays and those that follow its protocols."""

from __future__ import annotations

import numpy as np


def arithmetic_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype that arrays of a dtype are computed in: float32 for float16 and bfloat16, else the same."""
    return np.dtype(np.float32) if dtype.itemsize == 2 else dtype


def widened(a: np.ndarray, copy: bool = False) -> np.ndarray:
    """The array in the dtype of the arithmetic; the array itself where it has it and no copy is requested."""
    if a.dtype != arithmetic_dtype(a.dtype):
        return a.astype(arithmetic_dtype(a.dtype))
    return a.copy() if copy else a


def sigmoid(a: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-a)), without a warning where exp(-a) is infinite: 0 is the right limit."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-a))
