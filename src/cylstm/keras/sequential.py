"""Keras's Sequential models, and how they are made from files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays.arguments import DTYPES, as_array, as_dtype
from ..files.container import damaged
from ..files.names import either
from ..progress import Progress
from .files.contents import Stored, numbered, snake_case, weights_path, write_weights
from .files.model import StoredModel, read_model
from .layers import LSTM, Bidirectional, Dense, Dropout, Input, Masking
from .layers.arguments import checked_weights, positive
from .layers.base import BatchShape, Layer, Recurrent, Variable


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
    >>> import cylstm
    >>> from cylstm.keras import LSTM, Dense, Input, Sequential
    >>> model = Sequential([Input((17, 10)), LSTM(7), Dense(3, activation="softmax")])
    >>> model.predict(cylstm.randn(100, 17, 10)).shape
    (100, 3)
    """

    def __init__(self, layers: Iterable[Layer | Input] = (), name: str = "sequential") -> None:
        self.name = name
        self.layers: list[Layer] = []
        self._used: dict[str, int] = {}
        self._batch_shape: BatchShape | None = None
        for layer in layers:
            self.add(layer)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name}, built={self.built}>"

    def add(self, layer: Layer | Input) -> None:
        """Append a layer.

        Raises
        ------
        TypeError, ValueError
            If it is no layer, an `Input` that is not the first, or does not fit behind the layers that are there.
        """
        if isinstance(layer, Input):
            if self.layers or self._batch_shape:
                raise ValueError("Input must be the first entry, got one behind others: give it first")
            self._batch_shape = layer.batch_shape
            return
        if not isinstance(layer, Layer):
            raise TypeError(f"layer must be a layer of cylstm.keras, got {type(layer).__name__}")
        if any(layer is one for one in self.layers):
            raise ValueError(f"layer must be a new one, got {layer.name!r} again: make another")
        if not self.layers and self._batch_shape is None and layer._input_shape is not None:
            self._batch_shape = (None, *layer._input_shape)
        if self._batch_shape is not None:
            shape = self._output_shape(self.layers)
            if isinstance(shape, list):
                raise ValueError(
                    f"{self.layers[-1].name} must give one array to the next layer, got {len(shape)}: make it the last"
                )
            if not layer.built:
                layer.build(shape)
            layer.output_shape(shape)
        if not layer._named:
            layer.name = numbered(layer.name, self._used)
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
        arrays = checked_weights(self, weights, [one.value for one in self.weights])
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
            if isinstance(layer, Recurrent):
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
        expected = self._batch_shape or (None,) * (x.ndim - 1) + x.shape[-1:]
        if x.ndim != len(expected) or any(a not in (None, b) for a, b in zip(expected, x.shape, strict=True)):
            raise ValueError(f"input of {self.name} must have shape {expected}, got {x.shape}")
        for layer in self.layers:
            if isinstance(x, tuple):
                raise ValueError(
                    f"input of {layer.name} must be one array, got {len(x)} from the layer before: make that the last"
                )
            following = layer.compute_mask(x, mask)
            x, mask = layer(x, mask=mask), following
        self._batch_shape = expected
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
            raise ValueError(f"verbose must be 'auto', 0 or 1, got {verbose!r}")
        size = 32 if batch_size is None else positive(batch_size, "batch_size")
        x = as_array(x, "x")
        if not len(x):
            raise ValueError("x must have at least one sequence, got none")
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
            raise ValueError(
                "the model must be built, got no shape of its input yet: begin it with Input(shape), or call it first"
            )
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

    def stored(self) -> list[Stored]:
        """The weights as they lie in Keras's files; names of groups are numbered by class."""
        used: dict[str, int] = {}
        return [
            Stored(layer.name, f"layers/{numbered(snake_case(type(layer).__name__), used)}", layer.parts())
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
            raise ValueError(
                "the model must be built, got no shape of its input yet: begin it with Input(shape), or call it first"
            )
        write_weights(weights_path(path), self.stored(), name=self.name)

    def load_weights(self, path: str | os.PathLike[str]) -> None:
        """Take the weights of a model of the same layers from a ``.weights.h5`` or ``.keras`` of Keras 3.

        Raises
        ------
        FileNotFoundError, ImportError
            If there is no such file, or h5py is not installed.
        ValueError
            If the file is damaged, or its weights are not those of these layers. Nothing is taken then.
        """
        layers = [_described(layer) for layer in self.layers]
        self.take(read_model(path, {"class_name": "Sequential", "config": {"name": self.name, "layers": layers}}))

    def take(self, stored: StoredModel) -> None:
        """:meth:`load_weights` of what was read."""
        layers = [n for n, one in enumerate(stored.config["layers"]) if one["class_name"] != "InputLayer"]
        self.set_weights([array for n in layers for array in stored.weights((n,))])


def _described(layer: Layer) -> dict[str, Any]:
    """The layer as a configuration describes it, as far as its weights depend on it."""
    config: dict[str, Any] = {name: getattr(layer, name) for name in ("name", "units", "use_bias") if hasattr(layer, name)}
    if isinstance(layer, Bidirectional):
        config |= {"layer": _described(layer.forward_layer), "backward_layer": _described(layer.backward_layer)}
    return {"class_name": type(layer).__name__, "config": config}


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
    stored = read_model(path)
    if stored.class_name != "Sequential":
        kind = f"a {stored.class_name} model" if stored.class_name else "weights without a configuration"
        raise ValueError(
            f"{path} must hold a Sequential model, got {kind}: cylstm.load(path) gives an LSTM of it; or build a "
            "cylstm.keras.Sequential and use its load_weights"
        )
    try:
        model = Sequential(name=stored.config["name"])
        for layer in stored.config["layers"]:
            kind, config = layer["class_name"], layer["config"]
            if kind == "InputLayer":
                batch, *shape = config["batch_shape"]
                model.add(Input(tuple(shape), batch, config["name"]))
            else:
                model.add(_from_config(kind, config))
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise damaged(path, f"the configuration must be one of Keras, got {type(error).__name__}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    model.take(stored)
    return model


def _from_config(kind: str, config: dict[str, Any]) -> Layer:
    """The layer that a configuration describes."""
    classes: dict[str, type[Layer]] = {one.__name__: one for one in (LSTM, Bidirectional, Dense, Masking, Dropout)}
    if kind not in classes:
        raise ValueError(
            f"the layer {config.get('name')!r} must be one that cylstm computes ({either(classes)}), got a {kind}"
        )
    cls = classes[kind]
    arguments = {name: config[name] for name in cls._arguments if name in config}
    dtype = config.get("dtype")
    if isinstance(dtype, dict):
        if dtype["class_name"] != "DTypePolicy":
            raise ValueError(
                f"the dtype of the layer {config.get('name')!r} must be a DTypePolicy, got a {dtype['class_name']}"
            )
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
                f"the dtype of the layer {config.get('name')!r} must be {either(DTYPES)}, got {dtype!r}"
            ) from None
    if batch_shape := config.get("batch_input_shape"):  # of Keras 2
        arguments["input_shape"] = tuple(batch_shape[1:])
    return cls(**arguments)
