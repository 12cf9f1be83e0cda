"""Every layer with its options: the shapes, numbers, weights and masks of Keras."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import torch
from keras import layers as kl
from keras_layers import arrays, assert_close, fill

import cylstm
from cylstm import keras as ck
from cylstm.keras.layers.activations import ACTIVATIONS

# Keras hands its variables to NumPy so.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

KERAS_ACTIVATIONS = [name for name in dir(keras.activations) if name[0].islower()]
KERAS_ACTIVATIONS = [name for name in KERAS_ACTIVATIONS if name not in ("deserialize", "get", "serialize")]
#: What Keras has and is not computed here: two that need arguments or sort, which no layer's option can give.
NOT_COMPUTED = {"threshold", "sparsemax"}
NOT_OF_LSTM = {"softmax", "log_softmax", "glu"}
#: As activations of an LSTM they grow beyond all numbers.
TOO_LARGE = {"exponential"}


def same(make: Callable[[Any], Any], x: np.ndarray, mask: np.ndarray | None = None, seed: int = 0) -> None:
    """The same layer in Keras and here: output, its shape, and the mask behind it."""
    theirs, ours = make(kl), make(ck)
    theirs.build(x.shape)
    fill(theirs, seed)
    for one in theirs.weights:
        if one.name in ("moving_variance", "variance"):
            one.assign(abs(one.numpy()) + 0.1)
    ours.build(x.shape)
    ours.set_weights(theirs.get_weights())
    assert [(one.name, one.shape) for one in ours.weights] == [(one.name, tuple(one.shape)) for one in theirs.weights]
    y = torch.tensor(x)
    if mask is not None:
        y._keras_mask = torch.tensor(mask)
    wanted = theirs(y)
    got, following = ours.run(x, mask)
    largest = max(1, abs(np.asarray(wanted)).max())
    assert_close(got / largest, wanted / largest)
    assert ours.compute_output_shape(x.shape) == arrays(got)[0].shape
    assert ours.compute_output_shape((None, *x.shape[1:]))[1:] == arrays(got)[0].shape[1:]
    wanted_mask = getattr(wanted, "_keras_mask", None)
    assert (following is None) == (wanted_mask is None)
    if following is not None:
        np.testing.assert_array_equal(following, wanted_mask.numpy())


def test_all_activations_of_keras_are_there() -> None:
    assert set(KERAS_ACTIVATIONS) - NOT_COMPUTED <= set(ACTIVATIONS)


@pytest.mark.parametrize("name", [*sorted(set(KERAS_ACTIVATIONS) - NOT_COMPUTED), "swish", None])
@pytest.mark.parametrize("shape", [(4, 3), (4, 5, 3)])
def test_dense_with_every_activation(name: str | None, shape: tuple[int, ...]) -> None:
    same(lambda l: l.Dense(6, activation=name), cylstm.randn(*shape) * 3)
    same(lambda l: l.Dense(6, activation=name, use_bias=False), cylstm.randn(*shape) * 3)
    x = np.linspace(-8, 8, 60, dtype=np.float32).reshape(6, 10)
    same(lambda l: l.Activation(name or "linear"), x)


@pytest.mark.parametrize(
    "name", [*sorted(set(KERAS_ACTIVATIONS) - NOT_COMPUTED - NOT_OF_LSTM - TOO_LARGE), "swish", None]
)
def test_lstm_with_every_activation(name: str | None) -> None:
    x = cylstm.randn(3, 5, 2)
    for seed in range(3):
        theirs, ours = kl.LSTM(4, name, return_sequences=True), ck.LSTM(4, name, return_sequences=True)
        assert_relative(theirs, ours, x, seed)
        theirs, ours = kl.LSTM(4, "tanh", name), ck.LSTM(4, "tanh", name)
        assert_relative(theirs, ours, x, seed)


def assert_relative(theirs: Any, ours: Any, x: np.ndarray, seed: int) -> None:
    """Equal, measured by the largest number: without a bound states grow."""
    theirs.build(x.shape)
    fill(theirs, seed)
    ours.build(x.shape)
    ours.set_weights(theirs.get_weights())
    wanted = np.asarray(theirs(x))
    np.testing.assert_allclose(ours(x), wanted, rtol=1e-5, atol=2e-6 * max(1, abs(wanted).max()))


def test_activations_may_be_functions_of_keras() -> None:
    assert ck.Dense(3, activation=keras.activations.relu).activation == "relu"
    assert ck.LSTM(3, activation=np.tanh).activation == "tanh"
    assert ck.LSTM(3, recurrent_activation=torch.sigmoid).recurrent_activation == "sigmoid"
    old = ck.Activation(("hard_sigmoid", 0.2, 0.5))  # of Keras 2
    np.testing.assert_allclose(old(np.float32([[-3, -1, 0, 1, 3]])), [[0, 0.3, 0.5, 0.7, 1]], atol=1e-7)


LAYERS: dict[str, Callable[[Any], Any]] = {
    "embedding": lambda l: l.TimeDistributed(l.Dense(3)),
    "flatten": lambda l: l.Flatten(),
    "reshape": lambda l: l.Reshape((4, 9)),
    "reshape -1": lambda l: l.Reshape((3, -1, 2)),
    "permute": lambda l: l.Permute((2, 1)),
    "relu": lambda l: l.ReLU(),
    "relu 6": lambda l: l.ReLU(max_value=0.6, negative_slope=0.2, threshold=0.1),
    "relu slope": lambda l: l.ReLU(negative_slope=0.2),
    "leaky": lambda l: l.LeakyReLU(),
    "leaky 0.1": lambda l: l.LeakyReLU(negative_slope=0.1),
    "elu": lambda l: l.ELU(alpha=0.5),
    "prelu": lambda l: l.PReLU(),
    "prelu shared": lambda l: l.PReLU(shared_axes=[1]),
    "softmax": lambda l: l.Softmax(),
    "softmax 1": lambda l: l.Softmax(axis=1),
    "rescaling": lambda l: l.Rescaling(0.5, offset=1.0),
    "normalization": lambda l: l.Normalization(mean=[1.0] * 6, variance=[2.0] * 6),
    "normalization adapted": lambda l: l.Normalization(),
    "normalization of all": lambda l: l.Normalization(axis=None, mean=1.0, variance=2.0, invert=True),
    "batch": lambda l: l.BatchNormalization(),
    "batch steps": lambda l: l.BatchNormalization(axis=1, epsilon=0.01, center=False, scale=False),
    "layer": lambda l: l.LayerNormalization(),
    "layer both": lambda l: l.LayerNormalization(axis=[1, 2], epsilon=0.01, scale=False),
    "unit": lambda l: l.UnitNormalization(),
    "repeat": lambda l: l.TimeDistributed(l.RepeatVector(3)),
    "up": lambda l: l.UpSampling1D(3),
    "zeros": lambda l: l.ZeroPadding1D((2, 1)),
    "crop": lambda l: l.Cropping1D((2, 1)),
    "dropout": lambda l: l.Dropout(0.5, noise_shape=None, seed=1),
    "spatial": lambda l: l.SpatialDropout1D(0.5),
    "noise": lambda l: l.GaussianNoise(0.5),
    "gaussian": lambda l: l.GaussianDropout(0.5),
    "alpha": lambda l: l.AlphaDropout(0.5),
    "regularization": lambda l: l.ActivityRegularization(l1=0.1),
    "identity": lambda l: l.Identity(),
    "masking": lambda l: l.Masking(0.5),
    "distributed": lambda l: l.TimeDistributed(l.Dense(3, activation="relu")),
    "max": lambda l: l.GlobalMaxPooling1D(),
    "max kept": lambda l: l.GlobalMaxPooling1D(keepdims=True),
    "average": lambda l: l.GlobalAveragePooling1D(),
    "average kept": lambda l: l.GlobalAveragePooling1D(keepdims=True),
    "lstm": lambda l: l.LSTM(4, return_sequences=True, dropout=0.3, recurrent_dropout=0.2, kernel_regularizer="l2"),
    "lstm last": lambda l: l.LSTM(4, unroll=True, use_cudnn=False, seed=3, activity_regularizer="l1"),
    "bidirectional": lambda l: l.Bidirectional(l.LSTM(4, return_sequences=True), merge_mode="ave"),
    "rnn": lambda l: l.RNN(l.LSTMCell(4, "relu", "hard_sigmoid"), return_sequences=True),
    "rnn backwards": lambda l: l.RNN(l.LSTMCell(4), go_backwards=True),
    "cells": lambda l: l.RNN([l.LSTMCell(4), l.LSTMCell(3, use_bias=False)], return_sequences=True),
    "cells backwards": lambda l: l.RNN([l.LSTMCell(4), l.LSTMCell(3)], go_backwards=True),
    "convolution": lambda l: l.Conv1D(4, 3, activation="relu"),
    "convolution same": lambda l: l.Conv1D(4, 4, padding="same", strides=2, use_bias=False),
    "convolution causal": lambda l: l.Conv1D(4, 3, padding="causal", dilation_rate=2),
    "convolution groups": lambda l: l.Conv1D(4, [2], groups=2, dilation_rate=[1], strides=[1]),
    "convolution of one": lambda l: l.Conv1D(4, 1),
    "convolution same dilated": lambda l: l.Conv1D(4, 3, padding="same", dilation_rate=2),
    "max pooling": lambda l: l.MaxPooling1D(),
    "max pooling same": lambda l: l.MaxPooling1D(3, strides=2, padding="same"),
    "average pooling": lambda l: l.AveragePooling1D(2, strides=1),
    "average pooling same": lambda l: l.AveragePooling1D(4, padding="same"),
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str, masked: bool) -> None:
    if masked and (name.startswith("softmax") or name in ("repeat",)):
        pytest.skip("refused, or not computed by Keras")
    x = cylstm.randn(3, 6, 6)
    mask = np.arange(6) < np.array([[6], [2], [4]]) if masked else None
    if masked:
        x[0, 3] = 0.5
    with pytest.warns() if masked and not LAYERS[name](kl).supports_masking else _nothing():
        same(LAYERS[name], x, mask)


class _nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


@pytest.mark.parametrize("mask_zero", [False, True])
@pytest.mark.parametrize("dtype", ["int64", "float32", "uint8"])
def test_embedding(mask_zero: bool, dtype: str) -> None:
    x = np.random.default_rng(0).integers(0, 10, (3, 6)).astype(dtype)
    same(lambda l: l.Embedding(10, 4, mask_zero=mask_zero), x)
    ours = ck.Embedding(10, 4)
    for wrong in (10, -1, np.nan):
        with pytest.raises(ValueError, match="indices from 0 to 9"):
            ours(np.array([[wrong]]))
    given = np.arange(40, dtype="float32").reshape(10, 4)
    np.testing.assert_array_equal(ck.Embedding(10, 4, weights=[given], trainable=False)(np.array([[3]])), [[given[3]]])


MERGING: dict[str, tuple[Callable[[Any], Any], tuple[tuple[int, ...], ...]]] = {
    "add": (lambda l: l.Add(), ((3, 4), (3, 4), (3, 4))),
    "add broadcast": (lambda l: l.Add(), ((3, 5, 4), (3, 4))),
    "subtract": (lambda l: l.Subtract(), ((3, 5, 4), (3, 5, 1))),
    "multiply": (lambda l: l.Multiply(), ((3, 5, 4), (3, 5, 4), (3, 1, 4))),
    "average": (lambda l: l.Average(), ((3, 4), (3, 4), (3, 4))),
    "maximum": (lambda l: l.Maximum(), ((3, 4), (3, 4))),
    "minimum": (lambda l: l.Minimum(), ((3, 4), (3, 4))),
    "concatenate": (lambda l: l.Concatenate(), ((3, 4), (3, 1))),
    "concatenate steps": (lambda l: l.Concatenate(axis=1), ((3, 2, 4), (3, 5, 4))),
    "dot": (lambda l: l.Dot(axes=1), ((3, 4), (3, 4))),
    "dot sequences": (lambda l: l.Dot(axes=(2, 1)), ((3, 5, 4), (3, 4, 2))),
    "dot of one": (lambda l: l.Dot(axes=[1, 1], normalize=True), ((3, 5), (3, 5, 2))),
    "dot normalized": (lambda l: l.Dot(axes=-1, normalize=True), ((3, 5, 4), (3, 2, 4))),
    "dot first": (lambda l: l.Dot(axes=(1, 2)), ((3, 4, 5), (3, 2, 4))),
}


@pytest.mark.parametrize("name", MERGING)
def test_merging(name: str) -> None:
    make, shapes = MERGING[name]
    x = [cylstm.randn(*shape) for shape in shapes]
    ours, wanted = make(ck), make(kl)([torch.tensor(one) for one in x])
    assert_close(ours(x), wanted)
    assert tuple(ours.compute_output_shape([one.shape for one in x])) == tuple(wanted.shape)
    unknown = ours.compute_output_shape([(None, *one.shape[1:]) for one in x])
    assert tuple(unknown)[1:] == tuple(wanted.shape)[1:]


def test_masks_of_merged_arrays() -> None:
    x = [cylstm.randn(2, 4, 3), cylstm.randn(2, 4, 3)]
    mask = np.arange(4) < np.array([[4], [2]])
    for make in (lambda l: l.Add(), lambda l: l.Concatenate(), lambda l: l.Average()):
        tensors = [torch.tensor(one) for one in x]
        for one in tensors:
            one._keras_mask = torch.tensor(mask)
        wanted = make(kl)(tensors)
        got, following = make(ck).run(x, [mask, mask])
        assert_close(got, wanted)
        np.testing.assert_array_equal(following, wanted._keras_mask.numpy())
        with pytest.raises(ValueError, match="depends on the version"):
            make(ck).run(x, [mask, ~mask])
        with pytest.raises(ValueError, match="depends on the version"):
            make(ck).run(x, [mask, None])
    with pytest.raises(ValueError, match="depends on the version"):
        ck.Multiply().run(x, [mask, mask])


def test_layers_of_each_step_make_no_masks() -> None:
    for layer in (ck.Masking(), ck.Embedding(5, 2, mask_zero=True)):
        with pytest.raises(ValueError, match="depends on the version"):
            ck.TimeDistributed(layer)
    with pytest.raises(ValueError, match="mask of time_distributed must be None"):
        ck.TimeDistributed(ck.LSTM(3)).run(cylstm.randn(2, 4, 5, 3), np.ones((2, 4), bool))
    with pytest.raises(ValueError, match="must not be stateful"):
        ck.TimeDistributed(ck.LSTM(3, stateful=True))


def test_time_major() -> None:
    """As the LSTM of Keras 2: the same numbers with the steps first."""
    for sequences in (True, False):
        plain = ck.LSTM(4, return_sequences=sequences, return_state=True)
        x, mask = cylstm.randn(3, 6, 2), np.arange(6) < np.array([[6], [2], [4]])
        plain.build(x.shape)
        turned = ck.LSTM(4, return_sequences=sequences, return_state=True, time_major=True)
        turned.build((6, 3, 2))
        turned.set_weights(plain.get_weights())
        for of_steps in (None, mask):
            y, h, c = plain(x, mask=of_steps)
            got = turned(x.swapaxes(0, 1), mask=None if of_steps is None else of_steps.T)
            assert_close(got, (y.swapaxes(0, 1) if sequences else y, h, c))
        assert turned.compute_output_shape((6, 3, 2))[0] == ((6, 3, 4) if sequences else (3, 4))


@pytest.mark.parametrize("cls", sorted(ck.layers.LAYERS))
def test_unknown_arguments_are_refused_by_name(cls: str) -> None:
    given = {
        "LSTM": (3,),
        "Bidirectional": (ck.LSTM(3),),
        "TimeDistributed": (ck.Dense(2),),
        "RNN": (ck.LSTMCell(3),),
        "Embedding": (5, 2),
        "Conv1D": (3, 2),
        **dict.fromkeys(("Dense", "RepeatVector"), (3,)),
        **dict.fromkeys(("Dropout", "SpatialDropout1D", "GaussianDropout", "AlphaDropout", "GaussianNoise"), (0.5,)),
        "Reshape": ((3,),),
        "Permute": ((2, 1),),
        "Activation": ("relu",),
        "Rescaling": (2.0,),
        "Dot": (1,),
    }
    with pytest.raises(TypeError, match="no_such_option"):
        ck.layers.LAYERS[cls](*given.get(cls, ()), no_such_option=1)


@pytest.mark.parametrize("name", LAYERS)
def test_configurations_make_the_same_layer(name: str) -> None:
    ours = LAYERS[name](ck)
    x = cylstm.randn(3, 6, 6)
    ours.build(x.shape)
    theirs = getattr(kl, type(ours).__name__).from_config(ours.get_config())
    theirs.build(x.shape)
    theirs.set_weights(ours.get_weights())
    assert theirs.name == ours.name
    assert_close(ours(x), theirs(torch.tensor(x)))
