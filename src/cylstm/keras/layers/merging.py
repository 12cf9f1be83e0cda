"""Keras's layers that make one array of several: Concatenate, Add, Dot and their like."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from .arguments import converted
from .base import Layer


class Merge(Layer):
    """What the layers have in common that compute number by number. There are no further arguments."""

    #: Whether masked steps keep what is computed there; in the others it depends on the version of Keras.
    _takes_masks = True

    def _refuse_masks(self) -> None:
        """Refuse inputs with a mask: of the Keras that made the layer, it is lost here, which later ones keep."""
        self._takes_masks = False

    def _merge(self, arrays: list[np.ndarray]) -> np.ndarray:
        """The arrays, of as many dimensions each, made one."""
        raise NotImplementedError

    def _entered(self, x: Any) -> list[np.ndarray]:
        if not isinstance(x, list | tuple) or not x:
            raise ValueError(f"input of {self.name} must be a list of arrays, got {type(x).__name__}")
        arrays = [converted(one, self.dtype, "x") for one in x]
        self.compute_output_shape([array.shape for array in arrays])
        self.built = True
        return arrays

    def compute_output_shape(self, input_shape: Any) -> Any:
        """That of the largest, the others repeated along axes of size 1."""
        ndim = max(len(shape) for shape in input_shape)
        shapes = [(shape[0], *[1] * (ndim - len(shape)), *shape[1:]) for shape in input_shape]
        return tuple(self._common(sizes, input_shape) for sizes in zip(*shapes, strict=True))

    def _common(self, sizes: Sequence[int | None], shapes: Any) -> int | None:
        there = set(sizes) - {1}
        if len(there - {None}) > 1:
            raise ValueError(f"inputs of {self.name} must have shapes that fit each other, got {list(shapes)}")
        return next(iter(there - {None}), None if None in there else 1)

    def compute_mask(self, x: list[np.ndarray], mask: Any = None) -> Any:
        """The mask that all inputs have.

        Raises
        ------
        ValueError
            If the inputs differ in it: what becomes of them depends on the version of Keras.
        """
        masks = [None] * len(x) if mask is None else list(mask)
        if all(one is None for one in masks):
            return None
        first = np.asarray(masks[0])
        same = all(one is not None and np.array_equal(one, first) for one in masks)
        if not same or not self._takes_masks:
            fits = "no mask, or the same one" if self._takes_masks else "no mask"
            raise ValueError(
                f"inputs of {self.name} must have {fits}, got others: what it makes of them depends on the version of "
                "Keras"
            )
        return masks[0]

    def call(self, x: list[np.ndarray], mask: Any = None) -> np.ndarray:
        """The arrays made one."""
        self.compute_mask(x, mask)
        ndim = max(array.ndim for array in x)
        return self._merge([one.reshape(len(one), *[1] * (ndim - one.ndim), *one.shape[1:]) for one in x])


class Add(Merge):
    """The sum."""

    def _merge(self, arrays: list[np.ndarray]) -> np.ndarray:
        return functools.reduce(np.add, arrays)


class Subtract(Merge):
    """The first without the second."""

    def _merge(self, arrays: list[np.ndarray]) -> np.ndarray:
        return np.subtract(*arrays)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """As for the others, of two."""
        if len(input_shape) != 2:
            raise ValueError(f"inputs of {self.name} must be two, got {len(input_shape)}")
        return super().compute_output_shape(input_shape)


class Multiply(Merge):
    """The product."""

    def _merge(self, arrays: list[np.ndarray]) -> np.ndarray:
        return functools.reduce(np.multiply, arrays)

    _takes_masks = False


class Average(Merge):
    """The mean."""

    def _merge(self, arrays: list[np.ndarray]) -> np.ndarray:
        return functools.reduce(np.add, arrays) / len(arrays)


class Maximum(Merge):
    """The larger of each."""

    def _merge(self, arrays: list[np.ndarray]) -> np.ndarray:
        return functools.reduce(np.maximum, arrays)

    _takes_masks = False


class Minimum(Merge):
    """The smaller of each."""

    def _merge(self, arrays: list[np.ndarray]) -> np.ndarray:
        return functools.reduce(np.minimum, arrays)

    _takes_masks = False


class Concatenate(Merge):
    """The arrays one behind the other.

    Parameters
    ----------
    axis : int
    **options
        As for `Layer`.
    """

    _arguments = ("axis",)

    def __init__(self, axis: int = -1, **options: Any) -> None:
        super().__init__(**options)
        self.axis = axis

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The sizes along the axis together."""
        ndim = len(input_shape[0])
        axis = self.axis % ndim
        if any(len(shape) != ndim for shape in input_shape) or axis == 0:
            raise ValueError(f"inputs of {self.name} must have the same dimensions, got {list(input_shape)}")
        for n, sizes in enumerate(zip(*input_shape, strict=True)):
            if n != axis and len(set(sizes) - {None}) > 1:
                raise ValueError(f"inputs of {self.name} must differ along axis {axis} alone, got {list(input_shape)}")
        along = [shape[axis] for shape in input_shape]
        total = None if None in along else sum(along)
        first = [next((size for size in sizes if size is not None), None) for sizes in zip(*input_shape, strict=True)]
        return (*first[:axis], total, *first[axis + 1 :])

    def compute_mask(self, x: list[np.ndarray], mask: Any = None) -> Any:
        """The mask that all inputs have; along the steps, one behind the other."""
        along = x[0].ndim >= 3 and self.axis % x[0].ndim == 1 and self._takes_masks
        if mask is None or not along or all(one is None for one in mask):
            return super().compute_mask(x, mask)
        pairs = zip(x, mask, strict=True)
        return np.concatenate([np.ones(a.shape[:2], bool) if one is None else one for a, one in pairs], axis=1)

    def call(self, x: list[np.ndarray], mask: Any = None) -> np.ndarray:
        """The arrays made one."""
        self.compute_mask(x, mask)
        return np.concatenate(x, axis=self.axis)


