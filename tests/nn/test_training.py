"""Training: loop mode equals bulk, memory goes with the pullback, recompute, and whole trainings beside PyTorch's."""

from __future__ import annotations

import gc
import tracemalloc
import weakref

import numpy as np
import pytest
import torch
from random_cases import BITS_COME_FROM_MKL

import cylstm
from cylstm import optim
from cylstm.backends import registry
from cylstm.backends.cython_backend.backend import Spares

#: Relative to the largest gradient: the same sums in another order.
TOLERANCE = {"float32": 2e-6, "float64": 1e-14}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE)
OPTIONS = [
    {},
    {"bias": False},
    {"num_layers": 2},
    {"proj_size": 3},
    {"num_layers": 3, "proj_size": 2, "bias": False},
]


def assert_close(mine, wanted, dtype, label=""):
    assert mine.shape == wanted.shape
    assert np.abs(mine - wanted).max() <= TOLERANCE[dtype] * max(1e-3, np.abs(wanted).max()), label


def draw(*shapes, dtype, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


# Backpropagation through time: loop and bulk


@DTYPES
@pytest.mark.parametrize("piece", [1, 4, 7])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_pullbacks_of_pieces_in_a_chain_equal_that_of_the_whole(backend, dtype, options, piece):
    T, B, I, H = 13, 3, 6, 10
    cylstm.manual_seed(0)
    lstm = cylstm.LSTM(I, H, dtype=dtype, backend=backend, **options)
    L, R = lstm.num_layers, lstm.proj_size or H
    x, h_0, c_0, grad_output, grad_h, grad_c = draw(
        (T, B, I), (L, B, R), (L, B, H), (T, B, R), (L, B, R), (L, B, H), dtype=dtype
    )
    output, state, pullback = lstm.vjp(x, (h_0, c_0))
    bulk = pullback(grad_output, (grad_h, grad_c))

    outputs, pullbacks, hx = [], [], (h_0, c_0)
    pieces = [slice(t, t + piece) for t in range(0, T, piece)]
    for part in pieces:
        out, hx, pull = lstm.vjp(x[part], hx)
        outputs.append(out)
        pullbacks.append(pull)
    grad_hx, grad_input, total = (grad_h, grad_c), [], {name: 0.0 for name, _ in lstm.named_parameters()}
    for part, pull in zip(reversed(pieces), reversed(pullbacks), strict=True):
        grads = pull(grad_output[part], grad_hx)
        grad_hx = grads.hx
        grad_input.insert(0, grads.input)
        total = {name: total[name] + grad for name, grad in grads.parameters.items()}

    assert_close(np.concatenate(outputs), output, dtype)
    assert_close(hx[0], state[0], dtype)
    assert_close(np.concatenate(grad_input), bulk.input, dtype)
    for mine, wanted in zip(grad_hx, bulk.hx, strict=True):
        assert_close(mine, wanted, dtype)
    for name, wanted in bulk.parameters.items():
        assert_close(total[name], wanted, dtype, name)
    if backend == "cython":  # what is no sum over the steps: the same bits
        np.testing.assert_array_equal(np.concatenate(grad_input), bulk.input)
        np.testing.assert_array_equal(grad_hx[0], bulk.hx[0])
        np.testing.assert_array_equal(grad_hx[1], bulk.hx[1])


@DTYPES
def test_pullbacks_of_a_cell_in_a_chain_equal_that_of_an_lstm(backend, dtype):
    T, B, I, H = 11, 3, 6, 10
    lstm = cylstm.LSTM(I, H, dtype=dtype, backend=backend)
    cell = cylstm.LSTMCell(I, H, dtype=dtype, backend=backend)
    cell.load_state_dict({name.removesuffix("_l0"): array for name, array in lstm.named_parameters()})
    x, grad_output, grad_c = draw((T, B, I), (T, B, H), (1, B, H), dtype=dtype)
    bulk = lstm.vjp(x)[2](grad_output, (None, grad_c))

    pullbacks, hx = [], None
    for x_t in x:
        hx, pullback = cell.vjp(x_t, hx)
        pullbacks.append(pullback)
    grad_h, grad_c = np.zeros_like(grad_output[0]), grad_c[0]
    total = {name: 0.0 for name, _ in cell.named_parameters()}
    for t in reversed(range(T)):
        grads = pullbacks[t]((grad_output[t] + grad_h, grad_c))
        grad_h, grad_c = grads.hx
        assert_close(grads.input, bulk.input[t], dtype)
        total = {name: total[name] + grad for name, grad in grads.parameters.items()}
    for name, wanted in bulk.parameters.items():
        assert_close(total[name.removesuffix("_l0")], wanted, dtype, name)


# Memory


def kept_bytes(make):
    """How many bytes what `make` returns keeps allocated, and how many are left when it is gone.

    The least of three times: threads that other tests have left may allocate something meanwhile.
    """
    make()  # whatever is made once
    kept, left = zip(*(_kept_bytes_once(make) for _ in range(3)), strict=True)
    return min(kept), min(left)


def _kept_bytes_once(make):
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        made = make()
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0] - before
        del made
        gc.collect()
        return kept, tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("recompute", [False, True])
