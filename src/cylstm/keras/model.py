"""What Keras's models have in common: prediction, summary, weights in files."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays.arguments import as_array
from ..files.container import replacing
from ..progress import Progress
from ..words import listed, quoted
from .files.contents import Stored, numbered, snake_case, weights_path, write_weights
from .files.model import LayerPath, StoredModel, read_model
from .layers.arguments import positive
from .layers.base import InputLayer, Layer, Recurrent


class Model(Recurrent):
    """Layers that compute together; a layer of other models, too.

    Attributes
    ----------
    name : str
    layers : list of Layer
    """

    layers: list[Layer]

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """The layer of this name, or at this place.

        Raises
        ------
        ValueError
            If there is none, or not one of name and index is given.
        """
        if (name is None) == (index is None):
            raise ValueError("name or index must be given, got neither or both")
        names = [layer.name for layer in self.layers]
        if index is not None and not -len(names) <= index < len(names):
            raise ValueError(f"index must be below {len(names)}, the number of layers, got {index}")
        if name is not None and name not in names:
            raise ValueError(f"name must be among those of the layers, {', '.join(names)}, got {quoted(name)}")
        return self.layers[names.index(name) if name is not None else index or 0]

    def inner_layers(self) -> dict[str, Layer]:
        """The layers by the paths of their groups in Keras's files: numbered by class."""
        used: dict[str, int] = {}
        return {f"layers/{numbered(snake_case(type(layer).__name__), used)}": layer for layer in self.layers}

    @property
    def input_shape(self) -> Any:
        """The shape of the input with the batch, or a list of shapes."""
        raise NotImplementedError

    @property
    def output_shape(self) -> Any:
        """The shape of the output with the batch, or a list of shapes."""
        return self.compute_output_shape(self.input_shape)

    @property
    def inputs(self) -> list[InputLayer]:
        """The inputs."""
        raise NotImplementedError

    def _rows(self) -> list[tuple[Layer, Any]]:
        """The layers of the summary with the shapes of their output."""
        raise NotImplementedError

    def reset_state(self) -> None:
        """Let stateful layers begin at zero."""
        for layer in self.layers:
            if isinstance(layer, Recurrent):
                layer.reset_state()

    def _entered(self, x: Any) -> Any:
        return x

    def __call__(self, x: Any, mask: Any = None) -> Any:
        """Apply all layers. A mask (B, T), or that of a layer, goes with the sequence.

        Parameters
        ----------
        x : array (B, T, features)
            Or a list of arrays, or a dictionary by the names of the inputs, where there are several.
        mask : array of bool (B, T), optional

        Returns
        -------
        numpy.ndarray, or a tuple of them where there are several outputs
        """
        return self.run(x, mask)[0]

    def predict(self, x: Any, batch_size: int | None = 32, verbose: int | str = "auto") -> Any:
        """Apply all layers, a batch at a time.

        Parameters
        ----------
        x : array (N, T, features)
            Or several, as for a call.
        batch_size : int, optional
            Sequences at a time; None is 32. The results of an LSTM do not depend on it, those of layers that NumPy
            multiplies (`Dense`) may in their last bits.
        verbose : {"auto", 0, 1}
            Whether progress is shown: with "auto" on a terminal.

        Returns
        -------
        numpy.ndarray, or a list of them where there are several outputs
        """
        if verbose not in ("auto", 0, 1):
            raise ValueError(f"verbose must be 'auto', 0 or 1, got {quoted(verbose)}")
        size = 32 if batch_size is None else positive(batch_size, "batch_size")
        if isinstance(x, Mapping):
            x = {name: as_array(one, name) for name, one in x.items()}
            lengths = {len(one) for one in x.values()}
        elif isinstance(x, list | tuple) and len(self.inputs) > 1:
            x = [as_array(one, "x") for one in x]
            lengths = {len(one) for one in x}
        else:
            x = as_array(x[0] if isinstance(x, list | tuple) and len(x) == 1 and np.ndim(x[0]) > 1 else x, "x")
            lengths = {len(x)}
        if len(lengths) > 1:
            raise ValueError(f"x must have as many sequences in each array, got {sorted(lengths)}")
        [length] = lengths or {0}
        if not length:
            raise ValueError("x must have at least one sequence, got none")
        results = []
        with Progress(-(-length // size), "batches", shown=None if verbose == "auto" else bool(verbose)) as bar:
            for begin in range(0, length, size):
                results.append(self(_sliced(x, slice(begin, begin + size))))
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
        self._check_built()
        line, double = "_" * 65, "=" * 65

        def row(*texts: object) -> str:
            text = ""
            for part, end in zip(texts, (29, 55, 65), strict=True):
                text = f"{text}{part}"[: end - 1].ljust(end)
            return text.rstrip()

        lines = [f'Model: "{self.name}"', line, row("Layer (type)", "Output Shape", "Param #"), double]
        for layer, shape in self._rows():
            lines += [row(f"{layer.name} ({type(layer).__name__})", shape, f"{layer.count_params():,}"), line]
        total, fixed = self.count_params(), self._count_not_trained()
        lines[-1] = double
        lines += [f"Total params: {total:,}", f"Trainable params: {total - fixed:,}"]
        print_fn("\n".join([*lines, f"Non-trainable params: {fixed:,}", line]))

    def _count_not_trained(self) -> int:
        fixed = ("moving_mean", "moving_variance", "mean", "variance", "count")
        return sum(one.value.size for one in self.weights if one.name in fixed)

    def _check_built(self) -> None:
        if not self.built:
            raise ValueError(
                "the model must be built, got no shape of its input yet: begin it with Input(shape), or call it first"
            )

    def stored(self) -> list[Stored]:
        """The weights as they lie in Keras's files."""
        return [Stored(layer.name, path, layer.parts()) for path, layer in self.inner_layers().items()]

    def described(self) -> dict[str, Any]:
        """The model as Keras's configurations have it."""
        kind = type(self).__name__
        return super().described() | {"module": f"keras.src.models.{kind.lower()}", "registered_name": kind}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a ``.keras``, which Keras 3 and :func:`cylstm.keras.load_model` read.

        Raises
        ------
        ValueError
            If the path ends in something else, the weights are not there yet, or a layer has what Keras 3 has not.
        ImportError
            If h5py is not installed.
        """
        self._check_built()
        if not str(path).lower().endswith(".keras"):
            raise ValueError(f"path must end in .keras, got {str(path)!r}: use save_weights for .weights.h5")
        config = json.dumps(self.described())
        with tempfile.TemporaryDirectory() as folder, replacing(Path(path)) as temporary:
            weights = Path(folder) / "model.weights.h5"
            write_weights(weights, self.stored(), name=self.name)
            with zipfile.ZipFile(temporary, "w") as archive:
                archive.writestr("metadata.json", json.dumps({"keras_version": "3.4.0"}))
                archive.writestr("config.json", config)
                archive.write(weights, "model.weights.h5")

    def save_weights(self, path: str | os.PathLike[str]) -> None:
        """Write the weights to a ``.weights.h5``, which Keras's ``load_weights`` reads.

        Raises
        ------
        ValueError
            If the path ends in something else, or the weights are not there yet.
        """
        self._check_built()
        write_weights(weights_path(path), self.stored(), name=self.name)

    def load_weights(self, path: str | os.PathLike[str]) -> None:
        """Take the weights of a model of the same layers from a file of Keras, or of :meth:`save_weights`.

        Raises
        ------
        FileNotFoundError, ImportError
            If there is no such file, or h5py is not installed.
        ValueError
            If the file is damaged, or its weights are not those of these layers. Nothing is taken then.
        """
        self._check_built()
        stored = read_model(path, {"class_name": "Sequential", "config": self._described()})
        if stored.undescribed:
            found = listed(one.name for one in stored.undescribed)
            raise ValueError(f"{path} must hold the weights of the layers of {self.name} alone, got those of {found}")
        self.set_weights(list(_stored(self, stored, ())))

    def _described(self) -> dict[str, Any]:
        """The layers, as far as their weights depend on it."""
        raise NotImplementedError


def _stored(layer: Layer, stored: StoredModel, path: LayerPath) -> Iterator[np.ndarray]:
    """The weights in a file for a layer or model, in their order."""
    if isinstance(layer, Model):
        inputs = [one for one in layer.inputs if not any(one is other for other in layer.layers)]
        for n, one in enumerate([*inputs, *layer.layers]):
            yield from _stored(one, stored, (*path, n))
    elif isinstance(inside := getattr(layer, "layer", None), Layer):
        yield from _stored(inside, stored, (*path, 0))
    elif layer.weights:
        yield from stored.weights(path)


def _sliced(x: Any, rows: slice) -> Any:
    if isinstance(x, dict):
        return {name: one[rows] for name, one in x.items()}
    return [one[rows] for one in x] if isinstance(x, list) else x[rows]


def checked_input(model: Model, x: Any, shape: Sequence[int | None]) -> np.ndarray:
    """The input as an array, if it has this shape; None stands for any size."""
    array = as_array(x, "x")
    if array.ndim == len(shape) - 1 and shape[-1] == 1:
        array = array[..., np.newaxis]  # as Keras does
    elif array.ndim == len(shape) + 1 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != len(shape) or any(a not in (None, b) for a, b in zip(shape, array.shape, strict=True)):
        raise ValueError(f"input of {model.name} must have shape {tuple(shape)}, got {array.shape}")
    return array
