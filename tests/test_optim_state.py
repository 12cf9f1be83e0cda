"""The state of an optimiser, and what it refuses: bad gradients and numbers change nothing."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from optimizers import (
    KINDS,
    OPTIONS,
    draw,
    give,
    modules,
    parameters_of,
    snapshot,
)

import cylstm
from cylstm import optim


@pytest.mark.parametrize(("kind", "options"), [case for case in OPTIONS if case[1]], ids=str)
def test_a_state_in_a_file_goes_on_as_if_nothing_had_been(kind, options, tmp_path):
    ours, _ = modules()
    rng = np.random.default_rng(4)
    first = getattr(optim, kind)(ours, **options)
    for _ in range(3):
        first.step(draw(ours, rng))
    first.lr = 0.017
    np.savez(tmp_path / "state.npz", **first.state_dict())
    others, _ = modules(seed=5)
    for module, other in zip(ours, others, strict=True):
        other.load_state_dict(module.state_dict())
    second = getattr(optim, kind)(others, **options)
    with np.load(tmp_path / "state.npz") as state:
        second.load_state_dict(state)
    assert second.lr == 0.017
    assert snapshot(ours, first) == snapshot(others, second)
    for _ in range(3):
        grads = draw(ours, rng)
        first.step(grads)
        second.step(grads)
    assert snapshot(ours, first) == snapshot(others, second)


def test_the_names_of_a_state():
    ours, theirs = modules()
    state = optim.Adam(ours).state_dict()
    yours = torch.optim.Adam(parameters_of(theirs))
    give(theirs, draw(ours, np.random.default_rng(0)))
    yours.step()
    buffers = [name for name in yours.state_dict()["state"][0] if name != "step"]
    names = [
        f"{n}.{name}.{b}" for n, module in enumerate(ours) for name, _ in module.named_parameters() for b in buffers
    ]
    assert list(state) == ["lr", "step", *names]
    assert list(optim.SGD(ours[1], momentum=0.9).state_dict()) == [
        "lr", "step", "0.weight.momentum_buffer", "0.bias.momentum_buffer",
    ]  # fmt: skip
    assert list(optim.SGD(ours).state_dict()) == ["lr", "step"]


def test_a_state_is_a_copy():
    ours, _ = modules()
    optimizer = optim.Adam(ours)
    state = optimizer.state_dict()
    optimizer.step(draw(ours, np.random.default_rng(0)))
    assert state["step"] == 0
    assert not state["0.weight_ih_l0.exp_avg"].any()
    optimizer.load_state_dict(state)
    state["0.weight_ih_l0.exp_avg"] += 1
    assert not optimizer.state_dict()["0.weight_ih_l0.exp_avg"].any()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda state: state.pop("1.bias.exp_avg"), RuntimeError, "missing: 1.bias.exp_avg; unexpected: none"),
        (lambda state: state.update(more=np.zeros(3)), RuntimeError, "missing: none; unexpected: more"),
        (lambda state: state.update(lr=np.array(-1.0)), ValueError, "lr must be 0 or more"),
        (lambda state: state.update(step=np.array(-1)), ValueError, "step must be 0 or more"),
        (lambda state: state.update({"1.bias.exp_avg": np.zeros(3, np.float32)}), RuntimeError, r"shape \(4,\)"),
        (lambda state: state.update({"1.bias.exp_avg": np.zeros(4)}), RuntimeError, "dtype float32.*float64"),
        (lambda state: state.update({"1.bias.exp_avg": [0.0] * 4}), TypeError, "must be an array"),
    ],
)  # fmt: skip
def test_a_wrong_state_loads_nothing(change, error, message):
    ours, _ = modules()
    rng = np.random.default_rng(6)
    optimizer = optim.Adam(ours)
    state = optimizer.state_dict()
    optimizer.step(draw(ours, rng))
    before = snapshot(ours, optimizer)
    change(state)
    with pytest.raises(error, match=message):
        optimizer.load_state_dict(state)
    assert snapshot(ours, optimizer) == before


def test_a_state_must_be_a_mapping():
    with pytest.raises(TypeError, match="mapping of names to arrays, got list"):
        optim.Adam(cylstm.Linear(2, 3)).load_state_dict([])


def without(grads, name):
    return [{key: value for key, value in grads[0].items() if key != name}, grads[1]]


@KINDS
@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda grads: without(grads, "bias_hh_l1"), RuntimeError, "missing: bias_hh_l1; unknown: none"),
        (lambda grads: [grads[0], {**grads[1], "more": 1}], RuntimeError, "missing: none; unknown: more"),
        (lambda grads: [grads[1], grads[0]], RuntimeError, "missing: weight_ih_l0"),
        (lambda grads: grads[0], RuntimeError, "gradients of 2 modules.*got those of 1"),
        (lambda grads: [*grads, {}], RuntimeError, "got those of 3"),
        (lambda grads: [grads[0], {**grads[1], "bias": np.zeros((4, 1), "f")}], RuntimeError, r"have shape \(4,\)"),
        (lambda grads: [grads[0], {**grads[1], "bias": np.zeros(4)}], RuntimeError, "dtype float32.*float64"),
        (lambda grads: [grads[0], {**grads[1], "bias": None}], TypeError, "bias must be an array"),
        (lambda grads: [grads[0], None], TypeError, "mapping of names to arrays"),
        (lambda grads: cylstm.LSTM(3, 5).vjp(cylstm.randn(2, 3))[2](), TypeError, "the `parameters` of what"),
    ],
)  # fmt: skip
def test_wrong_gradients_change_nothing(kind, wrong, error, message):
    ours, _ = modules()
    rng = np.random.default_rng(7)
    optimizer = getattr(optim, kind)(ours)
    optimizer.step(draw(ours, rng))
    before, versions = snapshot(ours, optimizer), [module._store.version for module in ours]
    with pytest.raises(error, match=message):
        optimizer.step(wrong(draw(ours, rng)))
    assert snapshot(ours, optimizer) == before
    assert [module._store.version for module in ours] == versions


def test_no_step_inside_unlocked():
    ours, _ = modules()
    optimizer = optim.Adam(ours)
    grads = draw(ours, np.random.default_rng(8))
    before = snapshot(ours, optimizer)
    with ours[1].unlocked(), pytest.raises(RuntimeError, match="unlocked"):
        optimizer.step(grads)
    assert snapshot(ours, optimizer) == before


@KINDS
def test_gradients_are_left_as_they_are(kind):
    ours, _ = modules()
    grads = draw(ours, np.random.default_rng(9))
    for given in grads:
        for array in given.values():
            array.flags.writeable = False
    getattr(optim, kind)(ours, weight_decay=0.1).step(grads)


def test_gradients_may_be_tensors_and_strided():
    ours, others = modules()[0], modules()[0]
    grads = draw(ours, np.random.default_rng(10))
    optim.Adam(ours).step(grads)
    as_tensors = {name: torch.from_numpy(array.copy()) for name, array in grads[0].items()}
    strided = {name: np.asfortranarray(array) for name, array in grads[1].items()}
    optim.Adam(others).step(iter([as_tensors, strided]))
    for module, other in zip(ours, others, strict=True):
        for a, b in zip(module.parameters(), other.parameters(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_gradients_without_bounds_give_what_torch_gives():
    ours, theirs = modules()
    grads = draw(ours, np.random.default_rng(11), scale=1e30)
    grads[1]["bias"][:2] = np.inf, np.nan
    give(theirs, grads)
    optim.Adam(ours).step(grads)
    torch.optim.Adam(parameters_of(theirs)).step()
    for mine, yours in zip(ours, theirs, strict=True):
        for name, value in yours.state_dict().items():
            np.testing.assert_allclose(mine.state_dict()[name], value.numpy(), rtol=1e-6)


@pytest.mark.parametrize("wrong", [{"lr": -1}, {"lr": float("nan")}, {"weight_decay": -0.1}])
@KINDS
def test_numbers_outside_their_range(kind, wrong):
    ours, _ = modules()
    with pytest.raises(ValueError, match="must be 0 or more"):
        getattr(optim, kind)(ours, **wrong)


def test_more_numbers_outside_their_range():
    module = cylstm.Linear(2, 3)
    theirs = list(torch.nn.Linear(2, 3).parameters())
    for kind, wrong in [
        ("SGD", {"momentum": -0.1}),
        ("SGD", {"nesterov": True}),
        ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}),
        ("Adam", {"eps": -1e-8}),
        ("Adam", {"betas": (1.0, 0.9)}),
        ("Adam", {"betas": (0.9, -0.1)}),
        ("AdamW", {"betas": (0.9, 1.0)}),
    ]:
        with pytest.raises(ValueError):  # noqa: PT011
            getattr(torch.optim, kind)(theirs, **wrong)
        with pytest.raises(ValueError, match=r"must be|requires"):
            getattr(optim, kind)(module, **wrong)
    with pytest.raises(ValueError, match="betas"):
        optim.Adam(module, betas=(0.9, 0.9, 0.9))
    optimizer = optim.SGD(module, lr=0.5)
    with pytest.raises(ValueError, match="lr must be 0 or more, got -1"):
        optimizer.lr = -1
    assert optimizer.lr == 0.5


@KINDS
def test_what_is_no_module(kind):
    lstm = cylstm.LSTM(3, 5)
    with pytest.raises(TypeError, match="not their parameters, got ndarray"):
        getattr(optim, kind)(lstm.parameters())
    with pytest.raises(ValueError, match="modules must hold at least one module, got none"):
        getattr(optim, kind)([])
    with pytest.raises(ValueError, match="more than once"):
        getattr(optim, kind)([lstm, lstm])
    with pytest.raises(TypeError, match="float16"):
        getattr(optim, kind)(cylstm.LSTM(3, 5, dtype="float16"))


def test_a_module_that_was_converted_since():
    lstm = cylstm.LSTM(3, 5)
    optimizer = optim.Adam(lstm)
    lstm.double()
    before = snapshot([lstm], optimizer)
    with pytest.raises(RuntimeError, match="converted from float32 to float64"):
        optimizer.step(draw([lstm], np.random.default_rng(0)))
    assert snapshot([lstm], optimizer) == before


def test_a_step_is_seen_by_the_next_call_and_refused_by_an_old_pullback(backend):
    lstm = cylstm.LSTM(3, 5, backend=backend)
    x = cylstm.randn(7, 3)
    before, _, pullback = lstm.vjp(x)
    optimizer = optim.SGD(lstm, lr=0.1)
    optimizer.step(pullback(before).parameters)
    after, _ = lstm(x)
    assert np.abs(after).sum() < np.abs(before).sum()  # that was the slope it went down
    with pytest.raises(RuntimeError, match="changed since the forward pass"):
        pullback(before)


def test_no_change_of_another_thread_is_lost():
    linear = cylstm.Linear(1, 1)
    linear.load_state_dict({"weight": np.zeros((1, 1)), "bias": np.zeros(1)})
    grads = {"weight": np.full((1, 1), -1, np.float32), "bias": np.full(1, -1, np.float32)}

    def work():
        optimizer = optim.SGD(linear, lr=1.0)
        for _ in range(200):
            optimizer.step(grads)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert linear.weight == linear.bias == 800


def test_parameters_read_before_a_step_stay_as_they_were():
    linear = cylstm.Linear(2, 3)
    weight, values = linear.weight, linear.weight.copy()
    optim.Adam(linear).step(draw([linear], np.random.default_rng(0))[0])
    np.testing.assert_array_equal(weight, values)
    assert not linear.weight.flags.writeable
    assert not np.array_equal(linear.weight, values)


def test_optim_is_there_after_import_cylstm():
    code = "import cylstm; cylstm.optim.Adam(cylstm.Linear(2, 3)); from cylstm.optim import SGD"
    subprocess.run([sys.executable, "-c", code], check=True)


@KINDS
def test_the_repr_names_modules_and_options(kind):
    ours, _ = modules()
    optimizer = getattr(optim, kind)(ours, lr=0.5, maximize=True)
    text = repr(optimizer)
    assert text.startswith(f"{kind}([LSTM(3, 5, proj_size=2, num_layers=2), Linear(in_features=2, out_features=4")
    assert text.endswith("maximize=True)")
    assert "lr=0.5" in text
    optimizer.lr = 0.25
    assert "lr=0.25" in repr(optimizer)


@KINDS
@pytest.mark.parametrize("call", [1, 2, 10, 11, 12, 13, 14])
def test_a_step_that_fails_half_way_changes_nothing(kind, call, monkeypatch):
    """Memory may run out in the middle: of the first parameter, of a later module, of the copies at the end."""
    ours, _ = modules()
    optimizer = getattr(optim, kind)(ours, lr=0.1)
    grads = draw(ours, np.random.default_rng(0))
    optimizer.step(grads)
    before, calls = snapshot(ours, optimizer), []

    def fail(original):
        def failing(*arguments):
            calls.append(1)
            if len(calls) == call:
                raise MemoryError
            return original(*arguments)

        return failing

    store = type(ours[0]._store)
    with monkeypatch.context() as patch:
        patch.setattr(optimizer, "_update", fail(optimizer._update))
        patch.setattr(store, "checked", fail(store.checked))
        with pytest.raises(MemoryError):
            optimizer.step(grads)
    assert snapshot(ours, optimizer) == before
    optimizer.step(grads)
    assert snapshot(ours, optimizer) != before
