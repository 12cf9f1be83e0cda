"""Keras's shapes, numbers, files and names, with Keras itself (on PyTorch) as the judge."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"  # before Keras is imported

import h5py
import keras
import numpy as np
import pytest
import torch
from keras import layers as kl

import cylstm
from cylstm import keras as ck
from cylstm.keras.initializers import INITIALIZERS, initializer

TOLERANCE = 1e-6
# Keras hands its variables to NumPy so.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.fixture(autouse=True)
def _no_gradients():
    """Keras's results are compared as arrays."""
    with torch.no_grad():
        yield


def fill(layer, seed: int) -> None:
    """Random weights for a layer or model of Keras."""
    numbers = np.random.default_rng(seed)
    for weight in layer.weights:
        weight.assign(numbers.normal(size=weight.shape).astype("float32") / 2)


def arrays(result) -> list[np.ndarray]:
    return [np.asarray(one) for one in (result if isinstance(result, tuple | list) else [result])]


def assert_close(got, wanted) -> None:
    got, wanted = arrays(got), arrays(wanted)
    assert [one.shape for one in got] == [one.shape for one in wanted]
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE)


# Layers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
def test_random_layers_are_those_of_keras(seed: int) -> None:
    numbers = np.random.default_rng(seed)

    def maybe() -> bool:
        return bool(numbers.integers(2))

    options = {name: maybe() for name in ("use_bias", "return_sequences", "return_state", "go_backwards")}
    H, I, B, T = (int(size) for size in numbers.integers(1, 8, 4))
    x = numbers.normal(size=(B, T, I)).astype("float32")
    mask = numbers.integers(0, 3, (B, T)) > 0 if maybe() else None
    bidirectional = maybe()
    if bidirectional:
        options["go_backwards"] = False
        merge_mode = [None, "concat", "sum", "mul", "ave"][numbers.integers(5)]
        theirs = kl.Bidirectional(kl.LSTM(H, **options), merge_mode=merge_mode)
        ours = ck.Bidirectional(ck.LSTM(H, **options), merge_mode=merge_mode)
    else:
        options["zero_output_for_mask"] = maybe()
        theirs, ours = kl.LSTM(H, **options), ck.LSTM(H, **options)
    state = (
        [numbers.normal(size=(B, H)).astype("float32") for _ in range(4 if bidirectional else 2)] if maybe() else None
    )
    theirs.build(x.shape)
    fill(theirs, seed)
    ours.build(x.shape)
    ours.set_weights(theirs.get_weights())
    got = ours(x, initial_state=state, mask=mask)
    assert_close(got, theirs(x, initial_state=state, mask=None if mask is None else torch.tensor(mask)))
    shapes = ours.output_shape(x.shape)
    assert arrays(got)[0].shape == (shapes[0] if isinstance(shapes, list) else shapes)

    fill(theirs, seed + 1000)
    theirs.set_weights(ours.get_weights())  # and back
    for mine, other in zip(ours.weights, theirs.weights, strict=True):
        assert (mine.name, mine.shape) == (other.name, tuple(other.shape))
        np.testing.assert_array_equal(mine.numpy(), other.numpy())


def test_stateful() -> None:
    theirs, ours = kl.LSTM(4, stateful=True), ck.LSTM(4, stateful=True)
    x = cylstm.randn(2, 5, 3)
    theirs.build(x.shape)
    fill(theirs, 0)
    ours.build(x.shape)
    ours.set_weights(theirs.get_weights())
    for _ in range(3):
        assert_close(ours(x), theirs(x))
    ours.reset_state()
    theirs.reset_state()
    assert_close(ours(x), theirs(x))
    with pytest.raises(ValueError, match="reset_state"):
        ours(x[:1])


