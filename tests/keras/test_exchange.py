"""cylstm.load and cylstm.save on Keras's files: which layers they take, and which they refuse by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras_layers import assert_close, fill, saved

import cylstm
from cylstm import keras as ck

# Keras hands its variables to NumPy so.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*the file has no configuration:UserWarning"),  # see test_layouts
]


@pytest.mark.parametrize("extension", [".keras", ".weights.h5", ".h5"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [True, False])
def test_load_gives_an_lstm(bias: bool, bidirectional: bool, extension: str, tmp_path: Path) -> None:
    layer = kl.LSTM(4, use_bias=bias, return_sequences=True, dropout=0.5, name="encoder")
    theirs = keras.Sequential([kl.Input((6, 3)), kl.Bidirectional(layer, name="both") if bidirectional else layer])
    fill(theirs, 0)
    lstm = cylstm.load(saved(theirs, tmp_path, extension), "both" if bidirectional else "encoder")
    assert (lstm.batch_first, lstm.bidirectional, lstm.bias) == (True, bidirectional, bias)
    x = cylstm.randn(5, 6, 3)
    assert_close(lstm(x)[0], theirs.predict(x, verbose=0))


def test_other_layers_are_no_error(tmp_path: Path) -> None:
    inputs = keras.Input((6, 3))
    convolved = kl.Conv1D(5, 2, padding="same")(inputs)
    gru = kl.GRU(4, return_sequences=True)(convolved)
    h = kl.LSTM(4, name="decoder")(gru)
    model = keras.Model(inputs, [kl.Dense(2)(h), kl.BatchNormalization()(h)])
    model.compile(optimizer="adam", loss="mse")
    model.optimizer.build(model.trainable_variables)
    for extension in (".keras", ".weights.h5"):
        lstm = cylstm.load(saved(model, tmp_path, extension))
        np.testing.assert_array_equal(lstm.weight_ih_l0.T, model.get_layer("decoder").get_weights()[0])
    with pytest.raises(ValueError, match=r"the layer 'gru' .* got a GRU.*cylstm\.load"):
        ck.load_model(tmp_path / "m.keras")


@pytest.mark.parametrize("extension", [".keras", ".weights.h5"])
def test_other_layers_are_named(extension: str, tmp_path: Path) -> None:
    keras.utils.clear_session()
    path = tmp_path / f"m{extension}"
    model = keras.Sequential([kl.Input((6, 3)), kl.GRU(4, name="reader"), kl.Dense(2, "relu", name="head")])
    (model.save if extension == ".keras" else model.save_weights)(path)
    kinds = ["GRU", "Dense that has .*load_model"] if extension == ".keras" else ["another layer"] * 2
    with pytest.raises(ValueError, match="must hold an LSTM") as error:
        cylstm.load(path)
    for name, kind, number in zip(["reader", "head"], kinds, [108, 10], strict=True):
        assert re.search(f"{kind}, {number} parameters, under the prefix '{name}.'", str(error.value))


@pytest.mark.parametrize("extension", [".keras", ".weights.h5"])
def test_bfloat16_becomes_float32_exactly(extension: str, tmp_path: Path) -> None:
    path = tmp_path / f"m{extension}"
    # PyTorch has no QR decomposition of bfloat16, which Keras's default for the recurrent kernel asks for.
    layer = kl.LSTM(4, dtype="bfloat16", recurrent_initializer="glorot_uniform")
    model = keras.Sequential([kl.Input((6, 3)), layer])
    (model.save if extension == ".keras" else model.save_weights)(path)
    lstm = cylstm.load(path)
    assert lstm.dtype == np.float32
    wanted = [weight.value.detach().float().numpy() for weight in layer.weights]
    for got, array in zip((lstm.weight_ih_l0.T, lstm.weight_hh_l0.T, lstm.bias_ih_l0), wanted, strict=True):
        np.testing.assert_array_equal(got, array)
    again = ck.Sequential([ck.Input((6, 3)), ck.LSTM(4, dtype="bfloat16")])
    again.load_weights(path)
    fill(model, 0)
    again.save_weights(tmp_path / "again.weights.h5")
    model.load_weights(tmp_path / "again.weights.h5")
    for weight, array in zip(layer.weights, wanted, strict=True):
        np.testing.assert_array_equal(weight.value.detach().float().numpy(), array)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method:UserWarning")
def test_quantised_layers_are_refused_by_name(tmp_path: Path) -> None:
    model = keras.Sequential([kl.Input((6, 3)), kl.LSTM(4), kl.Dense(2, name="head")])
    model.quantize("int8")
    model.save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match=r"the dtype of the layer 'head' must be .*, got 'QuantizedDTypePolicy'"):
        ck.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(cylstm.load(tmp_path / "m.keras").weight_ih_l0.T, model.layers[0].get_weights()[0])


def test_layers_say_what_they_are() -> None:
    model = ck.Sequential([ck.Input((6, 3)), ck.LSTM(4)])
    assert repr(model) == "<Sequential name=sequential, built=True>"
    assert repr(model.layers) == "[<LSTM name=lstm, built=True>]"
    assert repr(ck.Input((6, 3))) == "<Input name=input_layer, shape=(None, 6, 3)>"


def test_nested_and_subclassed_models(tmp_path: Path) -> None:
    inner = keras.Sequential([kl.Input((6, 3)), kl.LSTM(4, name="lstm_a")], name="inner")
    outer = keras.Sequential([kl.Input((6, 3)), inner, kl.Dense(2)])
    lstm = cylstm.load(saved(outer, tmp_path, ".keras"), "inner.lstm_a")
    np.testing.assert_array_equal(lstm.weight_hh_l0.T, inner.get_weights()[1])

    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = kl.LSTM(4, return_sequences=True), kl.LSTM(2, name="back")

        def call(self, x):
            return self.decoder(self.encoder(x))

    model = Own()
    model(cylstm.randn(2, 5, 3))
    path = saved(model, tmp_path, ".weights.h5")
    with pytest.raises(ValueError, match=r"must hold one LSTM, got 2.*'back\.'"):
        cylstm.load(path)
    np.testing.assert_array_equal(cylstm.load(path, "back").weight_ih_l0.T, model.decoder.get_weights()[0])


def test_stacked_layers_of_a_sequential_are_one(tmp_path: Path) -> None:
    def stack(*more):
        return keras.Sequential([kl.Input((6, 3)), *more])

    model = stack(
        kl.Bidirectional(kl.LSTM(4, return_sequences=True)),
        kl.Dropout(0.5),
        kl.Bidirectional(kl.LSTM(4, return_sequences=True)),
    )
    fill(model, 0)
    lstm = cylstm.load(saved(model, tmp_path, ".keras"))
    assert repr(lstm) == "LSTM(3, 4, num_layers=2, batch_first=True, bidirectional=True)"
    x = cylstm.randn(5, 6, 3)
    assert_close(lstm(x)[0], model.predict(x, verbose=0))

    apart = stack(kl.LSTM(4, return_sequences=True), kl.Dense(4), kl.LSTM(4, return_sequences=True), kl.LSTM(5))
    with pytest.raises(ValueError, match="must hold one LSTM, got 3"):
        cylstm.load(saved(apart, tmp_path, ".keras"))


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: kl.LSTM(4, activation="softmax"), "activation='softmax'"),
        (lambda: kl.LSTM(4, go_backwards=True), r"go_backwards=True.*load_model"),
        (lambda: kl.Bidirectional(kl.LSTM(4), merge_mode="sum"), r"merge_mode='sum'.*load_model"),
        (lambda: kl.Bidirectional(kl.LSTM(4, activation="glu")), "activation='glu'"),
        (lambda: kl.RNN(kl.LSTMCell(4)), "is a RNN.*load_model"),
    ],
)
def test_what_a_plain_lstm_does_not_compute_is_refused_by_name(make: Callable, word: str, tmp_path: Path) -> None:
    path = saved(keras.Sequential([kl.Input((6, 3)), make()]), tmp_path, ".keras")
    with pytest.raises(ValueError, match=word):
        cylstm.load(path)


@pytest.mark.parametrize("name", ["relu", "hard_sigmoid", "leaky_relu", "swish", "linear"])
def test_activations_are_those_of_keras(name: str, tmp_path: Path) -> None:
    layer = kl.LSTM(4, activation=name, recurrent_activation=name, return_sequences=True)
    other = kl.LSTM(4, recurrent_activation=name, return_sequences=True, go_backwards=True)
    x = cylstm.randn(5, 6, 3)
    for one in (layer, kl.Bidirectional(kl.LSTM.from_config(layer.get_config()), backward_layer=other)):
        model = keras.Sequential([kl.Input((6, 3)), one])
        fill(model, 0)
        model.set_weights([array / 4 for array in model.get_weights()])  # what is not bounded stays small
        lstm = cylstm.load(saved(model, tmp_path, ".keras"))
        wanted = model.predict(x, verbose=0)
        np.testing.assert_allclose(lstm(x)[0], wanted, rtol=2e-6, atol=1e-6)
        cylstm.save(lstm, tmp_path / "m.safetensors")
        np.testing.assert_array_equal(cylstm.load(tmp_path / "m.safetensors")(x)[0], lstm(x)[0])


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_save_and_load(num_layers: int, bidirectional: bool, tmp_path: Path) -> None:
    path = tmp_path / "m.weights.h5"
    lstm = cylstm.LSTM(3, 4, num_layers, bidirectional=bidirectional, dropout=0.25 if num_layers > 1 else 0.0).eval()
    cylstm.save(lstm, path)
    back = cylstm.load(path).eval()
    assert repr(back) == repr(lstm)
    x = cylstm.randn(6, 5, 3)
    assert_close(back(x)[0], lstm(x)[0])
    cylstm.save(back, tmp_path / "again.weights.h5")
    again = cylstm.load(tmp_path / "again.weights.h5")
    assert all(np.array_equal(again.state_dict()[name], array) for name, array in back.state_dict().items())

    layers = [kl.LSTM(4, return_sequences=True) for _ in range(num_layers)]
    theirs = keras.Sequential([kl.Input((None, 3)), *(map(kl.Bidirectional, layers) if bidirectional else layers)])
    theirs.load_weights(path)
    assert_close(theirs.predict(x.swapaxes(0, 1), verbose=0).swapaxes(0, 1), lstm(x)[0])


def test_what_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    for module, name, word in [
        (cylstm.LSTM(3, 4, proj_size=2), "m.weights.h5", "proj_size=2"),
        (cylstm.LSTM(3, 4, dtype="complex64"), "m.weights.h5", "complex64"),
        (cylstm.LSTM(3, 4), "m.h5", r"\.weights\.h5"),
        (cylstm.LSTM(3, 4), "m.keras", r"\.weights\.h5"),
    ]:
        with pytest.raises(ValueError, match=word):
            cylstm.save(module, tmp_path / name)
    with pytest.raises(TypeError, match="Linear"):
        cylstm.save(cylstm.Linear(3, 4), tmp_path / "m.weights.h5")
    assert not list(tmp_path.iterdir())


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    model = ck.Sequential([ck.Input((5, 3)), ck.LSTM(4)])
    model.save_weights(tmp_path / "m.weights.h5")
    for other in (
        [ck.LSTM(5)],
        [ck.LSTM(4, use_bias=False)],
        [ck.LSTM(4), ck.Dense(2)],
        [ck.Bidirectional(ck.LSTM(4))],
    ):
        wrong = ck.Sequential([ck.Input((5, 3)), *other])
        before = wrong.get_weights()
        with pytest.raises(ValueError, match="weights"):
            wrong.load_weights(tmp_path / "m.weights.h5")
        assert all(map(np.array_equal, before, wrong.get_weights()))
    with pytest.raises(ValueError, match="without a configuration"):
        ck.load_model(tmp_path / "m.weights.h5")
