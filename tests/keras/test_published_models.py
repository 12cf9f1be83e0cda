"""Models of the kinds that people publish, as tf.keras 2.15 wrote them. `tools/keras_published.py` makes them."""

from __future__ import annotations

import json
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from keras_layers import assert_close

import cylstm
from cylstm import keras as ck

ARCHIVE = Path(__file__).parent / "published" / "tf215.zip"
with zipfile.ZipFile(ARCHIVE) as file:
    NAMES = [name.removesuffix(".h5") for name in file.namelist() if name.endswith(".h5")]
#: Kinds with a layer that is not computed.
REFUSED = {"with_gru": "a GRU", "with_heads": "a MultiHeadAttention", "with_lambda": "a Lambda"}


def unpacked(name: str, folder: Path) -> tuple[Path, list[np.ndarray], list[np.ndarray]]:
    """The file, its input, and what Keras computed."""
    with zipfile.ZipFile(ARCHIVE) as file:
        file.extractall(folder, [f"{name}.h5", "expected.npz"])
    with np.load(folder / "expected.npz") as arrays:
        x, y = ([arrays[key] for key in arrays if key.startswith(f"{name}/{of}")] for of in "xy")
    return folder / f"{name}.h5", x, y


@pytest.mark.parametrize("name", [name for name in NAMES if name not in REFUSED])
def test_published_models(name: str, tmp_path: Path) -> None:
    path, x, wanted = unpacked(name, tmp_path)
    model = ck.load_model(path)
    got = model.predict(x if len(x) > 1 else x[0])
    got = got if isinstance(got, list) else [got]
    largest = max(1, *(abs(one).max() for one in wanted))  # of relu without a bound
    assert_close([one / largest for one in got], [one / largest for one in wanted])
    model.summary(print_fn=lambda text: None)


@pytest.mark.parametrize("name", REFUSED)
def test_published_models_that_do_not_open(name: str, tmp_path: Path) -> None:
    assert len(NAMES) == 50 + len(REFUSED)
    path = unpacked(name, tmp_path)[0]
    with pytest.raises(ValueError, match=f"the layer '.*' must be of a class of .*, got {REFUSED[name]}, which is not"):
        ck.load_model(path)
    assert isinstance(cylstm.load(path), cylstm.LSTM)  # its LSTM does


def changed(name: str, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The file of a model with another configuration."""
    path = unpacked(name, folder)[0]
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        change(config["config"])
        file.attrs["model_config"] = json.dumps(config)
    return path


def layer(config: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(one for one in config["layers"] if one["class_name"] == kind)


def option(kind: str, **options: Any) -> Callable[[dict[str, Any]], object]:
    return lambda config: layer(config, kind)["config"].update(options)


def circle(config: dict[str, Any]) -> None:
    layer(config, "Flatten")["inbound_nodes"][0][0][0] = layer(config, "Activation")["name"]


HOSTILE: dict[str, tuple[str, Callable[[dict[str, Any]], object], str]] = {
    "an LSTM without end": ("forecast", option("LSTM", units=10**9), "LSTM 'lstm'"),
    "a Dense without end": ("forecast", option("Dense", units=10**12), "Dense 'dense'"),
    "a table without end": ("sentiment", option("Embedding", input_dim=10**12), "Embedding 'embedding'"),
    "a filter without end": ("pretrained", option("Conv1D", filters=10**12), "Conv1D 'conv1d'"),
    "no size": ("forecast", option("LSTM", units=-1), "units must be positive"),
    "a size that is none": ("forecast", option("Dense", units="many"), "units must be an int"),
    "an unknown option": ("forecast", option("LSTM", peephole=True), "'peephole'"),
    "an unknown activation": ("forecast", option("LSTM", activation="evil"), "activation must be"),
    "somebody's activation": (
        "relu",
        option("LSTM", activation={"class_name": "function", "config": "relu", "registered_name": "my>relu"}),
        "activation must be",
    ),
    "a circle": ("attention", circle, "in a circle"),
    "no such layer": ("dot", lambda config: config["layers"].pop(4), "must be connected to the inputs"),
    "an output that is none": ("dot", lambda config: config.update(output_layers=[["dense", 0, 3]]), "output 3"),
    "a name twice": ("branches", lambda config: config["layers"].append(config["layers"][0]), "names of their own"),
    "no output": ("dot", lambda config: config.update(output_layers=[]), "outputs"),
    "in training": (
        "dot",
        lambda config: layer(config, "LSTM")["inbound_nodes"][0][0].__setitem__(3, {"training": True}),
        "training=True",
    ),
    "an index by an array": (
        "operations",
        lambda config: layer(config, "SlicingOpLambda")["inbound_nodes"][0].__setitem__(3, {"slice_spec": [[0, 1]]}),
        "must fit it",
    ),
    "another operation": ("operations", option("TFOpLambda", function="io.read_file"), "io.read_file"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_configurations_are_refused_before_anything_is_drawn(name: str, tmp_path: Path) -> None:
    model, change, word = HOSTILE[name]
    path = changed(model, tmp_path, change)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=word):
            ck.load_model(path)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_the_dtype_of_an_embedding_of_keras_2_0_is_that_of_its_indices(tmp_path: Path) -> None:
    """Keras 2.0.2 wrote `"dtype": "int32"`, and a table of floats."""
    _, [x], [wanted] = unpacked("sentiment", tmp_path)
    model = ck.load_model(changed("sentiment", tmp_path, option("Embedding", dtype="int32")))
    assert_close([model.predict(x)], [wanted])


def test_hard_sigmoid_of_an_unknown_version(tmp_path: Path) -> None:
    path = unpacked("hard", tmp_path)[0]
    with h5py.File(path, "r+") as file:
        for group in (file, file["model_weights"]):
            group.attrs.pop("keras_version", None)
        config = json.loads(file.attrs["model_config"])
        del config["config"]["layers"][0]  # the input
        config["config"].pop("build_input_shape", None)
        for one in config["config"]["layers"]:
            one.pop("module", None), one.pop("registered_name", None), one.pop("build_config", None)
            for of_keras_2 in ("batch_input_shape", "time_major", "implementation"):
                one["config"].pop(of_keras_2, None)
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(ValueError, match="must be one definition, got 'hard_sigmoid'"):
        ck.load_model(path)
    shutil.rmtree(tmp_path)


def test_masked_steps_of_keras_before_tensorflow(tmp_path: Path) -> None:
    """Each direction repeats its output there, where later versions give zeros."""

    path, [x], _ = unpacked("tagger", tmp_path)
    later = ck.load_model(path)

    def of_version(version: str) -> ck.Sequential | ck.Functional:
        with h5py.File(path, "r+") as file:
            for group in (file, file["model_weights"]):
                group.attrs["keras_version"] = version
        return ck.load_model(path)

    for version in ("2.2.4-tf", "2.4.0", "2.12.0", "2.13.1", "2.15.0"):
        np.testing.assert_array_equal(of_version(version)(x), later(x))
    earlier = of_version("2.2.4")
    hidden = x == 0
    np.testing.assert_array_equal(earlier(x)[~hidden], later(x)[~hidden])
    embedded = earlier.layers[1](x)
    both, head = earlier.layers[2:]
    halves = [both.forward_layer(embedded, mask=~hidden), both.backward_layer(embedded, mask=~hidden)[:, ::-1]]
    y = np.concatenate(halves, axis=-1)
    np.testing.assert_array_equal(earlier(x), head(y))
    np.testing.assert_array_equal(later(x)[hidden], head(np.where(hidden[..., np.newaxis], 0, y))[hidden])
    assert y[hidden].any()
