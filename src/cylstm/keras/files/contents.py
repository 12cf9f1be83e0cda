"""Keras's files: ``.keras`` (a zip archive of config.json and model.weights.h5), ``.weights.h5``, and HDF5 models.

Only h5py is needed. Nothing in a file is executed: of the configuration, names and numbers are read. Every file is
taken as hostile: links out of the file, and data in other files, are refused.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...files.container import TensorFileError, damaged, existing, expansion_limit, replacing, unreadable
from .hdf5 import Group, attribute, check_heaps, groups, import_h5py

#: Nested layers of a configuration.
MAX_DEPTH = 50
#: The attribute of the file in which cylstm keeps what Keras has no place for: text to text, as JSON.
METADATA = "cylstm"

CELL, FORWARD, BACKWARD, OWN = "cell", "forward_layer/cell", "backward_layer/cell", ""


class Described(NamedTuple):
    """A layer in the configuration of a model."""

    name: str  # with the names of the models and wrappers around it, joined by dots
    path: str  # of its group in the file of weights
    kind: str  # Keras's class
    config: dict[str, Any]


class Stored(NamedTuple):
    """The variables of a layer in a file."""

    name: str
    path: str
    parts: dict[str, list[np.ndarray]]  # its own variables, or those of its cells


class KerasFile(NamedTuple):
    """What a file holds."""

    kind: str  # the class of the model: Sequential, Functional …; empty where there is no configuration
    config: dict[str, Any]
    described: dict[str, Described]  # by name
    stored: dict[str, Stored]  # by name
    metadata: dict[str, str]


def read_file(path: Path) -> KerasFile:
    """Read the configuration, if there is one, and all variables.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If h5py is not installed.
    ValueError
        If the file is damaged or hostile.
    """
    h5py = import_h5py()
    size = existing(path).stat().st_size
    try:
        model: dict[str, Any] = {}
        source: Any = path
        if path.suffix.lower() == ".keras":
            with zipfile.ZipFile(path) as archive:
                model = json.loads(_member(archive, "config.json", size))
                source = io.BytesIO(_member(archive, "model.weights.h5", size))
        check_heaps(source)
        with h5py.File(source, "r") as file:
            limit = expansion_limit(size)
            found = {group.path: group for group in groups(h5py, file, limit)}
            if (text := attribute(file, "model_config")) is not None:
                model = json.loads(text)
            metadata = json.loads(attribute(file, METADATA) or "{}")
        if not all(isinstance(text, str) for text in metadata.values()):
            raise TensorFileError("metadata must be text, got something else")
        described = {one.name: one for one in _describe(model.get("config", {}), "layers", "", 0)}
        names = {one.path: one.name for one in described.values()}
        stored = _stored(found, names)
        return KerasFile(model.get("class_name", ""), model.get("config", {}), described, stored, metadata)
    except TensorFileError as error:
        raise damaged(path, str(error)) from error
    except Exception as error:  # of zipfile, json, HDF5: OSError, RuntimeError, KeyError, RecursionError …
        raise unreadable(path, "Keras file", error) from error


def write_weights(
    path: Path, layers: Sequence[Stored], metadata: Mapping[str, str] | None = None, name: str = "sequential"
) -> None:
    """Write variables as ``.weights.h5``, as Keras 3 does, under a temporary name first."""
    h5py = import_h5py()
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:

        def write(group: str, called: str, arrays: Sequence[np.ndarray]) -> None:
            variables = file.require_group(f"{group}/vars".lstrip("/"))
            variables.attrs["name"] = called
            for n, array in enumerate(arrays):
                if array.dtype.name == "bfloat16":  # which HDF5 does not have: two bytes, and what they are
                    variables.create_dataset(str(n), data=np.ascontiguousarray(array).view("V2")).attrs["dtype"] = (
                        "bfloat16"
                    )
                else:
                    variables.create_dataset(str(n), data=array)

        write("", name, [])
        for layer in layers:
            write(layer.path, layer.name, [])
            for part, arrays in layer.parts.items():
                if part in (FORWARD, BACKWARD):
                    direction = part.partition("_")[0]
                    write(f"{layer.path}/{direction}_layer", f"{direction}_{layer.name}", [])
                write(f"{layer.path}/{part}".rstrip("/"), "lstm_cell" if part else layer.name, arrays)
        if metadata:
            file.attrs[METADATA] = json.dumps(dict(metadata))


def weights_path(path: str | os.PathLike[str]) -> Path:
    """The path, if Keras would take it for a file of weights."""
    if not str(path).lower().endswith(".weights.h5"):
        raise ValueError(f"path must end in .weights.h5, got {str(path)!r}")
    return Path(path)


def snake_case(name: str) -> str:
    """Keras's name of a group or layer for the name of a class."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=.)(?=[A-Z][a-z])", "_", name).lower()