def test_stateful_models(tmp_path: Path) -> None:
    def build(l, **batch):
        both = l.Bidirectional(l.LSTM(4, stateful=True, return_sequences=True))
        return [l.Input((5, 3), **batch), both, l.LSTM(2, stateful=True)]

    theirs, ours = keras.Sequential(build(kl, batch_size=2)), ck.Sequential(build(ck))
    fill(theirs, 0)
    ours.set_weights(theirs.get_weights())
    theirs.save(tmp_path / "m.keras")
    read = ck.load_model(tmp_path / "m.keras")  # without the states, which Keras does not save either
    for n in range(4):
        if n == 2:
            for model in (ours, read):
                model.reset_states()
            for layer in theirs.layers:
                layer.reset_state()
        x = cylstm.randn(2, 5, 3)
        wanted = theirs.predict(x, verbose=0)
        assert_close(ours.predict(x), wanted)
        assert_close(read.predict(x), wanted)


def test_two_different_layers_as_one_bidirectional() -> None:
    def make(layers):
        back = layers.LSTM(3, go_backwards=True, return_sequences=True)
        return layers.Bidirectional(layers.LSTM(5, return_sequences=True), backward_layer=back)

    theirs, ours, x = make(kl), make(ck), cylstm.randn(2, 6, 3)
    theirs.build(x.shape)
    fill(theirs, 0)
    assert ours(x).shape == (2, 6, 8)
    ours.set_weights(theirs.get_weights())
    assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("activation", [None, "linear", "softmax", "sigmoid", "relu", "tanh"])
@pytest.mark.parametrize("shape", [(4, 3), (4, 5, 3)])
def test_dense(activation: str | None, shape: tuple[int, ...]) -> None:
    x = cylstm.randn(*shape) * 3
    theirs, ours = kl.Dense(6, activation=activation), ck.Dense(6, activation=activation)
    theirs.build(x.shape)
    fill(theirs, 0)
    ours.build(x.shape)
    ours.set_weights(theirs.get_weights())
    assert_close(ours(x), theirs(x))


REFUSED = [
    (ck.LSTM, "activation", "relu"),
    (ck.LSTM, "activation", None),
    (ck.LSTM, "recurrent_activation", "hard_sigmoid"),
    (ck.LSTM, "dropout", 0.5),
    (ck.LSTM, "recurrent_dropout", 0.5),
    (ck.LSTM, "kernel_regularizer", "l2"),
    (ck.LSTM, "recurrent_constraint", "max_norm"),
    (ck.LSTM, "unroll", True),
    (ck.LSTM, "weights", np.zeros(3)),
    (ck.LSTM, "kernel_initializer", "no_such"),
    (ck.Dense, "activation", "gelu"),
    (ck.Dense, "bias_regularizer", "l1"),
]


@pytest.mark.parametrize(("cls", "option", "value"), REFUSED)
def test_what_is_not_computed_is_refused_by_name(cls: type, option: str, value: object) -> None:
    with pytest.raises(ValueError, match=option.replace("kernel_initializer", "initializer")):
        cls(4, **{option: value})


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match="no_such_option"):
        ck.LSTM(4, no_such_option=1)
    with pytest.raises(ValueError, match="positive"):
        ck.LSTM(0)
    with pytest.raises(TypeError, match="units"):
        ck.LSTM(2.5)
    with pytest.raises(ValueError, match="merge_mode"):
        ck.Bidirectional(ck.LSTM(4), merge_mode="max")
    with pytest.raises(ValueError, match="merge_mode"):
        ck.Bidirectional(ck.LSTM(4), merge_mode=["sum"])
    with pytest.raises(TypeError, match="Dense"):
        ck.Bidirectional(ck.Dense(4))
    with pytest.raises(ValueError, match="go_backwards"):
        ck.Bidirectional(ck.LSTM(4, go_backwards=True))
    layer, x = ck.LSTM(4), cylstm.randn(2, 5, 3)
    with pytest.raises(ValueError, match="no weights yet"):
        layer.set_weights([])
    layer(x)
    before = layer.get_weights()
    with pytest.raises(ValueError, match="shapes"):
        layer.set_weights(before[:2])
    with pytest.raises(ValueError, match="3 dimensions"):
        layer(x[0])
    with pytest.raises(ValueError, match="mask"):
        layer(x, mask=np.ones((2, 4), bool))
    with pytest.raises(ValueError, match="two initial states"):
        layer(x, initial_state=[x[:, 0]])
    with pytest.raises(TypeError, match=r"real numbers.*complex64"):
        layer(x.astype(np.complex64))
    with pytest.raises(TypeError, match=r"initial_state.*complex64"):
        layer(x, initial_state=[np.zeros((2, 4), np.complex64)] * 2)
    for one, other in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "make",
    [
        lambda l: l.LSTM(7),
        lambda l: l.LSTM(7, return_sequences=True, return_state=True),
        lambda l: l.Bidirectional(l.LSTM(7)),
    ],
)
def test_the_listings_of_the_documentation(make: Callable) -> None:
    theirs, ours, x = make(kl), make(ck), cylstm.randn(2, 17, 10)
    wanted = theirs(x)
    ours.build(x.shape)
    ours.set_weights(theirs.get_weights())
    assert_close(ours(x), wanted)


