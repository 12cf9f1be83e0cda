"""Models as people publish them, saved by Keras and opened here: every layer, the numbers, and back to Keras."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras_layers import arrays, assert_close, fill, saved

import cylstm
from cylstm import keras as ck

pytestmark = [
    # Keras hands its variables to NumPy so.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    # Layers that take no mask say so.
    pytest.mark.filterwarnings("ignore:.*does not support masking:UserWarning"),
]

IDS, NUMBERS, WORDS = (12,), (10, 3), (8,)


def forecast() -> keras.Model:
    return keras.Sequential(
        [
            kl.Input((60, 1)),
            kl.LSTM(8, return_sequences=True),
            kl.Dropout(0.2),
            kl.LSTM(8, return_sequences=True),
            kl.Dropout(0.2),
            kl.LSTM(8),
            kl.Dense(5),
            kl.Dense(1),
        ]
    )


def sentiment() -> keras.Model:
    layers = [kl.Input(IDS), kl.Embedding(20, 6, mask_zero=True), kl.SpatialDropout1D(0.4)]
    layers += [kl.LSTM(7, dropout=0.2, recurrent_dropout=0.2), kl.Dense(2, activation="softmax")]
    return keras.Sequential(layers)


def convolved() -> keras.Model:
    layers = [kl.Input(IDS), kl.Embedding(20, 6), kl.Conv1D(5, 3, activation="relu", padding="same")]
    layers += [kl.MaxPooling1D(2), kl.Bidirectional(kl.LSTM(4, return_sequences=True)), kl.GlobalMaxPooling1D()]
    layers += [kl.Dense(6, activation="relu", kernel_regularizer="l2"), kl.Dropout(0.5), kl.Dense(1, "sigmoid")]
    return keras.Sequential(layers)


def autoencoder() -> keras.Model:
    layers = [kl.Input(NUMBERS), kl.LSTM(6, activation="relu", return_sequences=True), kl.LSTM(4, activation="relu")]
    layers += [kl.RepeatVector(10), kl.LSTM(4, "relu", return_sequences=True), kl.TimeDistributed(kl.Dense(3))]
    return keras.Sequential(layers)


def tagger() -> keras.Model:
    inputs = keras.Input(IDS)
    x = kl.Embedding(20, 6, mask_zero=True)(inputs)
    x = kl.Bidirectional(kl.LSTM(5, return_sequences=True, recurrent_dropout=0.1))(x)
    return keras.Model(inputs, kl.TimeDistributed(kl.Dense(4, activation="softmax"))(x))


def chain() -> keras.Model:
    inputs = keras.Input(NUMBERS, name="series")
    x = kl.Masking(-1.0)(inputs)
    x = kl.LayerNormalization()(kl.LSTM(5, return_sequences=True)(x))
    x = kl.GlobalAveragePooling1D()(kl.GaussianNoise(0.1)(x))
    return keras.Model(inputs, kl.Dense(2, "gelu")(kl.BatchNormalization()(x)), name="chain")


def normalised() -> keras.Model:
    layers = [kl.Input(NUMBERS), kl.BatchNormalization(), kl.LSTM(6, return_sequences=True), kl.Flatten()]
    layers += [kl.Dense(8), kl.LeakyReLU(), kl.Dense(9), kl.Reshape((3, 3)), kl.Permute((2, 1)), kl.LSTM(2)]
    return keras.Sequential([*layers, kl.Activation("silu"), kl.ActivityRegularization(l2=0.1)])


def branches() -> keras.Model:
    numbers, ids = keras.Input(NUMBERS, name="numbers"), keras.Input(WORDS, name="words")
    one = kl.LSTM(4)(numbers)
    other = kl.LSTM(4)(kl.Embedding(20, 6)(ids))
    merged = kl.Concatenate()([one, other, kl.Add()([one, other]), kl.Multiply()([one, other])])
    return keras.Model([numbers, ids], [kl.Dense(2, "softmax", name="a")(merged), kl.Dense(1, name="b")(merged)])


def translator() -> keras.Model:
    source, target = keras.Input((None,)), keras.Input((None,))
    _, h, c = kl.LSTM(6, return_state=True)(kl.Embedding(20, 5, mask_zero=True)(source))
    decoder = kl.LSTM(6, return_sequences=True, return_state=True)
    y, _, _ = decoder(kl.Embedding(20, 5)(target), initial_state=[h, c])
    return keras.Model([source, target], kl.Dense(7, activation="softmax")(y))


def both_ways() -> keras.Model:
    source, target = keras.Input(IDS), keras.Input((7, 2))
    encoder = kl.Bidirectional(kl.LSTM(3, return_sequences=True, return_state=True))
    _, *states = encoder(kl.Embedding(20, 5, mask_zero=True)(source))
    h, c = kl.Concatenate()(states[::2]), kl.Concatenate()(states[1::2])
    y = kl.LSTM(6, return_sequences=True)(target, initial_state=[h, c])
    return keras.Model([source, target], kl.TimeDistributed(kl.Dense(4))(y))


def attention() -> keras.Model:
    inputs = keras.Input(NUMBERS)
    x = kl.Bidirectional(kl.LSTM(4, return_sequences=True))(inputs)
    scores = kl.Flatten()(kl.Dense(1, activation="tanh")(x))
    weights = kl.Permute((2, 1))(kl.RepeatVector(8)(kl.Activation("softmax")(scores)))
    pooled = kl.GlobalMaxPooling1D()(kl.Multiply()([x, weights]))
    return keras.Model(inputs, kl.Dense(2)(kl.Dot(axes=1)([pooled, pooled])))


def operations() -> keras.Model:
    inputs = keras.Input(NUMBERS)
    x, h, c = kl.LSTM(4, return_sequences=True, return_state=True)(inputs)
    y = x[:, -1, :] * 2.0 + h - 1.0
    z = keras.ops.mean(x[:, 2:9:3], axis=1) / (keras.ops.tanh(c) + 3.0)
    return keras.Model(
        inputs, kl.Dense(2)(kl.Concatenate()([y, z, keras.ops.max(keras.ops.expand_dims(h, 1), axis=1)]))
    )


def nested() -> keras.Model:
    encoder = keras.Sequential([kl.Input(NUMBERS), kl.LSTM(5, return_sequences=True), kl.LSTM(4)], name="encoder")
    inner = keras.Input((4,))
    head = keras.Model(inner, kl.Dense(2, "softmax")(kl.Dense(6, "relu")(inner)), name="head")
    return keras.Sequential([kl.Input(NUMBERS), encoder, kl.BatchNormalization(), head])


def siamese() -> keras.Model:
    left, right = keras.Input(IDS), keras.Input(IDS)
    embed, encode = kl.Embedding(20, 5, mask_zero=True), kl.LSTM(4)
    one, other = encode(embed(left)), encode(embed(right))
    distance = kl.Subtract()([one, other])
    return keras.Model([left, right], kl.Dense(1, "sigmoid")(kl.Concatenate()([distance, kl.Dot(1)([one, other])])))


def frames() -> keras.Model:
    per_frame = keras.Sequential([kl.Input((5, 3)), kl.Conv1D(4, 2, activation="relu"), kl.Flatten(), kl.Dense(3)])
    return keras.Sequential([kl.Input((6, 5, 3)), kl.TimeDistributed(per_frame), kl.LSTM(4), kl.Dense(2)])


def cells() -> keras.Model:
    cells = [kl.LSTMCell(5), kl.LSTMCell(4, recurrent_activation="hard_sigmoid")]
    rnn = kl.RNN(cells, return_sequences=True)
    return keras.Sequential(
        [kl.Input(NUMBERS), rnn, kl.RNN([kl.LSTMCell(4)], return_sequences=True), kl.RNN(kl.LSTMCell(3))]
    )


def residual() -> keras.Model:
    inputs = keras.Input(NUMBERS)
    x = kl.Masking(-1.0)(inputs)
    x = kl.LSTM(6, return_sequences=True)(x)
    for _ in range(2):
        x = kl.Add()([x, kl.Bidirectional(kl.LSTM(6, return_sequences=True), merge_mode="sum")(x)])
    return keras.Model(inputs, kl.LSTM(2, go_backwards=True)(x))


def masks_made_one() -> keras.Model:
    inputs = keras.Input(IDS)
    x = kl.Embedding(20, 4, mask_zero=True)(inputs)
    x = kl.Concatenate()([x, kl.Dense(3, "elu")(x)])
    return keras.Model(inputs, kl.Bidirectional(kl.LSTM(3))(x))


def masked_decoder() -> keras.Model:
    """Keras 3 passes no mask beside initial states, and yet hands it on."""
    ids = keras.Input(IDS)
    x = kl.Embedding(20, 4, mask_zero=True)(ids)
    y, *states = kl.Bidirectional(kl.LSTM(4, return_sequences=True, return_state=True), merge_mode="sum")(x)
    decoded = kl.LSTM(4, return_sequences=True)(x, initial_state=states[:2])
    both = kl.Bidirectional(kl.LSTM(4, return_sequences=True), merge_mode="ave")(decoded, initial_state=states)
    return keras.Model(ids, [decoded, kl.LSTM(3)(both), kl.LSTM(4)(y, initial_state=states[2:])])


def shared_model() -> keras.Model:
    """Outputs of a model that is called twice, and of its calls one is used inside."""
    inner = keras.Input(NUMBERS)
    block = keras.Model(inner, kl.LSTM(3, return_sequences=True)(inner), name="block")
    inputs = keras.Input(NUMBERS)
    one = block(inputs)
    other = block(one * 2.0)
    return keras.Model(inputs, [one, kl.Dense(2)(other), kl.Dense(1)(one)])


def half() -> keras.Model:
    layers = [kl.LSTM(4, return_sequences=True, dtype="mixed_float16"), kl.Dense(2, dtype="float32")]
    return keras.Sequential([kl.Input(NUMBERS), *layers])


MODELS: dict[str, Callable[[], keras.Model]] = {
    one.__name__: one
    for one in (
        *(
            forecast,
            sentiment,
            convolved,
            autoencoder,
            tagger,
            chain,
            normalised,
            branches,
            translator,
            both_ways,
            attention,
        ),
        *(operations, nested, siamese, frames, cells, residual, masks_made_one, masked_decoder, shared_model),
    )
}


def inputs_of(model: keras.Model, seed: int = 0) -> Any:
    """Random input: indices for one dimension, else numbers, with some steps that a mask hides."""
    numbers = np.random.default_rng(seed)
    found = []
    for one in model.inputs:
        shape = [5, *(9 if size is None else size for size in one.shape[1:])]
        if len(shape) == 2:
            found.append(numbers.integers(0, 20, shape))
            found[-1][1:3, shape[1] // 2 :] = 0
        else:
            found.append(numbers.normal(size=shape).astype("float32"))
            found[-1][0, -2:] = -1
    return found if len(found) > 1 else found[0]


def assert_same(got: Any, wanted: Any) -> None:
    """Equal to float32 rounding of the largest number."""
    largest = max(1, *(abs(one).max() for one in arrays(wanted)))
    assert_close([one / largest for one in arrays(got)], [one / largest for one in arrays(wanted)])


def filled(name: str) -> keras.Model:
    model = MODELS[name]()
    fill(model, 3)
    for one in model.weights:
        if name == "autoencoder":  # its states grow without a bound
            one.assign(one / 2)
        if one.name == "moving_variance":
            one.assign(abs(one.numpy()) + 0.1)
    return model


@pytest.mark.parametrize("extension", [".keras", ".h5"])
@pytest.mark.parametrize("name", MODELS)
def test_models_open(name: str, extension: str, tmp_path: Path) -> None:
    theirs = filled(name)
    theirs.compile("adam", "mse")
    theirs.optimizer.build(theirs.trainable_variables)
    ours = ck.load_model(saved(theirs, tmp_path, extension))
    x = inputs_of(theirs)
    wanted = theirs(x)
    assert_same(ours.predict(x, batch_size=2), wanted)
    assert_same(ours(x), wanted)
    assert ours.count_params() == theirs.count_params()
    assert ours.name == theirs.name
    names = [one.name for one in theirs.layers]
    assert [one.name for one in ours.layers if one.name in names] == names
    shapes = [one.shape for one in (wanted if isinstance(wanted, list) else [wanted])]
    mine = ours.output_shape if isinstance(ours.output_shape, list) else [ours.output_shape]
    assert all(a in (None, b) for one, other in zip(mine, shapes, strict=True) for a, b in zip(one, other, strict=True))
    ours.summary(print_fn=lambda text: None)


@pytest.mark.parametrize("name", MODELS)
def test_models_go_back(name: str, tmp_path: Path) -> None:
    theirs = filled(name)
    x = inputs_of(theirs)
    wanted = theirs(x)
    ours = ck.load_model(saved(theirs, tmp_path, ".keras"))
    ours.save(tmp_path / "ours.keras")
    assert_same(keras.models.load_model(tmp_path / "ours.keras")(x), wanted)
    assert_same(ck.load_model(tmp_path / "ours.keras").predict(x), wanted)
    ours.save_weights(tmp_path / "ours.weights.h5")
    fill(theirs, 4)
    theirs.load_weights(tmp_path / "ours.weights.h5")
    assert_same(theirs(x), wanted)
    theirs.save_weights(tmp_path / "theirs.weights.h5")
    ours.set_weights([np.zeros_like(one) for one in ours.get_weights()])
    ours.load_weights(tmp_path / "theirs.weights.h5")
    assert_same(ours.predict(x), wanted)


def test_mixed_precision_is_computed_in_float32(tmp_path: Path) -> None:
    theirs = half()
    fill(theirs, 0)
    x = inputs_of(theirs)
    ours = ck.load_model(saved(theirs, tmp_path, ".keras"))
    np.testing.assert_allclose(ours.predict(x), theirs.predict(x, verbose=0), atol=0.01)


def test_several_inputs_by_name_and_in_a_list(tmp_path: Path) -> None:
    theirs = filled("branches")
    ours = ck.load_model(saved(theirs, tmp_path, ".keras"))
    numbers, words = x = inputs_of(theirs)
    wanted = ours(x)
    assert_same(ours({"words": words, "numbers": numbers}), wanted)
    with pytest.raises(ValueError, match="a list of 2 arrays, for numbers, words, got 1"):
        ours([numbers])
    with pytest.raises(ValueError, match="the inputs numbers, words, got numbers"):
        ours({"numbers": numbers})
    with pytest.raises(ValueError, match="as many sequences in each array"):
        ours.predict([numbers, words[:2]])
    with pytest.raises(ValueError, match=r"input of functional.* must have shape \(None, 8\), got \(5, 12\)"):
        ours([numbers, np.zeros((5, 12), int)])


def test_layers_of_a_model(tmp_path: Path) -> None:
    ours = ck.load_model(saved(filled("nested"), tmp_path, ".keras"))
    assert ours.get_layer("encoder") is ours.layers[0]
    assert ours.get_layer(index=-1).name == "head"
    with pytest.raises(ValueError, match="must be among those of the layers, encoder"):
        ours.get_layer("decoder")
    with pytest.raises(ValueError, match="index must be below 3"):
        ours.get_layer(index=3)
    with pytest.raises(ValueError, match="neither or both"):
        ours.get_layer()
    assert ours.input_shape == (None, 10, 3)
    assert ours.output_shape == (None, 2)
    assert ours.compute_output_shape((7, 10, 3)) == (7, 2)


REFUSED: dict[str, tuple[Callable[[], list[Any]], str]] = {
    "gru": (lambda: [kl.GRU(4, name="x")], "the layer 'x' .*got a GRU"),
    "rnn": (lambda: [kl.SimpleRNN(4, name="x")], "the layer 'x' .*got a SimpleRNN"),
    "inside": (lambda: [kl.Bidirectional(kl.GRU(4, name="x"))], "the layer 'forward_x' .*got a GRU"),
    "nested": (lambda: [keras.Sequential([kl.GRU(4, name="x")])], "the layer 'x' .*got a GRU"),
    "distributed": (lambda: [kl.TimeDistributed(kl.Conv1DTranspose(4, 2, name="x"))], "the layer 'x' "),
    "cell": (lambda: [kl.RNN(kl.GRUCell(4, name="x"))], "the layer 'x' .*got a GRUCell"),
    "channels": (lambda: [kl.Conv1D(4, 2, data_format="channels_first", name="x")], "'x', a Conv1D.*data_format"),
    "renorm": (lambda: [kl.BatchNormalization(renorm=True, name="x")], "'x', a BatchNormalization.*renorm"),
    "lambda": (lambda: [kl.Lambda(lambda x: x, name="x")], "the layer 'x' .*got a Lambda"),
    "attention": (lambda: [kl.LSTM(4, activation=keras.activations.softmax, name="x")], "'x', a LSTM.*softmax"),
}


@pytest.mark.parametrize("extension", [".keras", ".h5"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_computed_is_refused_by_class_and_name(name: str, extension: str, tmp_path: Path) -> None:
    make, word = REFUSED[name]
    path = saved(keras.Sequential([kl.Input((6, 3)), *make()]), tmp_path, extension)
    with pytest.raises(ValueError, match=word):
        ck.load_model(path)


def test_weights_alone_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="weights without a configuration"):
        ck.load_model(saved(filled("forecast"), tmp_path, ".weights.h5"))


def test_models_of_this_package_are_saved(tmp_path: Path) -> None:
    inner = ck.Sequential([ck.LSTM(4, return_sequences=True), ck.Dropout(0.5)], name="inner")
    layers = [inner, ck.Bidirectional(ck.LSTM(3)), ck.Dense(2, "relu", kernel_regularizer=None)]
    ours = ck.Sequential([ck.Input((6, 3)), *layers])
    x = cylstm.randn(4, 6, 3)
    ours.save(tmp_path / "m.keras")
    assert_same(keras.models.load_model(tmp_path / "m.keras").predict(x, verbose=0), ours.predict(x))
    with pytest.raises(ValueError, match=r"must end in \.keras"):
        ours.save(tmp_path / "m.h5")
