"""Files as versions of Keras write them, made from their layout."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np


def put(file: h5py.File, path: str, value: float, bias: int = 4) -> None:
    """An LSTM(1, 1) as Keras 2 names its weights."""
    group = file.create_group(path)
    group["kernel:0"], group["recurrent_kernel:0"] = np.full((1, 4), value, "f4"), np.full((1, 4), value, "f4")
    group["bias:0"] = np.full(bias, value, "f4")


def written(path: Path, paths: Iterable[str], **attributes: Any) -> Path:
    """A file of Keras 2 with an LSTM(1, 1) under each path; its weights are 1, 2, 3 …"""
    with h5py.File(path, "w") as file:
        for n, one in enumerate(paths, 1):
            put(file, one, n)
        for name, value in attributes.items():
            file.attrs[name] = value if isinstance(value, bytes) else json.dumps(value).encode()
    return path


def zipped(path: Path, config: dict, weights: dict[str, list[np.ndarray]], version: str | None = None) -> Path:
    """A ``.keras`` with these numbered weights."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for group, arrays in weights.items():
            for n, array in enumerate(arrays):
                file[f"{group}/vars/{n}"] = array
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", content.getvalue())
        if version:
            archive.writestr("metadata.json", json.dumps({"keras_version": version}))
    return path


ONES = [np.ones((1, 4), "f4"), np.ones((1, 4), "f4"), np.ones(4, "f4")]


def lstm_config(name: str = "lstm", **options: Any) -> dict:
    plain = {"units": 1, "activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True}
    return {"class_name": "LSTM", "config": {"name": name, **plain, **options}}


def sequential_config(*layers: dict, name: str = "model") -> dict:
    return {"class_name": "Sequential", "config": {"name": name, "layers": list(layers)}}
