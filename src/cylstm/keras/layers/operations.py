"""Operations between layers, as Functional models of Keras 3 have them: ``x[:, -1]``, ``x + y``, a mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...words import error_text, quoted
from . import activations
from .arguments import converted
from .base import BatchShape, Layer
from .merging import Concatenate


def _axis(axis: Any) -> Any:
    return tuple(axis) if isinstance(axis, list) else axis


def _key(value: Any) -> Any:
    """An index as NumPy takes it; only numbers and slices, which make a view."""
    if isinstance(value, Mapping):
        config = value.get("config", {})
        if value.get("class_name") == "__slice__" or set(value) == {"start", "stop", "step"}:
            config = config or value  # of TensorFlow
            return slice(config.get("start"), config.get("stop"), config.get("step"))
        if value.get("class_name") == "__ellipsis__":
            return Ellipsis
    if isinstance(value, list | tuple) and not any(isinstance(one, list | tuple) for one in value):
        return tuple(_key(one) for one in value)
    if isinstance(value, bool) or not isinstance(value, int | None):
        raise TypeError(f"an index must be of numbers and slices, got {quoted(value)}")
    return value


#: Of two arrays or numbers.
_BINARY: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "Subtract": np.subtract,
    "Multiply": np.multiply,
    "Divide": np.divide,
    "TrueDivide": np.divide,
    "Maximum": np.maximum,
    "Minimum": np.minimum,
    "NotEqual": np.not_equal,
    "LogicalAnd": np.logical_and,
    "LogicalOr": np.logical_or,
}
#: Those that Keras keeps in its module ``nn``.
_OF_NN = frozenset(["Sigmoid", "Relu", "Softplus", "Silu", "Softsign", "Elu", "Selu", "Gelu", "Softmax"])
#: Of one array, number by number.
_UNARY: dict[str, Callable[..., Any]] = {
    "Negative": np.negative,
    "Absolute": np.abs,
    "Square": np.square,
    "Sqrt": np.sqrt,
    "Exp": np.exp,
    "LogicalNot": np.logical_not,
    "ZerosLike": np.zeros_like,
    "OnesLike": np.ones_like,
    **{
        kind: activations.ACTIVATIONS[name]
        for kind, name in (
            *(("Tanh", "tanh"), ("Sigmoid", "sigmoid"), ("Relu", "relu"), ("Softplus", "softplus"), ("Silu", "silu")),
            *(("Softsign", "softsign"), ("Elu", "elu"), ("Selu", "selu"), ("Gelu", "gelu"), ("Softmax", "softmax")),
        )
    },
}
#: Of one array along axes, which go.
_REDUCING: dict[str, Callable[..., Any]] = {"Mean": np.mean, "Sum": np.sum, "Max": np.max, "Min": np.min, "Any": np.any}
#: Of one array, the numbers of which are only seen otherwise.
_VIEWING: dict[str, Callable[..., Any]] = {
    "GetItem": lambda x, key: x[_key(key)],
    "ExpandDims": lambda x, axis: np.expand_dims(x, _axis(axis)),
    "Squeeze": lambda x, axis=None: np.squeeze(x, _axis(axis)),
    "Transpose": lambda x, axes=None: np.transpose(x, axes),
}

#: Of a list of arrays.
_JOINING: dict[str, Callable[..., Any]] = {"Concatenate": np.concatenate}

#: By the names of their classes in Keras.
OPERATIONS = _BINARY | _UNARY | _REDUCING | _VIEWING | _JOINING


class Operation(Layer):
    """One of :data:`OPERATIONS`. Input is the list of its arguments, arrays and numbers.

    Parameters
    ----------
    kind : str
    options : mapping
        Further arguments.
    name : str, optional
    """

    supports_masking = False

    def __init__(self, kind: str, options: Mapping[str, Any], name: str | None = None) -> None:
        super().__init__(name=name)
        self.kind, self.built = kind, True
        self.options = {option: value for option, value in options.items() if value is not None or option != "initial"}

    def _entered(self, x: Any) -> list[Any]:
        def taken(value: Any) -> Any:
            if isinstance(value, list) and any(isinstance(one, np.ndarray) for one in value):
                return [taken(one) for one in value]
            return converted(value, self.dtype, "x") if isinstance(value, np.ndarray) and value.dtype != bool else value

        return [taken(value) for value in (x if isinstance(x, list) else [x])]

    def call(self, x: list[Any], mask: Any = None) -> np.ndarray:
        """What the operation makes of them."""
        y = self._tried(*x)
        return y if y.dtype == bool else y.astype(self.dtype, copy=False)

    def _tried(self, *arguments: Any) -> Any:
        options = {name: _axis(value) for name, value in self.options.items()}
        try:
            return OPERATIONS[self.kind](*arguments, **options)
        except (TypeError, IndexError, ValueError) as error:
            got = error_text(error)
            raise ValueError(f"the input of {self.name}, a {self.kind}, must fit it, got {got}") from error

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape for arguments of these shapes, among which there may be numbers. No array of it is made."""
        arguments = input_shape if isinstance(input_shape, list) else [input_shape]
        shapes = [one for one in arguments if isinstance(one, tuple)]
        if self.kind in _BINARY:
            return self._broadcast(shapes)
        if self.kind in _JOINING:
            return Concatenate(self.options.get("axis", -1), name=self.name).compute_output_shape(arguments[0])
        [shape] = shapes
        if self.kind in _UNARY:
            return shape
        if self.kind in _REDUCING:
            axis = _axis(self.options.get("axis"))
            axes = range(len(shape)) if axis is None else [axis] if isinstance(axis, int) else axis
            gone = {one % len(shape) for one in axes}
            keep = self.options.get("keepdims")
            return tuple(1 if n in gone else size for n, size in enumerate(shape) if keep or n not in gone)
        # A size that is not known is tried with two numbers; the array has one number that is seen everywhere.
        views = [np.broadcast_to(np.float32(0), [n if size is None else size for size in shape]) for n in (97, 101)]
        first, second = (self._tried(view, *arguments[1:]).shape for view in views)
        return tuple(one if one == other else None for one, other in zip(first, second, strict=True))

    def _broadcast(self, shapes: Sequence[BatchShape]) -> BatchShape:
        ndim = max(len(shape) for shape in shapes)
        sizes = zip(*[(*[1] * (ndim - len(shape)), *shape) for shape in shapes], strict=True)
        common: list[int | None] = []
        for along in sizes:
            there = set(along) - {1}
            if len(there - {None}) > 1:
                raise ValueError(f"inputs of {self.name} must have shapes that fit each other, got {list(shapes)}")
            common.append(next(iter(there - {None}), None if there else 1))
        return tuple(common)

    def described(self) -> dict[str, Any]:
        """The operation as Keras's configurations have it."""
        module = "nn" if self.kind in _OF_NN else "numpy"
        config = {"name": self.name} | self.options
        return {
            "module": f"keras.src.ops.{module}",
            "class_name": self.kind,
            "config": config,
            "registered_name": self.kind,
        }
