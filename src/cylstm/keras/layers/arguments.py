"""Arguments of layers: numbers, arrays, masks and weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...arrays.arguments import as_array
from ...words import quoted


def positive(value: Any, name: str = "units") -> int:
    """The value as an int, which it must be."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {quoted(value)}")
    if value <= 0:
        raise ValueError(f"{name} must be positive, got {value}")
    return int(value)


def converted(value: Any, dtype: np.dtype, name: str) -> np.ndarray:
    """The value as an array of this dtype, if it is of numbers that lose nothing but precision on the way."""
    array = as_array(value, name)
    if array.dtype.kind not in "biufV" and array.dtype.kind != dtype.kind:  # V: bfloat16
        raise TypeError(f"{name} must be of real numbers, to become {dtype}, got {array.dtype}")
    return array.astype(dtype, copy=False)


def checked_mask(mask: Any, x: np.ndarray) -> np.ndarray | None:
    """The mask as an array of bool (B, T), or None."""
    if mask is None:
        return None
    mask = as_array(mask, "mask")
    if mask.shape != x.shape[:2] or mask.dtype != bool:
        raise ValueError(f"mask must be of bool and shape {x.shape[:2]}, got {mask.dtype} and {mask.shape}")
    return mask


def checked_weights(layer: Any, weights: Sequence[Any], old: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The weights as arrays, if they have the shapes of the old ones."""
    if not layer.built:
        raise ValueError(f"{layer.name} must be built, got no weights yet: call it, or build(input_shape), first")
    arrays = [np.asarray(one) if isinstance(one, list | float) else as_array(one, "weights") for one in weights]
    wanted, got = [array.shape for array in old], [array.shape for array in arrays]
    if got != wanted:
        raise ValueError(f"weights of {layer.name} must have the shapes {wanted}, got {got}")
    return arrays
