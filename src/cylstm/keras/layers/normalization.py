"""Keras's BatchNormalization, LayerNormalization and UnitNormalization."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...arrays.arithmetic import widened
from ..initializers import Initializer
from .base import BatchShape, Layer


def sizes_along(layer: Layer, axes: list[int], input_shape: BatchShape) -> tuple[int, ...]:
    """The sizes along these axes, which must be known."""
    if any(not -len(input_shape) <= axis < len(input_shape) for axis in axes):
        raise ValueError(f"axis of {layer.name} must be among those of the input, {input_shape}, got {axes}")
    sizes = [input_shape[axis] for axis in axes]
    if None in sizes:
        raise ValueError(f"input_shape of {layer.name} must be known along the axes {axes}, got {input_shape}")
    return tuple(int(size) for size in sizes if size is not None)


def axes_of(axis: Any) -> list[int]:
    """The axes as a list; versions of Keras write one as a number or as a list."""
    return [int(one) for one in axis] if isinstance(axis, list | tuple) else [int(axis)]


class BatchNormalization(Layer):
    """(x - moving_mean) / sqrt(moving_variance + epsilon) * gamma + beta, as always in inference.

    Parameters
    ----------
    axis : int
        The axis of the features.
    momentum : float
        Plays no part in inference.
    epsilon : float
    center, scale : bool
        Whether there is a beta, and a gamma.
    beta_initializer, gamma_initializer, moving_mean_initializer, moving_variance_initializer : str or callable
    **options
        As for `Layer`.
    """

    _arguments = ("axis", "momentum", "epsilon", "center", "scale")
    _kinds = ("beta", "gamma", "moving_mean", "moving_variance")
    _of_training = ("renorm_clipping", "renorm_momentum", "synchronized", "fused")
    _nothing = (("renorm", (False,)), ("virtual_batch_size", (None,)), ("adjustment", (None,)))

    def __init__(
        self,
        axis: Any = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Initializer = "zeros",
        gamma_initializer: Initializer = "ones",
        moving_mean_initializer: Initializer = "zeros",
        moving_variance_initializer: Initializer = "ones",
        **options: Any,
    ) -> None:
        options |= {"beta_initializer": beta_initializer, "gamma_initializer": gamma_initializer}
        options["moving_mean_initializer"] = moving_mean_initializer
        super().__init__(moving_variance_initializer=moving_variance_initializer, **options)
        axes = axes_of(axis)
        if len(axes) != 1:
            raise ValueError(f"axis must be one, got {axis}: use Keras for several")
        self.axis, self.momentum, self.epsilon = axes[0], momentum, epsilon
        self.center, self.scale = bool(center), bool(scale)

    def weight_shapes(self, input_shape: BatchShape) -> dict[str, tuple[int, ...]]:
        """gamma, beta, moving_mean and moving_variance (features,)."""
        shape = sizes_along(self, [self.axis], input_shape)
        names = ["gamma"] * self.scale + ["beta"] * self.center + ["moving_mean", "moving_variance"]
        return dict.fromkeys(names, shape)

    def call(self, x: np.ndarray, mask: Any = None) -> np.ndarray:
        """The input, normalised."""
        shape = [1] * x.ndim
        shape[self.axis] = -1
        own = {name: widened(array).reshape(shape) for name, array in self._own.items()}
        factor = 1 / np.sqrt(own["moving_variance"] + self.epsilon)
        if self.scale:
            factor = factor * own["gamma"]
        y = (widened(x) - own["moving_mean"]) * factor
        return (y + own["beta"] if self.center else y).astype(x.dtype, copy=False)


class LayerNormalization(Layer):
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta, with the mean and variance of each row.

    Parameters
    ----------
    axis : int or list of int
        The axes of a row.
    epsilon : float
    center, scale : bool
        Whether there is a beta, and a gamma.
    beta_initializer, gamma_initializer : str or callable
    **options
        As for `Layer`.
    """

    _arguments = ("axis", "epsilon", "center", "scale")
    _kinds = ("beta", "gamma")
    _nothing = (("rms_scaling", (False,)),)

    def __init__(
        self,
        axis: Any = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Initializer = "zeros",
        gamma_initializer: Initializer = "ones",
        **options: Any,
    ) -> None:
        super().__init__(beta_initializer=beta_initializer, gamma_initializer=gamma_initializer, **options)
        self.axis, self.epsilon = axis, epsilon
        self.center, self.scale = bool(center), bool(scale)

    def weight_shapes(self, input_shape: BatchShape) -> dict[str, tuple[int, ...]]:
        """gamma and beta, of the sizes of the axes."""
        shape = sizes_along(self, axes_of(self.axis), input_shape)
        return dict.fromkeys(["gamma"] * self.scale + ["beta"] * self.center, shape)

    def call(self, x: np.ndarray, mask: Any = None) -> np.ndarray:
        """The input, normalised."""
        axes = tuple(axis % x.ndim for axis in axes_of(self.axis))
        shape = [size if axis in axes else 1 for axis, size in enumerate(x.shape)]
        wide = widened(x)
        mean = wide.mean(axis=axes, keepdims=True)
        variance = ((wide - mean) ** 2).mean(axis=axes, keepdims=True)
        y = (wide - mean) / np.sqrt(variance + wide.dtype.type(self.epsilon))
        if self.scale:
            y = y * widened(self._own["gamma"]).reshape(shape)
        return (y + widened(self._own["beta"]).reshape(shape) if self.center else y).astype(x.dtype, copy=False)


class UnitNormalization(Layer):
    """Each row divided by its length.

    Parameters
    ----------
    axis : int or list of int
    **options
        As for `Layer`.
    """

    _arguments = ("axis",)

    def __init__(self, axis: Any = -1, **options: Any) -> None:
        super().__init__(**options)
        self.axis = axis

    def call(self, x: np.ndarray, mask: Any = None) -> np.ndarray:
        """The input, normalised."""
        squares = (widened(x) ** 2).sum(axis=tuple(axes_of(self.axis)), keepdims=True)
        return (widened(x) / np.maximum(np.sqrt(squares), math.sqrt(1e-12))).astype(x.dtype, copy=False)
