"""What all layers have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ...arrays.arguments import as_dtype
from ...files.names import either
from ..files.contents import snake_case
from .arguments import checked_weights, converted

#: Of input and output: the batch first, None where any size will do.
BatchShape = tuple[int | None, ...]

#: Options of Keras's layers that are not computed here, and the values that ask for nothing.
_NOTHING: dict[str, tuple[Any, ...]] = {
    "dropout": (0,),
    "recurrent_dropout": (0,),
    "unroll": (False,),
    "use_cudnn": ("auto", False),
    "seed": (None,),
    "weights": (None,),
    "trainable": (True,),
    "lora_rank": (None,),
    "quantization_config": (None,),
    "activity_regularizer": (None,),
    **{f"{of}_{kind}": (None,) for of in ("kernel", "recurrent", "bias") for kind in ("regularizer", "constraint")},
}


class Variable(NamedTuple):
    """One array of weights."""

    name: str
    path: str
    value: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.value.shape

    def numpy(self) -> np.ndarray:
        """The array, which cannot be written to."""
        return self.value


class Input:
    """The shape of a model's input, without the batch; the first entry of a `Sequential`.

    Parameters
    ----------
    shape : tuple of int or None
        (T, I); None where any size will do.
    batch_size : int, optional
    name : str, optional
    """

    def __init__(self, shape: Sequence[int | None], batch_size: int | None = None, name: str | None = None) -> None:
        self.batch_shape: BatchShape = (batch_size, *shape)
        self.name = name or "input_layer"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name}, shape={self.batch_shape}>"


class Layer:
    """What all layers have in common.

    Attributes
    ----------
    name : str
        By default the class's in lower case; a `Sequential` numbers its layers.
    built : bool
        Whether the weights are there: since the first call, or since the model knows its input's shape.
    """

    #: Arguments that a configuration in a file may have.
    _arguments: ClassVar[tuple[str, ...]] = ("name",)

    def __init__(self, *, name: str | None = None, dtype: Any = None, input_shape: Any = None, **options: Any) -> None:
        for option, value in options.items():
            if option not in _NOTHING:
                raise TypeError(f"options must be among {', '.join(_NOTHING)}, got {option!r}")
            if not any(np.array_equal(value, nothing) for nothing in _NOTHING[option]):
                raise ValueError(
                    f"{option} must be {either(map(repr, _NOTHING[option]))}, got {value!r}: leave it out, or use Keras"
                )
        self.name = name or snake_case(type(self).__name__)
        self._named = name is not None
        self._input_shape = input_shape
        self.dtype = as_dtype(dtype)
        self.built = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name}, built={self.built}>"

    def build(self, input_shape: BatchShape) -> None:
        """Draw the weights for input of this shape, batch included."""
        self.built = True

    def output_shape(self, input_shape: BatchShape) -> Any:
        """The shape of what a call returns for input of this shape, both with the batch."""
        return input_shape

    def compute_mask(self, x: np.ndarray, mask: np.ndarray | None) -> np.ndarray | None:
        """The mask for the next layer."""
        return mask

    def parts(self) -> dict[str, list[np.ndarray]]:
        """The weights as they lie in Keras's files."""
        return {}

    @property
    def weights(self) -> list[Variable]:
        """The weights with their names in Keras."""
        return []

    def get_weights(self) -> list[np.ndarray]:
        """Copies of the weights, in Keras's layout and order."""
        return [variable.value.copy() for variable in self.weights]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Replace the weights.

        Raises
        ------
        ValueError
            If the layer has no weights yet, or their number or shapes differ. Nothing is replaced then.
        """
        checked_weights(self, weights, [])

    def count_params(self) -> int:
        """The number of weights."""
        return sum(variable.value.size for variable in self.weights)

    def __call__(self, x: Any, *, mask: Any = None) -> Any:
        """Apply the layer, and build it before where it is not."""
        raise NotImplementedError

    def _enter(self, x: Any, ndim: int | None = None) -> np.ndarray:
        """The input in the layer's dtype; the layer is built."""
        x = converted(x, self.dtype, "x")
        if ndim is not None and x.ndim != ndim:
            raise ValueError(f"x must have {ndim} dimensions, (batch, steps, features), for {self.name}, got {x.shape}")
        if not self.built:
            self.build(x.shape)
        return x


class Recurrent(Layer):
    """What `LSTM` and `Bidirectional` have in common."""

    return_sequences: bool
    return_state: bool

    def compute_mask(self, x: np.ndarray, mask: np.ndarray | None) -> np.ndarray | None:
        """The same mask, where there is an output per step."""
        return mask if self.return_sequences else None

    def reset_state(self) -> None:
        """Let the next call begin at zero."""
        raise NotImplementedError
