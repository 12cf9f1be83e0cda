"""What all layers have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ...arrays.arguments import as_dtype
from ...files.names import either
from ...words import quoted
from ..files.contents import OWN, snake_case
from ..initializers import initializer
from .arguments import checked_weights, converted

#: Of input and output: the batch first, None where any size will do.
BatchShape = tuple[int | None, ...]

#: Options of every layer that play no part in inference.
_OF_TRAINING = ("trainable", "activity_regularizer")
#: Options of every layer that are not computed, and the values that ask for nothing.
_NOTHING: dict[str, tuple[Any, ...]] = {"lora_rank": (None,), "lora_alpha": (None,), "quantization_config": (None,)}
#: The same of layers that know where the features are.
CHANNELS_LAST = (("data_format", (None, "channels_last")),)


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


class Layer:
    """What all layers have in common.

    Parameters
    ----------
    name : str, optional
    dtype : dtype, optional
        Of the weights; input is converted to it.
    input_shape : tuple, optional
        (T, I), for the first layer of a `Sequential`; ``batch_shape`` or ``batch_input_shape`` has the batch too,
        ``input_dim`` is (I,).
    weights : sequence of arrays, optional
        What the weights begin with, instead of random numbers.
    **options
        Keras's other options. Those of training (regularisers, constraints, dropout …) are kept for `get_config` and
        change nothing.

    Attributes
    ----------
    name : str
        By default the class's in lower case; a model numbers its layers.
    built : bool
        Whether the weights are there: since the first call, or since the model knows its input's shape.
    """

    #: Arguments of the constructor that are attributes of the same names, and options in a configuration.
    _arguments: ClassVar[tuple[str, ...]] = ()
    #: Names of weights as the names of options have them: each may have an initialiser, a regulariser, a constraint.
    _kinds: ClassVar[tuple[str, ...]] = ()
    #: Further options that play no part in inference.
    _of_training: ClassVar[tuple[str, ...]] = ()
    #: Further options that are not computed, and the values that ask for nothing.
    _nothing: ClassVar[Sequence[tuple[str, tuple[Any, ...]]]] = ()
    #: The dimensions that input may have; any where empty.
    _dimensions: tuple[int, ...] = ()
    #: Whether a mask goes on to the next layer.
    supports_masking: bool = True
    #: Whether a mask changes what is computed.
    _reads_mask: ClassVar[bool] = False

    def __init__(
        self,
        *,
        name: str | None = None,
        dtype: Any = None,
        input_shape: Any = None,
        batch_input_shape: Any = None,
        batch_shape: Any = None,
        input_dim: Any = None,
        weights: Sequence[Any] | None = None,
        **options: Any,
    ) -> None:
        nothing = _NOTHING | dict(self._nothing)
        regular = [f"{kind}_{of}" for kind in self._kinds for of in ("regularizer", "constraint")]
        of_training = (*_OF_TRAINING, *self._of_training, *regular)
        initializers = [f"{kind}_initializer" for kind in self._kinds]
        for option, value in options.items():
            if option in nothing:
                if not any(value is one or np.array_equal(value, one) for one in nothing[option]):
                    raise ValueError(
                        f"{option} must be {either(map(repr, nothing[option]))}, got {quoted(value)}: leave it out, "
                        "or use "
                        "Keras"
                    )
            elif option not in (*of_training, *initializers):
                known = ["name", "dtype", "input_shape", "batch_shape", "weights", *self._arguments]
                known += [*initializers, *of_training, *nothing]
                raise TypeError(
                    f"options of {type(self).__name__} must be among {', '.join(known)}, got {quoted(option)}"
                )
            elif option in initializers:
                initializer(value)  # which it must be
        self.name = name or snake_case(type(self).__name__)
        self._named = name is not None
        if batch_shape is not None or batch_input_shape is not None:
            input_shape = (batch_input_shape if batch_shape is None else batch_shape)[1:]
        if input_dim is not None and input_shape is None:
            input_shape = (input_dim,)
        self._input_shape = None if input_shape is None else tuple(input_shape)
        self.dtype = as_dtype(dtype)
        self.built = False
        self._options = {option: value for option, value in options.items() if option not in nothing}
        self._given: Any = weights
        self._own: dict[str, np.ndarray] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name}, built={self.built}>"

    # The weights

    def weight_shapes(self, input_shape: Any) -> dict[str, tuple[int, ...]]:
        """The shapes of the layer's own weights by name, in Keras's order, for input of this shape."""
        return {}

    def build(self, input_shape: Any, weights: Iterator[np.ndarray] | None = None) -> None:
        """Make the weights for input of this shape, batch included: drawn, or taken from the iterator.

        Raises
        ------
        ValueError
            If the layer does not take input of this shape, or a weight has another shape than it must have.
        """
        self._check_dimensions(input_shape)
        shapes = self.weight_shapes(input_shape)
        given = self._given_weights() if weights is None and shapes else weights
        if given is None:
            self._keep({name: np.asarray(self._drawn(name, shape)) for name, shape in shapes.items()})
        else:
            self._keep(self._taken(given, shapes))
            if weights is None:
                self._check_all_taken(given)
        self.built = True

    def give(self, weights: Sequence[Any] | Callable[[], Sequence[Any]]) -> None:
        """Let these be the weights, or what the function returns, once the layer is built."""
        self._given = weights

    def _given_weights(self) -> Iterator[np.ndarray] | None:
        """What the weights begin with, if anything was given."""
        given, self._given = self._given, None
        given = given() if callable(given) else given
        return None if given is None else iter([np.asarray(one) for one in given])

    def _check_all_taken(self, weights: Iterator[np.ndarray] | None) -> None:
        if weights is not None and (left := len(list(weights))):
            raise ValueError(f"weights of {self.name} must be {len(self.weights)} arrays, got {left} more")

    def _taken(self, weights: Iterator[np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        taken = {}
        for name, shape in shapes.items():
            array = next(weights, None)
            if array is None or array.shape != shape:
                got = "none" if array is None else array.shape
                raise ValueError(f"{name} of {self.name} must have the shape {shape}, got {got}")
            taken[name] = array
        return taken

    def _drawn(self, name: str, shape: tuple[int, ...]) -> Any:
        return initializer(self._options[f"{name}_initializer"])(shape, dtype=self.dtype)

    def _keep(self, arrays: dict[str, np.ndarray]) -> None:
        """Let these be the layer's own weights."""
        self._own = {name: converted(array, self.dtype, name).copy() for name, array in arrays.items()}
        for array in self._own.values():
            array.flags.writeable = False

    def _kept(self) -> dict[str, np.ndarray]:
        """The layer's own weights by name."""
        return self._own

    def inner_layers(self) -> dict[str, Layer]:
        """The layers inside this one by the paths of their groups in Keras's files."""
        return {}

    def parts(self) -> dict[str, list[np.ndarray]]:
        """The weights by the paths of their groups in Keras's files."""
        own = list(self._kept().values())
        parts = {OWN: own} if own else {}
        for path, layer in self.inner_layers().items():
            parts |= {f"{path}/{part}".rstrip("/"): arrays for part, arrays in layer.parts().items()}
        return parts

    @property
    def weights(self) -> list[Variable]:
        """The weights with their names in Keras."""
        if not self.built:
            return []
        own = [Variable(name, f"{self.name}/{name}", array) for name, array in self._kept().items()]
        inner = [one for layer in self.inner_layers().values() for one in layer.weights]
        return own + [one._replace(path=f"{self.name}/{one.path}") for one in inner]

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
        self._replace(iter(checked_weights(self, weights, [one.value for one in self.weights])))

    def _replace(self, arrays: Iterator[np.ndarray]) -> None:
        if own := list(self._kept()):
            self._keep({name: next(arrays) for name in own})
        for layer in self.inner_layers().values():
            layer._replace(arrays)

    def count_params(self) -> int:
        """The number of weights."""
        return sum(variable.value.size for variable in self.weights)

    # The shapes, masks and numbers

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of what a call returns for input of this shape, both with the batch."""
        return input_shape

    def compute_mask(self, x: Any, mask: Any = None) -> Any:
        """The mask for the next layer."""
        return mask if self.supports_masking else None

    def call(self, x: Any, mask: Any = None) -> Any:
        """What the layer makes of input that was checked."""
        raise NotImplementedError

    def run(self, x: Any, mask: Any = None) -> tuple[Any, Any]:
        """The output, and the mask that goes with it."""
        x = self._entered(x)
        return self.call(x, mask), self.compute_mask(x, mask)

    def __call__(self, x: Any, *, mask: Any = None) -> Any:
        """Apply the layer, and build it before where it is not."""
        return self.call(self._entered(x), mask)

    def _entered(self, x: Any) -> Any:
        """The input in the layer's dtype; the layer is built."""
        x = converted(x, self.dtype, "x")
        self._check_dimensions(x.shape)
        if not self.built:
            self.build(x.shape)
        return x

    def _check_dimensions(self, shape: Any) -> None:
        if self._dimensions and len(shape) not in self._dimensions:
            axes = "(batch, steps, features), " if self._dimensions == (3,) else ""
            raise ValueError(
                f"x must have {either(map(str, self._dimensions))} dimensions, {axes}for {self.name}, got {shape}"
            )

    # What it is

    def get_config(self) -> dict[str, Any]:
        """The arguments that make a layer like this one, by their names in Keras."""
        config: dict[str, Any] = {"name": self.name, "dtype": self.dtype.name}
        for name in self._arguments:
            value = getattr(self, name)
            config[name] = np.asarray(value).tolist() if isinstance(value, tuple) or hasattr(value, "shape") else value
        return config | {option: value for option, value in self._options.items() if not callable(value)}

    def described(self) -> dict[str, Any]:
        """The layer as Keras's configurations have it."""
        return of_keras(type(self).__name__, self.get_config())


