"""Float64 arithmetic whose rounding errors are known exactly."""

from __future__ import annotations

from typing import Any

import numpy as np


def fused_multiply_add(x: np.ndarray, a: float, b: float) -> np.ndarray:
    """x * a + b of float64 numbers, rounded once, as the fused instruction PyTorch is compiled to.

    Dekker's exact product and Knuth's exact sum; the parts that remain are added with rounding to odd (Boldo and
    Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
    """
    product, product_error = _two_product(x, a)
    high, low = _two_sum(np.float64(b), product_error)
    high, high_error = _two_sum(product, high)
    rest, rest_error = _two_sum(low, high_error)
    bits = rest.view(np.int64)
    to_odd = (rest_error != 0) & (bits & 1 == 0)
    bits += np.where(to_odd, np.where((rest_error > 0) == (rest > 0), 1, -1), 0)
    return high + rest


def _two_product(x: np.ndarray, a: float) -> tuple[np.ndarray, np.ndarray]:
    """x * a as a rounded product and its exact error."""
    split = 2.0**27 + 1
    x_high = split * x - (split * x - x)
    a_high = split * a - (split * a - a)
    x_low, a_low = x - x_high, a - a_high
    product = x * a
    return product, ((x_high * a_high - product) + x_high * a_low + x_low * a_high) + x_low * a_low


def _two_sum(a: Any, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a + b as a rounded sum and its exact error."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)
