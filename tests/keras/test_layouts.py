"""How weights lie in Keras's files, and which are whose: no optimizer, nothing twice, nothing without its options.

Files that only versions of Keras which cannot be installed have written are made here, from their layout.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras import layers as kl
from keras_files import ONES, lstm_config, sequential_config, written, zipped
from keras_layers import assert_close, fill, saved

import cylstm
from cylstm import keras as ck
from cylstm.cli.main import main
from cylstm.keras.files.model import Source, read_model

# Keras hands its variables to NumPy so.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*the file has no configuration:UserWarning"),
]


# Training -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
@pytest.mark.parametrize("extension", [".keras", ".h5", ".weights.h5"])
def test_nothing_of_training_is_read(extension: str, optimizer: str, tmp_path: Path) -> None:
    theirs = keras.Sequential([kl.Input((4, 3)), kl.LSTM(3, name="encoder"), kl.Dense(2, name="head")])
    theirs.compile(optimizer, "mse", metrics=["mae"])
    theirs.optimizer.build(theirs.trainable_variables)
    fill(theirs, 0)
    path = saved(theirs, tmp_path, extension)
    x = cylstm.randn(5, 4, 3)
    wanted = theirs.predict(x, verbose=0)
    if extension != ".weights.h5":
        assert_close(ck.load_model(path)(x), wanted)
    else:
        ours = ck.Sequential([ck.Input((4, 3)), ck.LSTM(3), ck.Dense(2)])
        ours.load_weights(path)
        assert_close(ours(x), wanted)
    lstm = cylstm.load(path)
    np.testing.assert_array_equal(lstm.weight_ih_l0.T, theirs.layers[0].get_weights()[0])
    assert main(["inspect", str(path)]) == 0


@pytest.mark.parametrize("extension", [".keras", ".h5"])
def test_inspect_lists_every_layer_in_order(extension: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layers = [
        kl.LSTM(3, return_sequences=True, dropout=0.25, name="z"),
        kl.Dropout(0.5, name="d"),
        kl.LSTM(3, activation="softmax", name="a"),
        kl.Dense(2, activation="relu", name="c"),
        kl.Dense(1, name="b"),
    ]
    theirs = keras.Sequential([kl.Input((4, 3), name="in"), *layers])
    theirs.compile("adam", "mse")
    theirs.optimizer.build(theirs.trainable_variables)
    assert main(["inspect", str(saved(theirs, tmp_path, extension))]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["in.", "z.", "d.", "a.", "c.", "b."]
    for line, words in zip(
        lines,
        [
            ("InputLayer", "batch_shape=[None, 4, 3]"),
            ("LSTM(3, 3, batch_first=True), 84 parameters", "return_sequences=True", "dropout=0.25"),
            ("Dropout", "rate=0.5"),
            ("refused: has activation='softmax'",),
            ("Dense that has activation='relu'", "8 parameters"),
            ("Linear(in_features=2, out_features=1, bias=True)", "units=1"),
        ],
        strict=True,
    ):
        assert all(word in line for word in words), line


def test_moments_of_adam_are_no_lstms(tmp_path: Path) -> None:
    """As tf.keras 2.11 to 2.15 write them."""
    moments = [f"optimizer_weights/Adam/{one}/lstm/lstm_cell" for one in "mv"]
    lstm = cylstm.load(written(tmp_path / "one.h5", ["model_weights/lstm/lstm/lstm_cell", *moments]))
    assert repr(lstm) == "LSTM(1, 1, batch_first=True)"
    assert (lstm.weight_hh_l0 == 1).all()
    names = ["forward_lstm", "backward_lstm"]
    paths = [f"model_weights/{name}/{name}/lstm_cell" for name in names]
    paths += [f"optimizer_weights/Adam/m/{name}/lstm_cell" for name in names]
    with pytest.raises(ValueError, match="must hold one LSTM, got 2"):
        cylstm.load(written(tmp_path / "two.h5", paths))
    assert (cylstm.load(tmp_path / "two.h5", "backward_lstm").weight_hh_l0 == 2).all()


# One by one -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "prefixes"),
    [
        ([f"block/lstm_{n}/block/lstm_{n}/lstm_cell" for n in "ab"], ["block/lstm_a", "block/lstm_b"]),
        (["inner/lstm/lstm_cell", "inner/lstm_1/lstm_cell"], ["inner.lstm", "inner.lstm_1"]),
        (["inner/forward_x/lstm_cell", "inner/backward_x/lstm_cell"], ["inner.forward_x", "inner.backward_x"]),
        (["rnn/rnn/lstm_cell", "rnn/rnn/lstm_cell_1"], ["rnn.lstm_cell", "rnn.lstm_cell_1"]),
        (
            ["rnn/rnn/stacked/lstm_cell", "rnn/rnn/stacked/lstm_cell_1"],
            ["rnn.stacked.lstm_cell", "rnn.stacked.lstm_cell_1"],
        ),
        (["inner/inner/lstm/lstm_cell", "inner/inner/lstm_1/lstm_cell"], ["inner.lstm", "inner.lstm_1"]),
        (["lstm_1/lstm_1", "lstm_2/lstm_2"], ["lstm_1", "lstm_2"]),
    ],
)
@pytest.mark.parametrize("whole", ["", "model_weights/"])
def test_each_lstm_of_a_group_is_one(paths: list[str], prefixes: list[str], whole: str, tmp_path: Path) -> None:
    path = written(tmp_path / "m.h5", [whole + one for one in paths])
    with pytest.raises(ValueError, match=f"must hold one LSTM, got {len(paths)}"):
        cylstm.load(path)
    for n, prefix in enumerate(prefixes, 1):
        assert (cylstm.load(path, prefix).weight_hh_l0 == n).all()


@pytest.mark.parametrize("name", ["forward_lstm", "backward_lstm"])
def test_a_layer_may_be_called_like_half_of_a_bidirectional(name: str, tmp_path: Path) -> None:
    lstm = cylstm.load(written(tmp_path / "m.h5", [f"{name}/{name}/lstm_cell"]))
    assert repr(lstm) == "LSTM(1, 1, batch_first=True)"
    theirs = keras.Sequential([kl.Input((4, 3)), kl.LSTM(3, name=name)])
    for extension in (".h5", ".keras", ".weights.h5"):
        lstm = cylstm.load(saved(theirs, tmp_path, extension))
        np.testing.assert_array_equal(lstm.weight_hh_l0.T, theirs.get_weights()[1])


def test_directions_of_files_without_a_configuration(tmp_path: Path) -> None:
    for paths in (
        [f"b/b/{one}_lstm/lstm_cell" for one in ("backward", "forward")],
        [f"b_1/b_1/{one}_lstm_1" for one in ("backward", "forward")],
        [f"inner/b/{one}_lstm/lstm_cell" for one in ("backward", "forward")],
    ):
        lstm = cylstm.load(written(tmp_path / "m.h5", paths))
        assert lstm.bidirectional
        assert (lstm.weight_hh_l0_reverse == 1).all()
        assert (lstm.weight_hh_l0 == 2).all()


@pytest.mark.parametrize("extension", [".keras", ".h5"])
def test_nested_models(extension: str, tmp_path: Path) -> None:
    def inner(name: str, trainable: bool = True) -> keras.Model:
        layers = [
            kl.LSTM(3, return_sequences=True, name="one"),
            kl.BatchNormalization(name="norm"),
            kl.LSTM(3, return_sequences=True, name="two", trainable=trainable),
            kl.Bidirectional(kl.LSTM(3, return_sequences=True), name="both"),
        ]
        return keras.Sequential([kl.Input((4, 3)), *layers, kl.Dense(3, name="dense")], name=name)

    x = keras.Input((4, 3), name="x")
    first = inner("first")
    model = keras.Model(x, inner("second", trainable=False)(first(first(x))))
    fill(model, 0)
    path = saved(model, tmp_path, extension)
    stored = read_model(path)
    for where, name, layer in stored.walk():
        if layer["class_name"] not in ("Sequential", "InputLayer") and name.count(".") == 1:
            outer, own = name.split(".")
            wanted = model.get_layer(outer).get_layer(own).get_weights()
            assert all(map(np.array_equal, stored.weights(where), wanted)), name
            assert len(stored.weights(where)) == len(wanted)
    assert [[node.args for node in layer["inbound_nodes"]] for layer in stored.config["layers"]] == [
        [],
        [(Source("x", 0, 0),), (Source("first", 0, 0),)],
        [(Source("first", 1, 0),)],
    ]
    assert stored.config["output_layers"] == [Source("second", 0, 0)]
    np.testing.assert_array_equal(
        cylstm.load(path, "second.two").weight_hh_l0.T, model.get_layer("second").layers[2].get_weights()[1]
    )


# Other kinds of file --------------------------------------------------------------------------------------------------


def test_hdf5_inside_keras_and_the_other_way_round(tmp_path: Path) -> None:
    theirs = keras.Sequential([kl.Input((4, 3)), kl.LSTM(3), kl.Dense(2)])
    fill(theirs, 0)
    x = cylstm.randn(2, 4, 3)
    for extension, other in ((".h5", ".keras"), (".h5", ".hdf5"), (".keras", ".h5")):
        path = saved(theirs, tmp_path, extension).rename(tmp_path / f"other{other}")
        assert_close(ck.load_model(path)(x), theirs.predict(x, verbose=0))
        np.testing.assert_array_equal(cylstm.load(path).weight_hh_l0.T, theirs.get_weights()[1])


def test_backslashes_of_windows(tmp_path: Path) -> None:
    config = sequential_config(lstm_config(), lstm_config("other"))
    names = {r"layers\lstm\cell": ONES, r"layers\lstm_1\cell": [2 * one for one in ONES]}
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for name, arrays in names.items():
            group = file.create_group(rf"{name}\vars")
            for n, array in enumerate(arrays):
                group[str(n)] = array
    path = zipped(tmp_path / "m.keras", config, {})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", content.getvalue())
    assert (cylstm.load(path, "lstm").weight_hh_l0 == 1).all()
    assert (cylstm.load(path, "other").weight_hh_l0 == 2).all()


def test_cudnn_lstm(tmp_path: Path) -> None:
    """Kernels of a CuDNNLSTM hold each gate in another order, and there are two biases."""
    numbers = np.random.default_rng(0)
    lstm = cylstm.LSTM(3, 2, batch_first=True)
    canonical = {name: numbers.normal(size=array.shape).astype("f4") for name, array in lstm.state_dict().items()}
    lstm.load_state_dict(canonical)
    config = {"class_name": "CuDNNLSTM", "config": {"name": "fast", "units": 2, "batch_input_shape": [None, None, 3]}}
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["model_config"] = json.dumps(sequential_config(config)).encode()
        file.attrs["keras_version"] = b"2.2.4"
        group = file.create_group("model_weights/fast/fast")
        # cuDNN's matrices (H, I) fill the columns of each gate row by row.
        gates = np.split(canonical["weight_ih_l0"], 4)
        group["kernel:0"] = np.concatenate([gate.reshape(3, 2) for gate in gates], axis=1)
        gates = np.split(canonical["weight_hh_l0"], 4)
        group["recurrent_kernel:0"] = np.concatenate([gate.reshape(2, 2) for gate in gates], axis=1)
        group["bias:0"] = np.concatenate([canonical["bias_ih_l0"], canonical["bias_hh_l0"]])
    x = cylstm.randn(2, 5, 3)
    assert_close(cylstm.load(tmp_path / "m.h5")(x)[0], lstm(x)[0])
    assert_close(ck.load_model(tmp_path / "m.h5")(x), lstm(x)[0][:, -1])


def test_a_dense_layer_is_a_linear(tmp_path: Path) -> None:
    theirs = keras.Sequential([kl.Input((4,)), kl.Dense(3, name="dense"), kl.Dense(2, activation="relu", name="head")])
    fill(theirs, 0)
    for extension in (".keras", ".h5"):
        path = saved(theirs, tmp_path, extension)
        linear = cylstm.load(path, "dense")
        assert isinstance(linear, cylstm.Linear)
        x = cylstm.randn(5, 4)
        assert_close(linear(x), theirs.layers[0](x).detach().numpy())
        with pytest.raises(ValueError, match="Dense that has activation='relu', which a Linear does not apply"):
            cylstm.load(path, "head")
