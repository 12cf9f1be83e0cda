"""Keras's recurrent layers: LSTM, Bidirectional."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from ...arrays.packing import pack_padded_sequence, pad_packed_sequence
from ...files.names import either
from ...nn.lstm import LSTM as Module
from ..files.contents import BACKWARD, CELL, FORWARD
from ..initializers import Initializer, initializer
from .arguments import checked_mask, checked_weights, converted, positive
from .base import BatchShape, Recurrent, Variable


class LSTM(Recurrent):
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
                raise ValueError(f"{option} must be {computed!r}, got {value!r}: leave it out, or use Keras")
        self.units = positive(units)
        self.use_bias, self.unit_forget_bias = use_bias, unit_forget_bias
        self._initializers = [initializer(one) for one in (kernel_initializer, recurrent_initializer)]
        self._bias_initializer = initializer(bias_initializer)
        self.return_sequences, self.return_state = return_sequences, return_state
        self.go_backwards, self.stateful = go_backwards, stateful
        self.zero_output_for_mask = zero_output_for_mask
        self.states: tuple[np.ndarray, np.ndarray] | None = None

    def build(self, input_shape: BatchShape) -> None:
        """Draw the weights for input (B, T, I)."""
        if len(input_shape) != 3 or input_shape[-1] is None:
            raise ValueError(f"input_shape of {self.name} must be (batch, steps, features), got {input_shape}")
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
        kernel, recurrent_kernel, *bias = checked_weights(self, weights, [one.value for one in self.weights])
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

    def output_shape(self, input_shape: BatchShape) -> Any:
        """(B, T, H) or (B, H); with return_state a list of it and the shapes of h and c."""
        B, T, _ = input_shape
        shape = (B, T, self.units) if self.return_sequences else (B, self.units)
        return [shape, (B, self.units), (B, self.units)] if self.return_state else shape

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
        mask = checked_mask(mask, x)
        state = initial_state
        if state is None and self.stateful and self.states is not None:
            state = self.states
            if len(state[0]) != len(x):
                raise ValueError(
                    f"x must have {len(state[0])} sequences, as the states have, got {len(x)}: call reset_state()"
                )
        hx = None
        if state is not None:
            if len(state) != 2:
                raise ValueError(f"initial_state must be two arrays, h and c, got {len(state)}")
            h_0, c_0 = (converted(one, self.dtype, "initial_state")[np.newaxis] for one in state)
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


class Bidirectional(Recurrent):
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
            raise TypeError(
                f"layer and backward_layer must be a cylstm.keras.LSTM, got {type(backward_layer or layer).__name__}"
            )
        super().__init__(name=name, dtype=layer.dtype, input_shape=input_shape or layer._input_shape, **options)
        if not isinstance(merge_mode, str | None) or merge_mode not in self._MERGE:
            raise ValueError(f"merge_mode must be {either(map(repr, self._MERGE))}, got {merge_mode!r}")
        self.merge_mode = merge_mode
        self.forward_layer, self.backward_layer = copy.copy(layer), copy.copy(backward_layer or layer)
        if backward_layer is None:
            self.backward_layer.go_backwards = True
        for option in ("return_sequences", "return_state", "stateful", "dtype"):
            one, other = (getattr(half, option) for half in self._layers)
            if one != other:
                raise ValueError(f"{option} must be the same in layer and backward_layer, got {one} and {other}")
        if self.forward_layer.go_backwards == self.backward_layer.go_backwards:
            raise ValueError(
                "go_backwards must be True in one of layer and backward_layer, got "
                f"{self.forward_layer.go_backwards} in both"
            )
        for direction, one in (("forward", self.forward_layer), ("backward", self.backward_layer)):
            one.name, one.built = f"{direction}_{layer.name}", False
            one.zero_output_for_mask = one.return_sequences
        self.return_sequences, self.return_state = layer.return_sequences, layer.return_state

    @property
    def _layers(self) -> tuple[LSTM, LSTM]:
        return self.forward_layer, self.backward_layer

    def build(self, input_shape: BatchShape) -> None:
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
        arrays = checked_weights(self, weights, [one.value for one in self.weights])
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

    def output_shape(self, input_shape: BatchShape) -> Any:
        """As that of the LSTM, with the features of both for "concat"."""
        forward, backward = (layer.output_shape(input_shape) for layer in self._layers)
        states: list[BatchShape] = []
        if self.return_state:
            (forward, *states), (backward, *more) = forward, backward
            states += more
        if self.merge_mode is None:
            return [forward, backward, *states]
        if self.merge_mode == "concat":
            forward = (*forward[:-1], forward[-1] + backward[-1])
        return [forward, *states] if states else forward

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
            raise ValueError(f"initial_state must be four arrays, h and c of each layer, got {len(initial_state)}")
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
