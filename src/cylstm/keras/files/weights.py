"""Which arrays of a file are the weights of which layer of a configuration, in both layouts of Keras.

Keras 3 and 2.12 to 2.15 (``.keras``, ``.weights.h5``): groups by attribute and class, ``layers/lstm_1/cell/vars/0``.
Older: a group per layer of the outermost model, ``lstm_1/lstm_1/lstm_cell/kernel:0``, whose attribute weight_names has
the order: trained weights of all layers in it, then the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ...files.container import TensorFileError
from ...words import listed, quoted
from .config import layers_in
from .contents import BACKWARD, CELL, FORWARD, OWN, snake_case
from .hdf5 import Group
from .shapes import WITHOUT, Shape, fits, weights_of

LayerPath = tuple[int, ...]
Arrays = dict[LayerPath, list[np.ndarray]]

#: Where Keras 3, 2.15 and 2.12 to 2.14 keep the layers of a model.
_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")
#: Names of weights, in their order.
_ORDER = ("kernel", "recurrent_kernel", "embeddings", "gamma", "beta", "bias", "moving_mean", "moving_variance")


class Found(NamedTuple):
    """Variables of a file that no configuration describes."""

    name: str  # by the names of groups
    parts: dict[str, list[np.ndarray]]  # its own variables, or those of its cells


def find_weights(model: Mapping[str, Any], groups: Mapping[str, Group]) -> tuple[Arrays, list[Found]]:
    """The weights by layer, and what belongs to none."""
    numbered = any(re.search(r"(^|[/\\])vars$", path) for path in groups)
    layout = (_Numbered if numbered else _Named)(groups)
    arrays, left = layout.read(model)
    for n, layer in enumerate(model["config"].get("layers", [])):
        _check_there(layer, (n,), arrays, layout.unplaced)
    return arrays, left


def _check_there(layer: dict[str, Any], path: LayerPath, arrays: Arrays, unplaced: set[LayerPath]) -> None:
    """Refuse a file without the weights of a layer that has some; but not of layers whose place is not known."""
    if path in unplaced:
        return
    kind, config = layer["class_name"], layer["config"]
    if path not in arrays and any(weights_of(kind, config) or ()):
        raise TensorFileError(f"the file must hold the weights of the {kind} {quoted(layer['name'])}, got none")
    if kind in ("Bidirectional", "TimeDistributed", "RNN") or "layers" in config or "cells" in config:
        for n, one in enumerate(layers_in(layer)):
            _check_there(one, (*path, n), arrays, unplaced)


class _Numbered:
    """The layout of Keras 3."""

    def __init__(self, groups: Mapping[str, Group]) -> None:
        self.groups: dict[str, Group] = {}
        for path, group in groups.items():
            path = path.replace("\\", "/")  # of some versions on Windows
            if path in self.groups and self.groups[path].arrays:
                raise TensorFileError(f"the group {quoted(path)} must be there once, got it with / and with \\")
            self.groups[path] = group._replace(path=path)
        self.arrays: Arrays = {}
        self.unplaced: set[LayerPath] = set()
        self.taken: set[str] = set()
        #: Of each group, the groups inside it: the numbers behind each name.
        self.inside: dict[str, dict[str, set[int]]] = {}
        for path in self.groups:
            while path:
                path, _, name = path.rpartition("/")
                numbers = self.inside.setdefault(path, {})
                numbers.setdefault(name, set()).add(0)
                if match := re.fullmatch(r"(.+)_([1-9]\d{0,8})", name):
                    numbers.setdefault(match[1], set()).add(int(match[2]))

    def read(self, model: Mapping[str, Any]) -> tuple[Arrays, list[Found]]:
        if "layers" in model["config"]:
            self._take(model, (), "")
        return self.arrays, list(self._undescribed())

    def _take(self, layer: Mapping[str, Any], path: LayerPath, group: str) -> None:
        """The weights of a layer, and of those inside it."""
        kind, config = layer["class_name"], layer["config"]
        at = f"{group}/" if group else ""
        if "layers" in config:
            container = next((one for one in _CONTAINERS if f"{at}{one}" in self.inside), "")
            self._take_all(config["layers"], path, f"{at}{container}")
        elif "cells" in config:
            self._take_all(config["cells"], path, f"{at}cells")
        else:
            inside = ["forward_layer", "backward_layer"] if kind == "Bidirectional" else ["layer"]
            inside = ["cell"] if "cell" in config else inside
            for n, (one, attribute) in enumerate(zip(layers_in(dict(layer)), inside, strict=False)):
                self._take(one, (*path, n), f"{at}{attribute}")
        own = f"{at}cell/vars" if kind in ("LSTM", "GRU", "SimpleRNN") else f"{at}vars"
        stored = self.groups.get(own)
        weights = weights_of(kind, config)
        if stored is None or (weights is None and not stored.arrays):
            if weights and any(weights):
                raise TensorFileError(
                    f"{own} must hold the weights of the {kind} {quoted(layer['name'])}, got no such group"
                )
            return
        if not all(key.isdecimal() for key in stored.arrays):
            if weights is None:
                return
            raise TensorFileError(f"{own} must hold numbered arrays, got {listed(stored.arrays)}")
        arrays = [stored.arrays[key] for key in sorted(stored.arrays, key=int)]
        if weights is not None:
            arrays = checked(layer, [(str(n), array) for n, array in enumerate(arrays)])
        self.taken.add(own)
        if arrays or weights is not None:
            self.arrays[path] = arrays

    def _take_all(self, layers: list[dict[str, Any]], path: LayerPath, container: str) -> None:
        """The weights of layers in a row: groups are numbered by class, in some versions with gaps."""
        inside = self.inside.get(container, {})
        by_class: dict[str, list[int]] = {}
        for n, layer in enumerate(layers):
            if layer["class_name"].startswith("ops."):
                continue
            kind = "CuDNNLSTM" if layer["config"].get("cudnn") else layer["class_name"]
            by_class.setdefault(snake_case(kind.rpartition(">")[2].rpartition(".")[2]), []).append(n)
        for name, members in by_class.items():
            numbers = sorted(inside.get(name, ()))
            if len(numbers) != len(members):
                one = layers[members[0]]
                if not layers_in(one) and not any(weights_of(one["class_name"], one["config"]) or ()):
                    continue  # without weights, or of a class that is not known
                raise TensorFileError(
                    f"{container or 'the file'} must hold {len(members)} groups of the class {name}, as the "
                    f"configuration says, got {len(numbers)}"
                )
            for n, number in zip(members, numbers, strict=True):
                self._take(layers[n], (*path, n), f"{container}/{name}_{number}" if number else f"{container}/{name}")

    def _undescribed(self) -> Iterator[Found]:
        """The variables that were not taken."""
        found: dict[str, Found] = {}
        for path, group in sorted(self.groups.items()):
            parent, _, last = path.rpartition("/")
            if last != "vars" or path in self.taken or not group.arrays or parent.endswith("seed_generator"):
                continue
            numbers = all(key.isdecimal() for key in group.arrays)
            part, arrays = OWN, [group.arrays[key] for key in sorted(group.arrays, key=int if numbers else str)]
            for suffix in (FORWARD, BACKWARD, CELL):
                if parent == suffix or parent.endswith(f"/{suffix}"):
                    parent, part = parent.removesuffix(suffix).rstrip("/"), suffix
                    break
            found.setdefault(parent, Found(self._name(parent), {})).parts[part] = arrays
        yield from found.values()

    def _name(self, path: str) -> str:
        """What Keras has written beside the variables, its own and what is around it; or the path."""
        parts = path.split("/")
        around = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
        called = [group.name for one in around if (group := self.groups.get(f"{one}/vars")) is not None and group.name]
        return ".".join(called) if called else path.replace("/", ".")


class _Named:
    """The layout of Keras 2, and of whole models in HDF5."""

    def __init__(self, groups: Mapping[str, Group]) -> None:
        self.groups = groups
        self.arrays: Arrays = {}
        self.unplaced: set[LayerPath] = set()  # of layers that are known, with weights of which it is not known whose

    def read(self, model: Mapping[str, Any]) -> tuple[Arrays, list[Found]]:
        layers = model["config"].get("layers", [])
        stored = {name: arrays for name, arrays in self._by_layer([layer["name"] for layer in layers]) if arrays}
        for n, name in list(_matched(layers, list(stored))):
            if self._take(layers[n], (n,), stored[name]):
                del stored[name]
        return self.arrays, [found for name, arrays in stored.items() for found in undescribed(name, arrays)]

    def _by_layer(self, described: list[str]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """The names of the outermost layers, and their weights by name. A name with / is a group in a group."""
        root = self.groups.get("")
        names = dict.fromkeys(described if root is None or root.order is None else root.order)
        members: dict[str, list[str]] = {}
        for path, group in self.groups.items():
            if group.arrays:
                parts = path.split("/")
                around = ("/".join(parts[:n]) for n in range(len(parts), 0, -1))
                name = next((one for one in around if one in names), None) or _layer_name(parts)
                members.setdefault(name, []).append(path)
        if root is None or root.order is None:
            names = dict.fromkeys(members)
        for name in names:
            yield name, self._arrays(name, members.get(name, []))

    def _arrays(self, name: str, members: list[str]) -> dict[str, np.ndarray]:
        """The weights under the name of a layer, in order, by their names."""
        group = self.groups.get(name)
        if group is not None and group.order is not None:
            found = {}
            for weight in group.order:
                where, _, key = f"{name}/{weight}".rpartition("/")
                if where not in self.groups or key not in self.groups[where].arrays:
                    raise TensorFileError(
                        f"the group {quoted(name)} must hold the weight {quoted(weight)}, got none of that name"
                    )
                found[weight] = self.groups[where].arrays[key]
            return found
        inside = {
            f"{path}/{key}".removeprefix(f"{name}/"): array
            for path in members
            for key, array in self.groups[path].arrays.items()
        }
        return dict(sorted(inside.items(), key=lambda item: _rank(item[0])))

    def _take(self, layer: dict[str, Any], path: LayerPath, arrays: dict[str, np.ndarray]) -> bool:
        """Give the weights to the layer and those inside it; False if it is not known which are whose."""
        slots = _slots(layer, path)
        if slots is None:
            if layers_in(layer):
                self.unplaced.add(path)
                return False
            self.arrays[path] = list(arrays.values())
            return True
        trained, others = slots
        got = list(arrays.items())
        if len(got) != len(trained) + len(others):
            raise TensorFileError(
                f"the {layer['class_name']} {quoted(layer['name'])} must have {len(trained) + len(others)} weights, "
                f"as the configuration says, got {len(got)}: {listed(arrays)}"
            )
        mine: dict[LayerPath, tuple[dict[str, Any], list[tuple[str, np.ndarray]]]] = {}
        for (where, one), item in zip((*trained, *others), got, strict=True):
            mine.setdefault(where, (one, []))[1].append(item)
        for where, (one, items) in mine.items():
            self.arrays[where] = checked(one, items)
        return True


def _matched(layers: list[dict[str, Any]], names: list[str]) -> Iterator[tuple[int, str]]:
    """Which layer is under which name: by name, else in their order, as Keras does."""
    described = {layer["name"]: n for n, layer in enumerate(layers)}
    if not layers or all(name in described for name in names):
        yield from ((described[name], name) for name in names if name in described)
        return
    weighty = [n for n, layer in enumerate(layers) if layer["class_name"] not in WITHOUT]
    if len(weighty) != len(names):
        raise TensorFileError(
            f"the layers with weights must be {listed(layers[n]['name'] for n in weighty)}, as the configuration "
            f"says, got {listed(names)}"
        )
    yield from zip(weighty, names, strict=True)


def _slots(layer: dict[str, Any], path: LayerPath) -> tuple[list[Any], list[Any]] | None:
    """For each trained weight and for each other one, in Keras's order, the path of its layer and the layer."""
    inside = layers_in(layer)
    own = weights_of(layer["class_name"], layer["config"])
    if own is None and not inside:
        return None
    trained, others = ([(path, layer)] * len(one) for one in own or ({}, {}))
    for n, one in enumerate(inside):
        slots = _slots(one, (*path, n))
        if slots is None:
            return None
        trained, others = trained + slots[0], others + slots[1]
    if layer["config"].get("trainable") is False:
        return [], trained + others
    return trained, others


