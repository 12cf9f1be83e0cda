"""Keras's shapes and names on :class:`cylstm.LSTM`, and Keras's files. For inference: there is no ``fit``.

Arrays are (B, T, features). The weights of an LSTM are kernel (I, 4H), recurrent_kernel (H, 4H) and bias (4H,), with
the gates in PyTorch's order i, f, c, o (c is PyTorch's g): transposed, and with one bias instead of two. Keras itself
is not needed; files need the package ``h5py``. Convention: https://keras.io/api/layers/recurrent_layers/lstm/
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from . import _keras_files as files
from ._arguments import as_array, as_dtype
from ._keras_files import BACKWARD, CELL, FORWARD, OWN, KerasFile, Stored
from .files import as_tensors
from .linear import Linear
from .lstm import LSTM as Module
from .packed import pack_padded_sequence, pad_packed_sequence
from .progress import Progress
from .random import randn, uniform
from .tensor_files import Contents, Tensor

__all__ = [
    "LSTM",
    "Bidirectional",
    "Dense",
    "Dropout",
    "Input",
    "Masking",
    "Sequential",
    "from_lstm",
    "load_model",
    "save",
]

Shape = tuple[int | None, ...]
Initializer = str | Callable[..., Any]

#: Options of Keras's layers that are not computed here, and the values that ask for nothing.
_NOTHING: dict[str, tuple[Any, ...]] = {
    "dropout": (0, 0.0),
    "recurrent_dropout": (0, 0.0),
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
        self.batch_shape: Shape = (batch_size, *shape)
        self.name = name or "input_layer"


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
                raise TypeError(f"{type(self).__name__} has no option {option!r}")
            if not any(value is nothing or value == nothing for nothing in _NOTHING[option]):
                raise ValueError(f"{option}={value!r} is not computed by cylstm: leave it out, or use Keras")
        self.name = name or files.snake_case(type(self).__name__)
        self._named = name is not None
        self._input_shape = input_shape
        self.dtype = as_dtype(dtype)
        self.built = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name}, built={self.built}>"

    def build(self, input_shape: Shape) -> None:
        """Draw the weights for input of this shape, batch included."""
        self.built = True

    def output_shape(self, input_shape: Shape) -> Any:
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
        _check_weights(self, weights, [])

    def count_params(self) -> int:
        """The number of weights."""
        return sum(variable.value.size for variable in self.weights)

    def __call__(self, x: Any, *, mask: Any = None) -> Any:
        """Apply the layer, and build it before where it is not."""
        raise NotImplementedError

    def _enter(self, x: Any, ndim: int | None = None) -> np.ndarray:
        """The input in the layer's dtype; the layer is built."""
        x = as_array(x, "x").astype(self.dtype, copy=False)
        if ndim is not None and x.ndim != ndim:
            raise ValueError(f"{self.name} takes {ndim} dimensions, (batch, steps, features); got the shape {x.shape}")
        if not self.built:
            self.build(x.shape)
        return x


