"""Layers that move numbers, and compute none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...words import quoted
from .arguments import positive
from .base import CHANNELS_LAST, BatchShape, Layer


def one_or_two(value: Any, name: str) -> tuple[int, int]:
    """A size for both ends, or one for each."""
    both = (value, value) if isinstance(value, int) else tuple(value)
    if len(both) != 2 or not all(isinstance(one, int) and one >= 0 for one in both):
        raise ValueError(f"{name} must be an int or two, of 0 or more, got {quoted(value)}")
    return both


class Flatten(Layer):
    """All numbers of a sequence in one row: (B, T, features) → (B, T * features)."""

    _nothing = CHANNELS_LAST
    supports_masking = False

    def compute_output_shape(self, input_shape: BatchShape) -> BatchShape:
        """(B, the product of the others)."""
        sizes = [size for size in input_shape[1:] if size is not None]
        return input_shape[0], math.prod(sizes) if len(sizes) == len(input_shape) - 1 else None

    def call(self, x: np.ndarray, mask: Any = None) -> np.ndarray:
        """The input in this shape."""
        return x.reshape(len(x), math.prod(x.shape[1:]))


class Reshape(Layer):
    """Another shape for each element of the batch.

    Parameters
    ----------
    target_shape : tuple of int
        Without the batch; -1 for one size that follows from the others.
    **options
        As for `Layer`.
    """

    _arguments = ("target_shape",)
    supports_masking = False

    def __init__(self, target_shape: Sequence[int], **options: Any) -> None:
        super().__init__(**options)
        self.target_shape = tuple(int(size) for size in target_shape)
        if self.target_shape.count(-1) > 1 or any(size < -1 for size in self.target_shape):
            raise ValueError(f"target_shape must have sizes and at most one -1, got {target_shape}")

    def compute_output_shape(self, input_shape: BatchShape) -> BatchShape:
        """B and the target shape."""
        sizes = [size for size in input_shape[1:] if size is not None]
        known = math.prod(size for size in self.target_shape if size != -1)
        if len(sizes) < len(input_shape) - 1:
            return input_shape[0], *(None if size == -1 else size for size in self.target_shape)
        total = math.prod(sizes)
        fits = total % known == 0 if -1 in self.target_shape and known else total == known
        if not fits:
            raise ValueError(
                f"target_shape of {self.name} must have the {total} numbers of the input, got {self.target_shape}"
            )
        return input_shape[0], *(total // known if size == -1 else size for size in self.target_shape)

    def call(self, x: np.ndarray, mask: Any = None) -> np.ndarray:
        """The input in this shape."""
        self.compute_output_shape(x.shape)  # which it must fit
        return x.reshape(len(x), *self.target_shape)


class Permute(Layer):
    """The axes in another order.

    Parameters
    ----------
    dims : tuple of int
        The axes in their new order; 1 is the first after the batch.
    **options
        As for `Layer`.
    """

    _arguments = ("dims",)
    supports_masking = False

    def __init__(self, dims: Sequence[int], **options: Any) -> None:
        super().__init__(**options)
        self.dims = tuple(dims)
        if sorted(self.dims) != list(range(1, len(self.dims) + 1)):
            raise ValueError(f"dims must be the axes from 1 on, each once, got {dims}")
        self._dimensions = (len(self.dims) + 1,)

    def compute_output_shape(self, input_shape: BatchShape) -> BatchShape:
        """The sizes in this order."""
        return input_shape[0], *(input_shape[axis] for axis in self.dims)

    def call(self, x: np.ndarray, mask: Any = None) -> np.ndarray:
        """The input in this order."""
        return x.transpose(0, *self.dims)


class RepeatVector(Layer):
    """(B, features) → (B, n, features).

    Parameters
    ----------
    n : int
    **options
        As for `Layer`.
    """

    _arguments = ("n",)
    _dimensions = (2,)
    supports_masking = False

    def __init__(self, n: int, **options: Any) -> None:
        super().__init__(**options)
        self.n = positive(n, "n")

    def compute_output_shape(self, input_shape: BatchShape) -> BatchShape:
        """(B, n, features)."""
        return input_shape[0], self.n, input_shape[1]

    def call(self, x: np.ndarray, mask: Any = None) -> np.ndarray:
        """The input n times."""
        return np.repeat(x[:, np.newaxis], self.n, axis=1)


class UpSampling1D(Layer):
    """Each step several times: (B, T, features) → (B, T * size, features).

    Parameters
    ----------
    size : int
    **options
        As for `Layer`.
    """

    _arguments = ("size",)
    _dimensions = (3,)
    supports_masking = False

    def __init__(self, size: int = 2, **options: Any) -> None:
        super().__init__(**options)
        self.size = positive(size, "size")

    def compute_output_shape(self, input_shape: BatchShape) -> BatchShape:
        """(B, T * size, features)."""
        B, T, I = input_shape
        return B, None if T is None else T * self.size, I

    def call(self, x: np.ndarray, mask: Any = None) -> np.ndarray:
        """The input with repetitions."""
        return np.repeat(x, self.size, axis=1)


class ZeroPadding1D(Layer):
    """Steps of zeros before and behind.

    Parameters
    ----------
    padding : int or tuple of two int
    **options
        As for `Layer`.
    """

    _arguments = ("padding",)
    _dimensions = (3,)
    _nothing = CHANNELS_LAST
    supports_masking = False

    def __init__(self, padding: Any = 1, **options: Any) -> None:
        super().__init__(**options)
        self.padding = one_or_two(padding, "padding")

    def compute_output_shape(self, input_shape: BatchShape) -> BatchShape:
        """(B, T and the padding, features)."""
        B, T, I = input_shape
        return B, None if T is None else T + sum(self.padding), I

    def call(self, x: np.ndarray, mask: Any = None) -> np.ndarray:
        """The input between zeros."""
        return np.pad(x, ((0, 0), self.padding, (0, 0)))


class Cropping1D(Layer):
    """Fewer steps: some are cut off at the beginning and the end.

    Parameters
    ----------
    cropping : int or tuple of two int
    **options
        As for `Layer`.
    """

    _arguments = ("cropping",)
    _dimensions = (3,)
    supports_masking = False

    def __init__(self, cropping: Any = (1, 1), **options: Any) -> None:
        super().__init__(**options)
        self.cropping = one_or_two(cropping, "cropping")

    def compute_output_shape(self, input_shape: BatchShape) -> BatchShape:
        """(B, T without what is cut off, features)."""
        B, T, I = input_shape
        if T is not None and sum(self.cropping) >= T:
            raise ValueError(f"x must have over {sum(self.cropping)} steps, which {self.name} cuts off, got {T}")
        return B, None if T is None else T - sum(self.cropping), I

    def call(self, x: np.ndarray, mask: Any = None) -> np.ndarray:
        """The steps between."""
        self.compute_output_shape(x.shape)
        return x[:, self.cropping[0] : x.shape[1] - self.cropping[1]]
