"""Linear: values, gradients, initial weights, representation and errors of ``torch.nn.Linear``."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from layers import TOLERANCE, WRONG_ARGUMENTS, close

import cylstm
from cylstm.nn.linear import Linear


def pair(in_features=4, out_features=3, bias=True, dtype="float32", seed=0):
    """A layer and PyTorch's, from the same seed."""
    torch.manual_seed(seed)
    cylstm.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors", UserWarning)
        theirs = torch.nn.Linear(in_features, out_features, bias, dtype=getattr(torch, dtype))
    return Linear(in_features, out_features, bias, dtype=dtype), theirs


def tensor(*shape, dtype="float32", seed=1):
    return torch.randn(shape, dtype=getattr(torch, dtype), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("sizes", [(4, 3), (1, 1), (20, 10), (7, 128), (0, 3), (4, 0), (513, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_initial_weights(sizes, bias, dtype):
    mine, theirs = pair(*sizes, bias, dtype, seed=42)
    assert list(mine.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        assert mine.state_dict()[name].tobytes() == value.numpy().tobytes()
    assert cylstm.rand(1)[0] == torch.rand(1).item()  # as much drawn


def test_an_lstm_and_its_classifier_have_the_weights_of_torch_from_one_seed():
    torch.manual_seed(3)
    cylstm.manual_seed(3)
    theirs = [torch.nn.LSTM(10, 20, num_layers=2), torch.nn.Linear(20, 3)]
    mine = [cylstm.LSTM(10, 20, num_layers=2), Linear(20, 3)]
    for a, b in zip(mine, theirs, strict=True):
        for name, value in b.state_dict().items():
            assert a.state_dict()[name].tobytes() == value.numpy().tobytes()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("leading", [(), (2,), (5, 2), (1, 5, 2), (0,), (2, 0)])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients(leading, bias, dtype):
    mine, theirs = pair(4, 3, bias, dtype)
    x, grad = tensor(*leading, 4, dtype=dtype).requires_grad_(), tensor(*leading, 3, dtype=dtype, seed=2)
    expected = theirs(x)
    close(mine(x), expected, dtype)
    output, pullback = mine.vjp(x)
    close(output, expected, dtype)
    expected.backward(grad)
    output[...] = 0  # what backward needs lives in the pullback alone
    for _ in range(2):
        grads = pullback(grad)
        assert grads.hx is None
        close(grads.input, x.grad, dtype)
        assert list(grads.parameters) == [name for name, _ in theirs.named_parameters()]
        for name, parameter in theirs.named_parameters():
            close(grads.parameters[name], parameter.grad, dtype)


def test_sizes_of_zero():
    for sizes in ((0, 3), (4, 0)):
        mine, theirs = pair(*sizes)
        x = tensor(2, sizes[0])
        close(mine(x), theirs(x))


def test_input_of_any_kind_stays_as_it_is():
    mine, _ = pair()
    x = cylstm.randn(5, 4)
    expected = mine(x)
    locked = x.copy()
    locked.flags.writeable = False
    for given in (locked, np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2], torch.from_numpy(x)):
        np.testing.assert_allclose(mine(given), expected, rtol=1e-6)
    np.testing.assert_array_equal(mine(input=x), mine.forward(x))


CALLS = {
    "0-D": lambda layer, a: layer(a(np.float32(1))),
    "features": lambda layer, a: layer(a(np.zeros((2, 5), np.float32))),
    "features of a row": lambda layer, a: layer(a(np.zeros(5, np.float32))),
    "float64": lambda layer, a: layer(a(np.zeros((2, 4)))),
    "integers": lambda layer, a: layer(a(np.zeros((2, 4), np.int64))),
    "list": lambda layer, a: layer([1.0] * 4),
    "None": lambda layer, a: layer(None),
    "nothing": lambda layer, a: layer(),
}


@pytest.mark.parametrize("call", CALLS)
def test_calls_that_torch_refuses(call):
    mine, theirs = pair()
    with pytest.raises((TypeError, ValueError, RuntimeError)) as yours:
        CALLS[call](theirs, lambda a: torch.from_numpy(np.asarray(a)))
    with pytest.raises(yours.type):
        CALLS[call](mine, np.asarray)


@pytest.mark.parametrize("arguments", WRONG_ARGUMENTS)
def test_arguments_that_torch_refuses(arguments):
    with pytest.raises((TypeError, ValueError, RuntimeError)) as yours:
        torch.nn.Linear(*arguments)
    with pytest.raises(yours.type):
        Linear(*arguments)


def test_gradients_that_are_refused():
    mine, _ = pair()
    _, pullback = mine.vjp(tensor(2, 4))
    for grad in (tensor(2, 4), tensor(3), tensor(2, 3).double()):
        with pytest.raises(RuntimeError, match="grad_output must have shape"):
            pullback(grad)


def test_the_pullback_refuses_a_change_of_the_weights_as_torch_does():
    mine, theirs = pair()
    x, grad = tensor(2, 4).requires_grad_(), tensor(2, 3)
    (_, pullback), expected = mine.vjp(x), theirs(x)
    mine.weight = mine.weight * 2
    with torch.no_grad():
        theirs.weight *= 2
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        expected.backward(grad)
    with pytest.raises(RuntimeError, match=r"changed since the forward pass \(version 0 then, 1 now\): run vjp again"):
        pullback(grad)
    output, pullback = mine.vjp(x)
    close(output, theirs(x))
    pullback(grad)


@pytest.mark.parametrize("bias", [True, False, 1, None])
def test_repr_and_attributes(bias):
    mine, theirs = pair(bias=bias)
    assert repr(mine) == repr(theirs)
    assert (mine.in_features, mine.out_features) == (theirs.in_features, theirs.out_features) == (4, 3)
    assert (mine.bias is None) == (theirs.bias is None)
    assert mine.weight.shape == tuple(theirs.weight.shape)
    with pytest.raises(AttributeError, match="fixed"):
        mine.in_features = 5


def test_parameters_are_replaced_and_loaded():
    mine, theirs = pair()
    torch.manual_seed(9)
    theirs.reset_parameters()
    mine.load_state_dict(theirs.state_dict())
    close(mine(tensor(2, 4)), theirs(tensor(2, 4)))
    mine.bias = np.zeros(3, np.float32)
    with mine.unlocked() as params:
        params["weight"][:] = 0
        with pytest.raises(RuntimeError, match="unlocked"):
            mine(tensor(2, 4))
    np.testing.assert_array_equal(mine(tensor(2, 4)), np.zeros((2, 3)))
    without, _ = pair(bias=False)
    with pytest.raises(AttributeError, match="fixed"):
        without.bias = np.zeros(3, np.float32)
