"""Files that Keras 2.12 to 3 and tf.keras have written: configuration, weights, LSTMs, each as Keras computed it.

The archives are made by `make keras-versions`, which also runs these tests on those of all versions.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from keras_layers import assert_close

import cylstm
from cylstm import keras as ck
from cylstm.keras.files.model import read_model

ARCHIVES = sorted(Path(os.environ.get("CYLSTM_KERAS_ARCHIVES", Path(__file__).parent / "data")).glob("*.zip"))
pytestmark = pytest.mark.filterwarnings("ignore:.*the file has no configuration:UserWarning")


def _files() -> Iterator[tuple[Path, str]]:
    for archive in ARCHIVES:
        with zipfile.ZipFile(archive) as file:
            yield from ((archive, name) for name in file.namelist() if name != "expected.npz")


FILES = list(_files())
IDS = [f"{archive.stem}-{name}" for archive, name in FILES]


@pytest.fixture
def unpacked(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str, dict[str, np.ndarray]]:
    """The file, the name of its model, and what is expected of that."""
    archive, name = request.param
    with zipfile.ZipFile(archive) as file:
        file.extract(name, tmp_path)
        file.extract("expected.npz", tmp_path)
    model = name.partition(".")[0].partition("-")[0]
    model = "activations" if model == "old" else model
    with np.load(tmp_path / "expected.npz") as arrays:
        expected = {key.removeprefix(f"{model}/"): arrays[key] for key in arrays if key.startswith(f"{model}/")}
    return tmp_path / name, model, expected


def expected_weights(expected: dict[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    """The weights by the name of the layer."""
    found: dict[str, list[np.ndarray]] = {}
    for key in (key for key in expected if key.startswith("weights/")):
        name, _, n = key.removeprefix("weights/").rpartition("/")
        assert int(n) == len(found.setdefault(name, []))
        found[name].append(expected[key])
    return found


def container(path: Path) -> str:
    """The group of the layers in a file of weights without names."""
    with h5py.File(path) as file:
        return next(name for name in ("layers", "_layer_checkpoint_dependencies") if name in file)


def has_names(path: Path) -> bool:
    with h5py.File(path) as file:
        return "name" in file["vars"].attrs


def has_configuration(path: Path) -> bool:
    return "weights" not in path.name


@pytest.mark.parametrize(
    "unpacked",
    [one for one in FILES if "weights" not in one[1]],
    indirect=True,
    ids=[one for one in IDS if "weights" not in one],
)
def test_weights_of_every_layer(unpacked: tuple[Path, str, dict[str, np.ndarray]]) -> None:
    path, _, expected = unpacked
    model = read_model(path)
    assert model.undescribed == ()
    wanted = expected_weights(expected)
    for where, name, layer in model.walk():
        if name in wanted:
            got = model.weights(where)
            assert [one.shape for one in got] == [one.shape for one in wanted[name]], (name, layer)
            assert all(map(np.array_equal, got, wanted.pop(name)))
    assert not wanted


@pytest.mark.parametrize(
    "unpacked",
    [one for one in FILES if "functional" not in one[1]],
    indirect=True,
    ids=[one for one in IDS if "functional" not in one],
)
def test_the_first_lstm(unpacked: tuple[Path, str, dict[str, np.ndarray]]) -> None:
    path, model, expected = unpacked
    x, first = expected["x"], expected["first"]
    if model == "activations" and not has_configuration(path):
        return  # whose activations the file does not tell
    prefix = "first"
    if path.name.endswith(".weights.h5") and not has_names(path):
        prefix = f"{container(path)}.{'bidirectional' if model == 'both' else 'lstm'}"
    lstm = cylstm.load(path, prefix)
    output = lstm(x)[0]
    if lstm.num_layers == 1:
        assert_close(output, first)
    else:  # both layers of the model
        one = cylstm.LSTM(2, lstm.hidden_size, batch_first=True, bidirectional=lstm.bidirectional)
        one.load_state_dict({name: array for name, array in lstm.state_dict().items() if "_l0" in name})
        assert_close(one(x)[0], first)


@pytest.mark.parametrize(
    "unpacked",
    [one for one in FILES if "weights" not in one[1]],
    indirect=True,
    ids=[one for one in IDS if "weights" not in one],
)
def test_the_whole_model(unpacked: tuple[Path, str, dict[str, np.ndarray]]) -> None:
    path, _, expected = unpacked
    np.testing.assert_allclose(ck.load_model(path)(expected["x"]), expected["y"], rtol=2e-6, atol=1e-6)
