"""Infinite and nan in, infinite and nan out: without a warning, on every backend, as in PyTorch."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import cylstm

VALUES = [np.nan, np.inf, -np.inf, 3e38]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("place", ["input", "h_0", "c_0", "weight_ih_l0", "weight_hh_l1", "bias_ih_l0", "grad"])
def test_no_warning_and_the_values_of_torch(value: float, place: str, backend: str) -> None:
    theirs = torch.nn.LSTM(3, 5, num_layers=2)
    ours = cylstm.LSTM(3, 5, num_layers=2, backend=backend)
    arrays = {name: p.detach().numpy().copy() for name, p in theirs.named_parameters()}
    x, h, c = cylstm.randn(4, 2, 3), cylstm.randn(2, 2, 5), cylstm.randn(2, 2, 5)
    grad = cylstm.randn(4, 2, 5)
    {**arrays, "input": x, "h_0": h, "c_0": c, "grad": grad}[place].flat[1] = value
    ours.load_state_dict(arrays)
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    tensor = torch.from_numpy(x.copy()).requires_grad_()
    expected, _ = theirs(tensor, (torch.from_numpy(h), torch.from_numpy(c)))
    expected.backward(torch.from_numpy(grad))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output, _, pullback = ours.vjp(x, (h, c))
        grads = pullback(grad)
    np.testing.assert_allclose(output, expected.detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grads.input, tensor.grad.numpy(), rtol=1e-4, atol=1e-5)


def test_dropout_and_linear_are_silent() -> None:
    lstm, linear = cylstm.LSTM(3, 5, num_layers=2, dropout=0.5), cylstm.Linear(5, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = np.full((4, 2, 3), np.inf, np.float32)
        output, _, pullback = lstm.vjp(x)
        pullback(np.full_like(output, np.inf))
        y, back = linear.vjp(np.full((4, 5), np.inf, np.float32))
        back(np.full_like(y, np.nan))


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize("scale", [100, 1e3, 1e30])
@pytest.mark.parametrize("direction", [1, -1, -1 + 1j, -1 - 1j, 1 + 2j])
def test_large_complex_sums_have_their_limits(direction: complex, scale: float, dtype: str) -> None:
    """Those of PyTorch are nan on the left, where an infinite exponential is turned."""
    lstm = cylstm.LSTM(1, 1, dtype=dtype, backend="numpy")
    lstm.load_state_dict({name: np.zeros_like(array) for name, array in lstm.state_dict().items()})
    lstm.weight_ih_l0 = np.ones((4, 1), dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output, (_, c_n) = lstm(np.full((2, 1), direction * scale, dtype))
    gate = 1 if direction.real > 0 else 0  # i, f and o; g is the sign of the real part
    expected = 2 * gate
    np.testing.assert_allclose(c_n, np.full((1, 1), expected, dtype), atol=1e-12)
    np.testing.assert_allclose(output[1, 0], gate * np.tanh(expected), atol=1e-6)
