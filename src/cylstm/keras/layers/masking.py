"""Layers without weights: Masking, Dropout."""

from __future__ import annotations

from typing import Any

import numpy as np

from .base import Layer


class Masking(Layer):
    """Mask the steps (B, T) at which all features have one value.

    Parameters
    ----------
    mask_value : float
    name, input_shape
        As for `LSTM`.
    """

    _arguments = ("name", "mask_value")

    def __init__(self, mask_value: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.mask_value = mask_value

    def compute_mask(self, x: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        """True where a feature differs from the value."""
        return (x != self.mask_value).any(axis=-1)

    def __call__(self, x: Any, mask: Any = None) -> np.ndarray:
        """The input, with zeros at masked steps."""
        x = self._enter(x)
        return np.where(self.compute_mask(x, None)[..., np.newaxis], x, x.dtype.type(0))


class Dropout(Layer):
    """Nothing, as always in inference; there for the models that have it.

    Parameters
    ----------
    rate : float
    name, input_shape
        As for `LSTM`.
    """

    _arguments = ("name", "rate")

    def __init__(self, rate: float, **options: Any) -> None:
        super().__init__(**options)
        self.rate = rate

    def __call__(self, x: Any, mask: Any = None) -> np.ndarray:
        """The input."""
        return self._enter(x)