def checked(layer: Mapping[str, Any], got: list[tuple[str, np.ndarray]]) -> list[np.ndarray]:
    """The weights of a layer in its form, if they are those that its configuration asks for."""
    kind, config = layer["class_name"], layer["config"]
    trained, others = weights_of(kind, config) or ({}, {})
    expected: dict[str, Shape] = {**trained, **others}
    which = f"the {kind} {quoted(layer['name'])}"
    if len(got) != len(expected) or not all(
        fits(array.shape, shape) and _leaf(name) in (wanted, "") and array.dtype.kind == "f"
        for (name, array), (wanted, shape) in zip(got, expected.items(), strict=True)
    ):
        raise TensorFileError(
            f"the weights of {which} must be {listed(f'{name} {shape or ()}' for name, shape in expected.items())}, "
            f"as the configuration says, got {listed(f'{name} {array.shape} {array.dtype}' for name, array in got)}"
        )
    arrays = [array for _, array in got]
    return from_cudnn(arrays) if config.get("cudnn") else arrays


def from_cudnn(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The weights of a CuDNNLSTM as those of an LSTM: each gate's kernel is transposed in place, the biases are two."""
    kernel, recurrent_kernel, bias = arrays
    one = [gate.reshape(gate.shape[::-1]).T for gate in np.split(kernel, 4, axis=1)]
    other = [gate.T for gate in np.split(recurrent_kernel, 4, axis=1)]
    return [np.concatenate(one, axis=1), np.concatenate(other, axis=1), bias[: len(bias) // 2] + bias[len(bias) // 2 :]]


def undescribed(name: str, arrays: Mapping[str, np.ndarray]) -> Iterator[Found]:
    """What the weights under the name of a layer may be, by their own names: LSTMs, halves of a Bidirectional, others.

    The name of a weight is that of the layer again, unless that is a model; then layers inside it; a cell; the weight.
    """
    groups: dict[str, dict[str, np.ndarray]] = {}
    for weight, array in arrays.items():
        where, _, key = weight.rpartition("/")
        groups.setdefault(where, {})[key.partition(":")[0]] = array
    places: list[tuple[tuple[str, ...], str, tuple[str, ...], list[np.ndarray]]] = []  # of a layer, a part, a group
    for where, group in groups.items():
        again = where == name or where.startswith(f"{name}/")
        inner = tuple(one for one in where.removeprefix(name if again else "").split("/") if one)
        layer, part, weights = inner, OWN, list(group.values())
        if {"kernel", "recurrent_kernel"} <= set(group):
            part, weights = CELL, [group[key] for key in ("kernel", "recurrent_kernel", "bias") if key in group]
            # The halves have a layer around them; a layer in a model may only be called so.
            halves = [n for n, one in enumerate(inner) if one.startswith(("forward_", "backward_")) and (n or again)]
            if halves:
                layer, part = inner[: halves[-1]], FORWARD if inner[halves[-1]].startswith("forward_") else BACKWARD
            elif inner and re.fullmatch(r"\w*_cell(_\d+)?", inner[-1]):
                layer = inner[:-1]
        places.append((layer, part, inner, weights))
    parts: dict[tuple[str, ...], list[str]] = {}
    for layer, part, _, _ in places:
        parts.setdefault(layer, []).append(part)
    found: dict[str, Found] = {}
    for layer, part, inner, weights in places:
        beside = parts[layer][:3]
        if beside.count(part) > 1 or (part in (FORWARD, BACKWARD) and sorted(beside) != [BACKWARD, FORWARD]):
            layer, part = inner, CELL if part else OWN
        key = ".".join((name, *layer))
        found.setdefault(key, Found(key, {})).parts[part] = weights
    if len(found) == 1:
        [only] = found.values()
        found = {name: only._replace(name=name)}
    yield from found.values()


def _layer_name(parts: list[str]) -> str:
    """The name of the layer whose weights are in this group; it is there twice, else it is the first part."""
    for n in range(1, len(parts) // 2 + 1):
        if parts[:n] == parts[n : 2 * n]:
            return "/".join(parts[:n])
    return parts[0]


def _leaf(name: str) -> str:
    """The weight that a name names; empty where it names none that is known."""
    leaf = re.sub(r"_\d+$", "", name.rpartition("/")[2].partition(":")[0])
    return leaf if leaf in _ORDER else ""


def _rank(name: str) -> tuple[Any, ...]:
    """For the order of weights where the file does not list it: halves, cells, then the order within a layer."""
    where, _, _ = name.rpartition("/")
    leaf = _leaf(name)
    return ("backward_" in where, where, _ORDER.index(leaf) if leaf else len(_ORDER), name)
