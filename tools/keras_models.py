"""Small models of whichever Keras is installed, in every kind of file that it writes, with what they compute.

    python tools/keras_models.py models.zip

The archive holds the files, and expected.npz: for each model its input x, its output y, the output of its first LSTM,
and the weights of each layer. `tools/keras_versions.py` runs it in one environment per version.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if os.environ.get("KERAS_PACKAGE", "keras") == "keras":
    import keras
else:
    import tf_keras as keras

layers = keras.layers
VERSION = getattr(keras, "__version__", "")
KERAS_3 = VERSION.startswith("3")


def plain():
    """What most people publish."""
    return [
        layers.LSTM(4, return_sequences=True, name="first"),
        layers.Dropout(0.2),
        layers.LSTM(4, name="second"),
        layers.Dense(2, activation="softmax", name="head"),
    ]


def activations():
    """LSTMs with other activations, and from the end."""
    return [
        layers.LSTM(3, activation="relu", recurrent_activation="hard_sigmoid", return_sequences=True, name="first"),
        layers.LSTM(3, activation="elu", return_sequences=True, go_backwards=True),
        layers.Bidirectional(layers.LSTM(2, activation="softsign", return_sequences=True), name="both"),
        layers.LSTM(2, use_bias=False, name="forward_lstm"),
        layers.Dense(1, name="head"),
    ]


def both():
    """Two directions, stacked."""
    return [
        layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="first"),
        layers.Dropout(0.5),
        layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="second"),
        layers.TimeDistributed(layers.Dense(2), name="each"),
    ]


def sequential(of):
    return keras.Sequential([keras.Input((5, 2)) if KERAS_3 else layers.InputLayer((5, 2)), *of], name="model")


def functional():
    """Nested models, frozen layers, weights that are not trained, states that go from layer to layer."""
    inner = keras.Sequential(
        [
            keras.Input((5, 2)) if KERAS_3 else layers.InputLayer((5, 2)),
            layers.LSTM(3, return_sequences=True, name="inner_a"),
            layers.BatchNormalization(name="norm"),
            layers.LSTM(3, return_sequences=True, trainable=False, name="inner_b"),
            layers.LSTM(2, return_sequences=True, name="inner_c"),
        ],
        name="inner",
    )
    x = keras.Input((5, 2), name="x")
    y = inner(x)
    y = layers.RNN([layers.LSTMCell(3), layers.LSTMCell(2)], return_sequences=True, name="cells")(y)
    sequence, h, c = layers.LSTM(3, return_sequences=True, return_state=True, name="encoder")(y)
    z = layers.LSTM(3, name="decoder")(sequence, initial_state=[h, c])
    z = layers.Concatenate(name="joined")([z, h])
    return keras.Model(x, layers.Dense(2, name="head")(z), name="model")


MODELS = {
    "plain": lambda: sequential(plain()),
    "activations": lambda: sequential(activations()),
    "both": lambda: sequential(both()),
    "functional": functional,
}


def leaves(model, around=""):
    """All layers, those of models inside too, by names joined by dots."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from leaves(layer, f"{around}{layer.name}.")
        else:
            yield around + layer.name, layer


def write(model, name: str, folder: Path) -> None:
    """Every kind of file."""
    try:
        model.save(folder / f"{name}.h5")
    except ValueError as error:  # Keras 3.0 gives weights of nested layers one name
        print(f"{name}.h5: {error}", file=sys.stderr)
        (folder / f"{name}.h5").unlink()
    model.save_weights(folder / f"{name}.weights.h5")
    if KERAS_3:
        model.save(folder / f"{name}.keras")
        return
    model.save(folder / f"{name}.keras", save_format="h5")  # as tf.keras before 2.13 did by itself
    (folder / f"{name}.keras").rename(folder / f"{name}-hdf5.keras")
    try:
        model.save(folder / f"{name}.keras", save_format="keras_v3" if VERSION.startswith("2.12") else "keras")
    except ValueError as error:  # a layer that this version cannot save
        print(f"{name}: {error}", file=sys.stderr)
    model.save_weights(folder / f"{name}-weights.h5", save_format="h5")


def as_old(folder: Path) -> None:
    """What Keras 2.2.2 wrote: a Sequential is a list, cells are not in names. Keras itself reads it again."""
    import h5py

    with h5py.File(folder / "activations-hdf5.keras") as new, h5py.File(folder / "old.h5", "w") as old:
        config = json.loads(new.attrs["model_config"])["config"]["layers"]
        shape = config.pop(0)["config"]["batch_input_shape"]
        for layer in config:
            layer["config"].pop("time_major", None)
        config[0]["config"]["batch_input_shape"] = shape
        old.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": config}).encode()
        weights, whole = old.create_group("model_weights"), new["model_weights"]
        for group in (old, weights):
            group.attrs["keras_version"], group.attrs["backend"] = b"2.2.2", b"tensorflow"
        names = [name for name in whole.attrs["layer_names"] if len(whole[name].attrs["weight_names"])]
        weights.attrs["layer_names"] = [name.encode() for name in names]
        for name in names:
            group = weights.create_group(name)
            called = [
                one if "cell" not in one else "/".join(p for p in one.split("/") if not p.startswith("lstm_cell"))
                for one in whole[name].attrs["weight_names"]
            ]
            group.attrs["weight_names"] = [one.encode() for one in called]
            for one, before in zip(called, whole[name].attrs["weight_names"], strict=True):
                group[one] = whole[name][before][()]
    numbers = np.random.default_rng(0).normal(size=(3, 5, 2)).astype("float32")
    one, other = (keras.models.load_model(folder / name) for name in ("old.h5", "activations.h5"))
    assert np.array_equal(one.predict(numbers, verbose=0), other.predict(numbers, verbose=0))


def main(target: str) -> None:
    numbers = np.random.default_rng(0)
    expected = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, make in MODELS.items():
            keras.backend.clear_session()
            model = make()
            model.compile("adam", "mse", metrics=["mae"])
            x = numbers.normal(size=(3, 5, 2)).astype("float32")
            model.fit(
                x,
                np.zeros(model.output_shape, "float32")
                if None not in model.output_shape
                else np.zeros((3, *model.output_shape[1:]), "float32"),
                verbose=0,
            )
            for weight in model.weights:
                value = numbers.normal(size=tuple(weight.shape)).astype("float32") / 2
                weight.assign(abs(value) if "variance" in weight.name else value)
            first = next((layer for layer in model.layers if layer.name == "first"), None)
            expected |= {f"{name}/x": x, f"{name}/y": model.predict(x, verbose=0)}
            if first is not None:
                expected[f"{name}/first"] = keras.Model(model.inputs, first.output).predict(x, verbose=0)
            for leaf, layer in leaves(model):
                for n, array in enumerate(layer.get_weights()):
                    expected[f"{name}/weights/{leaf}/{n}"] = array
            write(model, name, folder)
        if not KERAS_3:
            as_old(folder)
        np.savez(folder / "expected.npz", **expected)
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for path in sorted(folder.iterdir()):
                archive.write(path, path.name)


if __name__ == "__main__":
    main(sys.argv[1])
