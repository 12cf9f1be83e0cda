"""Optimisers: fifty steps of each equal ``torch.optim``'s, and so does the clipping of gradients."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from optimizers import (
    KINDS,
    OPTIONS,
    STEPS,
    TOLERANCE,
    assert_equal_parameters,
    draw,
    give,
    modules,
    parameters_of,
)

import cylstm
from cylstm import optim


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("kind", "options"), OPTIONS, ids=str)
def test_fifty_steps_equal_torch(kind, options, dtype):
    ours, theirs = modules(dtype)
    mine = getattr(optim, kind)(ours, **options)
    yours = getattr(torch.optim, kind)(parameters_of(theirs), **options)
    rng = np.random.default_rng(1)
    for step in range(STEPS):
        grads = draw(ours, rng, scale=10.0 ** (step % 4 - 2))
        give(theirs, grads)
        mine.step(grads)
        yours.step()
    assert_equal_parameters(ours, theirs, TOLERANCE[dtype])


@KINDS
def test_defaults_are_those_of_torch(kind):
    _, theirs = modules()
    yours = getattr(torch.optim, kind)(parameters_of(theirs)).defaults
    signature = getattr(optim, kind).__init__.__kwdefaults__ or {}
    code = getattr(optim, kind).__init__
    names = code.__code__.co_varnames[2 : code.__code__.co_argcount]
    mine = dict(zip(names, code.__defaults__, strict=True)) | signature
    assert mine == {name: yours[name] for name in mine}
    assert list(mine) == [name for name in inspect.signature(getattr(torch.optim, kind)).parameters if name in mine]


@KINDS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_schedule_is_an_assignment(kind, dtype):
    ours, theirs = modules(dtype)
    mine = getattr(optim, kind)(ours, lr=0.02)
    yours = getattr(torch.optim, kind)(parameters_of(theirs), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(yours, STEPS)
    rng = np.random.default_rng(2)
    for _ in range(STEPS):
        grads = draw(ours, rng)
        give(theirs, grads)
        mine.lr = schedule.get_last_lr()[0]
        mine.step(grads)
        yours.step()
        schedule.step()
    assert_equal_parameters(ours, theirs, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("max_norm", [1e-3, 0.5, 1e3, 0.0])
def test_clipping_equals_torch(dtype, max_norm):
    ours, theirs = modules(dtype)
    grads = draw(ours, np.random.default_rng(3))
    give(theirs, grads)
    norm = optim.clip_grad_norm(grads, max_norm)
    wanted = torch.nn.utils.clip_grad_norm_(parameters_of(theirs), max_norm)
    assert norm == pytest.approx(wanted.item(), rel=TOLERANCE[dtype])
    for given, module in zip(grads, theirs, strict=True):
        for name, parameter in module.named_parameters():
            np.testing.assert_allclose(given[name], parameter.grad.numpy(), rtol=10 * TOLERANCE[dtype])


def test_clipping_leaves_small_gradients_as_they_are():
    ours, _ = modules()
    grads = draw(ours, np.random.default_rng(3))
    before = [array.tobytes() for given in grads for array in given.values()]
    optim.clip_grad_norm(grads, 1e3)
    assert [array.tobytes() for given in grads for array in given.values()] == before


EXTREME = {
    "nan": [[1.0, np.nan, -2.0], [3.0]],
    "inf": [[1.0, np.inf, -2.0], [3.0]],
    "both": [[np.inf, 1.0], [np.nan]],
    "squares overflow": [[1e30, -1e30], [3.0]],
    "their sum overflows": [[1.5e19], [-1.5e19]],
    "squares underflow": [[1e-30, 1e-30]],
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("values", EXTREME.values(), ids=EXTREME)
def test_clipping_of_extremes_equals_torch(values, dtype):
    grads = {str(n): np.array(array, dtype) for n, array in enumerate(values)}
    theirs = [torch.zeros(array.shape, dtype=getattr(torch, dtype)) for array in grads.values()]
    for tensor, array in zip(theirs, grads.values(), strict=True):
        tensor.grad = torch.from_numpy(array.copy())
    norm = optim.clip_grad_norm(grads, 1.0)
    wanted = torch.nn.utils.clip_grad_norm_(theirs, 1.0).item()
    np.testing.assert_allclose(norm, wanted, rtol=TOLERANCE[dtype])
    for tensor, array in zip(theirs, grads.values(), strict=True):
        np.testing.assert_allclose(array, tensor.grad.numpy(), rtol=10 * TOLERANCE[dtype])


@pytest.mark.parametrize("max_norm", [1.0, 300.0])
@pytest.mark.parametrize("scale", [1e-5, 1e-3, 1.0, 100.0, 300.0, 1000.0])
@pytest.mark.parametrize("dtype", [*TOLERANCE, "float16"])
def test_clipping_of_small_and_large_gradients_equals_torch(dtype, scale, max_norm):
    """Also where the squares of float16 are beyond its range, at one end or the other, and where the norm is."""
    ours = [cylstm.LSTM(3, 50, dtype=dtype), cylstm.Linear(50, 4, dtype=dtype)]
    theirs = [module.to_torch() for module in ours]
    grads = draw(ours, np.random.default_rng(12), scale)
    give(theirs, grads)
    norm = optim.clip_grad_norm(grads, max_norm)
    wanted = torch.nn.utils.clip_grad_norm_(parameters_of(theirs), max_norm).item()
    tolerance = 2e-3 if dtype == "float16" else 10 * TOLERANCE[dtype]
    assert np.isinf(wanted) == (dtype == "float16" and scale == 1000)
    assert norm == pytest.approx(wanted, rel=tolerance)
    for given, module in zip(grads, theirs, strict=True):
        for name, parameter in module.named_parameters():
            smallest = 6e-8 if dtype == "float16" else 0.0  # above zero, of float16
            np.testing.assert_allclose(given[name], parameter.grad.numpy(), rtol=tolerance, atol=smallest)


def test_clipping_no_gradients():
    assert optim.clip_grad_norm([], 1.0) == 0.0
    assert optim.clip_grad_norm({}, 1.0) == 0.0


def test_clipping_refuses_what_it_cannot_change():
    fine, locked = np.full(3, 10.0), np.full(3, 10.0)
    locked.flags.writeable = False
    for wrong in (locked, [1.0, 2.0], np.arange(3)):
        with pytest.raises(TypeError, match="writable NumPy arrays"):
            optim.clip_grad_norm([{"a": fine}, {"b": wrong}], 1.0)
    with pytest.raises(TypeError, match="mapping of names"):
        optim.clip_grad_norm([fine], 1.0)
    with pytest.raises(ValueError, match="max_norm must be 0 or more"):
        optim.clip_grad_norm({"a": fine}, -1.0)
    np.testing.assert_array_equal(fine, 10.0)