def test_the_stacked_listing_of_the_documentation() -> None:
    def build(namespace, layers):
        model = namespace.Sequential()
        model.add(layers.Input((17, 10)))
        for return_sequences in (True, True, False):
            model.add(layers.LSTM(7, return_sequences=return_sequences))
        return model

    theirs, ours, x = build(keras, kl), build(ck, ck), cylstm.randn(2, 17, 10)
    ours.set_weights(theirs.get_weights())
    assert theirs.count_params() == ours.count_params() == 1344
    assert_close(ours.predict(x), theirs.predict(x, verbose=0))


# Initialisers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(INITIALIZERS))
def test_initialisers_have_keras_distribution(name: str) -> None:
    cylstm.manual_seed(0)
    keras.utils.set_random_seed(0)  # without a seed, Keras's truncated normal goes beyond two deviations in some runs
    shape = (200, 300)
    ours = np.asarray(initializer(name)(shape, dtype="float32"))
    theirs = np.asarray(keras.initializers.get(name)(shape))
    assert ours.dtype == np.float32
    assert abs(ours.mean() - theirs.mean()) < 4 * (theirs.std() + 1e-9) / 200
    np.testing.assert_allclose(ours.std(), theirs.std(), rtol=0.02)
    if name.endswith("_normal") and name != "random_normal":  # at two deviations of the whole normal distribution
        assert 2.0 < abs(ours).max() / ours.std() < 2.3
    if "uniform" in name:
        np.testing.assert_allclose(abs(ours).max(), abs(theirs).max(), rtol=0.02)


def test_defaults_are_keras_defaults() -> None:
    cylstm.manual_seed(0)
    kernel, recurrent_kernel, bias = (layer := ck.LSTM(8)).get_weights() or (
        layer.build((1, 1, 5)),
        *layer.get_weights(),
    )[1:]
    limit = np.sqrt(6 / (5 + 32))
    assert 0.9 * limit < abs(kernel).max() <= limit
    np.testing.assert_allclose(recurrent_kernel @ recurrent_kernel.T, np.eye(8), atol=1e-6)
    np.testing.assert_array_equal(bias, np.repeat([0, 1, 0, 0], 8))


# Sequential ---------------------------------------------------------------------------------------------------------


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
    with pytest.raises(ValueError, match="not built"):
        model.summary()
    with pytest.raises(ValueError, match="not built"):
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
    with pytest.raises(ValueError, match="several arrays"):
        ck.Sequential([ck.Input((5, 3)), ck.LSTM(3, return_state=True), ck.Dense(2)])
    with pytest.raises(ValueError, match=r"steps, features"):
        ck.Sequential([ck.Input((5, 3)), ck.LSTM(3), ck.LSTM(3)])
    with pytest.raises(ValueError, match="there already"):
        ck.Sequential([ck.Input((5, 3)), layer := ck.LSTM(3, return_sequences=True), layer])
    model = ck.Sequential([ck.Input((5, 3)), ck.LSTM(3)])
    with pytest.raises(ValueError, match="verbose"):
        model.predict(cylstm.randn(2, 5, 3), verbose=7)
    with pytest.raises(ValueError, match="at least one"):
        model.predict(cylstm.randn(2, 5, 3)[:0])


