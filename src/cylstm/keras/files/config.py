"""The configuration of a model in one form, whatever version of Keras wrote it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from ...files.container import TensorFileError
from ...words import named, quoted
from .shapes import weights_of

#: Nested layers of a configuration.
MAX_DEPTH = 50
#: Letters of the name of a layer, which stands in many messages.
MAX_NAME = 1_000

#: What Keras calls hard_sigmoid: clip(alpha * x + beta, 0, 1), by its first version number.
HARD_SIGMOID = {2: ("hard_sigmoid", 0.2, 0.5), 3: ("hard_sigmoid", 1 / 6, 0.5)}


#: Options that operations do not have; one or the other is in the configuration of each layer of Keras 3.
_OF_LAYERS = {"trainable", "rate", "batch_shape", "layers", "cells", "layer"}


class Source(NamedTuple):
    """A tensor of a model: the output of one call of a layer."""

    layer: str  # the name of the layer, in the same model
    node: int  # which of its inbound_nodes
    tensor: int  # which of its outputs


class Node(NamedTuple):
    """One call of a layer; tensors among the arguments are a :class:`Source`, several at once a list of them."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    major: int = 2  # of the Keras in whose form it is written, 2 or 3


def version_of(model: dict[str, Any], version: str) -> int | None:
    """The first number of the version: what the file says; else 2 or 3 by what only one of them writes, or None."""
    first = version.partition(".")[0]
    if first.isdecimal():
        return min(int(first), 3)
    config = model.get("config")
    layers = config if isinstance(config, list) else config.get("layers") if isinstance(config, dict) else None
    for layer in layers if isinstance(layers, list) else []:
        inner = layer.get("config") if isinstance(layer, dict) else None
        for name, number in (("batch_input_shape", 2), ("time_major", 2), ("implementation", 2), ("batch_shape", 3)):
            if isinstance(inner, dict) and name in inner:
                return number
    return None


def normalised(model: dict[str, Any], major: int | None) -> dict[str, Any]:
    """The layer or model in the form that :mod:`.model` describes."""
    return _layer(model, major, 0)


def layers_in(layer: dict[str, Any]) -> list[dict[str, Any]]:
    """The layers inside a layer, in the order of its weights; those of a model, a wrapper, a cell of a recurrence."""
    config = layer["config"]
    if "layers" in config:
        return list(config["layers"])
    names = ("layer", "backward_layer", "cell")  # in the order of their weights
    inside = [one for name in names if isinstance(one := config.get(name), dict) and "class_name" in one]
    if layer["class_name"] == "Bidirectional" and len(inside) == 1:
        inside *= 2
    return inside + list(config.get("cells", []))


