"""Keras's layers that make one step of several: pooling over windows, and over all steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from .base import CHANNELS_LAST, BatchShape, Layer
from .convolution import check_padding, one_size, padded, window_count


class _Pooling1D(Layer):
    """What the two kinds have in common.

    Parameters
    ----------
    pool_size : int
    strides : int, optional
        By default ``pool_size``.
    padding : {"valid", "same"}
    **options
        As for `Layer`.
    """

    _arguments = ("pool_size", "strides", "padding")
    _nothing = CHANNELS_LAST
    _dimensions = (3,)
    supports_masking = False
    _beyond: float  # what stands in for steps beyond the sequence

    def __init__(self, pool_size: Any = 2, strides: Any = None, padding: str = "valid", **options: Any) -> None:
        super().__init__(**options)
        self.pool_size = one_size(pool_size, "pool_size")
        self.strides = self.pool_size if strides is None else one_size(strides, "strides")
        self.padding = check_padding(padding, ("valid", "same"))

    def compute_output_shape(self, input_shape: BatchShape) -> BatchShape:
        """(B, windows, features)."""
        B, T, I = input_shape
        return B, window_count(T, self.pool_size, self.strides, self.padding), I

    def _windows(self, x: np.ndarray, beyond: float) -> np.ndarray:
        """(B, windows, features, pool_size)."""
        x = padded(x, self.pool_size, self.strides, self.padding, beyond)
        if x.shape[1] < self.pool_size:
            return np.zeros((x.shape[0], 0, x.shape[2], self.pool_size), x.dtype)
        return np.lib.stride_tricks.sliding_window_view(x, self.pool_size, axis=1)[:, :: self.strides]


class MaxPooling1D(_Pooling1D):
    """The largest number of each window. Parameters: ``pool_size``, ``strides``, ``padding``, and those of `Layer`."""

    def call(self, x: np.ndarray, mask: Any = None) -> np.ndarray:
        """(B, T, features) → (B, windows, features)."""
        return self._windows(x, -np.inf).max(axis=-1)


class AveragePooling1D(_Pooling1D):
    """The mean of each window. Parameters: ``pool_size``, ``strides``, ``padding``, and those of `Layer`."""

    def call(self, x: np.ndarray, mask: Any = None) -> np.ndarray:
        """(B, T, features) → (B, windows, features). Steps beyond the sequence do not count."""
        return self._windows(x, 0).sum(axis=-1) / self._windows(np.ones_like(x[:1, :, :1]), 0).sum(axis=-1)


class _GlobalPooling1D(Layer):
    """What the two kinds have in common.

    Parameters
    ----------
    keepdims : bool
        Whether the output has an axis of one step.
    **options
        As for `Layer`.
    """

    _arguments = ("keepdims",)
    _nothing = CHANNELS_LAST
    _dimensions = (3,)
    supports_masking = False

    def __init__(self, *, keepdims: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.keepdims = bool(keepdims)

    def compute_output_shape(self, input_shape: BatchShape) -> BatchShape:
        """(B, features), or (B, 1, features)."""
        B, _, I = input_shape
        return (B, 1, I) if self.keepdims else (B, I)


class GlobalMaxPooling1D(_GlobalPooling1D):
    """The largest number over all steps, masked ones too. Parameters: ``keepdims``, and those of `Layer`."""

    def call(self, x: np.ndarray, mask: Any = None) -> np.ndarray:
        """(B, T, features) → (B, features)."""
        return x.max(axis=1, keepdims=self.keepdims)


class GlobalAveragePooling1D(_GlobalPooling1D):
    """The mean over all steps that are not masked. Parameters: ``keepdims``, and those of `Layer`."""

    _reads_mask = True

    def call(self, x: np.ndarray, mask: Any = None) -> np.ndarray:
        """(B, T, features) → (B, features)."""
        if mask is None:
            return x.mean(axis=1, keepdims=self.keepdims, dtype=x.dtype)
        counted = mask[..., np.newaxis]
        total = np.where(counted, x, x.dtype.type(0)).sum(axis=1, keepdims=self.keepdims)
        with np.errstate(invalid="ignore"):  # no step at all gives no number, as in Keras
            return total / counted.sum(axis=1, keepdims=self.keepdims).astype(x.dtype)
