"""Models in several files with an index, as the Hugging Face Hub has them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

import cylstm


def shards(folder: Path, extension: str = "safetensors", **changes: object) -> Path:
    """Two files with half of the tensors each, and their index."""
    torch.manual_seed(0)
    state = torch.nn.LSTM(3, 4, 2).state_dict()
    weight_map: dict[str, object] = {}
    for k in range(2):
        name = f"model-0000{k + 1}-of-00002.{extension}"
        half = dict(list(state.items())[k::2])
        if extension == "bin":
            torch.save(half, folder / name)
        else:
            safetensors.torch.save_file(half, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(half, name)
    index = {"metadata": {"total_size": 1}, "weight_map": {**weight_map, **changes}}
    path = folder / f"model.{extension}.index.json"
    path.write_text(json.dumps(index))
    return path


@pytest.mark.parametrize("extension", ["safetensors", "bin"])
def test_the_tensors_come_from_their_files(tmp_path: Path, extension: str) -> None:
    lstm = cylstm.load(shards(tmp_path, extension))
    torch.manual_seed(0)
    for name, tensor in torch.nn.LSTM(3, 4, 2).state_dict().items():
        np.testing.assert_array_equal(getattr(lstm, name), tensor.numpy())


@pytest.mark.parametrize(
    "shard", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "a\\b", "", ".", "..", "a\0", 1]
)
def test_only_files_beside_the_index(tmp_path: Path, shard: object) -> None:
    with pytest.raises(ValueError, match=r"index\.json: the file of 'weight_ih_l0' must be a name in the same folder"):
        cylstm.load(shards(tmp_path, weight_ih_l0=shard))


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such file: .*missing\.safetensors"):
        cylstm.load(shards(tmp_path, weight_ih_l0="missing.safetensors"))
    with pytest.raises(
        ValueError, match=r"'model-00001-of-00002\.safetensors' must hold 'weight_hh_l7', got a file without"
    ):
        cylstm.load(shards(tmp_path, weight_hh_l7="model-00001-of-00002.safetensors"))
    with pytest.raises(ValueError, match="must hold tensors, got another index"):
        cylstm.load(shards(tmp_path, weight_ih_l0="model.safetensors.index.json"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the header must be JSON"),
        ("[]", "the header must be a table"),
        ("{}", "weight_map must be a table of names to files, got a NoneType"),
        ('{"weight_map": [1]}', "weight_map must be a table of names to files, got a list"),
        ('{"weight_map": {}}', "must hold an LSTM, LSTMCell or Linear, got nothing"),
        ("[" * 100_000, "RecursionError"),
        ('{"weight_map": {"a": "b", "a": "c"}}', "each name must be there once"),
    ],
)
def test_damaged_indices(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        cylstm.load(path)


def test_what_the_files_tell_of_the_module_is_taken(tmp_path: Path) -> None:
    options = {"batch_first": True, "clip": 0.05, "activations": ("relu", "tanh", "tanh")}
    lstm, x = cylstm.LSTM(3, 4, 2, **options), cylstm.randn(2, 5, 3)
    cylstm.save(lstm, tmp_path / "whole.safetensors")
    state = safetensors.numpy.load_file(tmp_path / "whole.safetensors")
    with safetensors.safe_open(tmp_path / "whole.safetensors", "numpy") as file:
        metadata = file.metadata()
    names = {name: f"{name[-1]}.safetensors" for name in state}
    for one in set(names.values()):
        part = {name: state[name] for name in names if names[name] == one}
        safetensors.numpy.save_file(part, tmp_path / one, metadata=metadata)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    assert repr(cylstm.load(index)) == repr(lstm)
    np.testing.assert_array_equal(cylstm.load(index)(x)[0], lstm(x)[0])
    safetensors.numpy.save_file(part, tmp_path / one, metadata=metadata | {"batch_first": "false"})
    with pytest.raises(ValueError, match=r"batch_first must be true or false, got '\w+ or \w+': give batch_first"):
        cylstm.load(index)


@pytest.mark.parametrize("name", ["m.onnx", "m.keras", "m.h5"])
def test_a_model_is_no_part_of_another(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must hold tensors, got a model"):
        cylstm.load(shards(tmp_path, weight_ih_l0=name))
