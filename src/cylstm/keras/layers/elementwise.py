"""Layers that compute each number, or each row of numbers, by itself: activations, and scaling."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..initializers import Initializer
from . import activations
from .base import BatchShape, Layer


class Activation(Layer):
    """An activation.

    Parameters
    ----------
    activation : str
        A name of Keras's.
    **options
        As for `Layer`.
    """

    _arguments = ("activation",)

    def __init__(self, activation: Any, **options: Any) -> None:
        super().__init__(**options)
        self.activation = activations.activation(activation)

    def compute_output_shape(self, input_shape: BatchShape) -> BatchShape:
        """That of the input."""
        if self.activation == "glu" and input_shape[-1] is not None:
            return (*input_shape[:-1], input_shape[-1] // 2)
        return input_shape

    def call(self, x: np.ndarray, mask: Any = None) -> np.ndarray:
        """The activation of the input."""
        return activations.apply(self.activation, x)


class ReLU(Layer):
    """min(max(x, 0), max_value), with a slope below the threshold.

    Parameters
    ----------
    max_value : float, optional
    negative_slope, threshold : float
    **options
        As for `Layer`.
    """

    _arguments = ("max_value", "negative_slope", "threshold")

    def __init__(
        self, max_value: float | None = None, negative_slope: float = 0.0, threshold: float = 0.0, **options: Any
    ) -> None:
        super().__init__(**options)
        self.max_value, self.negative_slope, self.threshold = max_value, negative_slope or 0.0, threshold or 0.0

    def call(self, x: np.ndarray, mask: Any = None) -> np.ndarray:
        """The activation of the input."""
        return activations.relu(x, self.negative_slope, self.max_value, self.threshold)


class LeakyReLU(Layer):
    """x above zero, negative_slope * x below.

    Parameters
    ----------
    negative_slope : float
        ``alpha`` in Keras 2.
    **options
        As for `Layer`.
    """

    _arguments = ("negative_slope",)

    def __init__(self, negative_slope: float = 0.3, **options: Any) -> None:
        super().__init__(**options)
        self.negative_slope = negative_slope

    def call(self, x: np.ndarray, mask: Any = None) -> np.ndarray:
        """The activation of the input."""
        return activations.apply(("leaky_relu", self.negative_slope), x)


class ELU(Layer):
    """x above zero, alpha * (exp(x) - 1) below.

    Parameters
    ----------
    alpha : float
    **options
        As for `Layer`.
    """

    _arguments = ("alpha",)

    def __init__(self, alpha: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.alpha = alpha

    def call(self, x: np.ndarray, mask: Any = None) -> np.ndarray:
        """The activation of the input."""
        return activations.apply(("elu", self.alpha), x)


class ThresholdedReLU(Layer):
    """x above theta, zero elsewhere; of Keras 2.

    Parameters
    ----------
    theta : float
    **options
        As for `Layer`.
    """

    _arguments = ("theta",)

    def __init__(self, theta: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.theta = theta

    def call(self, x: np.ndarray, mask: Any = None) -> np.ndarray:
        """The activation of the input."""
        return np.where(x > self.theta, x, x.dtype.type(0))


class PReLU(Layer):
    """x above zero, alpha * x below, with an alpha that was learned.

    Parameters
    ----------
    alpha_initializer : str or callable
    shared_axes : list of int, optional
        Axes along which alpha is the same.
    **options
        As for `Layer`.
    """

    _arguments = ("shared_axes",)
    _kinds = ("alpha",)

    def __init__(self, alpha_initializer: Initializer = "zeros", *, shared_axes: Any = None, **options: Any) -> None:
        super().__init__(alpha_initializer=alpha_initializer, **options)
        self.shared_axes = [shared_axes] if isinstance(shared_axes, int) else shared_axes

    def weight_shapes(self, input_shape: BatchShape) -> dict[str, tuple[int, ...]]:
        """alpha: the shape of the input without the batch, 1 along shared axes."""
        shape = [1 if axis in (self.shared_axes or ()) else size for axis, size in enumerate(input_shape)][1:]
        if None in shape:
            raise ValueError(f"input_shape of {self.name} must be known but for shared_axes, got {input_shape}")
        return {"alpha": tuple(int(size) for size in shape if size is not None)}

    def call(self, x: np.ndarray, mask: Any = None) -> np.ndarray:
        """The activation of the input."""
        return np.maximum(x, 0) + self._own["alpha"] * np.minimum(x, 0)


class Softmax(Layer):
    """exp(x) / sum(exp(x)).

    Parameters
    ----------
    axis : int or list of int
    **options
        As for `Layer`.
    """

    _arguments = ("axis",)
    _reads_mask = True

    def __init__(self, axis: Any = -1, **options: Any) -> None:
        super().__init__(**options)
        self.axis = axis

    def call(self, x: np.ndarray, mask: Any = None) -> np.ndarray:
        """The activation of the input.

        Raises
        ------
        ValueError
            If there is a mask: its meaning depends on the version of Keras.
        """
        if mask is not None:
            raise ValueError(f"mask must be None for {self.name}, got one: use Activation('softmax'), or no mask")
        return activations.softmax(x, tuple(self.axis) if isinstance(self.axis, list) else self.axis)


class Rescaling(Layer):
    """scale * x + offset.

    Parameters
    ----------
    scale, offset : float or list of float
    **options
        As for `Layer`.
    """

    _arguments = ("scale", "offset")

    def __init__(self, scale: Any, offset: Any = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.scale, self.offset = scale, offset

    def call(self, x: np.ndarray, mask: Any = None) -> np.ndarray:
        """The input at another scale."""
        return x * np.asarray(self.scale, self.dtype) + np.asarray(self.offset, self.dtype)


class Normalization(Layer):
    """(x - mean) / sqrt(variance), of each feature.

    Parameters
    ----------
    axis : int, tuple of int or None
        Axes of which each entry has a mean of its own; None where all numbers have one.
    mean, variance : float or array, optional
        What they are; without them they are weights (mean, variance, count), which Keras's ``adapt`` computes.
    invert : bool
        Whether x * sqrt(variance) + mean is computed instead.
    **options
        As for `Layer`.
    """

    _arguments = ("axis", "mean", "variance", "invert")

    def __init__(
        self, axis: Any = -1, mean: Any = None, variance: Any = None, invert: bool = False, **options: Any
    ) -> None:
        super().__init__(**options)
        self.axis = tuple(axis) if isinstance(axis, list | tuple) else axis
        if (mean is None) != (variance is None):
            raise ValueError("mean and variance must be given together, got one of them: give both, or none")
        self.mean, self.variance, self.invert = mean, variance, bool(invert)

    def _drawn(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, 1 if name == "variance" else 0, self.dtype)

    def _axes(self, ndim: int) -> list[int]:
        given = () if self.axis is None else self.axis if isinstance(self.axis, tuple) else (self.axis,)
        return sorted(axis % ndim for axis in given)

    def weight_shapes(self, input_shape: BatchShape) -> dict[str, tuple[int, ...]]:
        """mean and variance (the sizes of the axes), and count ()."""
        if self.mean is not None:
            return {}
        sizes = [input_shape[axis] for axis in self._axes(len(input_shape))]
        if None in sizes:
            raise ValueError(f"input_shape of {self.name} must be known along axis={self.axis}, got {input_shape}")
        shape = tuple(int(size) for size in sizes if size is not None)
        return {"mean": shape, "variance": shape, "count": ()}

    def call(self, x: np.ndarray, mask: Any = None) -> np.ndarray:
        """The input, normalised."""
        kept = self._axes(x.ndim)
        shape = [size if axis in kept else 1 for axis, size in enumerate(x.shape)]
        given = (self.mean, self.variance) if self.mean is not None else (self._own["mean"], self._own["variance"])
        mean, variance = (np.broadcast_to(np.asarray(one, x.dtype), [x.shape[a] for a in kept]) for one in given)
        mean, deviation = mean.reshape(shape), np.sqrt(variance).reshape(shape)
        if self.invert:
            return mean + x * np.maximum(deviation, x.dtype.type(1e-7))
        return (x - mean) / np.maximum(deviation, x.dtype.type(1e-7))
