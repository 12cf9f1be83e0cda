"""Keras's Sequential models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ..arrays.arguments import as_array
from ..words import quoted
from .files.contents import numbered
from .layers.base import BatchShape, InputLayer, Layer
from .model import Model, checked_input


class Sequential(Model):
    """Layers one after the other.

    Parameters
    ----------
    layers : iterable of layers, optional
        The first may be an `Input`, or have ``input_shape``: the weights are drawn at once then, else at the first
        call.
    name : str

    Examples
    --------
    >>> import cylstm
    >>> from cylstm.keras import LSTM, Dense, Input, Sequential
    >>> model = Sequential([Input((17, 10)), LSTM(7), Dense(3, activation="softmax")])
    >>> model.predict(cylstm.randn(100, 17, 10)).shape
    (100, 3)
    """

    def __init__(self, layers: Iterable[Layer] = (), name: str = "sequential", **options: Any) -> None:
        super().__init__(name=name, **options)
        self._named = name != "sequential"
        self.layers = []
        self._used: dict[str, int] = {}
        self._input: InputLayer | None = None
        for layer in layers:
            self.add(layer)

    def add(self, layer: Layer) -> None:
        """Append a layer.

        Raises
        ------
        TypeError, ValueError
            If it is no layer, an `Input` that is not the first, or does not fit behind the layers that are there.
        """
        if not isinstance(layer, Layer):
            raise TypeError(f"layer must be a layer of cylstm.keras, got {type(layer).__name__}")
        if isinstance(layer, InputLayer):
            if self.layers or self._input is not None:
                raise ValueError("Input must be the first entry, got one behind others: give it first")
            self._input = layer
            return
        if any(layer is one for one in self.layers):
            raise ValueError(f"layer must be a new one, got {quoted(layer.name)} again: make another")
        first = self._input
        if not self.layers and first is None:
            shape = self._shape_of_first(layer)
            first = InputLayer(batch_shape=shape) if shape is not None else None
        if first is not None:
            shape = self._after(self.layers, first.batch_shape)
            if isinstance(shape, list):
                raise ValueError(
                    f"{self.layers[-1].name} must give one array to the next layer, got {len(shape)}: make it the last"
                )
            if not layer.built:
                layer.build(shape)
            layer.compute_output_shape(shape)
        self._input = first
        if not layer._named:
            layer.name = numbered(layer.name, self._used)
        self.layers.append(layer)

    @staticmethod
    def _shape_of_first(layer: Layer) -> BatchShape | None:
        if isinstance(layer, Model):
            return layer.inputs[0].batch_shape if len(layer.inputs) == 1 else None
        return None if layer._input_shape is None else (None, *layer._input_shape)

    @staticmethod
    def _after(layers: Iterable[Layer], shape: Any) -> Any:
        for layer in layers:
            shape = layer.compute_output_shape(shape)
        return shape

    @property
    def built(self) -> bool:
        """Whether all weights are there."""
        return self._input is not None and all(layer.built for layer in self.layers)

    @built.setter
    def built(self, value: bool) -> None:
        """The layers say it."""

    def build(self, input_shape: BatchShape, weights: Iterator[np.ndarray] | None = None) -> None:
        """Make the weights of all layers for input of this shape."""
        if self._input is None:
            self._input = InputLayer(batch_shape=(None, *input_shape[1:]))
        shape: Any = self._input.batch_shape
        if len(shape) != len(input_shape) or any(
            None not in pair and pair[0] != pair[1] for pair in zip(shape, input_shape, strict=True)
        ):
            raise ValueError(f"input of {self.name} must have shape {shape}, got {tuple(input_shape)}")
        for layer in self.layers:
            if isinstance(shape, list):
                raise ValueError(
                    f"input of {layer.name} must be one array, got {len(shape)} from the layer before: make that the "
                    "last"
                )
            if not layer.built:
                layer.build(shape, weights)
            shape = layer.compute_output_shape(shape)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the output of the last layer."""
        return self._after(self.layers, input_shape)

    @property
    def inputs(self) -> list[InputLayer]:
        """The input, if its shape is known."""
        return [self._input] if self._input is not None else []

    @property
    def input_shape(self) -> BatchShape:
        """The shape of the input with the batch."""
        self._check_built()
        assert self._input is not None
        return self._input.batch_shape

    def _rows(self) -> list[tuple[Layer, Any]]:
        return [(layer, self._after(self.layers[:n], self.input_shape)) for n, layer in enumerate(self.layers, 1)]

    def run(self, x: Any, mask: Any = None) -> tuple[Any, Any]:
        """The output, and the mask that goes with it."""
        if isinstance(x, dict):
            if len(x) != 1:
                raise ValueError(f"x must be one array, got {len(x)}: {', '.join(map(str, x))}")
            [x] = x.values()
        known = self._input
        array = as_array(x, "x")
        array = checked_input(self, array, known.batch_shape if known is not None else array.shape)
        shape = (None, *(array.shape[1:] if known is None else known.batch_shape[1:]))
        if known is None:
            shape = (*[None] * (array.ndim - 1), array.shape[-1]) if array.ndim > 2 else shape
        x = array
        for layer in self.layers:
            if isinstance(x, tuple):
                raise ValueError(
                    f"input of {layer.name} must be one array, got {len(x)} from the layer before: make that the last"
                )
            x, mask = layer.run(x, mask)
        if known is None:
            self._input = InputLayer(batch_shape=shape)
        return x, mask

    def get_config(self) -> dict[str, Any]:
        """The layers, as Keras's configurations have them."""
        layers = [*self.inputs, *self.layers]
        return {"name": self.name, "layers": [layer.described() for layer in layers]}

    def _described(self) -> dict[str, Any]:
        return self.get_config()