def _is_size(value: Any) -> bool:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return value is None or (whole and bool(value >= 0))


class InputLayer(Layer):
    """The shape of a model's input, without the batch; the first entry of a `Sequential`.

    Parameters
    ----------
    shape : tuple of int or None
        (T, I); None where any size will do.
    batch_size : int, optional
    name : str, optional
    """

    _nothing = (("sparse", (False, None)), ("ragged", (False, None)), ("optional", (False, None)))

    def __init__(
        self,
        shape: Sequence[int | None] | None = None,
        batch_size: int | None = None,
        name: str | None = None,
        *,
        batch_shape: Sequence[int | None] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name=name or "input_layer", **options)
        self._named = name is not None
        if (shape is None) == (batch_shape is None):
            raise ValueError("shape or batch_shape must be given, got neither or both: give shape=(T, I)")
        given = batch_shape if shape is None else shape
        if not isinstance(given, tuple | list) or not all(map(_is_size, (batch_size, *given))):
            sizes = "None or a number that is not negative"
            raise ValueError(
                f"shape must be a tuple, each entry {sizes}, got {quoted(given)} and batch_size={quoted(batch_size)}"
            )
        self.batch_shape: BatchShape = tuple(given) if shape is None else (batch_size, *given)
        self.built = True

    def __repr__(self) -> str:
        return f"<Input name={self.name}, shape={self.batch_shape}>"

    def run(self, x: Any, mask: Any = None) -> tuple[Any, Any]:
        """The input as it is."""
        return x, mask

    def get_config(self) -> dict[str, Any]:
        """The shape, and the name."""
        return {"batch_shape": list(self.batch_shape), "dtype": self.dtype.name, "name": self.name}


#: Keras's name of what makes an :class:`InputLayer`.
Input = InputLayer


class Recurrent(Layer):
    """What layers with a state have in common."""

    return_sequences: bool
    return_state: bool
    stateful: bool
    _reads_mask = True

    def reset_state(self) -> None:
        """Let the next call begin at zero."""
        for layer in self.inner_layers().values():
            if isinstance(layer, Recurrent):
                layer.reset_state()

    def reset_states(self) -> None:
        """:meth:`reset_state`, by its older name."""
        self.reset_state()


def features(layer: Layer, input_shape: Any) -> int:
    """The size of the last dimension, which must be known."""
    if not input_shape or input_shape[-1] is None:
        raise ValueError(f"input_shape of {layer.name} must end in the number of features, got {input_shape}")
    return int(input_shape[-1])


def of_keras(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    """A layer of Keras's, as its configurations have it."""
    return {"module": "keras.layers", "class_name": kind, "config": config, "registered_name": None}