# cylstm.load and cylstm.save ----------------------------------------------------------------------------------------


def saved(model, path: Path, extension: str) -> Path:
    path = path / f"m{extension}"
    if extension == ".weights.h5":
        model.save_weights(path)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras finds .h5 old
            model.save(path)
    return path


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
    with pytest.raises(ValueError, match=r"Functional.*cylstm\.load"):
        ck.load_model(tmp_path / "m.keras")


@pytest.mark.parametrize("extension", [".keras", ".weights.h5"])
def test_other_layers_are_named(extension: str, tmp_path: Path) -> None:
    keras.utils.clear_session()
    path = tmp_path / f"m{extension}"
    model = keras.Sequential([kl.Input((6, 3)), kl.GRU(4, name="reader"), kl.Dense(2, name="head")])
    (model.save if extension == ".keras" else model.save_weights)(path)
    kinds = ["GRU", "Dense"] if extension == ".keras" else ["another layer"] * 2
    with pytest.raises(ValueError, match="no LSTM") as error:
        cylstm.load(path)
    for name, kind, number in zip(["reader", "head"], kinds, [108, 10], strict=True):
        assert f"{kind}, {number} parameters, under the prefix '{name}.'" in str(error.value)


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
    with pytest.raises(ValueError, match="'head' has a QuantizedDTypePolicy"):
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
    with pytest.raises(ValueError, match=r"2 LSTMs.*'back\.'"):
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
    with pytest.raises(ValueError, match="3 LSTMs"):
        cylstm.load(saved(apart, tmp_path, ".keras"))


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: kl.LSTM(4, activation="relu"), "activation='relu'"),
        (lambda: kl.LSTM(4, recurrent_activation="hard_sigmoid"), "recurrent_activation='hard_sigmoid'"),
        (lambda: kl.LSTM(4, go_backwards=True), r"go_backwards=True.*load_model"),
        (lambda: kl.Bidirectional(kl.LSTM(4), merge_mode="sum"), r"merge_mode='sum'.*load_model"),
        (lambda: kl.Bidirectional(kl.LSTM(4, activation="elu")), "activation='elu'"),
        (lambda: kl.RNN(kl.LSTMCell(4)), "is a RNN"),
    ],
)
def test_what_a_plain_lstm_does_not_compute_is_refused_by_name(make: Callable, word: str, tmp_path: Path) -> None:
    path = saved(keras.Sequential([kl.Input((6, 3)), make()]), tmp_path, ".keras")
    with pytest.raises(ValueError, match=word):
        cylstm.load(path)
    if "load_model" not in word:
        with pytest.raises(ValueError, match=r"m\.keras"):
            ck.load_model(path)


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
    older = saved(keras.Sequential([kl.Input((5, 3)), kl.LSTM(4)]), tmp_path, ".h5")
    with pytest.raises(ValueError, match=r"older format.*cylstm\.load.*save it as \.keras"):
        ck.load_model(older)


# Damaged and hostile files ------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved(keras.Sequential([kl.Input((6, 3)), kl.LSTM(4), kl.Dense(2)]), tmp_path, ".keras")


