"""Models of the kinds that people publish, written by tf.keras 2 as .h5, with what they compute.

    python tools/keras_published.py tests/keras/published/tf215.zip

It runs with tensorflow 2.12 to 2.15; the archive is what tests/keras/test_published_models.py opens.
"""

from __future__ import annotations

import os
import sys
import tempfile
import zipfile
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf

keras, layers = tf.keras, tf.keras.layers
Sequential, LSTM, Dense, Embedding = keras.Sequential, layers.LSTM, layers.Dense, layers.Embedding
IDS, NUMBERS = (12,), (10, 3)


def forecast():
    stacked = [LSTM(8, return_sequences=True, input_shape=(60, 1)), layers.Dropout(0.2), LSTM(units=8)]
    return Sequential([*stacked, layers.Dropout(0.2), Dense(units=1)])


def relu():
    return Sequential([LSTM(6, activation="relu", input_shape=NUMBERS), Dense(1)])


def hard():
    first = LSTM(6, recurrent_activation="hard_sigmoid", input_shape=NUMBERS)
    return Sequential([first, Dense(3, activation="hard_sigmoid"), layers.Activation("hard_sigmoid")])


def sentiment():
    first = [Embedding(20, 6, input_length=12), layers.SpatialDropout1D(0.2)]
    return Sequential([*first, LSTM(7, dropout=0.2, recurrent_dropout=0.2), Dense(2, activation="softmax")])


def masked():
    both = [layers.Bidirectional(LSTM(5, return_sequences=True)), layers.Bidirectional(LSTM(4))]
    head = [Dense(6, activation="relu", kernel_regularizer="l2"), Dense(1, activation="sigmoid")]
    return Sequential([Embedding(20, 6, mask_zero=True, input_length=12), *both, *head])


def pretrained():
    first = Embedding(20, 6, weights=[np.ones((20, 6))], trainable=False, input_length=12)
    convolved = [layers.Conv1D(5, 3, activation="relu"), layers.MaxPooling1D(pool_size=2)]
    return Sequential([first, *convolved, LSTM(4), Dense(1, "sigmoid")])


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
    rest = [layers.BatchNormalization(), layers.ThresholdedReLU(0.1), layers.Softmax()]
    return Sequential([*first, Dense(8), layers.LeakyReLU(alpha=0.1), Dense(9), *last, *rest])


def activations():
    first = [layers.Masking(-1.0, input_shape=NUMBERS), LSTM(5, return_sequences=True), layers.LayerNormalization()]
    functions = ["swish", "gelu", "selu", tf.nn.leaky_relu, tf.nn.relu, layers.LeakyReLU(alpha=0.2)]
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
    y = tf.expand_dims(x[:, -1, :] * 2.0 + tf.reduce_mean(x, axis=1), 1)
    return keras.Model(series, Dense(2)(tf.squeeze(y, 1)))


def nested():
    encoder = Sequential([layers.InputLayer(NUMBERS), LSTM(5, return_sequences=True), LSTM(4)], name="encoder")
    last = [LSTM(4, return_sequences=True), layers.TimeDistributed(Dense(3))]
    decoder = Sequential([layers.RepeatVector(10, input_shape=(4,)), *last], name="decoder")
    series = keras.Input(NUMBERS)
    return keras.Model(series, decoder(encoder(series)))


def time_major():
    return Sequential([layers.InputLayer((6, 3)), LSTM(4, time_major=True, return_sequences=True), Dense(2)])


def stateful():
    first = LSTM(4, stateful=True, batch_input_shape=(5, 10, 3), return_sequences=True)
    return Sequential([first, LSTM(4, stateful=True), Dense(1)])


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


def inputs_of(model, numbers):
    for one in model.inputs:
        shape = [5, *(7 if size is None else size for size in one.shape[1:])]
        if tuple(shape[1:]) == IDS:
            x = numbers.integers(0, 20, shape).astype("float32")
            x[1:3, 6:] = 0
        else:
            x = numbers.normal(size=shape).astype("float32")
            x[0, -2:] = -1
        yield x


def main(target: str) -> None:
    numbers, expected = np.random.default_rng(0), {}
    with tempfile.TemporaryDirectory() as folder:
        for name, make in {name: one for name, one in globals().items() if callable(one)}.items():
            if getattr(make, "__module__", "") != "__main__" or name in ("main", "inputs_of"):
                continue
            keras.backend.clear_session()
            model = make()
            model.compile("adam", "mse")
            adapted = {id(w) for one in model.layers if isinstance(one, layers.Normalization) for w in one.weights}
            for weight in model.weights:
                if id(weight) not in adapted:
                    value = numbers.normal(size=weight.shape) / (4 if name == "autoencoder" else 2)
                    weight.assign(abs(value) + 0.1 if "variance" in weight.name else value)
            xs = list(inputs_of(model, numbers))
            ys = model(xs if len(xs) > 1 else xs[0])
            expected |= {f"{name}/x{n}": x for n, x in enumerate(xs)}
            expected |= {f"{name}/y{n}": y.numpy() for n, y in enumerate(ys if isinstance(ys, list) else [ys])}
            model.save(Path(folder, f"{name}.h5"))
        np.savez(Path(folder, "expected.npz"), **expected)
        with zipfile.ZipFile(target, "w", zipfile.ZIP_LZMA) as archive:
            for path in sorted(Path(folder).iterdir()):
                archive.write(path, path.name)


if __name__ == "__main__":
    main(sys.argv[1])
