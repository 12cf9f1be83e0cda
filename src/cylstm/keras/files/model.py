"""A model in a file: its configuration in one form, and its weights by layer, whatever version of Keras wrote them.

The form, that of Keras 3 with less in it::

    layer = {"class_name": str, "name": str, "config": dict, "inbound_nodes": [Node]}

A model is a layer whose config has ``layers``, a list of layers. In a Sequential the first is an InputLayer, if the
file tells the shape of the input. A Functional model has ``input_layers`` and ``output_layers``, lists of
:class:`Source`, and its layers have ``inbound_nodes``; ``Source.node`` counts from zero in that list. In every config

- ``name`` is there;
- ``dtype``, where it is a policy by name, is that name; another policy stays a table;
- ``layer``, ``backward_layer`` (Bidirectional, TimeDistributed), ``cell`` (RNN) and ``cells`` are layers of this form;
- ``activation`` and ``recurrent_activation`` are Keras's names, or a table for what is no function of Keras.
  hard_sigmoid is ``("hard_sigmoid", alpha, beta)``, for its definition differs; the name alone where the version is not
  told;
- ``batch_shape`` is the shape of an InputLayer or a first layer (``batch_input_shape`` of Keras 2);
- CuDNNLSTM is an LSTM with Keras's default activations, and its weights are those of an LSTM; its config says
  ``cudnn``.

An operation of Keras 3 between layers (``x + y``) has the class_name ``ops.Name``, a class of somebody else's
``package>Name``. Options are otherwise as the file has them: whoever computes a layer refuses what it does not know.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...files.container import TensorFileError, damaged, unreadable
from ...words import quoted
from .archive import read_raw
from .config import Node, Source, layers_in, normalised, version_of
from .shapes import weights_of
from .weights import Found, find_weights

__all__ = ["LayerPath", "Node", "Source", "StoredModel", "read_model"]

#: Indices into the list of layers, of the model inside, and so on; what is inside a wrapper has the indices 0, 1.
LayerPath = tuple[int, ...]


class StoredModel(NamedTuple):
    """A model in a file.

    Attributes
    ----------
    path : pathlib.Path
    class_name : str
        ``"Sequential"``, ``"Functional"``, another class's name; empty where the file has no configuration.
    config : dict
        See the module. Without a configuration it has no ``layers``.
    keras_version : str
        Of the file; empty where it does not tell.
    undescribed : tuple of Found
        Variables of the file that belong to no layer of the configuration.
    """

    path: Path
    class_name: str
    config: dict[str, Any]
    keras_version: str
    undescribed: tuple[Found, ...]
    arrays: dict[LayerPath, list[np.ndarray]]
    metadata: dict[str, str]

    def walk(self) -> Iterator[tuple[LayerPath, str, dict[str, Any]]]:
        """Path, name (with those of the layers around it, joined by dots) and layer, of all layers, in order."""

        def inside(layer: dict[str, Any], path: LayerPath, around: str) -> Iterator[Any]:
            for n, one in enumerate(layers_in(layer)):
                name = around + one["name"]
                yield (*path, n), name, one
                yield from inside(one, (*path, n), f"{name}.")

        yield from inside({"class_name": self.class_name, "config": self.config}, (), "")

    def weights(self, layer_path: Sequence[int]) -> list[np.ndarray]:
        """The weights of a layer, or of the layer or layers in a wrapper, in Keras's get_weights order.

        Parameters
        ----------
        layer_path : sequence of int
            Where the layer is: (2,) is the third layer, (2, 0) the first in that, if it is a model or a wrapper. Of a
            Bidirectional the weights are those of both directions.

        Raises
        ------
        ValueError
            If the file does not hold them, or not in an order that is known.
        """
        path = tuple(layer_path)
        layer: dict[str, Any] = {"class_name": self.class_name, "name": "model", "config": self.config}
        for n in path:
            layer = layers_in(layer)[n]
        if path in self.arrays:
            return self.arrays[path]
        inside = layers_in(layer)
        if not inside and weights_of(layer["class_name"], layer["config"]) == ({}, {}):
            return []
        if "layers" in layer["config"] or not inside:
            raise ValueError(
                f"{self.path} must hold the weights of the {layer['class_name']} {quoted(layer['name'])}, got none "
                "that are known to be its: save the model anew with Keras, or use another layer"
            )
        return [array for n in range(len(inside)) for array in self.weights((*path, n))]


def read_model(
    path: str | os.PathLike[str],
    config: dict[str, Any] | None = None,
    check: Callable[[dict[str, Any]], object] | None = None,
) -> StoredModel:
    """Read a model from ``.keras``, ``.h5``, ``.hdf5``, or weights alone from ``.weights.h5`` and ``.h5``.

    Parameters
    ----------
    path : path-like
        What the file is, is seen by its content: some versions wrote HDF5 under ``.keras``.
    config : dict, optional
        A model ``{"class_name", "config"}`` whose weights the file holds, instead of the configuration in the file.
    check : callable, optional
        Called with the model, a layer of the form of this module, before its weights are looked for: it may raise.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If h5py is not installed.
    ValueError
        If the file is damaged or hostile, or a layer of it has other weights than its configuration says.
    """
    path = Path(path)
    raw = read_raw(path)
    described = raw.model if config is None else config
    model: dict[str, Any] = {"class_name": "", "name": "model", "config": {}}
    with _of_file(path):
        if described is not None:
            model = normalised(described, version_of(raw.model or described, raw.keras_version))
    if check is not None and described is not None:
        check(model)
    with _of_file(path):
        arrays, undescribed = find_weights(model, raw.groups)
    return StoredModel(
        path, model["class_name"], model["config"], raw.keras_version, tuple(undescribed), arrays, raw.metadata
    )


@contextlib.contextmanager
def _of_file(path: Path) -> Iterator[None]:
    """Errors of a configuration or of weights that are none, as errors of the file."""
    try:
        yield
    except TensorFileError as error:
        raise damaged(path, str(error)) from error
    except Exception as error:  # KeyError, TypeError, RecursionError …
        raise unreadable(path, "Keras file", error) from error
