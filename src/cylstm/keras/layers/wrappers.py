"""Keras's layers around other layers: Bidirectional, TimeDistributed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from ...arrays.arguments import as_array
from ...files.names import either
from ...words import quoted
from .base import BatchShape, Layer, Recurrent
from .identity import Masking
from .recurrent import LSTM, separated


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
    **options
        As for `Layer`.
    """

    _dimensions = (3,)
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
        **options: Any,
    ) -> None:
        if not isinstance(layer, LSTM) or not isinstance(backward_layer, LSTM | None):
            raise TypeError(
                f"layer and backward_layer must be a cylstm.keras.LSTM, got {type(backward_layer or layer).__name__}"
            )
        options = {"dtype": layer.dtype, "input_shape": layer._input_shape} | options
        super().__init__(**options)
        if not isinstance(merge_mode, str | None) or merge_mode not in self._MERGE:
            raise ValueError(f"merge_mode must be {either(map(repr, self._MERGE))}, got {quoted(merge_mode)}")
        self.merge_mode = merge_mode
        self.forward_layer, self.backward_layer = copy.copy(layer), copy.copy(backward_layer or layer)
        if backward_layer is None:
            self.backward_layer.go_backwards = not layer.go_backwards
        for option in ("return_sequences", "return_state", "stateful", "dtype", "time_major"):
            one, other = (getattr(half, option) for half in self._layers)
            if one != other:
                raise ValueError(f"{option} must be the same in layer and backward_layer, got {one} and {other}")
        if self.forward_layer.go_backwards == self.backward_layer.go_backwards:
            raise ValueError(
                "go_backwards must be True in one of layer and backward_layer, got "
                f"{self.forward_layer.go_backwards} in both"
            )
        if layer.time_major and layer.return_sequences:
            raise ValueError("time_major must be False with return_sequences, got True: Keras turns the wrong axis")
        for direction, one in (("forward", self.forward_layer), ("backward", self.backward_layer)):
            one.name, one.built = f"{direction}_{layer.name}", False
        self.zero_masked(layer.return_sequences)
        self.return_sequences, self.return_state = layer.return_sequences, layer.return_state
        self.stateful = layer.stateful

    def zero_masked(self, zero: bool) -> None:
        """Whether the output is zero at masked steps, as it is where there is an output per step."""
        for layer in self._layers:
            layer.zero_output_for_mask = zero

    @property
    def _layers(self) -> tuple[LSTM, LSTM]:
        return self.forward_layer, self.backward_layer

    def inner_layers(self) -> dict[str, Layer]:
        """The layers by the paths of their groups in Keras's files."""
        return {"forward_layer": self.forward_layer, "backward_layer": self.backward_layer}

    def build(self, input_shape: BatchShape, weights: Iterator[np.ndarray] | None = None) -> None:
        """Make the weights for input (B, T, I)."""
        given = self._given_weights() if weights is None else weights
        for layer in self._layers:
            layer.build(input_shape, given)
        self.built = True
        if weights is None:
            self._check_all_taken(given)

    def compute_output_shape(self, input_shape: BatchShape) -> Any:
        """As that of the LSTM, with the features of both for "concat"."""
        forward, backward = (layer.compute_output_shape(input_shape) for layer in self._layers)
        states: list[BatchShape] = []
        if self.return_state:
            (forward, *states), (backward, *more) = forward, backward
            states += more
        if self.merge_mode is None:
            return [forward, backward, *states]
        if self.merge_mode == "concat":
            forward = (*forward[:-1], forward[-1] + backward[-1])
        return [forward, *states] if states else forward

    def compute_mask(self, x: Any, mask: Any = None) -> Any:
        """The same mask, where there is an output per step; a list with it, where several arrays are returned."""
        output = [mask if self.return_sequences else None] * (2 if self.merge_mode is None else 1)
        states = [None] * 4 if self.return_state else []
        return [*output, *states] if len(output) + len(states) > 1 else output[0]

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
        return self.run(x, mask, initial_state)[0]

    def run(self, x: Any, mask: Any = None, initial_state: Sequence[Any] | None = None) -> tuple[Any, Any]:
        """The output, and the mask that goes with it."""
        x, mask, initial_state = separated(x, mask, initial_state)
        x = self._entered(x)
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
        result = (*merged, *states) if self.merge_mode is None else (merged, *states) if states else merged
        return result, self.compute_mask(x, mask)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make a layer like this one, by their names in Keras."""
        inner = {"layer": self.forward_layer, "backward_layer": self.backward_layer}
        return super().get_config() | {"merge_mode": self.merge_mode} | {n: one.described() for n, one in inner.items()}


class TimeDistributed(Layer):
    """A layer for each step: (B, T, ...) → (B, T, what the layer makes of the rest).

    Parameters
    ----------
    layer : Layer
        Any of this module, a model too.
    **options
        As for `Layer`.
    """

    def __init__(self, layer: Layer, **options: Any) -> None:
        if not isinstance(layer, Layer):
            raise TypeError(f"layer must be a layer of cylstm.keras, got {type(layer).__name__}")
        if getattr(layer, "stateful", False):
            raise ValueError("layer must not be stateful, got one that is: make it without")
        if isinstance(layer, Masking) or getattr(layer, "mask_zero", False):
            raise ValueError(
                f"layer must make no mask, got a {type(layer).__name__} that does: what becomes of it depends on the "
                "version of Keras"
            )
        super().__init__(**({"dtype": layer.dtype} | options))
        self.layer = layer

    def inner_layers(self) -> dict[str, Layer]:
        """The layer by the path of its group in Keras's files."""
        return {"layer": self.layer}

    @staticmethod
    def _step(input_shape: BatchShape) -> BatchShape:
        return input_shape[0], *input_shape[2:]

    def build(self, input_shape: BatchShape, weights: Iterator[np.ndarray] | None = None) -> None:
        """Make the weights for input of this shape."""
        if len(input_shape) < 3:
            raise ValueError(f"input_shape of {self.name} must be (batch, steps, ...), got {input_shape}")
        self.layer.build(self._step(input_shape), weights)
        self.built = True

    def compute_output_shape(self, input_shape: BatchShape) -> Any:
        """(B, T, ...)."""
        shape = self.layer.compute_output_shape(self._step(input_shape))
        if isinstance(shape, list):
            raise ValueError(f"layer of {self.name} must return one array, got {len(shape)}")
        return shape[0], input_shape[1], *shape[1:]

    def _entered(self, x: Any) -> np.ndarray:
        x = as_array(x, "x")  # which the layer converts
        if not self.built:
            self.build(x.shape)
        return x

    def call(self, x: np.ndarray, mask: Any = None) -> np.ndarray:
        """The layer applied to each step."""
        if mask is not None and self.layer._reads_mask:
            raise ValueError(f"mask of {self.name} must be None around a {type(self.layer).__name__}, got one")
        B, T = x.shape[:2]
        rows = self.layer(x.reshape(B * T, *x.shape[2:]))
        if isinstance(rows, tuple):
            raise ValueError(f"layer of {self.name} must return one array, got {len(rows)}")
        return rows.reshape(B, T, *rows.shape[1:])

    def get_config(self) -> dict[str, Any]:
        """The arguments that make a layer like this one, by their names in Keras."""
        return super().get_config() | {"layer": self.layer.described()}