def numbered(name: str, used: dict[str, int]) -> str:
    """The name with a number behind it, if it was used before."""
    used[name] = used.get(name, -1) + 1
    return f"{name}_{used[name]}" if used[name] else name


def _member(archive: zipfile.ZipFile, name: str, size: int) -> bytes:
    info = archive.getinfo(name)
    if info.file_size > expansion_limit(size):
        raise TensorFileError(f"{name} must grow to at most {expansion_limit(size)} bytes, got {info.file_size}")
    return archive.read(info)


def _stored(found: Mapping[str, Group], names: Mapping[str, str]) -> dict[str, Stored]:
    """The variables by layer."""
    stored: dict[str, Stored] = {}
    for group in found.values():
        path, _, last = group.path.rpartition("/")
        if last == "vars" or group.path == "vars":
            part, arrays = OWN, [group.arrays[key] for key in sorted(group.arrays, key=int)]
            for suffix in (FORWARD, BACKWARD, CELL):
                if path == suffix or path.endswith(f"/{suffix}"):
                    path, part = path.removesuffix(suffix).rstrip("/"), suffix
                    break
            name = names.get(path) or _name(path, found)
        elif "recurrent_kernel" in group.arrays and "kernel" in group.arrays:  # whole models in HDF5
            arrays = [group.arrays[key] for key in ("kernel", "recurrent_kernel", "bias") if key in group.arrays]
            parts = group.path.removeprefix("model_weights/").split("/")
            name = path = parts[0]
            inner = [one.partition("_")[0] for one in parts if one.startswith(("forward_", "backward_"))]
            part = {"forward": FORWARD, "backward": BACKWARD}[inner[-1]] if inner else CELL
        else:
            continue
        if arrays:
            stored.setdefault(name, Stored(name, path, {})).parts[part] = arrays
    return stored


def _name(path: str, found: Mapping[str, Group]) -> str:
    """The name of a layer: what Keras has written beside the variables, its own and what is around it; or the path."""
    parts = path.split("/")
    around = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
    called = [group.name for one in around if (group := found.get(f"{one}/vars")) is not None and group.name]
    return ".".join(called) if called else path.replace("/", ".")


def _describe(config: Any, path: str, around: str, depth: int) -> Iterator[Described]:
    """The layers of a configuration, those of nested models and wrappers too."""
    if depth > MAX_DEPTH:
        raise TensorFileError(f"layers must be nested at most {MAX_DEPTH} deep, got more")
    used: dict[str, int] = {}
    for layer in config.get("layers", []) if isinstance(config, dict) else []:
        yield from _describe_one(layer, f"{path}/{numbered(snake_case(layer['class_name']), used)}", around, depth)


def _describe_one(layer: dict[str, Any], path: str, around: str, depth: int) -> Iterator[Described]:
    kind, config = layer["class_name"], layer["config"]
    name = around + str(config.get("name", layer.get("name", kind)))
    yield Described(name, path, kind, config)
    yield from _describe(config, f"{path}/layers", f"{name}.", depth + 1)
    if kind != "Bidirectional" and isinstance(config.get("layer"), dict):
        yield from _describe_one(config["layer"], f"{path}/layer", f"{name}.", depth + 1)
