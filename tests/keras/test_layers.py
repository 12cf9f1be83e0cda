"""Keras's layers and initialisers: shapes, numbers and errors, compared with Keras itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import torch
from keras import layers as kl
from keras_layers import arrays, assert_close, fill

import cylstm
from cylstm import keras as ck
from cylstm.keras.initializers import INITIALIZERS, initializer

# Keras hands its variables to NumPy so.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


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
    shapes = ours.compute_output_shape(x.shape)
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


REFUSED = [
    (ck.LSTM, "activation", "softmax"),
    (ck.LSTM, "recurrent_activation", "no_such"),
    (ck.LSTM, "lora_rank", 2),
    (ck.LSTM, "kernel_initializer", "no_such"),
    (ck.Dense, "activation", "no_such"),
    (ck.Dense, "activation", lambda x: x),  # who knows what it computes
    (ck.Dense, "quantization_config", {}),
]


@pytest.mark.parametrize(("cls", "option", "value"), REFUSED)
def test_what_is_not_computed_is_refused_by_name(cls: type, option: str, value: object) -> None:
    with pytest.raises(ValueError, match=option.replace("kernel_initializer", "initializer")):
        cls(4, **{option: value})


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match="no_such_option"):
        ck.LSTM(4, no_such_option=1)
    with pytest.raises(ValueError, match="units must be positive, got 0"):
        ck.LSTM(0)
    with pytest.raises(TypeError, match=r"units must be an int, got 2\.5"):
        ck.LSTM(2.5)
    with pytest.raises(ValueError, match="merge_mode"):
        ck.Bidirectional(ck.LSTM(4), merge_mode="max")
    with pytest.raises(ValueError, match="merge_mode"):
        ck.Bidirectional(ck.LSTM(4), merge_mode=["sum"])
    with pytest.raises(TypeError, match="Dense"):
        ck.Bidirectional(ck.Dense(4))
    with pytest.raises(ValueError, match="go_backwards"):
        ck.Bidirectional(ck.LSTM(4), backward_layer=ck.LSTM(4))
    layer, x = ck.LSTM(4), cylstm.randn(2, 5, 3)
    with pytest.raises(ValueError, match="must be built, got no weights yet"):
        layer.set_weights([])
    layer(x)
    before = layer.get_weights()
    with pytest.raises(ValueError, match="shapes"):
        layer.set_weights(before[:2])
    with pytest.raises(ValueError, match="3 dimensions"):
        layer(x[0])
    with pytest.raises(ValueError, match="mask"):
        layer(x, mask=np.ones((2, 4), bool))
    with pytest.raises(ValueError, match="initial_state must be two arrays"):
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
