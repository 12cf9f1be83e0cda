"""Keras's models, saved by Keras and read here: the numbers, summaries and errors of Keras."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras_layers import assert_close, fill

import cylstm
from cylstm import keras as ck

# Keras hands its variables to NumPy so.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def pair(build: Callable, seed: int = 0):
    """The same Sequential model in Keras and here."""
    keras.utils.clear_session()  # its names begin anew
    theirs = keras.Sequential(build(kl))
    fill(theirs, seed)
    ours = ck.Sequential(build(ck))
    ours.set_weights(theirs.get_weights())
    return theirs, ours


MODELS = {
    "classifier": lambda l: [l.Input((6, 3)), l.LSTM(4, return_sequences=True), l.LSTM(5), l.Dense(2, "softmax")],
    "tagger": lambda l: [l.Input((None, 3)), l.Bidirectional(l.LSTM(4, return_sequences=True)), l.Dense(2)],
    "masked": lambda l: [
        l.Input((6, 3)),
        l.Masking(-1.0),
        l.Bidirectional(l.LSTM(4, return_sequences=True), merge_mode="sum"),
        l.Dropout(0.5),
        l.LSTM(3, use_bias=False),
        l.Dense(1, activation="sigmoid"),
    ],
    "backwards": lambda l: [
        l.Input((6, 3)),
        l.Masking(-1.0),
        l.LSTM(4, return_sequences=True, go_backwards=True),
        l.LSTM(3, return_sequences=True),
        l.Bidirectional(l.LSTM(2), merge_mode="mul"),
    ],
}


@pytest.mark.parametrize("model", MODELS)
def test_models_are_those_of_keras(model: str, tmp_path: Path) -> None:
    theirs, ours = pair(MODELS[model])
    x = cylstm.randn(7, 6, 3)
    for row, length in enumerate([6, 3, 1, 6, 5, 2, 4]):
        x[row, length:] = -1
    wanted = theirs.predict(x, verbose=0)
    assert_close(ours(x), wanted)
    assert_close(ours.predict(x, batch_size=3, verbose=0), wanted)
    assert ours.count_params() == theirs.count_params()
    if model not in ("masked", "backwards"):  # Keras counts the layers inside of Bidirectional too
        assert [one.name for one in ours.layers] == [one.name for one in theirs.layers]

    theirs.save(tmp_path / "m.keras")
    theirs.save_weights(tmp_path / "m.weights.h5")
    read = ck.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(read.predict(x), ours.predict(x))
    again = ck.Sequential(MODELS[model](ck))
    again.load_weights(tmp_path / "m.weights.h5")
    np.testing.assert_array_equal(again.predict(x), ours.predict(x))

    fill(theirs, 1)
    ours.save_weights(tmp_path / "ours.weights.h5")
    theirs.load_weights(tmp_path / "ours.weights.h5")
    assert_close(theirs.predict(x, verbose=0), wanted)


def test_several_outputs() -> None:
    theirs, ours = pair(lambda l: [l.Input((6, 3)), l.LSTM(4, return_state=True)])
    x = cylstm.randn(5, 6, 3)
    assert_close(ours.predict(x, batch_size=2), theirs.predict(x, verbose=0))


def test_summary(capsys: pytest.CaptureFixture[str]) -> None:
    model = ck.Sequential()
    model.add(ck.LSTM(7, return_sequences=True, input_shape=(17, 10)))
    model.add(ck.LSTM(7, return_sequences=True))
    model.add(ck.LSTM(7))
    model.summary()
    table = capsys.readouterr().out
    rows = [line.split() for line in table.splitlines() if "(LSTM)" in line]
    assert rows == [
        ["lstm", "(LSTM)", "(None,", "17,", "7)", "504"],
        ["lstm_1", "(LSTM)", "(None,", "17,", "7)", "420"],
        ["lstm_2", "(LSTM)", "(None,", "7)", "420"],
    ]
    assert "Total params: 1,344\n" in table
    assert {len(line) for line in table.splitlines() if set(line) <= {"_"} or set(line) <= {"="}} == {65}


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    model = ck.Sequential([ck.Input((5, 3)), ck.LSTM(4)])
    x = cylstm.randn(100, 5, 3)
    model.predict(x, verbose=0)
    assert capsys.readouterr() == ("", "")
    model.predict(x, verbose=1)
    assert "4/4 batches" in capsys.readouterr().err


def test_a_model_that_is_not_built(tmp_path: Path) -> None:
    model = ck.Sequential([ck.LSTM(4), ck.Dense(2)])
    with pytest.raises(ValueError, match="3 dimensions"):
        model.predict(cylstm.randn(5, 3))  # of which the model keeps nothing
    with pytest.raises(ValueError, match="must be built"):
        model.summary()
    with pytest.raises(ValueError, match="must be built"):
        model.save_weights(tmp_path / "m.weights.h5")
    assert model(cylstm.randn(2, 5, 3)).shape == (2, 2)
    with pytest.raises(ValueError, match="shape"):
        model(cylstm.randn(2, 5, 4))
    model.summary(print_fn=lambda text: None)


def test_wrong_models() -> None:
    with pytest.raises(TypeError, match="layer of cylstm"):
        ck.Sequential([kl.LSTM(3)])
    with pytest.raises(ValueError, match="first entry"):
        ck.Sequential([ck.LSTM(3), ck.Input((5, 3))])
    with pytest.raises(ValueError, match="must give one array to the next layer, got 3"):
        ck.Sequential([ck.Input((5, 3)), ck.LSTM(3, return_state=True), ck.Dense(2)])
    with pytest.raises(ValueError, match=r"steps, features"):
        ck.Sequential([ck.Input((5, 3)), ck.LSTM(3), ck.LSTM(3)])
    with pytest.raises(ValueError, match="layer must be a new one"):
        ck.Sequential([ck.Input((5, 3)), layer := ck.LSTM(3, return_sequences=True), layer])
    model = ck.Sequential([ck.Input((5, 3)), ck.LSTM(3)])
    with pytest.raises(ValueError, match="verbose"):
        model.predict(cylstm.randn(2, 5, 3), verbose=7)
    with pytest.raises(ValueError, match="at least one"):
        model.predict(cylstm.randn(2, 5, 3)[:0])
