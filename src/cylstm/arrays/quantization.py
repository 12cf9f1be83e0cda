"""Rounding to bfloat16 and to int8 with scales: what the precisions ``"bfloat16"`` and ``"int8"`` round, and how.

The rules depend on values alone: on no batch, no number of threads, no cutting of sequences. ``docs/equations.md`` has
them as formulas.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

#: bfloat16 as memory, in a NumPy that does not know it: what the arrays of a frozen module and of files are.
BFLOAT16 = np.dtype([("bfloat16", np.uint16)])
LEVELS = 127  # int8 without -128, so that the range is symmetric
#: Smallest maximum of a row of weights that has a scale: below it the scale would not be a normal number.
SMALLEST_WEIGHT = LEVELS * 2.0**-126
#: Smallest maximum of a state that has a scale: 127 divided by it is finite.
SMALLEST_STATE = 2.0**-100


class QuantizedWeight(NamedTuple):
    """A matrix of weights in int8 with one scale per row: ``values[n] * scale[n]`` stands for row n.

    Those that `quantized` makes lie in -127 ... 127; other people's may hold -128.
    """

    values: np.ndarray  # (n, k) int8
    scale: np.ndarray  # (n,) float32

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the matrix."""
        return self.values.shape

    @property
    def dtype(self) -> np.dtype:
        """That of the matrix which it stands for."""
        return self.scale.dtype


def rounded_to_bfloat16(a: np.ndarray) -> np.ndarray:
    """The nearest bfloat16 of each float32, as float32; ties go to even, what is too large to infinity, NaN is NaN."""
    bits = a.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + (bits >> 16 & 1)
    quiet = bits | np.uint32(0x0040_0000)  # a NaN whose lower half is cut off must not become infinite
    is_nan = bits & np.uint32(0x7FFF_FFFF) > 0x7F80_0000
    return (np.where(is_nan, quiet, rounded) & np.uint32(0xFFFF_0000)).view(np.float32)


def bfloat16_bits(a: np.ndarray) -> np.ndarray:
    """The nearest bfloat16 of each float32, as its 16 bits, of dtype `BFLOAT16`."""
    return (rounded_to_bfloat16(a).view(np.uint32) >> 16).astype(np.uint16).view(BFLOAT16)


def from_bfloat16_bits(bits: np.ndarray) -> np.ndarray:
    """The float32 that have these 16 bits as upper halves: each bfloat16 exactly."""
    return (bits.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def quantized(weight: np.ndarray) -> QuantizedWeight:
    """The rows of a float32 matrix (n, k) in int8, symmetric, each with a scale of its own.

    The scale is the largest absolute value of the row over 127. A row of zeros, or of nothing larger than
    ``SMALLEST_WEIGHT``, has scale and values 0. A row with an infinity or a NaN has a scale of NaN, so that the unit is
    seen to be wrong, and values 0.
    """
    largest = np.abs(weight).max(axis=1, initial=0).astype(np.float64)
    finite = np.isfinite(largest)
    scale = np.where(finite, np.where(largest < SMALLEST_WEIGHT, 0, largest / LEVELS), np.nan).astype(np.float32)
    has_scale = finite & (scale > 0)
    divisor = np.where(has_scale, scale, 1).astype(np.float64)[:, None]
    levels = np.rint(np.where(has_scale[:, None], weight, 0) / divisor).clip(-LEVELS, LEVELS)
    return QuantizedWeight(levels.astype(np.int8), scale)


def dequantized(weight: QuantizedWeight) -> np.ndarray:
    """The float32 matrix that a quantized one stands for."""
    return weight.values * weight.scale[:, None]


def quantized_state(h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of float32 states (b, R) in int8, and their scales (b, 1), which are computed in float32.

    The scale is the largest absolute value of the row over 127; of a row of nothing that reaches ``SMALLEST_STATE`` it
    is 0, of one with an infinity or a NaN it is NaN.
    """
    one, levels = np.float32(1), np.float32(LEVELS)
    largest = np.abs(h).max(axis=1, keepdims=True, initial=0)
    finite = np.isfinite(largest)
    has_scale = finite & (largest >= SMALLEST_STATE)
    divisor = np.where(has_scale, largest, one)
    values = np.rint(np.where(has_scale, h, np.float32(0)) * (levels / divisor)).astype(np.int8)
    scale = np.where(has_scale, divisor / levels, np.where(finite, np.float32(0), np.float32(np.nan)))
    return values, scale


# Products: a matrix of weights in one is a float32 array or one of these ----------------------------------------------


class Bfloat16Product(NamedTuple):
    """A matrix whose products take both factors in bfloat16 and sum in float32."""

    weight: np.ndarray  # (n, k) float32; every element is a bfloat16
    scale: np.ndarray | None = None  # (n,), of the rows; None for ones

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the matrix."""
        return self.weight.shape

    def of(self, a: np.ndarray) -> np.ndarray:
        """The product of rows (b, k) with the matrix, (b, n)."""
        product = rounded_to_bfloat16(a) @ self.weight.T
        return product if self.scale is None else product * self.scale


class Int8Product(NamedTuple):
    """A matrix whose products with states take both factors in int8 and sum in integers, exactly."""

    columns: np.ndarray  # (k, n), the integers of the matrix in a floating dtype in which their sums are exact
    scale: np.ndarray  # (n,) float32

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the matrix."""
        return self.columns.shape[::-1]

    def of(self, h: np.ndarray) -> np.ndarray:
        """The product of states (b, R) with the matrix, (b, n)."""
        values, scale = quantized_state(h)
        sums = values.astype(self.columns.dtype) @ self.columns
        return (scale * self.scale) * sums.astype(np.float32)


def product(a: np.ndarray, weight: Any) -> np.ndarray:
    """The product of rows (..., k) with a matrix (n, k) of weights, (..., n), as the matrix defines it."""
    return weight.of(a) if isinstance(weight, (Bfloat16Product, Int8Product)) else a @ weight.T


def prepared_for_bfloat16(weight: Any) -> Bfloat16Product:
    """The matrix, float32 or quantized, for products in bfloat16: int8 is exact in it."""
    if isinstance(weight, QuantizedWeight):
        return Bfloat16Product(weight.values.astype(np.float32), weight.scale.copy())
    return Bfloat16Product(rounded_to_bfloat16(weight))


def prepared_for_int8(weight: Any) -> Int8Product:
    """The recurrent matrix, float32 or quantized already, for products in int8."""
    values, scale = weight if isinstance(weight, QuantizedWeight) else quantized(weight)
    k = values.shape[1]
    exact = np.float32 if k * LEVELS * (LEVELS + 1) <= 2**24 else np.float64  # integers up to here, in any order
    return Int8Product(values.T.astype(exact), scale.copy())
