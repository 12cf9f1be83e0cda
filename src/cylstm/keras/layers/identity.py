"""Layers that do nothing in inference, and Masking."""

from __future__ import annotations

from typing import Any

import numpy as np

from .base import Layer


class Masking(Layer):
    """Mask the steps (B, T) at which all features have one value.

    Parameters
    ----------
    mask_value : float
    **options
        As for `Layer`.
    """

    _arguments = ("mask_value",)

    def __init__(self, mask_value: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.mask_value = mask_value

    def compute_mask(self, x: np.ndarray, mask: Any = None) -> np.ndarray:
        """True where a feature differs from the value."""
        return (x != self.mask_value).any(axis=-1)

    def call(self, x: np.ndarray, mask: Any = None) -> np.ndarray:
        """The input, with zeros at masked steps."""
        return np.where(self.compute_mask(x)[..., np.newaxis], x, x.dtype.type(0))


class Identity(Layer):
    """The input as it is."""

    def call(self, x: np.ndarray, mask: Any = None) -> np.ndarray:
        """The input."""
        return x


class Dropout(Identity):
    """Nothing, as always in inference; there for the models that have it.

    Parameters
    ----------
    rate : float
    **options
        As for `Layer`.
    """

    _arguments = ("rate",)
    _of_training = ("noise_shape", "seed")

    def __init__(self, rate: float, **options: Any) -> None:
        super().__init__(**options)
        self.rate = rate


class SpatialDropout1D(Dropout):
    """Nothing, as always in inference. The parameters are those of `Dropout`."""

    _dimensions = (3,)


class GaussianDropout(Dropout):
    """Nothing, as always in inference. The parameters are those of `Dropout`."""


class AlphaDropout(Dropout):
    """Nothing, as always in inference. The parameters are those of `Dropout`."""


class GaussianNoise(Identity):
    """Nothing, as always in inference.

    Parameters
    ----------
    stddev : float
    **options
        As for `Layer`.
    """

    _arguments = ("stddev",)
    _of_training = ("seed",)

    def __init__(self, stddev: float, **options: Any) -> None:
        super().__init__(**options)
        self.stddev = stddev


class ActivityRegularization(Identity):
    """Nothing, as always in inference.

    Parameters
    ----------
    l1, l2 : float
    **options
        As for `Layer`.
    """

    _arguments = ("l1", "l2")

    def __init__(self, l1: float = 0.0, l2: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.l1, self.l2 = l1, l2