def _layer(layer: Any, major: int | None, depth: int) -> dict[str, Any]:
    if depth > MAX_DEPTH:
        raise TensorFileError(f"layers must be nested at most {MAX_DEPTH} deep, got more")
    if not isinstance(layer, dict) or not isinstance(layer.get("class_name"), str):
        raise TensorFileError(f"a layer must be a table with a class_name, got {quoted(layer)}")
    kind, config = layer["class_name"], layer.get("config")
    if isinstance(config, list):  # a Sequential of Keras up to 2.2.2
        config = {"layers": config}
    if not isinstance(config, dict):
        raise TensorFileError(f"the config of a {named(kind)} must be a table, got {quoted(config)}")
    module = layer.get("module")
    registered = layer.get("registered_name")
    package = registered.partition(">")[0] if isinstance(registered, str) and ">" in registered else module
    untold = module is None and major == 3 and not _OF_LAYERS & set(config)
    if "module" in layer and module is None and isinstance(registered, str) and ">" not in registered:
        package = "unregistered"  # a class of the user's, whatever its name
    if isinstance(package, str) and package.split(".")[0] not in ("keras", "tf_keras", "builtins"):
        kind = f"{package}>{kind}"
    elif (untold and not any(weights_of(kind, config) or ())) or (
        isinstance(module, str) and module.startswith(("keras.src.ops.", "keras.ops."))
    ):
        kind = f"ops.{kind}"  # between layers: it has no weights, and no group in a file
    kind = named(kind)
    config = dict(config)
    if kind == "Model" and "layers" in config:  # Functional, before Keras 2.4
        kind = "Functional"
    name = config.get("name", layer.get("name", kind.lower()))
    if not isinstance(name, str):
        raise TensorFileError(f"the name of a {kind} must be text, got {quoted(name)}")
    if len(name) > MAX_NAME:
        raise TensorFileError(f"the name of a {kind} must have at most {MAX_NAME} letters, got {quoted(name)}")
    config["name"] = name
    _options(kind, config, major)
    for option in ("layer", "backward_layer", "cell"):
        if isinstance(config.get(option), dict) and "class_name" in config[option]:
            config[option] = _layer(config[option], major, depth + 1)
    if kind in ("Bidirectional", "TimeDistributed") and "class_name" not in (config.get("layer") or ()):
        raise TensorFileError(
            f"the layer of the {kind} {quoted(name)} must be a layer, got {quoted(config.get('layer'))}"
        )
    for option in ("layers", "cells"):
        if option in config:
            if not isinstance(config[option], list):
                raise TensorFileError(f"the {option} of {quoted(name)} must be a list, got {quoted(config[option])}")
            config[option] = [_layer(one, major, depth + 1) for one in _named(config[option])]
    if "layers" in config:
        _connect(config, kind)
    if kind == "CuDNNLSTM":
        kind = "LSTM"
        config |= {"activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True, "cudnn": True}
    return {"class_name": kind, "name": name, "config": config, "inbound_nodes": layer.get("inbound_nodes", [])}


def _named(layers: list[Any]) -> list[Any]:
    """The layers, with names for models in them that have none, as in Keras up to 2.2.2."""
    named, used = [], 0
    for layer in layers:
        if isinstance(layer, dict) and isinstance(layer.get("config"), list) and "name" not in layer:
            used += 1
            layer = layer | {"name": f"sequential_{used}"}
        named.append(layer)
    return named


def _options(kind: str, config: dict[str, Any], major: int | None) -> None:
    """Options that have another form in another version, in one form."""
    dtype = config.get("dtype")
    if isinstance(dtype, dict) and dtype.get("class_name") in ("DTypePolicy", "Policy"):
        config["dtype"] = dtype.get("config", {}).get("name")
    if kind == "Embedding" and isinstance(dtype, str) and dtype.startswith(("int", "uint")):
        del config["dtype"]  # that of the indices, up to Keras 2.0; the table is of floats
    for name in ("activation", "recurrent_activation"):
        value = config.get(name)
        if value == "hard_sigmoid" and major is not None:
            value = HARD_SIGMOID[max(major, 2)]
        if name in config:
            config[name] = value
    if "batch_input_shape" in config and "batch_shape" not in config:
        config["batch_shape"] = config.pop("batch_input_shape")


def _connect(config: dict[str, Any], kind: str) -> None:
    """The layers of a model begin with its input, and calls of layers are nodes."""
    layers = config["layers"]
    names: set[str] = set()
    for layer in layers:
        if layer["name"] in names:
            raise TensorFileError(f"layers must have names of their own, got {quoted(layer['name'])} twice")
        names.add(layer["name"])
    if not any(key in config for key in ("input_layers", "output_layers")):
        shape = config.get("build_input_shape")
        if layers and isinstance(layers[0]["config"].get("batch_shape"), list):
            shape = layers[0]["config"]["batch_shape"]
        if layers and layers[0]["class_name"] != "InputLayer" and isinstance(shape, list):
            first = {"name": f"{layers[0]['name']}_input", "batch_shape": shape}
            layers.insert(0, {"class_name": "InputLayer", "name": first["name"], "config": first, "inbound_nodes": []})
        return
    for layer in layers:
        layer["inbound_nodes"] = [_node(one) for one in _listed(layer["inbound_nodes"], layer["name"])]
    for name in ("input_layers", "output_layers"):
        config[name] = list(_sources(_tensors(config.get(name, []))))
    if any(node.major == 3 for layer in layers for node in layer["inbound_nodes"]):
        # Keras 3 counts a call that is not there of nested Functional models, and does so for outputs alone.
        functional = {layer["name"] for layer in layers if layer["class_name"] == "Functional"}
        outputs = config["output_layers"]
        config["output_layers"] = [one._replace(node=one.node - (one.layer in functional)) for one in outputs]
    # A nested model is called once when it is made. Older versions count that call, which is not in the file.
    models = {layer["name"] for layer in layers if "layers" in layer["config"]}
    used = [one for layer in layers for node in layer["inbound_nodes"] for one in _sources(node)]
    used += config["output_layers"]
    first_of = {name: min((one.node for one in used if one.layer == name), default=0) for name in models}
    if any(first_of.values()):

        def shifted(one: Source) -> Source:
            return one._replace(node=one.node - first_of.get(one.layer, 0))

        for layer in layers:
            layer["inbound_nodes"] = [_mapped(node, shifted) for node in layer["inbound_nodes"]]
        config["output_layers"] = [shifted(one) for one in config["output_layers"]]


def _node(node: Any) -> Node:
    """One call of a layer."""
    if isinstance(node, dict):  # Keras 3
        return Node(tuple(_tensors(one) for one in node.get("args", [])), _tensors(node.get("kwargs", {})), 3)
    tensors = _tensors(node)
    kwargs: dict[str, Any] = {}
    for one in node if isinstance(node, list) and not isinstance(tensors, Source) else [node]:
        if isinstance(one, list) and len(one) > 3 and isinstance(one[3], dict):
            kwargs |= {name: _tensors(value) for name, value in one[3].items()}
    if isinstance(tensors, list) and len(tensors) == 1:
        [tensors] = tensors
    return Node((tensors,), kwargs)


def _tensors(value: Any, depth: int = 0) -> Any:
    """The value with each tensor as a :class:`Source`."""
    if depth > MAX_DEPTH:
        raise TensorFileError(f"arguments must be nested at most {MAX_DEPTH} deep, got more")
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            history = value["config"]["keras_history"]
            return Source(str(history[0]), int(history[1]), int(history[2]))
        return {name: _tensors(one, depth + 1) for name, one in value.items()}
    if isinstance(value, list | tuple):
        match value:
            case [str(name), int(node), int(tensor)] | [str(name), int(node), int(tensor), dict()]:
                return Source(name, node, tensor)
        return [_tensors(one, depth + 1) for one in value]
    return value


def _sources(value: Any) -> Iterable[Source]:
    """The tensors in a value, in order."""
    if isinstance(value, Source):
        yield value
    elif isinstance(value, dict):
        for name in sorted(value):
            yield from _sources(value[name])
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _sources(one)


def _mapped(value: Any, change: Any) -> Any:
    """The value with each tensor changed."""
    if isinstance(value, Source):
        return change(value)
    if isinstance(value, Node):
        return value._replace(args=_mapped(value.args, change), kwargs=_mapped(value.kwargs, change))
    if isinstance(value, dict):
        return {name: _mapped(one, change) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(one, change) for one in value)
    return value


def _listed(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise TensorFileError(f"the inbound_nodes of {quoted(name)} must be a list, got {quoted(value)}")
    return value
