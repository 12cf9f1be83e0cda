"""Gradients: a thousand random configurations against PyTorch's autograd, and what a pullback promises."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from random_cases import (
    BACKENDS,
    BITS_COME_FROM_MKL,
    Case,
    data,
    draw,
    dtypes_of,
    modules,
    our_input,
    run_torch,
    tensor,
    widened,
)
from torch.nn.utils import rnn

import cylstm
from cylstm.backends import registry
from cylstm.nn.gradients import Gradients

CASES, CHUNK = 1000, 100
CHUNKS = [range(start, start + CHUNK) for start in range(10_000, 10_000 + CASES, CHUNK)]
TRAINING = [name for name in BACKENDS if registry.load(name).capabilities.training]
EVERY_BACKEND = pytest.mark.parametrize("backend", TRAINING)


def torch_gradients(
    module: torch.nn.LSTM, case: Case, grads: list[np.ndarray | None], dtype: Any
) -> dict[str, np.ndarray]:
    """PyTorch's gradients of sum(result · grad) by the names that `our_gradients` uses."""
    given = our_input(case)
    x = tensor(data(given), dtype).requires_grad_()
    wrapped: Any = x
    if isinstance(given, cylstm.PackedSequence):  # PyTorch's own packing has no gradient for complex numbers
        wrapped = rnn.PackedSequence(x, *(None if part is None else tensor(part) for part in given[1:]))
    hx = None if case.hx is None else [tensor(state, dtype).requires_grad_() for state in case.hx]
    results = run_torch(module, case, wrapped, hx)
    pairs = [(result, tensor(grad, dtype)) for result, grad in zip(results, grads, strict=True) if grad is not None]
    module.zero_grad()
    torch.autograd.backward([result for result, _ in pairs], [grad for _, grad in pairs])
    named = {"input": x.grad, **{name: p.grad for name, p in module.named_parameters()}}
    if hx is not None:
        named |= {"h_0": hx[0].grad, "c_0": hx[1].grad}
    return {name: np.zeros(0) if grad is None else grad.numpy() for name, grad in named.items()}


def our_gradients(case: Case, gradients: Gradients) -> dict[str, np.ndarray]:
    """Our gradients by name."""
    assert isinstance(gradients.input, cylstm.PackedSequence) == (case.form in ("packed", "unsorted"))
    named = {"input": data(gradients.input), **gradients.parameters}
    if case.hx is not None:
        named |= {"h_0": gradients.hx[0], "c_0": gradients.hx[1]}
    return named


def draw_gradients(case: Case, results: tuple[Any, Any, Any]) -> list[np.ndarray | None]:
    """Gradients of output, h_n and c_n, some of them missing."""
    rng = np.random.default_rng(case.seed)
    present = rng.random(3) < 0.7
    if not present.any():
        present[rng.integers(3)] = True
    grads: list[np.ndarray | None] = []
    for result, there in zip(results, present, strict=True):
        grad = rng.standard_normal(result.shape)
        if case.dtype.startswith("complex"):
            grad = grad + 1j * rng.standard_normal(result.shape)
        grads.append(grad.astype(case.dtype) if there else None)
    return grads


def pull(case: Case, output: Any, pullback: Any, grads: list[np.ndarray | None]) -> Gradients:
    """Call the pullback with gradients in the form of the output."""
    grad_output = grads[0]
    if grad_output is not None and isinstance(output, cylstm.PackedSequence):
        grad_output = output._replace(data=grad_output)
    return pullback(grad_output, (grads[1], grads[2]))