def test_truncated_files(model: Path, tmp_path: Path) -> None:
    weights = tmp_path / "t.weights.h5"
    ck.load_model(model).save_weights(weights)
    for path in (model, weights):
        whole, damaged = path.read_bytes(), tmp_path / f"damaged{''.join(path.suffixes)}"
        for size in {*range(0, len(whole), len(whole) // 50), len(whole) - 1}:
            damaged.write_bytes(whole[:size])
            with pytest.raises(ValueError, match="damaged"):
                cylstm.load(damaged)


def test_no_file(tmp_path: Path) -> None:
    for name in ("m.keras", "m.weights.h5"):
        with pytest.raises(FileNotFoundError):
            cylstm.load(tmp_path / name)


def rewritten(model: Path, change: Callable[[dict], object]) -> Path:
    """The model with another config.json."""
    with zipfile.ZipFile(model) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    members["config.json"] = json.dumps(change(config)).encode()
    with zipfile.ZipFile(model, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return model


def code(config: dict) -> dict:
    """A Lambda layer, whose code Keras would run."""
    config["config"]["layers"].insert(
        1, {"module": "keras.layers", "class_name": "Lambda", "config": {"name": "evil", "function": {"code": "4wAA"}}}
    )
    return config


def deep(config: dict) -> dict:
    for _ in range(100):
        config["config"] = {"name": "n", "layers": [{"class_name": "Sequential", "config": config["config"]}]}
    return config


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (code, "Lambda"),
        (deep, "too deep"),
        (lambda config: [], "damaged|readable"),
        (lambda config: {**config, "config": {"name": "m"}}, "damaged"),
        (lambda config: {**config, "config": {"name": "m", "layers": [1]}}, "readable"),
    ],
)
def test_hostile_configurations(model: Path, change: Callable, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        ck.load_model(rewritten(model, change))


def test_hostile_hdf5(tmp_path: Path) -> None:
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = np.ones((3, 16), np.float32)
    path = tmp_path / "m.weights.h5"

    def refused(word: str, write: Callable[[h5py.Group], object]) -> None:
        ck.Sequential([ck.Input((5, 3)), ck.LSTM(4)]).save_weights(path)
        with h5py.File(path, "a") as file:
            cell = file["layers/lstm/cell/vars"]
            del cell["0"]
            write(cell)
        with pytest.raises(ValueError, match=word):
            cylstm.load(path)

    def virtual(cell: h5py.Group) -> None:
        layout = h5py.VirtualLayout((3, 16), np.float32)
        layout[:] = h5py.VirtualSource(secret, "x", (3, 16))
        cell.create_virtual_dataset("0", layout)

    refused("is a link", lambda cell: cell.__setitem__("0", h5py.ExternalLink(str(secret), "x")))
    refused("is a link", lambda cell: cell.__setitem__("0", h5py.SoftLink("/layers/lstm/cell/vars/1")))
    refused("there twice", lambda cell: cell.__setitem__("again", cell.file["layers"]))
    refused("not an array in this file", virtual)
    refused(
        "not an array in this file",
        lambda cell: cell.create_dataset("0", (3, 16), np.float32, external=[(str(tmp_path / "raw"), 0, 192)]),
    )
    refused("more than", lambda cell: cell.create_dataset("0", (2**40, 16), np.float32, chunks=(1, 16)))


def test_a_heap_without_end(tmp_path: Path) -> None:
    """HDF5 reads the texts of this file for ever."""
    path = tmp_path / "m.weights.h5"
    cylstm.save(cylstm.LSTM(3, 4), path)
    content = bytearray(path.read_bytes())
    begin = content.index(b"GCOL")
    at, end = begin + 16, begin + int.from_bytes(content[begin + 8 : begin + 16], "little")
    while index := int.from_bytes(content[at : at + 2], "little"):
        assert index < 100
        size = int.from_bytes(content[at + 8 : at + 16], "little")
        at += 16 + size + -size % 8
    assert at + 16 <= end
    content[at + 8 : at + 16] = bytes(8)  # the free rest has no size
    path.write_bytes(content)
    with pytest.raises(ValueError, match="heap of texts"):
        cylstm.load(path)


def test_random_bytes(model: Path, tmp_path: Path) -> None:
    weights = tmp_path / "t.weights.h5"
    ck.load_model(model).save_weights(weights)
    whole, numbers = weights.read_bytes(), np.random.default_rng(0)
    for _ in range(200):
        content = bytearray(whole)
        for position in numbers.integers(0, len(whole), 3):
            content[position] = numbers.integers(0, 256)
        weights.write_bytes(content)
        with contextlib.suppress(ValueError):  # else only a weight was changed, or a name
            assert isinstance(cylstm.load(weights), cylstm.LSTM)


def test_hostile_zip(model: Path) -> None:
    with zipfile.ZipFile(model) as archive:
        config = archive.read("config.json")
    with zipfile.ZipFile(model, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", config)
        archive.writestr("model.weights.h5", bytes(200 << 20))
    with pytest.raises(ValueError, match="would grow"):
        cylstm.load(model)
