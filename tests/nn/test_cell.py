"""LSTMCell: values, gradients, initial weights, representation and errors of ``torch.nn.LSTMCell``."""

from __future__ import annotations

import copy
import threading

import available
import numpy as np
import pytest
import torch
from layers import TOLERANCE, WRONG_ARGUMENTS, close

import cylstm
from cylstm.nn.cell import LSTMCell

each_backend = pytest.mark.parametrize("backend", available.names())
each_backend_and_dtype = pytest.mark.parametrize(("backend", "dtype"), available.pairs(list(TOLERANCE)))


def pair(input_size=4, hidden_size=3, bias=True, dtype="float32", backend=None):
    """A cell and PyTorch's, from the same seed."""
    torch.manual_seed(0)
    cylstm.manual_seed(0)
    theirs = torch.nn.LSTMCell(input_size, hidden_size, bias, dtype=getattr(torch, dtype))
    return LSTMCell(input_size, hidden_size, bias, dtype=dtype, backend=backend), theirs


def tensors(*shapes, dtype="float32"):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, dtype=getattr(torch, dtype), generator=generator) for shape in shapes]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("bias", [True, False])
def test_initial_weights(dtype, bias):
    mine, theirs = pair(5, 7, bias, dtype)
    assert list(mine.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        assert getattr(mine, name).tobytes() == value.numpy().tobytes()
    mine.reset_parameters()
    theirs.reset_parameters()
    for name, value in theirs.state_dict().items():
        assert mine.state_dict()[name].tobytes() == value.numpy().tobytes()


@each_backend_and_dtype
@pytest.mark.parametrize("batch", [(), (1,), (5,), (0,)])
@pytest.mark.parametrize("bias", [True, False])
def test_values(backend, dtype, batch, bias):
    mine, theirs = pair(4, 3, bias, dtype, backend)
    x, h, c = tensors((*batch, 4), (*batch, 3), (*batch, 3), dtype=dtype)
    with torch.no_grad():
        for hx in (None, (h, c), [h, c]):
            for a, b in zip(mine(x, hx), theirs(x, hx), strict=True):
                close(a, b, dtype)


@each_backend_and_dtype
@pytest.mark.parametrize("batch", [(), (5,)])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients(backend, dtype, batch, bias):
    mine, theirs = pair(4, 3, bias, dtype, backend)
    x, h, c, grad_h, grad_c = tensors((*batch, 4), *[(*batch, 3)] * 4, dtype=dtype)
    for leaf in (x, h, c):
        leaf.requires_grad_()
    (h_1, c_1), pullback = mine.vjp(x, (h, c))
    expected = theirs(x, (h, c))
    close(h_1, expected[0], dtype)
    close(c_1, expected[1], dtype)
    h_1[...] = c_1[...] = 0  # what backward needs lives in the pullback alone
    torch.autograd.backward(expected, (grad_h, grad_c))
    for _ in range(2):
        grads = pullback((grad_h, grad_c))
        close(grads.input, x.grad, dtype)
        close(grads.hx[0], h.grad, dtype)
        close(grads.hx[1], c.grad, dtype)
        assert list(grads.parameters) == [name for name, _ in theirs.named_parameters()]
        for name, parameter in theirs.named_parameters():
            close(grads.parameters[name], parameter.grad, dtype)


@each_backend
def test_missing_gradients_are_zeros(backend):
    mine, _ = pair(backend=backend)
    x, h, c, grad = (t.numpy() for t in tensors((2, 4), (2, 3), (2, 3), (2, 3)))
    _, pullback = mine.vjp(x, (h, c))
    for given, full in (((grad, None), (grad, 0 * grad)), ((None, grad), (0 * grad, grad))):
        np.testing.assert_array_equal(pullback(given).input, pullback(full).input)


@each_backend
def test_a_loop_of_cells_is_an_lstm(backend):
    cell, _ = pair(backend=backend)
    lstm = cylstm.LSTM(4, 3, backend=backend)
    lstm.load_state_dict({f"{name}_l0": array for name, array in cell.state_dict().items()})
    x = cylstm.randn(9, 2, 4)
    output, (h_n, c_n) = lstm(x)
    state = None
    for t in range(9):
        state = cell(x[t], state)
        np.testing.assert_array_equal(state[0], output[t])
    np.testing.assert_array_equal(state[0], h_n[0])
    np.testing.assert_array_equal(state[1], c_n[0])


def test_input_of_any_kind_stays_as_it_is():
    cell, _ = pair()
    x = cylstm.randn(2, 4)
    expected = cell(x)
    locked = x.copy()
    locked.flags.writeable = False
    for given in (locked, np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2], torch.from_numpy(x)):
        np.testing.assert_array_equal(cell(given), expected)
    np.testing.assert_array_equal(cell(input=x, hx=None), cell.forward(x))


# ------------------------------------------------------------------------------------------------------------- errors