def test_memory_goes_with_the_pullback(backend, recompute):
    lstm, x = cylstm.LSTM(32, 32, num_layers=2, backend=backend), cylstm.randn(200, 4, 32)
    kept, left = kept_bytes(lambda: lstm.vjp(x, recompute=recompute)[2])
    assert kept > x.nbytes  # the copy of the input at least
    assert left < 0.02 * kept


def test_a_call_keeps_nothing(backend):
    lstm, x = cylstm.LSTM(32, 32, num_layers=2, backend=backend), cylstm.randn(200, 4, 32)
    results, left = kept_bytes(lambda: lstm(x))
    assert results < 1.1 * x.nbytes  # the output, of the size of the input, and the states
    assert left < 0.1 * x.nbytes


def test_a_pullback_lives_no_longer_than_its_last_reference(backend):
    lstm = cylstm.LSTM(3, 5, backend=backend)
    _, _, pullback = lstm.vjp(cylstm.randn(7, 3))
    pullback(cylstm.randn(7, 5))
    reference = weakref.ref(pullback)
    gc.collect()
    gc.disable()  # by counting references alone: there is no cycle
    try:
        del pullback
        assert reference() is None
    finally:
        gc.enable()


@DTYPES
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"proj_size": 16}], ids=str)
def test_recompute_gives_the_same_bits(backend, options, dtype):
    T, B = 150, 3
    lstm = cylstm.LSTM(24, 40, backend=backend, dtype=dtype, **options)
    x = cylstm.randn(T, B, 24).astype(dtype)
    lengths = [T, T - 1, T // 2]
    for given in (x, cylstm.pack_padded_sequence(x, lengths)):
        output, state, pullback = lstm.vjp(given)
        again, state_again, recomputing = lstm.vjp(given, recompute=True)
        grad_output = output._replace(data=np.sin(output.data)) if given is not x else np.sin(output)
        a, b = pullback(grad_output, state), recomputing(grad_output, state)
        for one, other in [
            (output, again),
            (a.input, b.input),
            *zip(state, state_again, strict=True),
            *zip(a.hx, b.hx, strict=True),
            *((a.parameters[name], b.parameters[name]) for name in a.parameters),
        ]:
            np.testing.assert_array_equal(getattr(one, "data", one), getattr(other, "data", other))


@pytest.mark.parametrize(
    ("sizes", "options"),
    [((64, 64), {}), ((1, 64), {}), ((64, 64), {"num_layers": 3}), ((64, 64), {"bidirectional": True})],
    ids=str,
)
def test_recompute_keeps_less(backend, sizes, options, monkeypatch):
    monkeypatch.setattr(
        "cylstm.backends.cython_backend.backend._spares", Spares()
    )  # what others have left does not count
    monkeypatch.setattr(Spares, "MOST", 0)
    lstm, x = cylstm.LSTM(*sizes, backend=backend, **options), cylstm.randn(400, 4, sizes[0])
    gates, _ = kept_bytes(lambda: lstm.vjp(x)[2])
    states, _ = kept_bytes(lambda: lstm.vjp(x, recompute=True)[2])
    # numpy, the definition, keeps h and c of every step; cython those at the borders of segments
    assert states <= (0.25 if backend == "cython" else 0.45) * gates


# Whole trainings


def losses_of_torch(x, classes, kind, options, module_options, dtype, steps):
    torch.manual_seed(5)
    lstm = torch.nn.LSTM(6, 12, dtype=getattr(torch, dtype), **module_options)
    head = torch.nn.Linear(12 * (1 + lstm.bidirectional), 4, dtype=getattr(torch, dtype))
    parameters = [*lstm.parameters(), *head.parameters()]
    optimizer = getattr(torch.optim, kind)(parameters, **options)
    losses = []
    for _ in range(steps):
        output, _ = lstm(torch.from_numpy(x))
        loss = torch.nn.functional.cross_entropy(head(output[-1]), torch.from_numpy(classes))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        optimizer.step()
        losses.append(loss.item())
    return losses


def losses_of_cylstm(x, classes, kind, options, module_options, dtype, steps, backend):
    cylstm.manual_seed(5)
    lstm = cylstm.LSTM(6, 12, dtype=dtype, backend=backend, **module_options)
    head = cylstm.Linear(12 * (1 + lstm.bidirectional), 4, dtype=dtype)
    optimizer = getattr(optim, kind)([lstm, head], **options)
    right = np.arange(len(classes)), classes
    losses = []
    for _ in range(steps):
        output, _, lstm_pullback = lstm.vjp(x)
        scores, head_pullback = head.vjp(output[-1])
        shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        losses.append(float(-np.log(shares[right]).mean()))
        shares[right] -= 1
        head_grads = head_pullback(shares / len(classes))
        grad_output = np.zeros_like(output)
        grad_output[-1] = head_grads.input
        grads = [lstm_pullback(grad_output).parameters, head_grads.parameters]
        optim.clip_grad_norm(grads, 0.5)
        optimizer.step(grads)
    return losses


@DTYPES
@pytest.mark.parametrize(
    ("kind", "options"),
    [("SGD", {"lr": 0.5, "momentum": 0.9, "nesterov": True}), ("Adam", {"lr": 0.01}), ("AdamW", {"lr": 0.01})],
)
@pytest.mark.parametrize("module_options", [{}, {"num_layers": 2, "dropout": 0.3}, {"bidirectional": True}], ids=str)
def test_a_training_runs_as_in_torch(backend, dtype, kind, options, module_options):
    if "dropout" in module_options and BITS_COME_FROM_MKL:
        pytest.skip("on an Intel CPU PyTorch has MKL draw the bits of dropout")
    steps = 50
    x, signal = draw((9, 16, 6), (6, 4), dtype=dtype)
    classes = (x.mean(axis=0) @ signal).argmax(axis=1)
    arguments = (x, classes, kind, options, module_options, dtype, steps)
    mine, theirs = losses_of_cylstm(*arguments, backend), losses_of_torch(*arguments)
    assert mine[-1] < 0.7 * mine[0]
    np.testing.assert_allclose(mine, theirs, rtol={"float32": 1e-3, "float64": 1e-10}[dtype])


def test_an_explicit_backend_trains_with_that_backend(backend):
    lstm = cylstm.LSTM(3, 5, backend=backend)
    assert registry.choose(lstm.backend, dtype="float32", training=True).name == backend
    before = [array.tobytes() for array in lstm.parameters()]
    output, _, pullback = lstm.vjp(cylstm.randn(7, 2, 3))
    optim.SGD(lstm, lr=1.0).step(pullback(output).parameters)
    assert all(array.tobytes() != old for array, old in zip(lstm.parameters(), before, strict=True))
