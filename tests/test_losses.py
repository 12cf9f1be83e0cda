"""Losses and their gradients are PyTorch's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import cylstm
from cylstm.optim import Adam, cross_entropy, mse_loss

TOLERANCE = {"float16": 2e-3, "float32": 1e-6, "float64": 1e-14}
RNG = np.random.default_rng(0)


def compare(found, function, input: np.ndarray, target: np.ndarray, dtype: str, **options: object) -> None:
    """A loss and its gradient against PyTorch's of the same numbers in double precision."""
    x = torch.from_numpy(input.astype("f8")).requires_grad_()
    expected = function(x, torch.from_numpy(np.array(target)), **options)
    expected.backward()
    loss, grad = found
    assert type(loss) is float
    assert (grad.dtype, grad.shape) == (np.dtype(dtype), input.shape)
    assert loss == pytest.approx(expected.item(), rel=TOLERANCE[dtype], abs=TOLERANCE[dtype])
    np.testing.assert_allclose(grad, x.grad.numpy(), atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(), (7,), (5, 2, 3)])
def test_mse_loss(shape: tuple[int, ...], dtype: str) -> None:
    input = np.asarray(RNG.normal(size=shape), dtype)
    target = np.asarray(RNG.normal(size=shape), dtype)
    compare(mse_loss(input, target), F.mse_loss, input, target.astype("f8"), dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("scale", [1.0, 50.0])
@pytest.mark.parametrize("shape", [(4,), (1, 1), (6, 4), (300, 3)])
def test_cross_entropy(shape: tuple[int, ...], scale: float, dtype: str) -> None:
    input = (scale * RNG.normal(size=shape)).astype(dtype)
    target = RNG.integers(0, shape[-1], shape[:-1])
    compare(cross_entropy(input, target), F.cross_entropy, input, target, dtype)


@pytest.mark.parametrize("ignored", [-100, 2])
def test_rows_that_do_not_count(ignored: int) -> None:
    input, target = RNG.normal(size=(6, 4)), np.array([0, ignored, 3, ignored, 1, 0])
    found = cross_entropy(input, target, ignore_index=ignored)
    compare(found, F.cross_entropy, input, target, "float64", ignore_index=ignored)
    assert not found[1][1].any()
    loss, grad = cross_entropy(input, np.full(6, ignored), ignore_index=ignored)
    assert math.isnan(loss)
    assert not grad.any()


def test_tensors_are_taken() -> None:
    loss, grad = cross_entropy(torch.zeros(2, 3), torch.tensor([0, 2]))
    assert loss == pytest.approx(math.log(3))
    assert grad.dtype == np.float32


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mse_loss(np.zeros(3), np.zeros((3, 1))), ValueError, r"the shape of input, \(3,\), got \(3, 1\)"),
        (lambda: mse_loss(np.zeros(3, int), np.zeros(3)), TypeError, "real floating point, got int64"),
        (lambda: mse_loss(np.zeros(3, complex), np.zeros(3)), TypeError, "got complex128"),
        (lambda: mse_loss(np.zeros(3), np.zeros(3, complex)), TypeError, "target must be real"),
        (lambda: mse_loss(np.zeros(0), np.zeros(0)), ValueError, "a prediction or more"),
        (lambda: cross_entropy(np.zeros((2, 5, 3)), np.zeros((2, 5), int)), ValueError, r"\.reshape\(-1, C\)"),
        (lambda: cross_entropy(np.zeros((2, 3)), np.zeros((2, 3))), TypeError, "numbers of classes, got float64"),
        (
            lambda: cross_entropy(np.zeros((2, 3)), np.array([0])),
            ValueError,
            r"shape \(2,\), one class a row, got \(1,\)",
        ),
        (
            lambda: cross_entropy(np.zeros((2, 3)), np.array([0, 3])),
            ValueError,
            "from 0 to 2, or ignore_index=-100, got 3",
        ),
        (lambda: cross_entropy(np.zeros((2, 3)), np.array([0, -1])), ValueError, "got -1"),
    ],
)
def test_what_does_not_fit(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_an_lstm_learns_classes() -> None:
    """Whether the first step was positive, asked after ten more: from logits by chance to certainty."""
    cylstm.manual_seed(0)
    lstm, head = cylstm.LSTM(1, 16), cylstm.Linear(16, 2)
    optimizer = Adam([lstm, head], lr=0.02)
    x = cylstm.randn(10, 64, 1)
    target = (x[0, :, 0] > 0).astype(int)
    losses = []
    for _ in range(60):
        _, (h_n, _), lstm_pullback = lstm.vjp(x)
        logits, head_pullback = head.vjp(h_n[-1])
        loss, grad = cross_entropy(logits, target)
        head_grads = head_pullback(grad)
        lstm_grads = lstm_pullback(grad_hx=(head_grads.input[None], None))
        optimizer.step([lstm_grads.parameters, head_grads.parameters])
        losses.append(loss)
    assert losses[0] > 0.6
    assert losses[-1] < 0.1
