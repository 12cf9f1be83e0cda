"""Keras's models, made from files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays.arguments import DTYPES, as_dtype
from ..files.container import damaged
from ..files.names import either
from ..words import error_text, quoted
from .files.model import LayerPath, StoredModel, read_model
from .functional import Functional
from .layers import LAYERS, Bidirectional, Identity, Layer, LSTMCell, StackedRNNCells, TimeDistributed
from .layers.base import InputLayer
from .layers.merging import Merge
from .layers.operations import OPERATIONS, Operation
from .sequential import Sequential

#: Options by their names before Keras 3.
_RENAMED = {"LeakyReLU": {"alpha": "negative_slope"}}
#: Operations of TensorFlow between layers of Keras 2, by their functions.
_OF_TENSORFLOW = {
    "__operators__.getitem": "GetItem",
    "__operators__.add": "Add",
    "math.add": "Add",
    "math.subtract": "Subtract",
    "math.multiply": "Multiply",
    "math.divide": "Divide",
    "math.truediv": "Divide",
    "math.reduce_mean": "Mean",
    "math.reduce_sum": "Sum",
    "math.reduce_max": "Max",
    "expand_dims": "ExpandDims",
    "compat.v1.squeeze": "Squeeze",
    "compat.v1.transpose": "Transpose",
    "math.tanh": "Tanh",
    "math.sigmoid": "Sigmoid",
    "nn.relu": "Relu",
    "nn.softmax": "Softmax",
}
#: Options that say how a file came to be.
_OF_FILES = ("cudnn", "build_config", "autocast")
#: What makes a layer of a configuration, beside the classes of layers.
_OTHERS: dict[str, Any] = {"InputLayer": InputLayer, "LSTMCell": LSTMCell, "StackedRNNCells": StackedRNNCells}


def load_model(path: str | os.PathLike[str]) -> Sequential | Functional:
    """Make a model from a file of Keras, ``.keras``, ``.h5`` or ``.hdf5``, with its weights. Nothing in it is executed.

    What plays no part in inference (dropout, regularisers, the optimiser) is left out; what cylstm does not compute is
    refused by its class and its layer's name. A policy of mixed precision is computed in float32, as are its variables.

    Returns
    -------
    Sequential or Functional

    Raises
    ------
    FileNotFoundError, ImportError
        If there is no such file, or h5py is not installed.
    ValueError
        If the file is damaged, has no model but weights alone, or its model has what is not computed here.
    """
    path = Path(path)

    def check(model: Mapping[str, Any]) -> None:
        with _of_configuration(path):
            _layer(model, None, ())

    stored = read_model(path, check=check)
    if not stored.class_name:
        raise ValueError(
            f"{path} must hold a model, got weights without a configuration: cylstm.load(path) gives an LSTM of it; or "
            "build a cylstm.keras.Sequential and use its load_weights"
        )
    with _of_configuration(path):
        model = _layer({"class_name": stored.class_name, "name": "", "config": stored.config}, stored, ())
        if isinstance(model, Functional):
            model.build()
    assert isinstance(model, Sequential | Functional)
    return model


def why_not(described: Mapping[str, Any]) -> str:
    """Why :func:`load_model` does not compute a layer of a configuration; empty where it does."""
    try:
        _layer(described, None, ())
    except (KeyError, TypeError, AttributeError, OverflowError, ValueError) as error:
        return str(error)
    return ""


@contextlib.contextmanager
def _of_configuration(path: Path) -> Iterator[None]:
    """Errors of a configuration, as errors of the file."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise damaged(path, f"the configuration must be one of Keras, got {error_text(error)}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _layer(described: Mapping[str, Any], stored: StoredModel | None, path: LayerPath) -> Layer:
    """The layer of a configuration, and which weights it will take when it is built.

    Without a file the configuration is checked alone: of a model nothing comes of it.
    """
    kind, config = described["class_name"], described["config"]
    if kind in ("Sequential", "Functional"):
        return _model(kind, config, stored, path)
    if kind in ("TFOpLambda", "SlicingOpLambda"):
        return _operation(_OF_TENSORFLOW.get(config["function"], config["function"]), {"name": config["name"]})
    if kind.startswith("ops."):
        return _operation(kind.removeprefix("ops."), config)
    layer = _made(kind, config, stored, path)
    if stored is not None and isinstance(layer, Bidirectional) and _before_tf(stored.keras_version):
        layer.zero_masked(False)
    if stored is not None and isinstance(layer, Merge) and _loses_masks(stored.keras_version):
        layer._refuse_masks()
    if stored is not None and not isinstance(layer, InputLayer | TimeDistributed):
        layer.give(partial(stored.weights, path))
    return layer


