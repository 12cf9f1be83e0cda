"""Kinds of models with LSTMs that people publish, for whichever Keras is installed: functions that make them, by name.

They follow the models that are found in public repositories: of each kind one, small. The last three have a layer that
cylstm does not compute.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if os.environ.get("KERAS_PACKAGE", "keras") == "keras":
    import keras
else:
    import tf_keras as keras

KERAS_3 = keras.__version__.startswith("3")
if not KERAS_3:
    import tensorflow as tf

layers = keras.layers
Sequential, LSTM, Dense, Embedding = keras.Sequential, layers.LSTM, layers.Dense, layers.Embedding
IDS, NUMBERS = (12,), (10, 3)


def leaky(slope: float) -> Any:
    return layers.LeakyReLU(**{"negative_slope" if KERAS_3 else "alpha": slope})


def forecast():
    stacked = [LSTM(8, return_sequences=True, input_shape=(60, 1)), layers.Dropout(0.2), LSTM(units=8)]
    return Sequential([*stacked, layers.Dropout(0.2), Dense(units=1)])


def relu():
    return Sequential([LSTM(6, activation="relu", input_shape=NUMBERS), Dense(1)])


def hard():
    first = LSTM(6, recurrent_activation="hard_sigmoid", input_shape=NUMBERS)
    return Sequential([first, Dense(3, activation="hard_sigmoid"), layers.Activation("hard_sigmoid")])


def sentiment():
    first = [keras.Input(IDS), Embedding(20, 6), layers.SpatialDropout1D(0.2)]
    return Sequential([*first, LSTM(7, dropout=0.2, recurrent_dropout=0.2), Dense(2, activation="softmax")])


def masked():
    both = [layers.Bidirectional(LSTM(5, return_sequences=True)), layers.Bidirectional(LSTM(4))]
    head = [Dense(6, activation="relu", kernel_regularizer="l2"), Dense(1, activation="sigmoid")]
    return Sequential([keras.Input(IDS), Embedding(20, 6, mask_zero=True), *both, *head])


def pretrained():
    first = Embedding(20, 6, trainable=False)
    convolved = [layers.Conv1D(5, 3, activation="relu"), layers.MaxPooling1D(pool_size=2)]
    return Sequential([keras.Input(IDS), first, *convolved, LSTM(4), Dense(1, "sigmoid")])


def tagger():
    words = keras.Input(IDS)
    x = Embedding(20, 6, mask_zero=True)(words)
    x = layers.Bidirectional(LSTM(5, return_sequences=True, recurrent_dropout=0.1))(x)
    return keras.Model(words, layers.TimeDistributed(Dense(4, activation="softmax"))(x))


def autoencoder():
    decoder = [LSTM(4, activation="relu", return_sequences=True), layers.TimeDistributed(Dense(3))]
    return Sequential([LSTM(4, activation="relu", input_shape=NUMBERS), layers.RepeatVector(10), *decoder])


def small_layers():
    first = [layers.BatchNormalization(input_shape=NUMBERS), LSTM(5, return_sequences=True), layers.Flatten()]
    last = [layers.LeakyReLU(), layers.ELU(0.5), layers.PReLU(), layers.ReLU(max_value=2.0, negative_slope=0.1)]
    rest = (
        [layers.BatchNormalization(), layers.Softmax()] if KERAS_3 else [layers.ThresholdedReLU(0.1), layers.Softmax()]
    )
    return Sequential([*first, Dense(8), leaky(0.1), Dense(9), *last, *rest])


def activations():
    first = [layers.Masking(-1.0, input_shape=NUMBERS), LSTM(5, return_sequences=True), layers.LayerNormalization()]
    functions = ["swish", "gelu", "selu", keras.activations.elu, keras.activations.relu, leaky(0.2)]
    dense = [Dense(2, activation=function) for function in functions]
    return Sequential([*first, layers.GlobalAveragePooling1D(), *dense])


def translator():
    source, target = keras.Input((None, 3)), keras.Input((None, 2))
    _, h, c = LSTM(5, return_state=True)(source)
    y, _, _ = LSTM(5, return_sequences=True, return_state=True)(target, initial_state=[h, c])
    return keras.Model([source, target], Dense(4, activation="softmax")(y))


def branches():
    series, about = keras.Input(NUMBERS, name="series"), keras.Input((4,), name="about")
    x = layers.Dropout(0.5)(layers.concatenate([LSTM(4)(series), Dense(3, "relu")(about)]))
    return keras.Model([series, about], [Dense(1)(x), Dense(2, activation="softmax")(x)])


def attention():
    series = keras.Input(NUMBERS)
    x = LSTM(4, return_sequences=True)(series)
    scores = layers.Activation("softmax")(layers.Flatten()(Dense(1, activation="tanh")(x)))
    weighted = layers.Multiply()([x, layers.Permute([2, 1])(layers.RepeatVector(4)(scores))])
    return keras.Model(series, Dense(1)(layers.Flatten()(weighted)))


def dot():
    series = keras.Input(NUMBERS)
    x = LSTM(4, return_sequences=True)(series)
    h = LSTM(4)(x)
    scores = layers.Activation("softmax")(layers.Dot(axes=[2, 1])([x, h]))
    return keras.Model(series, Dense(2)(layers.Concatenate()([layers.Dot(axes=[1, 1])([scores, x]), h])))


def operations():
    series = keras.Input(NUMBERS)
    x = LSTM(4, return_sequences=True)(series)
    if KERAS_3:
        y = keras.ops.expand_dims(x[:, -1, :] * 2.0 + keras.ops.mean(x, axis=1), 1)
        return keras.Model(series, Dense(2)(keras.ops.squeeze(y, 1)))
    y = tf.expand_dims(x[:, -1, :] * 2.0 + tf.reduce_mean(x, axis=1), 1)
    return keras.Model(series, Dense(2)(tf.squeeze(y, 1)))


def nested():
    encoder = Sequential([keras.Input(NUMBERS), LSTM(5, return_sequences=True), LSTM(4)], name="encoder")
    last = [LSTM(4, return_sequences=True), layers.TimeDistributed(Dense(3))]
    decoder = Sequential([layers.RepeatVector(10, input_shape=(4,)), *last], name="decoder")
    series = keras.Input(NUMBERS)
    return keras.Model(series, decoder(encoder(series)))


def time_major():
    own = {"unroll": True} if KERAS_3 else {"time_major": True}  # an option of Keras 2 alone
    return Sequential([keras.Input((6, 3)), LSTM(4, return_sequences=True, **own), Dense(2)])


def stateful():
    first = keras.Input(batch_shape=(5, *NUMBERS))
    return Sequential([first, LSTM(4, stateful=True, return_sequences=True), LSTM(4, stateful=True), Dense(1)])


def frames():
    parts = [layers.MaxPooling1D(2), layers.Flatten()]
    first = layers.TimeDistributed(layers.Conv1D(4, 2, activation="relu"), input_shape=(3, 6, 2))
    return Sequential([first, *map(layers.TimeDistributed, parts), LSTM(5, activation="relu"), Dense(1)])


def normalised():
    adapted = layers.Normalization(axis=-1)
    adapted.adapt(np.arange(1500, dtype="f4").reshape(50, 10, 3) % 7)
    return Sequential([keras.Input(NUMBERS), adapted, layers.Rescaling(2.0, offset=1.0), LSTM(3, go_backwards=True)])


def cells():
    stacked = layers.StackedRNNCells([layers.LSTMCell(4), layers.LSTMCell(3)])
    first = layers.RNN(stacked, return_sequences=True, input_shape=NUMBERS)
    return Sequential([first, layers.RNN(layers.LSTMCell(3))])


def tabular():
    last = [LSTM(3, return_sequences=True), layers.GlobalMaxPooling1D(), Dense(1)]
    return Sequential([Dense(8, input_dim=6, activation="relu"), layers.Reshape((4, 2)), *last])


def training():
    noise = [layers.GaussianNoise(0.1, input_shape=NUMBERS), layers.AlphaDropout(0.1), layers.GaussianDropout(0.1)]
    steps = [
        layers.Cropping1D(1),
        layers.ZeroPadding1D(2),
        layers.UpSampling1D(2),
        layers.AveragePooling1D(3, 2, "same"),
    ]
    lstm = LSTM(4, return_sequences=True, unroll=True, implementation=1)
    last = [layers.ActivityRegularization(l1=0.1), layers.Bidirectional(LSTM(3), merge_mode="sum")]
    return Sequential([*noise, lstm, *steps, *last])


def residual():
    words = keras.Input(IDS)
    x = Embedding(20, 6, mask_zero=True)(words)
    y = layers.Bidirectional(LSTM(3, return_sequences=True))(x)
    return keras.Model(words, LSTM(3)(layers.Add()([x, y])))


def smallest():
    return Sequential([LSTM(5, input_shape=(7, 1)), Dense(1)])


def three():
    stacked = [LSTM(6, return_sequences=True, input_shape=(20, 1)), LSTM(6, return_sequences=True), LSTM(6)]
    return Sequential([*stacked, Dense(5), Dense(1)])


def prices():
    first = [LSTM(5, activation="relu", return_sequences=True, input_shape=(20, 1)), layers.Dropout(0.2)]
    middle = [LSTM(6, activation="relu", return_sequences=True), layers.Dropout(0.3)]
    return Sequential([*first, *middle, LSTM(7, activation="relu"), layers.Dropout(0.5), Dense(1)])


def both_ways():
    both = layers.Bidirectional(LSTM(6), input_shape=NUMBERS)
    return Sequential([both, layers.Dropout(0.3), Dense(4, activation="relu"), Dense(1, activation="sigmoid")])


def merged():
    each = [layers.Bidirectional(LSTM(4, return_sequences=True), merge_mode=mode) for mode in ("ave", "mul")]
    return Sequential([keras.Input(NUMBERS), *each, layers.Bidirectional(LSTM(3), merge_mode="concat"), Dense(2)])


def next_word():
    last = [LSTM(9), Dense(20, activation="softmax")]
    return Sequential(
        [keras.Input((11,)), Embedding(20, 5), LSTM(8, return_sequences=True), layers.Dropout(0.2), *last]
    )


def letters():
    first = [LSTM(8, return_sequences=True, input_shape=(9, 12)), layers.Dropout(0.3), LSTM(8), layers.Dropout(0.3)]
    return Sequential([*first, Dense(12), layers.Activation("softmax")])


def convolved():
    first = [layers.Conv1D(4, 3, padding="causal", activation="relu", input_shape=(12, 2)), layers.BatchNormalization()]
    return Sequential([*first, layers.MaxPooling1D(2), layers.Conv1D(3, 2, strides=2), LSTM(5), Dense(1)])


def sigmoid_inside():
    return Sequential([LSTM(6, activation="sigmoid", return_sequences=True, input_shape=NUMBERS), LSTM(4), Dense(1)])


def elu_and_selu():
    first = LSTM(5, activation="elu", return_sequences=True, input_shape=NUMBERS)
    return Sequential([first, LSTM(4, activation="selu", recurrent_activation="tanh"), Dense(1, activation="elu")])


def linear():
    return Sequential([LSTM(5, activation="linear", input_shape=NUMBERS), Dense(2, activation="linear")])


def soft():
    first = LSTM(5, activation="softsign", return_sequences=True, input_shape=NUMBERS)
    return Sequential([first, LSTM(4, activation="softplus", recurrent_activation="softsign"), Dense(2, "softplus")])


def no_bias():
    first = LSTM(5, use_bias=False, return_sequences=True, input_shape=NUMBERS)
    return Sequential([first, LSTM(4, unit_forget_bias=False), Dense(2, use_bias=False)])


def backwards():
    first = LSTM(5, go_backwards=True, return_sequences=True, input_shape=NUMBERS)
    return Sequential([first, LSTM(4, go_backwards=True), Dense(1)])


def padded():
    first = [layers.Masking(mask_value=-1.0, input_shape=NUMBERS), LSTM(6, return_sequences=True), LSTM(5)]
    return Sequential([*first, layers.BatchNormalization(), Dense(3, activation="softmax")])


def toxic():
    both = [layers.Bidirectional(LSTM(5, return_sequences=True, dropout=0.1)), layers.GlobalMaxPooling1D()]
    first = [keras.Input(IDS), Embedding(20, 6), *both]
    return Sequential([*first, Dense(5, activation="relu"), layers.Dropout(0.1), Dense(6, activation="sigmoid")])


def two_pools():
    words = keras.Input(IDS)
    x = layers.SpatialDropout1D(0.2)(Embedding(20, 6)(words))
    x = layers.Bidirectional(LSTM(4, return_sequences=True))(x)
    x = layers.concatenate([layers.GlobalAveragePooling1D()(x), layers.GlobalMaxPooling1D()(x)])
    return keras.Model(words, Dense(1, activation="sigmoid")(x))


def twins():
    first, second = keras.Input(IDS, name="first"), keras.Input(IDS, name="second")
    shared, table = LSTM(5), Embedding(20, 6)
    a, b = shared(table(first)), shared(table(second))
    x = layers.concatenate([a, b, layers.Subtract()([a, b]), layers.Multiply()([a, b])])
    return keras.Model([first, second], Dense(1, activation="sigmoid")(x))


def ensemble():
    series = keras.Input(NUMBERS)
    each = [LSTM(4, activation=name)(series) for name in ("tanh", "sigmoid")] + [Dense(4)(layers.Flatten()(series))]
    return keras.Model(series, Dense(1)(layers.Maximum()([layers.Average()(each), layers.Minimum()(each)])))


def many_outputs():
    series = keras.Input(NUMBERS, name="series")
    x = layers.Dropout(0.2)(LSTM(6)(series))
    heads = {"value": "linear", "kind": "softmax", "flag": "sigmoid"}
    return keras.Model(series, [Dense(2, activation=function, name=name)(x) for name, function in heads.items()])


def regularised():
    options = {
        "kernel_regularizer": keras.regularizers.l1_l2(0.01, 0.01),
        "recurrent_regularizer": "l2",
        "bias_constraint": "non_neg",
        "kernel_initializer": keras.initializers.RandomNormal(stddev=0.1),
        "recurrent_initializer": "glorot_uniform",
        "activity_regularizer": "l1",
    }
    return Sequential([LSTM(5, input_shape=NUMBERS, **options), Dense(1, kernel_constraint="unit_norm")])


def words_and_letters():
    words, more = keras.Input(IDS, name="words"), keras.Input((12, 3), name="more")
    x = layers.Concatenate(axis=-1)([Embedding(20, 4)(words), layers.TimeDistributed(Dense(3, "relu"))(more)])
    x = layers.Bidirectional(LSTM(5, return_sequences=True))(x)
    return keras.Model([words, more], Dense(4, activation="softmax")(x))


def skipped():
    series = keras.Input(NUMBERS)
    x = Dense(5)(series)
    for _ in range(2):
        x = layers.LayerNormalization(epsilon=1e-5)(layers.add([x, LSTM(5, return_sequences=True)(x)]))
    return keras.Model(series, Dense(1)(layers.GlobalAveragePooling1D()(x)))


def encoder_decoder():
    source, target = keras.Input((8, 3), name="source"), keras.Input((6, 2), name="target")
    _, *states = layers.Bidirectional(LSTM(3, return_state=True))(source)
    states = [layers.Concatenate()(states[k::2]) for k in (0, 1)]
    y = LSTM(6, return_sequences=True)(target, initial_state=states)
    return keras.Model([source, target], layers.TimeDistributed(Dense(4, activation="softmax"))(y))


def fully_convolved():
    series = keras.Input(NUMBERS)
    x = layers.Dropout(0.8)(LSTM(4)(layers.Permute((2, 1))(series)))
    y = series
    for size in (5, 3):
        y = layers.Activation("relu")(layers.BatchNormalization()(layers.Conv1D(4, size, padding="same")(y)))
    return keras.Model(
        series, Dense(3, activation="softmax")(layers.concatenate([x, layers.GlobalAveragePooling1D()(y)]))
    )


def multi_step():
    last = [Dense(6), layers.Reshape((3, 2)), layers.Activation("tanh")]
    return Sequential([LSTM(7, input_shape=NUMBERS), *last])


def with_gru():
    return Sequential([LSTM(5, return_sequences=True, input_shape=NUMBERS), layers.GRU(4), Dense(1)])


def with_lambda():
    return Sequential([LSTM(5, input_shape=NUMBERS), Dense(1), layers.Lambda(lambda x: x * 400)])


def with_heads():
    series = keras.Input(NUMBERS)
    x = LSTM(4, return_sequences=True)(series)
    x = layers.MultiHeadAttention(2, 3)(x, x)
    return keras.Model(series, Dense(1)(layers.GlobalAveragePooling1D()(x)))


KINDS = {
    name: make
    for name, make in list(globals().items())
    if getattr(make, "__module__", "") == __name__ and name != "leaky"
}