class LSTM(Layer):
    """Keras's LSTM layer, computed by :class:`cylstm.LSTM`.

    Parameters
    ----------
    units : int
        H, the size of the state.
    activation, recurrent_activation : str
        ``"tanh"`` and ``"sigmoid"``: nothing else is computed.
    use_bias : bool
    kernel_initializer, recurrent_initializer, bias_initializer : str or callable
        A name of Keras's, or ``f(shape, dtype=...)``.
    unit_forget_bias : bool
        Whether the bias of the forget gate begins at one.
    return_sequences : bool
        Whether the output of every step is returned, (B, T, H), or that of the last, (B, H).
    return_state : bool
        Whether h and c, (B, H) each, are returned too.
    go_backwards : bool
        Whether the sequence is read from its end. The output is in the order in which it was computed.
    stateful : bool
        Whether the states of the last call are those with which the next begins, until `reset_state`.
    zero_output_for_mask : bool
        Whether the output is zero at masked steps, instead of that of the step before.
    name : str, optional
    dtype : dtype, optional
        Of the weights; input is converted to it.
    input_shape : tuple, optional
        (T, I), for the first layer of a `Sequential`.
    **options
        Keras's other options, with the value that asks for nothing; other values are refused by name.

    Attributes
    ----------
    lstm : cylstm.LSTM
        What computes, with ``batch_first=True``; there once the layer is built.

    Examples
    --------
    >>> import cylstm.keras
    >>> cylstm.keras.LSTM(7)(cylstm.randn(2, 17, 10)).shape
    (2, 7)
    """

    _arguments = (
        "name",
        "units",
        "activation",
        "recurrent_activation",
        "use_bias",
        "return_sequences",
        "return_state",
        "go_backwards",
        "stateful",
        "zero_output_for_mask",
    )

    def __init__(
        self,
        units: int,
        activation: str = "tanh",
        recurrent_activation: str = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
        recurrent_initializer: Initializer = "orthogonal",
        bias_initializer: Initializer = "zeros",
        unit_forget_bias: bool = True,
        *,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        zero_output_for_mask: bool = False,
        name: str | None = None,
        dtype: Any = None,
        input_shape: Sequence[int | None] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name=name, dtype=dtype, input_shape=input_shape, **options)
        for option, value, computed in (
            ("activation", activation, "tanh"),
            ("recurrent_activation", recurrent_activation, "sigmoid"),
        ):
            if value != computed:
                raise ValueError(f"{option}={value!r} is not computed by cylstm, only {computed!r}")
        self.units = _units(units)
        self.use_bias, self.unit_forget_bias = use_bias, unit_forget_bias
        self._initializers = [_initializer(one) for one in (kernel_initializer, recurrent_initializer)]
        self._bias_initializer = _initializer(bias_initializer)
        self.return_sequences, self.return_state = return_sequences, return_state
        self.go_backwards, self.stateful = go_backwards, stateful
        self.zero_output_for_mask = zero_output_for_mask
        self.states: tuple[np.ndarray, np.ndarray] | None = None

    def build(self, input_shape: Shape) -> None:
        """Draw the weights for input (B, T, I)."""
        if len(input_shape) != 3 or input_shape[-1] is None:
            raise ValueError(f"{self.name} takes input of the shape (batch, steps, features), got {input_shape}")
        I, H = int(input_shape[-1]), self.units
        kernels = [
            np.asarray(make((size, 4 * H), dtype=self.dtype))
            for make, size in zip(self._initializers, (I, H), strict=True)
        ]
        if self.use_bias:
            bias = np.array(self._bias_initializer((4 * H,), dtype=self.dtype))
            if self.unit_forget_bias:
                bias[H : 2 * H] = 1
            kernels.append(bias)
        self.lstm = Module(I, H, bias=self.use_bias, batch_first=True, dtype=self.dtype)
        self.built = True
        self.set_weights(kernels)

    @property
    def weights(self) -> list[Variable]:
        """kernel (I, 4H), recurrent_kernel (H, 4H) and bias (4H,)."""
        if not self.built:
            return []
        arrays = {"kernel": self.lstm.weight_ih_l0.T, "recurrent_kernel": self.lstm.weight_hh_l0.T}
        if self.use_bias:
            arrays["bias"] = self.lstm.bias_ih_l0  # that of weight_hh is zero
        return [Variable(name, f"{self.name}/lstm_cell/{name}", array) for name, array in arrays.items()]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Replace kernel, recurrent_kernel and bias."""
        kernel, recurrent_kernel, *bias = _check_weights(self, weights, [one.value for one in self.weights])
        parameters = {"weight_ih_l0": kernel.T, "weight_hh_l0": recurrent_kernel.T}
        if bias:
            parameters |= {"bias_ih_l0": bias[0], "bias_hh_l0": np.zeros_like(bias[0])}
        self.lstm.load_state_dict(parameters)

    def parts(self) -> dict[str, list[np.ndarray]]:
        """The weights as they lie in Keras's files."""
        return {CELL: self.get_weights()}

    def reset_state(self) -> None:
        """Let the next call begin at zero."""
        self.states = None

    def output_shape(self, input_shape: Shape) -> Any:
        """(B, T, H) or (B, H); with return_state a list of it and the shapes of h and c."""
        B, T, _ = input_shape
        shape = (B, T, self.units) if self.return_sequences else (B, self.units)
        return [shape, (B, self.units), (B, self.units)] if self.return_state else shape

    def compute_mask(self, x: np.ndarray, mask: np.ndarray | None) -> np.ndarray | None:
        """The same mask, where there is an output per step."""
        return mask if self.return_sequences else None

    def __call__(self, x: Any, initial_state: Sequence[Any] | None = None, mask: Any = None) -> Any:
        """Run the layer.

        Parameters
        ----------
        x : array (B, T, I)
        initial_state : sequence of two arrays, optional
            h and c, (B, H) each.
        mask : array of bool (B, T), optional
            False where a step is to be skipped: ends of ragged sequences, or holes.

        Returns
        -------
        numpy.ndarray, or a tuple of it and h and c
            See ``return_sequences`` and ``return_state``.

        Raises
        ------
        ValueError, RuntimeError
            If shapes do not fit.
        """
        x = self._enter(x, ndim=3)
        mask = _checked_mask(mask, x)
        state = initial_state
        if state is None and self.stateful and self.states is not None:
            state = self.states
            if len(state[0]) != len(x):
                raise ValueError(f"{self.name} has the states of {len(state[0])} sequences: call reset_state()")
        hx = None
        if state is not None:
            if len(state) != 2:
                raise ValueError(f"{self.name} takes two initial states, h and c, got {len(state)}")
            h_0, c_0 = (as_array(one, "initial_state").astype(self.dtype, copy=False)[np.newaxis] for one in state)
            hx = h_0, c_0
        if self.go_backwards:
            x, mask = x[:, ::-1], None if mask is None else mask[:, ::-1]
        output, h, c = self._run(x, hx, mask)
        if self.stateful:
            self.states = h, c
        result = output if self.return_sequences else output[:, -1]
        return (result, h, c) if self.return_state else result

    def _run(self, x: np.ndarray, hx: Any, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if mask is None:
            output, (h, c) = self.lstm(x, hx)
            return output, h[0], c[0]
        # A masked step changes no state: what is computed is the sequence of the other steps.
        lengths = mask.sum(axis=1)
        steps = np.argsort(~mask, axis=1, kind="stable")[..., np.newaxis]
        packed = pack_padded_sequence(
            np.take_along_axis(x, steps, axis=1), np.maximum(lengths, 1), batch_first=True, enforce_sorted=False
        )
        rows, (h, c) = self.lstm(packed, hx)
        computed, _ = pad_packed_sequence(rows, batch_first=True, total_length=x.shape[1])
        h, c = h[0], c[0]
        for state, n in ((h, 0), (c, 1)):
            state[lengths == 0] = 0 if hx is None else hx[n][0][lengths == 0]
        latest = np.cumsum(mask, axis=1)[..., np.newaxis] - 1
        output = np.take_along_axis(computed, np.maximum(latest, 0), axis=1)
        hidden = ~mask[..., np.newaxis] if self.zero_output_for_mask else latest < 0
        return np.where(hidden, output.dtype.type(0), output), h, c


class Bidirectional(Layer):
    """Two LSTM layers, one of which reads the sequence from its end.

    Parameters
    ----------
    layer : LSTM
        The layer for one direction; it is not changed.
    merge_mode : {"concat", "sum", "mul", "ave"} or None
        How the outputs become one; with None both are returned.
    backward_layer : LSTM, optional
        The layer for the other direction, with the other ``go_backwards``; by default one like ``layer``.
    name, input_shape, **options
        As for `LSTM`.
    """

    _arguments = ("name", "merge_mode")
    _MERGE: ClassVar[dict[str | None, Callable[[np.ndarray, np.ndarray], Any]]] = {
        "concat": lambda forward, backward: np.concatenate([forward, backward], axis=-1),
        "sum": lambda forward, backward: forward + backward,
        "mul": lambda forward, backward: forward * backward,
        "ave": lambda forward, backward: (forward + backward) / 2,
        None: lambda forward, backward: (forward, backward),
    }

    def __init__(
        self,
        layer: LSTM,
        merge_mode: str | None = "concat",
        *,
        backward_layer: LSTM | None = None,
        name: str | None = None,
        input_shape: Sequence[int | None] | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(layer, LSTM) or not isinstance(backward_layer, LSTM | None):
            raise TypeError(f"expected a cylstm.keras.LSTM, got {type(backward_layer or layer).__name__}")
        super().__init__(name=name, dtype=layer.dtype, input_shape=input_shape or layer._input_shape, **options)
        if merge_mode not in self._MERGE:
            raise ValueError(f"expected merge_mode to be 'concat', 'sum', 'mul', 'ave' or None, got {merge_mode!r}")
        self.merge_mode = merge_mode
        self.forward_layer, self.backward_layer = copy.copy(layer), copy.copy(backward_layer or layer)
        if backward_layer is None:
            self.backward_layer.go_backwards = True
        for option in ("return_sequences", "return_state", "stateful", "dtype"):
            if getattr(self.forward_layer, option) != getattr(self.backward_layer, option):
                raise ValueError(f"expected two layers with the same {option}")
        if self.forward_layer.go_backwards == self.backward_layer.go_backwards:
            raise ValueError("expected two layers of which one has go_backwards=True")
        for direction, one in (("forward", self.forward_layer), ("backward", self.backward_layer)):
            one.name, one.built = f"{direction}_{layer.name}", False
            one.zero_output_for_mask = one.return_sequences
        self.return_sequences, self.return_state = layer.return_sequences, layer.return_state

    @property
    def _layers(self) -> tuple[LSTM, LSTM]:
        return self.forward_layer, self.backward_layer

    def build(self, input_shape: Shape) -> None:
        """Draw the weights for input (B, T, I)."""
        for layer in self._layers:
            layer.build(input_shape)
        self.built = True

    @property
    def weights(self) -> list[Variable]:
        """Those of the forward layer, then those of the backward layer."""
        return [
            variable._replace(path=f"{self.name}/{variable.path}")
            for layer in self._layers
            for variable in layer.weights
        ]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Replace the weights of both layers."""
        arrays = _check_weights(self, weights, [one.value for one in self.weights])
        first = len(self.forward_layer.weights)
        self.forward_layer.set_weights(arrays[:first])
        self.backward_layer.set_weights(arrays[first:])

    def parts(self) -> dict[str, list[np.ndarray]]:
        """The weights as they lie in Keras's files."""
        return {FORWARD: self.forward_layer.get_weights(), BACKWARD: self.backward_layer.get_weights()}

    def reset_state(self) -> None:
        """Let the next call begin at zero."""
        for layer in self._layers:
            layer.reset_state()

    def output_shape(self, input_shape: Shape) -> Any:
        """As that of the LSTM, with the features of both for "concat"."""
        forward, backward = (layer.output_shape(input_shape) for layer in self._layers)
        states: list[Shape] = []
        if self.return_state:
            (forward, *states), (backward, *more) = forward, backward
            states += more
        if self.merge_mode is None:
            return [forward, backward, *states]
        if self.merge_mode == "concat":
            forward = (*forward[:-1], forward[-1] + backward[-1])
        return [forward, *states] if states else forward

    def compute_mask(self, x: np.ndarray, mask: np.ndarray | None) -> np.ndarray | None:
        """The same mask, where there is an output per step."""
        return mask if self.return_sequences else None

    def __call__(self, x: Any, initial_state: Sequence[Any] | None = None, mask: Any = None) -> Any:
        """Run both layers.

        Parameters
        ----------
        x : array (B, T, I)
        initial_state : sequence of four arrays, optional
            h and c of the forward layer, then of the backward layer.
        mask : array of bool (B, T), optional
            False where a step is to be skipped.

        Returns
        -------
        numpy.ndarray or tuple
            The merged output, or both; with ``return_state`` also h, c, h, c.
        """
        x = self._enter(x, ndim=3)
        if initial_state is not None and len(initial_state) != 4:
            raise ValueError(f"{self.name} takes four initial states, h and c of each layer; got {len(initial_state)}")
        first, second = (None, None) if initial_state is None else (initial_state[:2], initial_state[2:])
        forward, backward = self.forward_layer(x, first, mask), self.backward_layer(x, second, mask)
        states: tuple[np.ndarray, ...] = ()
        if self.return_state:
            (forward, *one), (backward, *other) = forward, backward
            states = (*one, *other)
        if self.return_sequences:
            backward = backward[:, ::-1]
        merged = self._MERGE[self.merge_mode](forward, backward)
        if self.merge_mode is None:
            return (*merged, *states)
        return (merged, *states) if states else merged


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
            known = ", ".join(map(repr, self._ACTIVATIONS))
            raise ValueError(f"activation={activation!r} is not computed by cylstm, only {known}")
        self.units, self.activation, self.use_bias = _units(units), activation, use_bias
        self._initializers = [_initializer(kernel_initializer), _initializer(bias_initializer)]

    def build(self, input_shape: Shape) -> None:
        """Draw the weights for input (..., features)."""
        if input_shape[-1] is None:
            raise ValueError(f"{self.name} needs to know the number of features, got the shape {input_shape}")
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
        kernel, *bias = _check_weights(self, weights, [one.value for one in self.weights])
        self.linear.load_state_dict({"weight": kernel.T} | ({"bias": bias[0]} if bias else {}))

    def parts(self) -> dict[str, list[np.ndarray]]:
        """The weights as they lie in Keras's files."""
        return {OWN: self.get_weights()}

    def output_shape(self, input_shape: Shape) -> Shape:
        """(..., units)."""
        return (*input_shape[:-1], self.units)

    def __call__(self, x: Any, mask: Any = None) -> np.ndarray:
        """Apply the layer to the last dimension, (..., features) → (..., units). A mask changes nothing."""
        x = self._enter(x)
        return self._ACTIVATIONS[self.activation](self.linear(x))


class Masking(Layer):
    """Mask the steps (B, T) at which all features have one value.

    Parameters
    ----------
    mask_value : float
    name, input_shape
        As for `LSTM`.
    """

    _arguments = ("name", "mask_value")

    def __init__(self, mask_value: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.mask_value = mask_value

    def compute_mask(self, x: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        """True where a feature differs from the value."""
        return (x != self.mask_value).any(axis=-1)

    def __call__(self, x: Any, mask: Any = None) -> np.ndarray:
        """The input, with zeros at masked steps."""
        x = self._enter(x)
        return np.where(self.compute_mask(x, None)[..., np.newaxis], x, x.dtype.type(0))


class Dropout(Layer):
    """Nothing, as always in inference; there for the models that have it.

    Parameters
    ----------
    rate : float
    name, input_shape
        As for `LSTM`.
    """

    _arguments = ("name", "rate")

    def __init__(self, rate: float, **options: Any) -> None:
        super().__init__(**options)
        self.rate = rate

    def __call__(self, x: Any, mask: Any = None) -> np.ndarray:
        """The input."""
        return self._enter(x)


class Sequential:
    """Layers one after the other.

    Parameters
    ----------
    layers : iterable of layers, optional
        The first may be an `Input`, or have ``input_shape``: the weights are drawn at once then, else at the first
        call.
    name : str

    Examples
    --------
    >>> from cylstm.keras import LSTM, Dense, Input, Sequential
    >>> model = Sequential([Input((17, 10)), LSTM(7), Dense(3, activation="softmax")])
    >>> model.predict(cylstm.randn(100, 17, 10)).shape
    (100, 3)
    """

    def __init__(self, layers: Iterable[Layer | Input] = (), name: str = "sequential") -> None:
        self.name = name
        self.layers: list[Layer] = []
        self._used: dict[str, int] = {}
        self._batch_shape: Shape | None = None
        for layer in layers:
            self.add(layer)

    def add(self, layer: Layer | Input) -> None:
        """Append a layer.

        Raises
        ------
        TypeError, ValueError
            If it is no layer, an `Input` that is not the first, or does not fit behind the layers that are there.
        """
        if isinstance(layer, Input):
            if self.layers or self._batch_shape:
                raise ValueError("Input must be the first entry")
            self._batch_shape = layer.batch_shape
            return
        if not isinstance(layer, Layer):
            raise TypeError(f"expected a layer of cylstm.keras, got {type(layer).__name__}")
        if any(layer is one for one in self.layers):
            raise ValueError(f"the layer {layer.name!r} is there already")
        if not self.layers and self._batch_shape is None and layer._input_shape is not None:
            self._batch_shape = (None, *layer._input_shape)
        if self._batch_shape is not None:
            shape = self._output_shape(self.layers)
            if isinstance(shape, list):
                raise ValueError(f"{self.layers[-1].name} returns several arrays, so no layer can follow it")
            if not layer.built:
                layer.build(shape)
            layer.output_shape(shape)
        if not layer._named:
            layer.name = files.numbered(layer.name, self._used)
        self.layers.append(layer)

    def _output_shape(self, layers: Sequence[Layer]) -> Any:
        shape: Any = self._batch_shape
        for layer in layers:
            shape = layer.output_shape(shape)
        return shape

    @property
    def built(self) -> bool:
        """Whether all weights are there."""
        return all(layer.built for layer in self.layers)

    @property
    def weights(self) -> list[Variable]:
        """The weights of all layers."""
        return [one._replace(path=f"{self.name}/{one.path}") for layer in self.layers for one in layer.weights]

    def get_weights(self) -> list[np.ndarray]:
        """Copies of the weights of all layers."""
        return [array for layer in self.layers for array in layer.get_weights()]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Replace the weights of all layers, or none where a number or shape differs."""
        arrays = _check_weights(self, weights, [one.value for one in self.weights])
        for layer in self.layers:
            count = len(layer.weights)
            layer.set_weights(arrays[:count])
            arrays = arrays[count:]

    def count_params(self) -> int:
        """The number of weights."""
        return sum(layer.count_params() for layer in self.layers)

    def reset_states(self) -> None:
        """Let stateful layers begin at zero."""
        for layer in self.layers:
            if isinstance(layer, LSTM | Bidirectional):
                layer.reset_state()

    def __call__(self, x: Any, mask: Any = None) -> Any:
        """Apply all layers. A mask (B, T), or that of a `Masking` layer, goes with the sequence.

        Parameters
        ----------
        x : array (B, T, features)
        mask : array of bool (B, T), optional

        Returns
        -------
        numpy.ndarray, or a tuple of them where the last layer returns several
        """
        x = as_array(x, "x")
        if self._batch_shape is None:
            self._batch_shape = (None,) * (x.ndim - 1) + (x.shape[-1],)
        expected = self._batch_shape
        if x.ndim != len(expected) or any(a not in (None, b) for a, b in zip(expected, x.shape, strict=True)):
            raise ValueError(f"{self.name} takes input of the shape {expected}, got {x.shape}")
        for layer in self.layers:
            if isinstance(x, tuple):
                raise ValueError(f"{layer.name} takes one array, and the layer before returns {len(x)}")
            following = layer.compute_mask(x, mask)
            x, mask = layer(x, mask=mask), following
        return x

    def predict(self, x: Any, batch_size: int | None = 32, verbose: int | str = "auto") -> Any:
        """Apply all layers, a batch at a time.

        Parameters
        ----------
        x : array (N, T, features)
        batch_size : int, optional
            Sequences at a time; None is 32. It does not change the result.
        verbose : {"auto", 0, 1}
            Whether progress is shown: with "auto" on a terminal.

        Returns
        -------
        numpy.ndarray, or a list of them where the last layer returns several
        """
        if verbose not in ("auto", 0, 1):
            raise ValueError(f"expected verbose to be 'auto', 0 or 1, got {verbose!r}")
        size = 32 if batch_size is None else _units(batch_size, "batch_size")
        x = as_array(x, "x")
        if not len(x):
            raise ValueError("expected at least one sequence, got none")
        results = []
        with Progress(-(-len(x) // size), "batches", shown=None if verbose == "auto" else bool(verbose)) as bar:
            for begin in range(0, len(x), size):
                results.append(self(x[begin : begin + size]))
                bar.advance(1)
        if isinstance(results[0], tuple):
            return [np.concatenate(parts) for parts in zip(*results, strict=True)]
        return np.concatenate(results)

    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        """Print the layers, their output's shapes and their numbers of weights.

        Raises
        ------
        ValueError
            If the weights are not there yet: the model was neither called nor told its input's shape.
        """
        if self._batch_shape is None or not self.built:
            raise ValueError("the model is not built: begin it with Input(shape), or call it first")
        line, double = "_" * 65, "=" * 65

        def row(*texts: object) -> str:
            text = ""
            for part, end in zip(texts, (29, 55, 65), strict=True):
                text = f"{text}{part}"[: end - 1].ljust(end)
            return text.rstrip()

        lines = [f'Model: "{self.name}"', line, row("Layer (type)", "Output Shape", "Param #"), double]
        for n, layer in enumerate(self.layers, 1):
            shape = self._output_shape(self.layers[:n])
            lines += [row(f"{layer.name} ({type(layer).__name__})", shape, f"{layer.count_params():,}"), line]
        total = f"{self.count_params():,}"
        lines[-1] = double
        lines += [f"Total params: {total}", f"Trainable params: {total}", "Non-trainable params: 0", line]
        print_fn("\n".join(lines))

    def _stored(self) -> list[Stored]:
        """The weights as they lie in Keras's files; names of groups are numbered by class."""
        used: dict[str, int] = {}
        return [
            Stored(layer.name, f"layers/{files.numbered(files.snake_case(type(layer).__name__), used)}", layer.parts())
            for layer in self.layers
        ]

    def save_weights(self, path: str | os.PathLike[str]) -> None:
        """Write the weights to a ``.weights.h5``, which Keras's ``load_weights`` reads.

        Raises
        ------
        ValueError
            If the path ends in something else, or the weights are not there yet.
        """
        if not self.built:
            raise ValueError("the model is not built: begin it with Input(shape), or call it first")
        files.write_weights(_weights_path(path), self._stored(), name=self.name)

    def load_weights(self, path: str | os.PathLike[str]) -> None:
        """Take the weights of a model of the same layers from a ``.weights.h5`` or ``.keras`` of Keras 3.

        Raises
        ------
        FileNotFoundError, ImportError
            If there is no such file, or h5py is not installed.
        ValueError
            If the file is damaged, or its weights are not those of these layers. Nothing is taken then.
        """
        self._take(files.read_file(Path(path)), path)

    def _take(self, file: KerasFile, path: object) -> None:
        there = {one.path: one for one in file.stored.values()}
        mine = [one for one in self._stored() if any(one.parts.values())]
        if sorted(one.path for one in mine) != sorted(there):
            wanted, found = ", ".join(one.path for one in mine), ", ".join(there)
            raise ValueError(
                f"{path}: expected the weights of {wanted or 'nothing'}; got those of {found or 'nothing'}"
            )
        arrays = [array for one in mine for part in one.parts for array in there[one.path].parts.get(part, [])]
        self.set_weights(arrays)


def from_lstm(lstm: Module) -> Sequential:
    """Keras's layers for an LSTM of cylstm: one per layer, `Bidirectional` for two directions.

    The two biases of PyTorch become one, their sum. Dropout between layers is left out, as in inference.

    Raises
    ------
    TypeError
        If it is no LSTM.
    ValueError
        If Keras has no layer for it (``proj_size``, complex numbers).
    """
    if not isinstance(lstm, Module):
        raise TypeError(f"expected an LSTM, got {type(lstm).__name__}")
    if lstm.proj_size:
        raise ValueError(f"an LSTM with proj_size={lstm.proj_size} is none of Keras's: it has no projection")
    if lstm.dtype.kind == "c":
        raise ValueError(f"an LSTM of {lstm.dtype} is none of Keras's: its LSTM is real")
    model = Sequential([Input((None, lstm.input_size))])
    for layer in range(lstm.num_layers):
        one = LSTM(
            lstm.hidden_size, use_bias=lstm.bias, return_sequences=True, dtype=lstm.dtype, kernel_initializer="zeros"
        )
        model.add(Bidirectional(one) if lstm.bidirectional else one)
        weights = []
        for suffix in (f"_l{layer}", f"_l{layer}_reverse")[: 2 if lstm.bidirectional else 1]:
            weights += [getattr(lstm, f"weight_ih{suffix}").T, getattr(lstm, f"weight_hh{suffix}").T]
            if lstm.bias:
                weights.append(getattr(lstm, f"bias_ih{suffix}") + getattr(lstm, f"bias_hh{suffix}"))
        model.layers[-1].set_weights(weights)
    return model


def save(module: Module, path: str | os.PathLike[str]) -> None:
    """Write the weights of :func:`from_lstm` to a ``.weights.h5``; what ``cylstm.load`` needs beside them, too.

    Raises
    ------
    TypeError, ValueError
        As :func:`from_lstm` does; ValueError also if the path ends in something else.
    ImportError
        If h5py is not installed.
    """
    path = _weights_path(path)
    model = from_lstm(module)
    options = {
        "num_layers": str(module.num_layers),
        "batch_first": str(module.batch_first).lower(),
        "dropout": repr(module.dropout),
    }
    first = model.layers[0].name
    files.write_weights(path, model._stored(), {f"{first}.{name}": text for name, text in options.items()})


def load_model(path: str | os.PathLike[str]) -> Sequential:
    """Make a Sequential model from a ``.keras`` file of Keras 3, with its weights. Nothing in it is executed.

    What plays no part in inference (dropout, regularisers, the optimiser) is left out; what cylstm does not compute is
    refused by name.

    Raises
    ------
    FileNotFoundError, ImportError
        If there is no such file, or h5py is not installed.
    ValueError
        If the file is damaged, or its model is not sequential or has another layer than those of this module.
    """
    path = Path(path)
    file = files.read_file(path)
    if file.kind != "Sequential":
        kind = f"a {file.kind} model" if file.kind else "weights without a configuration"
        raise ValueError(
            f"{path} holds {kind}, not a Sequential one: cylstm.load(path) gives an LSTM of it; or build a "
            "cylstm.keras.Sequential and use its load_weights"
        )
    try:
        model = Sequential(name=file.config["name"])
        for layer in file.config["layers"]:
            kind, config = layer["class_name"], layer["config"]
            if kind == "InputLayer":
                batch, *shape = config.get("batch_shape") or config["batch_input_shape"]
                model.add(Input(tuple(shape), batch, config["name"]))
            else:
                model.add(_from_config(kind, config))
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path}: the configuration is damaged ({type(error).__name__}: {error})") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    model._take(file, path)
    return model


def read(path: Path) -> Contents:
    """The parameters of all LSTMs of a file under ``name.weight_ih_l0`` and so on, for :func:`cylstm.load`.

    Where the file has no configuration (``.weights.h5``), the layers are taken to have Keras's defaults.
    """
    file = files.read_file(path)
    tensors: dict[str, Tensor] = {}
    refused: dict[str, str] = {}
    metadata = dict(file.metadata)
    joined: dict[str, list[Stored]] = {}  # by the name of the first layer
    for run in _runs(file):
        lstms = [one for one in run if _is_lstm(one)]
        if lstms:
            joined[lstms[0].name] = lstms
    for name, layers in joined.items():
        reasons = [reason for one in layers if (reason := _refused(file, one))]
        if reasons:
            refused[f"{name}."] = reasons[0]
            continue
        for layer, one in enumerate(layers):
            directions = [one.parts[part] for part in (CELL, FORWARD, BACKWARD) if part in one.parts]
            for suffix, arrays in zip((f"_l{layer}", f"_l{layer}_reverse"), directions, strict=False):
                found = {f"weight_ih{suffix}": arrays[0].T, f"weight_hh{suffix}": arrays[1].T}
                if len(arrays) > 2:
                    found |= {f"bias_ih{suffix}": arrays[2], f"bias_hh{suffix}": np.zeros_like(arrays[2])}
                tensors |= as_tensors({f"{name}.{field}": array for field, array in found.items()})
        metadata.setdefault(f"{name}.batch_first", "true")
    return Contents(tensors, metadata, refused)


# Reading ------------------------------------------------------------------------------------------------------------


def _from_config(kind: str, config: dict[str, Any]) -> Layer:
    """The layer that a configuration describes."""
    classes: dict[str, type[Layer]] = {one.__name__: one for one in (LSTM, Bidirectional, Dense, Masking, Dropout)}
    if kind not in classes:
        raise ValueError(f"the layer {config.get('name')!r} is a {kind}, which cylstm does not compute")
    cls = classes[kind]
    arguments = {name: config[name] for name in cls._arguments if name in config}
    dtype = config.get("dtype")
    if isinstance(dtype, dict):
        dtype = dtype["config"]["name"]
    if kind == "Bidirectional":
        arguments["layer"] = _from_config(config["layer"]["class_name"], config["layer"]["config"])
        if other := config.get("backward_layer"):
            arguments["backward_layer"] = _from_config(other["class_name"], other["config"])
    elif dtype is not None:
        if str(dtype).startswith("mixed_"):
            dtype = "float32"  # of the variables
        try:
            arguments["dtype"] = as_dtype(dtype)
        except (RuntimeError, TypeError):
            raise ValueError(
                f"the layer {config.get('name')!r} has the dtype {dtype!r}, which cylstm does not have"
            ) from None
    if batch_shape := config.get("batch_input_shape"):  # of Keras 2
        arguments["input_shape"] = tuple(batch_shape[1:])
    return cls(**arguments)


def _runs(file: KerasFile) -> list[list[Stored]]:
    """The layers of a file, stacked LSTMs together: those of a Sequential model, and those that cylstm has written."""
    todo: list[Stored] = list(file.stored.values())
    runs: list[list[Stored]] = []
    for first, one in file.stored.items():
        count = file.metadata.get(f"{first}.num_layers", "")
        if count.isdecimal():
            above = [f"{first}_{n}" for n in range(1, min(int(count), len(todo) + 1))]
            runs.append([one, *(file.stored[name] for name in above if name in file.stored)])
    if file.kind == "Sequential" and not runs:
        order = [one for one in file.described.values() if one.path.count("/") == 1]
        run: list[Stored] = []
        for described in order:
            layer = file.stored.get(described.name)
            if described.kind in ("Dropout", "InputLayer"):
                continue
            if layer is None or not (run and _stacks(file, run[-1], layer)):
                runs.append(run)
                run = []
            if layer is not None:
                run.append(layer)
        runs.append(run)
    of_runs = {layer.name for run in runs for layer in run}
    return [run for run in runs if run] + [[layer] for layer in todo if layer.name not in of_runs]


def _stacks(file: KerasFile, lower: Stored, upper: Stored) -> bool:
    """Whether two layers that follow one another are layers of one LSTM."""
    if not (_is_lstm(lower) and _is_lstm(upper)) or _refused(file, lower) or _refused(file, upper):
        return False
    states = [[arrays[1].shape for arrays in one.parts.values()] for one in (lower, upper)]
    counts = [[len(arrays) for arrays in one.parts.values()] for one in (lower, upper)]
    config = file.described[lower.name].config
    sequences = config.get("layer", {}).get("config", config).get("return_sequences")
    width = sum(shape[0] for shape in states[0])
    fits = all(arrays[0].shape[0] == width for arrays in upper.parts.values())
    return bool(sequences) and states[0] == states[1] and counts[0] == counts[1] and fits


def _is_lstm(layer: Stored) -> bool:
    """Whether the variables have the shapes of an LSTM's."""
    if set(layer.parts) not in ({CELL}, {FORWARD, BACKWARD}):
        return False
    for arrays in layer.parts.values():
        if not 2 <= len(arrays) <= 3 or arrays[0].ndim != 2 or arrays[1].ndim != 2:
            return False
        rows, columns = arrays[1].shape
        if columns != 4 * rows or any(array.shape[-1] != columns for array in arrays) or not arrays[0].size:
            return False
    return True


def _refused(file: KerasFile, layer: Stored) -> str:
    """Why a plain LSTM does not compute what this layer does; empty where it does, or nothing is known of it."""
    described = file.described.get(layer.name)
    if described is None:
        return ""
    kind, config = described.kind, described.config
    if kind not in ("LSTM", "Bidirectional"):
        return f"is a {kind}, which cylstm does not know"
    remedy = ": use cylstm.keras.load_model"
    one, other = config, config
    if kind == "Bidirectional":
        one, other = config["layer"], config.get("backward_layer") or config["layer"]
        if (one["class_name"], other["class_name"]) != ("LSTM", "LSTM"):
            return f"is Bidirectional, of {one['class_name']} and {other['class_name']}"
        one, other = one["config"], other["config"]
        if config.get("merge_mode") != "concat":
            return f"is Bidirectional with merge_mode={config.get('merge_mode')!r}{remedy}"
    for part in (one, other):
        for option, computed in (("activation", "tanh"), ("recurrent_activation", "sigmoid")):
            if part.get(option) != computed:
                return f"has {option}={part.get(option)!r}, and cylstm computes {computed!r} alone"
        if part.get("time_major"):
            return "has time_major=True, which cylstm does not know"
    if one.get("go_backwards"):
        return f"has go_backwards=True{remedy}"
    return ""


def _weights_path(path: str | os.PathLike[str]) -> Path:
    if not str(path).lower().endswith(".weights.h5"):
        raise ValueError(f"expected a path that ends in .weights.h5, got {str(path)!r}")
    return Path(path)


# Arguments ----------------------------------------------------------------------------------------------------------


def _units(value: Any, name: str = "units") -> int:
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise TypeError(f"expected {name} to be an int, got {value!r}")
    if value <= 0:
        raise ValueError(f"expected {name} to be positive, got {value}")
    return int(value)


def _checked_mask(mask: Any, x: np.ndarray) -> np.ndarray | None:
    if mask is None:
        return None
    mask = as_array(mask, "mask")
    if mask.shape != x.shape[:2] or mask.dtype != bool:
        raise ValueError(f"expected a mask of bool and shape {x.shape[:2]}, got {mask.dtype} and {mask.shape}")
    return mask


def _check_weights(layer: Any, weights: Sequence[Any], old: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The weights as arrays, if they have the shapes of the old ones."""
    if not layer.built:
        raise ValueError(f"{layer.name} has no weights yet: call it, or build(input_shape), first")
    arrays = [np.asarray(one) if isinstance(one, list | float) else as_array(one, "weights") for one in weights]
    wanted, got = [array.shape for array in old], [array.shape for array in arrays]
    if got != wanted:
        raise ValueError(f"{layer.name} has weights of the shapes {wanted}, got {got}")
    return arrays


# Initialisers -------------------------------------------------------------------------------------------------------


def _initializer(value: Initializer) -> Callable[..., Any]:
    """What draws an array of a shape and dtype: a name of Keras's, or the callable itself."""
    if callable(value):
        return value
    if value not in _INITIALIZERS:
        raise ValueError(f"expected an initializer out of {', '.join(_INITIALIZERS)}, or a callable; got {value!r}")
    return _INITIALIZERS[value]


def _scaled(shape: tuple[int, ...], dtype: Any = None, *, scale: float, mode: str, distribution: str) -> np.ndarray:
    """Keras's VarianceScaling for a matrix (fan_in, fan_out)."""
    fan_in, fan_out = shape[0], shape[-1]
    variance = scale / max(1.0, fan_in if mode == "fan_in" else (fan_in + fan_out) / 2)
    if distribution == "uniform":
        limit = math.sqrt(3 * variance)
        return uniform(shape, -limit, limit, dtype)
    return _truncated(shape, math.sqrt(variance) / 0.87962566103423978, dtype)


def _truncated(shape: tuple[int, ...], deviation: float, dtype: Any = None) -> np.ndarray:
    """Normal numbers; those beyond two deviations are drawn again."""
    drawn = randn(*shape, dtype=dtype)
    while (far := np.abs(drawn) > 2).any():
        drawn[far] = randn(int(far.sum()), dtype=dtype)
    return drawn * drawn.dtype.type(deviation)


def _orthogonal(shape: tuple[int, ...], dtype: Any = None) -> np.ndarray:
    """A matrix with orthonormal rows or columns, whichever are fewer; every one of them equally likely."""
    few, many = sorted((math.prod(shape[:-1]), shape[-1]))
    q, r = np.linalg.qr(randn(many, few, dtype=np.float64))
    q *= np.sign(np.diag(r))
    return (q if shape[-1] == few else q.T).reshape(shape).astype(as_dtype(dtype))


def _random_normal(shape: tuple[int, ...], dtype: Any = None) -> np.ndarray:
    return randn(*shape, dtype=dtype) * as_dtype(dtype).type(0.05)


def _random_uniform(shape: tuple[int, ...], dtype: Any = None) -> np.ndarray:
    return uniform(shape, -0.05, 0.05, dtype)


#: Functions that pickle finds by name, for layers hold them.
_INITIALIZERS: dict[str, Callable[..., Any]] = {
    "zeros": np.zeros,
    "ones": np.ones,
    "orthogonal": _orthogonal,
    "random_normal": _random_normal,
    "random_uniform": _random_uniform,
    **{
        f"{name}_{distribution}": partial(_scaled, scale=scale, mode=mode, distribution=distribution)
        for name, scale, mode in (("glorot", 1, "fan_avg"), ("he", 2, "fan_in"), ("lecun", 1, "fan_in"))
        for distribution in ("uniform", "normal")
    },
}
