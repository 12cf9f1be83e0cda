"""The names of layers and groups in Keras's files, and ``.weights.h5`` as Keras 3 writes it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...files.container import replacing
from .hdf5 import METADATA, open_hdf5

CELL, FORWARD, BACKWARD, OWN = "cell", "forward_layer/cell", "backward_layer/cell", ""


class Stored(NamedTuple):
    """The variables of a layer in a file."""

    name: str
    path: str
    parts: dict[str, list[np.ndarray]]  # its own variables, or those of its cells


def write_weights(
    path: Path, layers: Sequence[Stored], metadata: Mapping[str, str] | None = None, name: str = "sequential"
) -> None:
    """Write variables as ``.weights.h5``, as Keras 3 does, under a temporary name first."""
    with replacing(path) as temporary, open_hdf5(temporary, "w") as file:

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