X, H, C = tensors((2, 4), (2, 3), (2, 3))
LEAKS = {AttributeError: TypeError, IndexError: ValueError}
CALLS = {
    "3-D": lambda cell: cell(torch.zeros(1, 2, 4)),
    "0-D": lambda cell: cell(torch.tensor(1.0)),
    "features": lambda cell: cell(torch.zeros(2, 5)),
    "batch of h": lambda cell: cell(X, (H[:1], C)),
    "batch of c": lambda cell: cell(X, (H, C[:1])),
    "size of h": lambda cell: cell(X, (torch.zeros(2, 4), C)),
    "size of c": lambda cell: cell(X, (H, torch.zeros(2, 4))),
    "batched state, unbatched input": lambda cell: cell(X[0], (H, C)),
    "unbatched state, batched input": lambda cell: cell(X, (H[0], C[0])),
    "an array as hx": lambda cell: cell(X, H),
    "one state": lambda cell: cell(X, (H,)),
    "three states": lambda cell: cell(X, (H, C, C)),
    "states None": lambda cell: cell(X, (None, None)),
    "a number as hx": lambda cell: cell(X, 3),
    "dtype of the input": lambda cell: cell(X.double()),
    "integer input": lambda cell: cell(X.long()),
    "dtype of h": lambda cell: cell(X, (H.double(), C)),
    "a list": lambda cell: cell([[1.0] * 4]),
    "None": lambda cell: cell(None),
    "nothing": lambda cell: cell(),
    "a packed sequence": lambda cell: cell(torch.nn.utils.rnn.pack_sequence([X])),
}


@pytest.mark.parametrize("call", CALLS)
def test_calls_that_torch_refuses(call):
    mine, theirs = pair()
    with pytest.raises(Exception) as yours:  # noqa: PT011
        CALLS[call](theirs)
    expected = LEAKS.get(yours.type, yours.type)
    with pytest.raises(expected) as ours:
        CALLS[call](mine)
    assert ours.type is expected


@pytest.mark.parametrize("arguments", WRONG_ARGUMENTS)
def test_arguments_that_torch_refuses(arguments):
    with pytest.raises(Exception) as yours:  # noqa: PT011
        torch.nn.LSTMCell(*arguments)
    with pytest.raises(yours.type):
        LSTMCell(*arguments)


@pytest.mark.parametrize("sizes", [(0, 3), (4, 0)])
def test_sizes_of_zero_are_refused_though_torch_takes_them(sizes):
    with pytest.raises(RuntimeError, match="at least 1"):
        LSTMCell(*sizes)


def test_a_state_of_another_dtype_is_refused_though_torch_promotes_c():
    mine, _ = pair()
    with pytest.raises(RuntimeError, match="c_0 must have the module's dtype float32, got float64"):
        mine(X, (H, C.double()))


def test_gradients_that_are_refused():
    mine, _ = pair()
    _, pullback = mine.vjp(X)
    for grad in (H, None, (H,), (H, C, C)):
        with pytest.raises(TypeError, match="tuple of two"):
            pullback(grad)
    with pytest.raises(RuntimeError, match="grad_c_1 must have shape"):
        pullback((H, C[:1]))
    with pytest.raises(RuntimeError, match="dtype float32"):
        pullback((H.double(), C))
    mine.bias_hh = mine.bias_ih
    with pytest.raises(RuntimeError, match="run vjp again"):
        pullback((H, C))


@each_backend
def test_a_change_of_the_weights_is_seen(backend):
    mine, theirs = pair(backend=backend)
    mine(X)
    torch.manual_seed(5)
    theirs.reset_parameters()
    mine.load_state_dict(theirs.state_dict())
    close(mine(X)[0], theirs(X)[0])
    with mine.unlocked() as params:
        params["bias_ih"][:] = 1
        with pytest.raises(RuntimeError, match="unlocked"):
            mine(X)
    with torch.no_grad():
        theirs.bias_ih.fill_(1)
    close(mine(X)[1], theirs(X)[1])


def test_fixed_attributes():
    mine, _ = pair(bias=False)
    assert mine.bias_ih is None
    assert mine.bias_hh is None
    for name in ("input_size", "hidden_size", "bias", "bias_ih"):
        with pytest.raises(AttributeError, match="fixed"):
            setattr(mine, name, 2)


@pytest.mark.parametrize("bias", [True, False])
def test_repr_and_attributes(bias):
    mine, theirs = pair(bias=bias)
    assert repr(mine) == repr(theirs)
    for name in ("input_size", "hidden_size", "bias", "training"):
        assert getattr(mine, name) == getattr(theirs, name)
    assert mine.eval().training is False
    assert mine.double().dtype == np.float64


def test_copies_are_independent():
    mine, _ = pair(bias=False)
    other = copy.deepcopy(mine)
    np.testing.assert_array_equal(other(X), mine(X))
    other.weight_ih = other.weight_ih * 2
    assert np.any(other(X)[0] != mine(X)[0])


def test_an_unknown_backend_is_refused_at_once():
    with pytest.raises(cylstm.UnknownBackendError):
        LSTMCell(4, 3, backend="nowhere")


@each_backend
def test_threads(backend):
    mine, _ = pair(16, 16, backend=backend)
    x = cylstm.randn(8, 16)
    expected, results = mine(x), []
    threads = [threading.Thread(target=lambda: results.extend(mine(x) for _ in range(20))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 80
    for result in results:
        np.testing.assert_array_equal(result, expected)
