"""Dropout masks on a GPU, drawn there: of a seed that the generator gives, and the number of each element."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .draws import default_generator, dropout_mask


def dropout_mask_beside(rows: Any, shape: tuple[int, ...], p: float) -> np.ndarray:
    """A mask as `dropout_mask` gives it, where `rows` lie and of their dtype, and nothing of its size is copied there.

    The default generator moves on by two words, whatever the size. As in PyTorch, a seed gives other masks than on the
    CPU.
    """
    if p in (0, 1) or rows.dtype.kind == "c":
        return np.asarray(dropout_mask(shape, p, rows.dtype), like=rows)
    words = _hashed(np.arange(math.prod(shape), dtype=np.uint64, like=rows), np.uint64(default_generator._seed_64()))
    exact = np.float64 if rows.dtype == np.float64 else np.float32
    kept = (words >= np.uint64(int(p * 2.0**64))).astype(exact) * (exact(1) / exact(1 - p))
    return kept.astype(rows.dtype).reshape(shape)


def _hashed(numbers: Any, seed: np.uint64) -> Any:
    """64 random bits of each number: SplitMix64, https://doi.org/10.1145/2660193.2660195."""
    z = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + seed
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
