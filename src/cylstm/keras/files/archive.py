"""What is in a file of Keras, by its content: a zip archive (Keras 3, 2.12 to 2.15), or HDF5 (older, and weights)."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

from ...files.container import (
    TensorFileError,
    damaged,
    existing,
    expansion_limit,
    is_text_to_text,
    parsing_limit,
    unreadable,
)
from .hdf5 import METADATA, Group, import_h5py, read_hdf5

#: The largest text of a configuration.
MAX_CONFIG = 16 << 20


class RawFile(NamedTuple):
    """What a file holds."""

    model: dict[str, Any] | None  # the configuration as it is
    keras_version: str  # empty where it is not told
    groups: dict[str, Group]  # of the weights, by path
    metadata: dict[str, str]


def read_raw(path: Path) -> RawFile:
    """Read the configuration, if there is one, and all weights.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If h5py is not installed.
    ValueError
        If the file is damaged or hostile.
    """
    import_h5py()
    size = existing(path).stat().st_size
    try:
        with open(path, "rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
        return _read_zip(path, size) if zipped else _read_hdf5(path)
    except TensorFileError as error:
        raise damaged(path, str(error)) from error
    except Exception as error:  # of zipfile, json, HDF5: OSError, RuntimeError, KeyError, RecursionError …
        raise unreadable(path, "Keras file", error) from error


def _read_zip(path: Path, size: int) -> RawFile:
    most = min(MAX_CONFIG, parsing_limit(size))
    with zipfile.ZipFile(path) as archive:
        model = _table(_member(archive, "config.json", most), "config.json")
        about: dict[str, Any] = {}
        if "metadata.json" in archive.namelist():
            about = _table(_member(archive, "metadata.json", most), "metadata.json")
        weights = _member(archive, "model.weights.h5", expansion_limit(size))
    version = about.get("keras_version", "")
    groups, _ = read_hdf5(io.BytesIO(weights), ())
    return RawFile(model, version if isinstance(version, str) else "", groups, {})


def _read_hdf5(path: Path) -> RawFile:
    groups, texts = read_hdf5(path, ("model_config", "keras_version", METADATA))
    model = None if (text := texts["model_config"]) is None else _table(text, "model_config")
    metadata = json.loads(texts[METADATA] or "{}")
    if not is_text_to_text(metadata):
        raise TensorFileError("metadata must be text, got something else")
    if any(one == "model_weights" or one.startswith("model_weights/") for one in groups):  # a whole model
        whole = {one.removeprefix("model_weights").lstrip("/"): group for one, group in groups.items() if one}
        groups = {
            one: group._replace(path=one) for one, group in whole.items() if group.path.startswith("model_weights")
        }
    return RawFile(model, texts["keras_version"] or "", groups, metadata)


def _member(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    info = archive.getinfo(name)
    if info.file_size > limit:
        raise TensorFileError(f"{name} must grow to at most {limit} bytes, got {info.file_size}")
    return archive.read(info)


def _table(text: bytes | str, name: str) -> dict[str, Any]:
    if len(text) > MAX_CONFIG:
        raise TensorFileError(f"{name} must have at most {MAX_CONFIG} bytes, got {len(text)}")
    table = json.loads(text)
    if not isinstance(table, dict):
        raise TensorFileError(f"{name} must be a table, got a {type(table).__name__}")
    return table
