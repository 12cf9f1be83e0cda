"""What the configuration in a file of Keras says, and what is taken where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras_files import ONES, lstm_config, sequential_config, written, zipped
from keras_layers import saved

import cylstm
from cylstm import keras as ck
from cylstm.cli.main import main

# Keras hands its variables to NumPy so.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*the file has no configuration:UserWarning"),
]


UNKNOWN_OR_OTHER = [
    ({"go_backwards": True}, "go_backwards=True"),
    ({"time_major": True}, "time_major=True"),
    ({"peephole": True}, "option peephole=True"),
    ({"activation": {"class_name": "LeakyReLU", "config": {}}}, "activation=.*LeakyReLU"),
    ({"recurrent_activation": "my_gate"}, "recurrent_activation='my_gate'"),
    ({"use_bias": "no"}, "use_bias='no'"),
]


@pytest.mark.parametrize(("options", "word"), UNKNOWN_OR_OTHER)
@pytest.mark.parametrize("group", ["layers/lstm/cell", "_layer_checkpoint_dependencies/lstm/cell"])
def test_options_are_seen_in_every_layout(options: dict, word: str, group: str, tmp_path: Path) -> None:
    path = zipped(tmp_path / "m.keras", sequential_config(lstm_config(**options)), {group: ONES})
    with pytest.raises(ValueError, match=word):
        cylstm.load(path)
    path = written(
        tmp_path / "m.h5", ["model_weights/lstm/lstm/lstm_cell"], model_config=sequential_config(lstm_config(**options))
    )
    with pytest.raises(ValueError, match=word):
        cylstm.load(path)
    model = {"class_name": "Sequential", "config": [lstm_config(**options)]}  # of Keras up to 2.2.2
    with pytest.raises(ValueError, match=word):
        cylstm.load(written(tmp_path / "m.h5", ["model_weights/lstm/lstm"], model_config=model))


@pytest.mark.parametrize("options", [{"units": 2}, {"use_bias": False}, {"units": "1"}])
def test_weights_must_be_those_of_the_configuration(options: dict, tmp_path: Path) -> None:
    config = sequential_config(lstm_config(**options))
    files = [
        zipped(tmp_path / "m.keras", config, {"layers/lstm/cell": ONES}),
        written(tmp_path / "m.h5", ["model_weights/lstm/lstm/lstm_cell"], model_config=config),
    ]
    for path in files:
        for read in (cylstm.load, ck.load_model):
            with pytest.raises(
                ValueError, match=r"the weights of the LSTM 'lstm' must be|must have 2 weights|units must"
            ):
                read(path)


def test_a_large_layer_without_weights_is_refused_at_once(tmp_path: Path) -> None:
    for units in (10**3, 10**9):
        path = zipped(tmp_path / "m.keras", sequential_config(lstm_config(units=units)), {"layers/lstm/cell": ONES})
        with pytest.raises(ValueError, match="the weights of the LSTM 'lstm' must be"):
            ck.load_model(path)
        path = zipped(tmp_path / "m.keras", sequential_config(lstm_config(units=units)), {"layers": []})
        with pytest.raises(ValueError, match="must hold"):
            ck.load_model(path)


@keras.saving.register_keras_serializable()
class Own(keras.Model):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.r = kl.LSTM(4, go_backwards=True)

    def call(self, x: Any) -> Any:
        return self.r(x)


@keras.saving.register_keras_serializable()
class OwnLayer(kl.Layer):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.r = kl.LSTM(4, activation="relu")

    def build(self, shape: Any) -> None:
        self.r.build(shape)

    def call(self, x: Any) -> Any:
        return self.r(x)


@keras.saving.register_keras_serializable(name="LSTM")
class Another(kl.LSTM):
    pass


@pytest.mark.parametrize("make", [Own, lambda: keras.Sequential([kl.Input((5, 3)), OwnLayer()])])
def test_an_lstm_that_is_not_described_is_refused(make: Callable, tmp_path: Path) -> None:
    model = make()
    model(cylstm.randn(2, 5, 3))
    with pytest.raises(ValueError, match=r"is not described by the configuration.*save_weights"):
        cylstm.load(saved(model, tmp_path, ".keras"))
    with pytest.warns(UserWarning, match="no configuration.*activation='tanh'.*not go_backwards"):
        cylstm.load(saved(model, tmp_path, ".weights.h5"))


def test_the_merge_mode_that_is_taken_is_said(tmp_path: Path) -> None:
    for layer, said in ((kl.Bidirectional(kl.LSTM(4)), True), (kl.LSTM(4), False)):
        model = keras.Sequential([kl.Input((5, 3)), layer])
        with pytest.warns(UserWarning, match="no configuration") as warned:
            cylstm.load(saved(model, tmp_path, ".weights.h5"))
        assert any("merge_mode='concat'" in str(one.message) for one in warned) == said


def test_a_class_of_somebody_else_is_no_lstm(tmp_path: Path) -> None:
    model = keras.Sequential([kl.Input((5, 3)), Another(4)])
    with pytest.raises(ValueError, match="is not described"):
        cylstm.load(saved(model, tmp_path, ".keras"))


# Defaults -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "gates", "word"),
    [
        (b"2.0.8", "hard_sigmoid", "recurrent_activation='hard_sigmoid'"),
        (b"2.2.4", "hard_sigmoid", "recurrent_activation='hard_sigmoid'"),
        (b"2.1.6-tf", "hard_sigmoid", "recurrent_activation='hard_sigmoid'"),
        (b"2.2.4-tf", "sigmoid", "hard_sigmoid if TensorFlow 1"),
        (b"2.3.0", "sigmoid", "recurrent_activation='sigmoid'"),
        (b"2.15.0", "sigmoid", "recurrent_activation='sigmoid'"),
    ],
)
def test_weights_alone_have_the_defaults_of_their_version(
    version: bytes, gates: str, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "m.h5", ["lstm_1/lstm_1"], keras_version=version)
    with pytest.warns(UserWarning, match=word):
        lstm = cylstm.load(path)
    assert lstm.activations[0] == gates
    assert main(["inspect", str(path)]) == 0
    assert word in capsys.readouterr().out


@pytest.mark.parametrize(("version", "slope"), [("2.12.0", 0.2), ("3.0.5", 1 / 6), (None, None)])
def test_hard_sigmoid_is_that_of_the_version(version: str | None, slope: float | None, tmp_path: Path) -> None:
    config = sequential_config(lstm_config(recurrent_activation="hard_sigmoid"))
    path = zipped(tmp_path / "m.keras", config, {"layers/lstm/cell": ONES}, version)
    if slope is None:
        with pytest.raises(ValueError, match="of a version of Keras that the file does not tell"):
            cylstm.load(path)
    else:
        lstm = cylstm.load(path)
        a = np.float32(0.3 + 0 + 1)  # of every gate
        gate = np.clip(slope * a + 0.5, 0, 1)
        output = lstm(np.full((1, 1, 1), 0.3, np.float32))[0]
        np.testing.assert_allclose(output, gate * np.tanh(gate * np.tanh(a)), rtol=1e-6)