@EVERY_BACKEND
@pytest.mark.parametrize("chunk", CHUNKS, ids=lambda chunk: f"{chunk.start}-{chunk.stop - 1}")
def test_gradients(backend: str, chunk: range) -> None:
    for seed in chunk:
        case = draw(seed, [name for name in dtypes_of(backend) if name != "float16"], largest=12)
        training = case.dtype in ("float32", "float64") and not BITS_COME_FROM_MKL  # the masks of dropout are theirs
        theirs, ours = modules(case, backend, training=training)
        cylstm.manual_seed(case.seed)
        output, (h_n, c_n), pullback = ours.vjp(our_input(case), case.hx, recompute=seed % 3 == 0)
        grads = draw_gradients(case, (data(output), h_n, c_n))
        gradients = our_gradients(case, pull(case, output, pullback, grads))

        wide = np.complex128 if case.dtype.startswith("complex") else np.float64
        expected = torch_gradients(theirs, case, grads, None)
        exact = torch_gradients(widened(theirs, case.dtype), case, grads, wide)
        assert list(gradients) == list(expected)
        largest = max((np.abs(grad).max() for grad in exact.values() if grad.size), default=0.0)
        for name, grad in gradients.items():
            if expected[name].size == 0:  # PyTorch has none: B is 0, or no result depends on it
                assert not grad.any(), (case, name)
                continue
            assert grad.shape == expected[name].shape, (case, name)
            assert grad.dtype == case.dtype, (case, name)
            error, scale = np.abs(grad - exact[name]).max(), np.abs(exact[name]).max()
            if case.dtype == "float64":
                assert error <= 1e-9 * scale + 1e-12 * largest, (case, name, error, scale)
            elif case.dtype == "float32":
                rounding = np.finfo(np.float32).eps * (scale + 0.1 * largest)
                assert error <= 20 * rounding, (case, name, error / rounding)
            else:  # near a pole all digits are lost, by PyTorch too
                their_error = np.abs(expected[name] - exact[name]).max()
                floor = 1e-4 if case.dtype == "complex64" else 1e-10
                assert error <= 10 * their_error + floor * largest, (case, name, error, their_error)


@EVERY_BACKEND
def test_vjp_gives_what_a_call_gives(backend: str) -> None:
    for seed in range(40):
        case = draw(seed, dtypes_of(backend))
        _, ours = modules(case, backend)
        output, state = ours(our_input(case), case.hx)
        for recompute in (False, True):
            result, result_state, _ = ours.vjp(our_input(case), case.hx, recompute=recompute)
            for a, b in zip((data(output), *state), (data(result), *result_state), strict=True):
                np.testing.assert_array_equal(a, b, strict=True)


@EVERY_BACKEND
def test_recomputed_gates_give_the_same_bits(backend: str) -> None:
    for seed in range(40):
        case = draw(seed, dtypes_of(backend))
        _, ours = modules(case, backend)
        found = []
        for recompute in (False, True):
            output, (h_n, c_n), pullback = ours.vjp(our_input(case), case.hx, recompute=recompute)
            grads = draw_gradients(case, (data(output), h_n, c_n))
            found.append(our_gradients(case, pull(case, output, pullback, grads)))
        np.testing.assert_equal(*found)


@EVERY_BACKEND
def test_pullback_may_be_called_again_and_survives_what_the_caller_overwrites(backend: str) -> None:
    for options in ({}, {"num_layers": 2, "bidirectional": True, "proj_size": 3}, {"batch_first": True, "bias": False}):
        lstm = cylstm.LSTM(4, 5, **options, backend=backend)
        shape = (3, 6, 4) if options.get("batch_first") else (6, 3, 4)
        x = cylstm.randn(*shape)
        hx = tuple(cylstm.randn(*state.shape) for state in lstm(x)[1])
        output, state, pullback = lstm.vjp(x, hx)
        seed, state_seed = cylstm.randn(*output.shape), tuple(cylstm.randn(*s.shape) for s in state)
        first = copy.deepcopy(pullback(seed, state_seed))
        for array in (x, output, *hx, *state):
            array[...] = np.nan
        second = pullback(seed, state_seed)
        np.testing.assert_equal(second, first)
        for array in (second.input, *second.hx, *second.parameters.values()):
            array[...] = np.nan  # the caller's own: the pullback does not need them
        np.testing.assert_equal(pullback(seed, state_seed), first)


@EVERY_BACKEND
def test_pullback_of_packed_input_survives_what_the_caller_overwrites(backend: str) -> None:
    lstm = cylstm.LSTM(2, 3, bidirectional=True, backend=backend)
    packed = cylstm.pack_sequence([cylstm.randn(n, 2) for n in (2, 4, 1)], enforce_sorted=False)
    output, _, pullback = lstm.vjp(packed)
    grad_output = output._replace(data=cylstm.randn(*output.data.shape))
    first = copy.deepcopy(pullback(grad_output, None))
    packed.data[...] = np.nan
    assert packed.sorted_indices is not None
    for array in (packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices):
        array[...] = 0
    np.testing.assert_equal(pullback(grad_output, None), first)
    with pytest.raises(TypeError, match="grad_output must be a PackedSequence"):
        pullback(grad_output.data)


