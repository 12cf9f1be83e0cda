"""Classes of a user's own that have the name of one of Keras's: what they compute is not in the file."""

from __future__ import annotations

from pathlib import Path

import keras
import keras.layers as L
import pytest

import cylstm
from cylstm.keras import load_model

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


class LSTM(L.LSTM):
    def build(self, sequences_shape, initial_state_shape=None):
        super().build(sequences_shape)

    def call(self, sequences, initial_state=None, mask=None, training=False):
        return 2 * super().call(sequences, initial_state=initial_state, mask=mask, training=training)


class Dense(L.Dense):
    def call(self, inputs, training=None):
        return 2 * super().call(inputs)


class Dropout(L.Dropout):
    def call(self, inputs, training=False):
        return 3 * inputs


class LSTMCell(L.LSTMCell):
    pass


class Sequential(keras.Sequential):
    def call(self, inputs, training=None, mask=None):
        return 2 * super().call(inputs, training=training, mask=mask)


def chain(*layers: keras.Layer, root: type[keras.Sequential] = keras.Sequential) -> keras.Model:
    return root([keras.Input((6, 2)), *layers])


def functional() -> keras.Model:
    x = keras.Input((6, 2))
    return keras.Model(x, Dense(3)(L.LSTM(4)(x)))


MODELS = {
    "LSTM": lambda: chain(LSTM(4)),
    "Dense": lambda: chain(L.LSTM(4), Dense(3)),
    "Dropout": lambda: chain(L.LSTM(4), Dropout(0.1)),
    "LSTMCell": lambda: chain(L.RNN(LSTMCell(4))),
    "Sequential": lambda: chain(L.LSTM(4), root=Sequential),
    "Dense of a functional model": functional,
}


@pytest.fixture(params=["of a module", "of a script"])
def package(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a class that stands there is told."""
    if request.param == "of a module":
        return __name__
    for kind in (LSTM, Dense, Dropout, LSTMCell, Sequential):
        monkeypatch.setattr(kind, "__module__", "__main__")
    return "unregistered"


@pytest.mark.parametrize("name", MODELS)
def test_a_class_of_the_users_own_is_refused_by_name(name: str, package: str, tmp_path: Path) -> None:
    MODELS[name]().save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match=f"{package}>{name.split()[0]}, which is not computed"):
        load_model(tmp_path / "m.keras")


@pytest.mark.usefixtures("package")
def test_an_lstm_of_the_users_own_is_none_for_load_either(tmp_path: Path) -> None:
    MODELS["LSTM"]().save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match="must be one that cylstm computes"):
        cylstm.load(tmp_path / "m.keras")


def test_a_cell_of_the_users_own_in_hdf5(package: str, tmp_path: Path) -> None:
    MODELS["LSTMCell"]().save(tmp_path / "m.h5")
    with pytest.raises(ValueError, match=f"{package}>LSTMCell, which is not computed"):
        load_model(tmp_path / "m.h5")