class Dot(Merge):
    """The sum of products along an axis of each of two arrays.

    Parameters
    ----------
    axes : int or tuple of two int
    normalize : bool
        Whether rows along the axes are divided by their length before.
    **options
        As for `Layer`.
    """

    _arguments = ("axes", "normalize")
    supports_masking = False

    def __init__(self, axes: Any, normalize: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.axes, self.normalize = tuple(axes) if isinstance(axes, list) else axes, bool(normalize)

    def _two(self, ndims: Sequence[int]) -> tuple[int, int]:
        given = (self.axes, self.axes) if isinstance(self.axes, int) else self.axes
        first, second = (axis % ndim for axis, ndim in zip(given, ndims, strict=True))
        return first, second

    def compute_output_shape(self, input_shape: Any) -> Any:
        """(B, the other axes of the first, the other axes of the second), or (B, 1)."""
        if len(input_shape) != 2 or not all(2 <= len(shape) <= 3 for shape in input_shape):
            raise ValueError(f"inputs of {self.name} must be two of 2 or 3 dimensions, got {list(input_shape)}")
        axes = self._two([len(shape) for shape in input_shape])
        along = {shape[axis] for shape, axis in zip(input_shape, axes, strict=True)} - {None}
        if 0 in axes or len(along) > 1:
            raise ValueError(f"inputs of {self.name} must agree along the axes {self.axes}, got {list(input_shape)}")
        rests = [
            [s for n, s in enumerate(shape) if n not in (0, a)] for shape, a in zip(input_shape, axes, strict=True)
        ]
        rest = list(itertools.chain(*rests))
        return (input_shape[0][0], *(rest or [1]))

    def compute_mask(self, x: list[np.ndarray], mask: Any = None) -> Any:
        """None."""
        return None

    def call(self, x: list[np.ndarray], mask: Any = None) -> np.ndarray:
        """The arrays made one."""
        axes = self._two([array.ndim for array in x])
        first, second = (np.moveaxis(array, axis, -1) for array, axis in zip(x, axes, strict=True))
        if self.normalize:
            first, second = (
                one / np.sqrt(np.maximum((one**2).sum(-1, keepdims=True), 1e-12)) for one in (first, second)
            )
        B, K = len(first), first.shape[-1]
        product = first.reshape(B, -1, K) @ second.reshape(B, -1, K).swapaxes(1, 2)
        return product.reshape(B, *(first.shape[1:-1] + second.shape[1:-1] or (1,)))
