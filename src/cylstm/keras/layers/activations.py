"""Keras's activations by name. Definitions: https://keras.io/api/layers/activations/"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...arrays.activations import ACTIVATIONS as ELEMENTS
from ...arrays.activations import Activation as Element
from ...arrays.arithmetic import sigmoid
from ...files.names import either
from ...words import quoted

Function = Callable[..., np.ndarray]

#: `hard_sigmoid` of Keras before version 3; that of Keras 3 is x / 6 + 1 / 2.
HARD_SIGMOID_OF_KERAS_2 = ("hard_sigmoid", 0.2, 0.5)
#: Packages whose functions do what their names say.
_KNOWN_PACKAGES = {"keras", "tf_keras", "tensorflow", "torch", "jax", "numpy"}


def relu(x: np.ndarray, negative_slope: float = 0.0, max_value: float | None = None, threshold: float = 0.0) -> Any:
    """x where it is over the threshold, at most max_value; below, the slope times the distance to the threshold."""
    y = np.where(x > threshold, x, x.dtype.type(0)) if threshold else np.maximum(x, 0)
    if max_value is not None:
        y = np.clip(y, 0, max_value)
    return y - negative_slope * np.maximum(threshold - x, 0) if negative_slope else y


def softmax(x: np.ndarray, axis: int | tuple[int, ...] = -1) -> np.ndarray:
    """exp(x) / sum(exp(x))."""
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def gelu(x: np.ndarray, approximate: bool = False) -> np.ndarray:
    """x * P(X <= x) for X of the standard normal distribution."""
    if approximate:
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return Element("gelu").value(x)


def glu(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """The first half times the sigmoid of the second."""
    first, second = np.split(x, 2, axis=axis)
    return first * sigmoid(second)


def log_softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """log(softmax(x))."""
    y = x - x.max(axis=axis, keepdims=True)
    return y - np.log(np.exp(y).sum(axis=axis, keepdims=True))


def _element(name: str, *numbers: float) -> Function:
    """An activation of :mod:`cylstm.arrays.activations`; these numbers are what it takes by default."""

    def computed(x: np.ndarray, *given: float) -> np.ndarray:
        return Element(name, *(*given, *numbers[len(given) :])).value(x)

    return computed


#: Keras's names of what :mod:`cylstm.arrays.activations` has under another, or with other numbers by default.
_OTHERWISE: dict[str, tuple[Any, ...]] = {
    "hard_sigmoid": ("hard_sigmoid", 1 / 6, 0.5),
    "sparse_sigmoid": ("hard_sigmoid", 0.5, 0.5),
    "leaky_relu": ("leaky_relu", 0.2),
    "swish": ("silu",),
    "hard_swish": ("hard_silu",),
}
_NOT_KERAS = {"affine", "scaled_tanh", "thresholded_relu"}

#: By Keras's names.
ACTIVATIONS: dict[str, Function] = {
    **{name: _element(name, *one.defaults) for name, one in ELEMENTS.items() if name not in _NOT_KERAS},
    **{name: _element(*one) for name, one in _OTHERWISE.items()},
    "linear": lambda x: x,
    "relu": relu,
    "gelu": gelu,
    "softmax": softmax,
    "log_softmax": log_softmax,
    "glu": glu,
}


#: What an activation is given as: a name, or (name, number ...), which are its further arguments in order.
Activation = str | tuple[Any, ...]


def activation(value: Any, name: str = "activation") -> Activation:
    """The name of an activation, which may be given as a function of Keras, or as a configuration has it.

    Raises
    ------
    ValueError
        If it is none that is computed.
    """
    found: Any = "linear" if value is None else value
    if isinstance(found, Mapping):  # of a configuration: a function, or a layer that stands as one
        found = _described(found)
    elif callable(found):
        module = str(getattr(found, "__module__", "") or type(found).__module__)
        found = getattr(found, "__name__", None) if module.partition(".")[0] in _KNOWN_PACKAGES else None
    elif isinstance(found, list):
        found = tuple(found)
    first = found[0] if isinstance(found, tuple) and found else found
    if not isinstance(first, str) or first not in ACTIVATIONS:
        raise ValueError(
            f"{name} must be {either(map(repr, ACTIVATIONS))}, got {quoted(value)}: use one of these, or Keras"
        )
    return "hard_sigmoid" if found == ("hard_sigmoid", 1 / 6, 0.5) else found


def apply(name: Activation, x: np.ndarray) -> np.ndarray:
    """The activation of this name, of the array."""
    if isinstance(name, str):
        return ACTIVATIONS[name](x)
    return ACTIVATIONS[name[0]](x, *name[1:])


def _described(config: Mapping[str, Any]) -> Any:
    kind, inner = config.get("class_name"), config.get("config")
    if kind == "function":
        own = config.get("module", "builtins") == "builtins" and config.get("registered_name", inner) in (None, inner)
        return inner if own else None
    if not isinstance(inner, Mapping):
        return None
    if kind == "LeakyReLU":
        return "leaky_relu", inner.get("negative_slope", inner.get("alpha", 0.3))
    if kind == "ELU":
        return "elu", inner.get("alpha", 1.0)
    if kind == "Softmax":
        return "softmax", inner.get("axis", -1)
    if kind == "ReLU":
        return "relu", inner.get("negative_slope", 0.0), inner.get("max_value"), inner.get("threshold", 0.0)
    return None


def of_lstm(name: Activation, option: str) -> Any:
    """The activation as :class:`cylstm.LSTM` spells it.

    Raises
    ------
    ValueError
        If it is none that an LSTM has here.
    """
    first, *numbers = (name,) if isinstance(name, str) else name
    if not numbers:
        first, *numbers = _OTHERWISE.get(first, (first,))
    if first == "relu" and numbers in ([0.0], [0.0, None], [0.0, None, 0.0]):
        numbers = []
    if first not in ELEMENTS or len(numbers) > ELEMENTS[first].parameters:
        raise ValueError(f"{option} must be one that an LSTM computes, got {quoted(name)}: use Keras")
    return (first, *numbers) if numbers else first