@EVERY_BACKEND
def test_changed_parameters_are_refused(backend: str) -> None:
    changes = [
        lambda lstm: lstm.load_state_dict(lstm.state_dict()),
        lambda lstm: setattr(lstm, "bias_ih_l0", np.zeros(16, np.float32)),
        lambda lstm: lstm.reset_parameters(),
        lambda lstm: lstm.double(),
    ]
    for change in changes:
        lstm = cylstm.LSTM(3, 4, backend=backend)
        output, _, pullback = lstm.vjp(cylstm.randn(5, 2, 3))
        pullback(output)
        change(lstm)
        with pytest.raises(
            RuntimeError, match=r"changed since the forward pass \(version 0 then, 1 now\): run vjp again"
        ):
            pullback(output)
    lstm = cylstm.LSTM(3, 4, backend=backend)
    output, _, pullback = lstm.vjp(cylstm.randn(5, 2, 3))
    with lstm.unlocked() as params:
        params["bias_ih_l0"] += 1
    with pytest.raises(RuntimeError, match="changed since the forward pass"):
        pullback(output)


@EVERY_BACKEND
def test_nothing_is_kept_on_the_module(backend: str) -> None:
    lstm = cylstm.LSTM(3, 4, num_layers=2, dropout=0.5, backend=backend)
    lstm(cylstm.randn(5, 2, 3))
    before = set(vars(lstm))
    output, _, pullback = lstm.vjp(cylstm.randn(5, 2, 3))
    pullback(output)
    assert set(vars(lstm)) == before
    freed = weakref.ref(pullback)
    gc.collect()
    gc.disable()
    try:
        del pullback
        assert freed() is None  # at once, with no cycle for the collector
    finally:
        gc.enable()


@EVERY_BACKEND
def test_missing_gradients_are_zeros(backend: str) -> None:
    lstm = cylstm.LSTM(3, 4, num_layers=2, backend=backend)
    output, state, pullback = lstm.vjp(cylstm.randn(5, 2, 3))
    zeros = tuple(np.zeros_like(s) for s in state)
    one = np.ones_like(output)
    np.testing.assert_equal(pullback(one), pullback(one, zeros))
    np.testing.assert_equal(pullback(one, (None, None)), pullback(one, zeros))
    np.testing.assert_equal(pullback(None, state), pullback(np.zeros_like(output), state))
    nothing = pullback()
    for grad in (nothing.input, *nothing.hx, *nothing.parameters.values()):
        assert not grad.any()
    assert list(nothing.parameters) == list(lstm.state_dict())


@EVERY_BACKEND
def test_backpropagation_through_time_step_by_step_equals_bulk(backend: str) -> None:
    lstm = cylstm.LSTM(3, 4, num_layers=2, dtype="float64", backend=backend)
    x = cylstm.randn(6, 2, 3, dtype="float64")
    output, state, pullback = lstm.vjp(x)
    grad_output, grad_state = np.ones_like(output), tuple(np.ones_like(s) for s in state)
    bulk = pullback(grad_output, grad_state)

    hx, pullbacks = None, []
    for t in range(6):
        _, hx, step = lstm.vjp(x[t : t + 1], hx)
        pullbacks.append(step)
    total = {name: np.zeros_like(p) for name, p in lstm.named_parameters()}
    grads: Any = None
    for t in reversed(range(6)):
        grads = pullbacks[t](grad_output[t : t + 1], grad_state)
        grad_state = grads.hx
        np.testing.assert_allclose(grads.input[0], bulk.input[t], rtol=1e-12, atol=1e-14)
        for name, grad in grads.parameters.items():
            total[name] += grad
    np.testing.assert_allclose(grads.hx[0], bulk.hx[0], rtol=1e-12, atol=1e-14)
    for name, grad in bulk.parameters.items():
        np.testing.assert_allclose(total[name], grad, rtol=1e-12, atol=1e-14)


@EVERY_BACKEND
def test_dropout_masks_are_the_same_in_both_passes(backend: str) -> None:
    """Central differences under one seed; a mask drawn anew for the backward pass would give other numbers."""
    lstm = cylstm.LSTM(2, 6, num_layers=3, dropout=0.5, dtype="float64", backend=backend)
    x = cylstm.randn(4, 2, 2, dtype="float64")
    cylstm.manual_seed(5)
    output, _, pullback = lstm.vjp(x)
    grads = pullback(np.ones_like(output))
    again = pullback(np.ones_like(output))
    np.testing.assert_equal(again, grads)
    sums = []
    for sign in (1, -1):
        moved = x.copy()
        moved[1, 0, 1] += sign * 1e-6
        cylstm.manual_seed(5)
        sums.append(lstm(moved)[0].sum())
    np.testing.assert_allclose((sums[0] - sums[1]) / 2e-6, grads.input[1, 0, 1], rtol=1e-6, atol=1e-9)
