"""Keras's Dense and Embedding layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...arrays.arguments import as_array
from ...nn.linear import Linear
from ..initializers import Initializer
from .activations import activation as named_activation
from .activations import apply
from .arguments import converted, positive
from .base import BatchShape, Layer, features


class Dense(Layer):
    """Keras's Dense layer, computed by :class:`cylstm.Linear` and an activation.

    Parameters
    ----------
    units : int
    activation : str, optional
        A name of Keras's.
    use_bias : bool
    kernel_initializer, bias_initializer : str or callable
    **options
        As for `Layer`.
    """

    _arguments = ("units", "activation", "use_bias")
    linear: Linear
    _kinds = ("kernel", "bias")

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        **options: Any,
    ) -> None:
        super().__init__(kernel_initializer=kernel_initializer, bias_initializer=bias_initializer, **options)
        self.units, self.use_bias = positive(units), bool(use_bias)
        self.activation = named_activation(activation)

    def weight_shapes(self, input_shape: BatchShape) -> dict[str, tuple[int, ...]]:
        """kernel (features, units) and bias (units,)."""
        shapes: dict[str, tuple[int, ...]] = {"kernel": (features(self, input_shape), self.units)}
        return shapes | ({"bias": (self.units,)} if self.use_bias else {})

    def _keep(self, arrays: dict[str, np.ndarray]) -> None:
        parameters = {"weight": converted(arrays["kernel"], self.dtype, "kernel").T}
        if self.use_bias:
            parameters["bias"] = converted(arrays["bias"], self.dtype, "bias")
        if self.built:
            self.linear.load_state_dict(parameters)
        else:
            size = arrays["kernel"].shape[0]
            copies = {name: array.copy() for name, array in parameters.items()}
            self.linear = Linear._of(
                copies, in_features=size, out_features=self.units, bias=self.use_bias, dtype=self.dtype
            )

    def _kept(self) -> dict[str, np.ndarray]:
        arrays = self.linear.state_dict()
        return {"kernel": arrays["weight"].T} | ({"bias": arrays["bias"]} if self.use_bias else {})

    def compute_output_shape(self, input_shape: BatchShape) -> BatchShape:
        """(..., units)."""
        shape = (*input_shape[:-1], self.units)
        return shape if self.activation != "glu" else (*shape[:-1], self.units // 2)

    def call(self, x: np.ndarray, mask: Any = None) -> np.ndarray:
        """Apply the layer to the last dimension, (..., features) → (..., units). A mask changes nothing."""
        return apply(self.activation, self.linear(x))


class Embedding(Layer):
    """Keras's Embedding: a row of a table for each index.

    Parameters
    ----------
    input_dim : int
        The number of rows.
    output_dim : int
        Their size.
    embeddings_initializer : str or callable
    mask_zero : bool
        Whether the index 0 stands for no step at all: layers behind it skip it.
    **options
        As for `Layer`.
    """

    _arguments = ("input_dim", "output_dim", "mask_zero")
    _kinds = ("embeddings",)
    _nothing = (("sparse", (False,)),)

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        embeddings_initializer: Initializer = "uniform",
        mask_zero: bool = False,
        *,
        input_length: Any = None,
        **options: Any,
    ) -> None:
        if input_length is not None and options.get("input_shape") is None:
            length = input_length if isinstance(input_length, list | tuple) else (input_length,)
            options["input_shape"] = tuple(length)
        super().__init__(embeddings_initializer=embeddings_initializer, **options)
        self.input_dim, self.output_dim = positive(input_dim, "input_dim"), positive(output_dim, "output_dim")
        self.mask_zero = self.supports_masking = bool(mask_zero)

    def weight_shapes(self, input_shape: BatchShape) -> dict[str, tuple[int, ...]]:
        """embeddings (input_dim, output_dim)."""
        return {"embeddings": (self.input_dim, self.output_dim)}

    def compute_output_shape(self, input_shape: BatchShape) -> BatchShape:
        """(..., output_dim)."""
        return (*input_shape, self.output_dim)

    def compute_mask(self, x: np.ndarray, mask: Any = None) -> np.ndarray | None:
        """False where the index is 0."""
        return x != 0 if self.mask_zero else None

    def _entered(self, x: Any) -> np.ndarray:
        x = as_array(x, "x")
        if x.dtype.kind not in "biuf":
            raise TypeError(f"x must be of indices, for {self.name}, got {x.dtype}")
        if not self.built:
            self.build(x.shape)
        return x

    def call(self, x: np.ndarray, mask: Any = None) -> np.ndarray:
        """The rows of the table, (...) → (..., output_dim). Fractions of an index are cut off.

        Raises
        ------
        ValueError
            If an index is not among the rows.
        """
        if not np.all((x > -1) & (x < self.input_dim)):  # not a number is refused, too
            raise ValueError(
                f"x must be of indices from 0 to {self.input_dim - 1}, the rows of {self.name}, got others"
            )
        return self._own["embeddings"][x.astype(np.intp)]
