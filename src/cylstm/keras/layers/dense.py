"""Keras's Dense layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from ...files.names import either
from ...nn.linear import Linear
from ..files.contents import OWN
from ..initializers import Initializer, initializer
from .arguments import checked_weights, positive
from .base import BatchShape, Layer, Variable


def _softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


class Dense(Layer):
    """Keras's Dense layer, computed by :class:`cylstm.Linear` and an activation.

    Parameters
    ----------
    units : int
    activation : {None, "linear", "softmax", "sigmoid", "relu", "tanh"}
    use_bias : bool
    kernel_initializer, bias_initializer, name, dtype, input_shape, **options
        As for `LSTM`.
    """

    _arguments = ("name", "units", "activation", "use_bias")
    _ACTIVATIONS: ClassVar[dict[str | None, Callable[[np.ndarray], np.ndarray]]] = {
        None: lambda x: x,
        "linear": lambda x: x,
        "softmax": _softmax,
        "sigmoid": lambda x: (np.tanh(x / 2) + 1) / 2,
        "relu": lambda x: np.maximum(x, 0),
        "tanh": np.tanh,
    }

    def __init__(
        self,
        units: int,
        activation: str | None = None,
        use_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        *,
        name: str | None = None,
        dtype: Any = None,
        input_shape: Sequence[int | None] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name=name, dtype=dtype, input_shape=input_shape, **options)
        if not isinstance(activation, str | None) or activation not in self._ACTIVATIONS:
            known = either(map(repr, self._ACTIVATIONS))
            raise ValueError(f"activation must be {known}, got {activation!r}: use one of these, or Keras")
        self.units, self.activation, self.use_bias = positive(units), activation, use_bias
        self._initializers = [initializer(kernel_initializer), initializer(bias_initializer)]

    def build(self, input_shape: BatchShape) -> None:
        """Draw the weights for input (..., features)."""
        if input_shape[-1] is None:
            raise ValueError(f"input_shape of {self.name} must end in the number of features, got {input_shape}")
        features = int(input_shape[-1])
        self.linear = Linear(features, self.units, bias=self.use_bias, dtype=self.dtype)
        self.built = True
        shapes = [(features, self.units), (self.units,)][: 2 if self.use_bias else 1]
        arrays = [make(shape, dtype=self.dtype) for make, shape in zip(self._initializers, shapes, strict=False)]
        self.set_weights(arrays)

    @property
    def weights(self) -> list[Variable]:
        """kernel (features, units) and bias (units,)."""
        if not self.built:
            return []
        arrays = self.linear.state_dict()
        names = {"kernel": arrays["weight"].T} | ({"bias": arrays["bias"]} if self.use_bias else {})
        return [Variable(name, f"{self.name}/{name}", array) for name, array in names.items()]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Replace kernel and bias."""
        kernel, *bias = checked_weights(self, weights, [one.value for one in self.weights])
        self.linear.load_state_dict({"weight": kernel.T} | ({"bias": bias[0]} if bias else {}))

    def parts(self) -> dict[str, list[np.ndarray]]:
        """The weights as they lie in Keras's files."""
        return {OWN: self.get_weights()}

    def output_shape(self, input_shape: BatchShape) -> BatchShape:
        """(..., units)."""
        return (*input_shape[:-1], self.units)

    def __call__(self, x: Any, mask: Any = None) -> np.ndarray:
        """Apply the layer to the last dimension, (..., features) → (..., units). A mask changes nothing."""
        x = self._enter(x)
        return self._ACTIVATIONS[self.activation](self.linear(x))