def _before_tf(version: str) -> bool:
    """Whether it is a Keras before it became a part of TensorFlow. Its Bidirectional did not zero masked steps."""
    numbers = version.split(".")
    return numbers[0] == "2" and len(numbers) > 1 and numbers[1] in tuple("0123") and not version.endswith("-tf")


def _loses_masks(version: str) -> bool:
    """Whether it is a Keras in which several inputs pass no mask on, 3.0 to 3.3."""
    return version.split(".")[:2] in (["3", minor] for minor in "0123")


def _operation(kind: str, config: Mapping[str, Any]) -> Operation:
    if kind not in OPERATIONS:
        raise ValueError(
            f"the operation {quoted(config['name'])} must be one that cylstm computes, got a {kind}: use Keras, or "
            "cylstm.load for an LSTM of the file"
        )
    options = {name: value for name, value in config.items() if name not in ("name", "trainable")}
    if kind not in ("ZerosLike", "OnesLike"):
        options.pop("dtype", None)
    return Operation(kind, options, config["name"])


def _model(kind: str, config: Mapping[str, Any], stored: StoredModel | None, path: LayerPath) -> Layer:
    layers = [_layer(one, stored, (*path, n)) for n, one in enumerate(config["layers"])]
    if stored is None:
        return Identity()
    if kind == "Functional":
        nodes = [one["inbound_nodes"] for one in config["layers"]]
        return Functional(layers, nodes, config["input_layers"], config["output_layers"], name=config["name"])
    return Sequential(layers, name=config["name"])


def _made(kind: str, config: Mapping[str, Any], stored: StoredModel | None, path: LayerPath) -> Any:
    """What a configuration describes that is no model."""
    name = config["name"]
    if kind not in LAYERS and kind not in _OTHERS:
        raise ValueError(
            f"the layer {quoted(name)} must be of a class of cylstm.keras.layers, got a {kind}, which is not "
            "computed: use "
            "Keras, or cylstm.load for an LSTM of the file"
        )
    arguments = {option: _value(value) for option, value in config.items() if not option.endswith("_initializer")}
    for option in _OF_FILES:
        arguments.pop(option, None)
    for option in ("activation", "recurrent_activation"):
        if arguments.get(option) == "hard_sigmoid":
            raise ValueError(
                f"{option} of the layer {quoted(name)} must be one definition, got 'hard_sigmoid' of a version of "
                "Keras "
                "that the file does not tell: save the model anew with Keras"
            )
    for old, new in _RENAMED.get(kind, {}).items():
        if old in arguments:
            arguments[new] = arguments.pop(old)
    dtype = arguments.pop("dtype", None)
    if kind in ("InputLayer", "StackedRNNCells"):
        arguments.pop("trainable", None)
    elif dtype is not None:
        arguments["dtype"] = _dtype(name, dtype)
    if kind == "LSTMCell":
        arguments.pop("trainable", None)
    for n, inner in enumerate(("layer", "backward_layer", "cell")):
        if (inside := config.get(inner)) is None:
            arguments.pop(inner, None)
        elif kind == "TimeDistributed":
            arguments[inner] = _layer(inside, stored, (*path, n))
        else:
            arguments[inner] = _made(inside["class_name"], inside["config"], stored, path)
    if "cells" in config:
        arguments["cells"] = [_made(one["class_name"], one["config"], stored, path) for one in config["cells"]]
    try:
        return (LAYERS.get(kind) or _OTHERS[kind])(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the layer {quoted(name)}, a {kind}, must be one that cylstm computes: {error}") from error


def _value(value: Any) -> Any:
    """An option as its constructor takes it: tuples and arrays are described in configurations."""
    if isinstance(value, Mapping):
        if value.get("class_name") == "__tuple__":
            return tuple(value.get("items") or value.get("config", {}).get("value", ()))
        if value.get("class_name") == "__numpy__":
            return np.asarray(value["config"]["value"], value["config"]["dtype"])
    return value


def _dtype(name: str, dtype: Any) -> np.dtype:
    if isinstance(dtype, str):
        try:
            return as_dtype("float32" if dtype.startswith("mixed_") else dtype)  # of the variables
        except (RuntimeError, TypeError):
            pass
    got = dtype.get("class_name") if isinstance(dtype, Mapping) else dtype
    raise ValueError(f"the dtype of the layer {quoted(name)} must be {either(DTYPES)}, got {quoted(got)}: use Keras")
