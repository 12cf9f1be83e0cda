"""from_torch and to_torch: copies of the weights, from PyTorch and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import parametrizations, prune
from torch_modules import close, leaves_of

import cylstm
import cylstm.torch

torch.set_num_threads(1)

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning"),
    # PyTorch compiles, pickles and traces with functions of its own and of Python that it deprecates
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:torch"),
]

MODULES = [
    lambda: torch.nn.LSTM(3, 4, 2, bidirectional=True, batch_first=True, dropout=0.5, proj_size=2, dtype=torch.float64),
    lambda: torch.nn.LSTM(3, 4, bias=False),
    lambda: cylstm.torch.LSTM(3, 4, backend="numpy"),
    lambda: parametrizations.weight_norm(torch.nn.LSTM(3, 4), "weight_ih_l0"),
    lambda: torch.nn.LSTMCell(3, 4),
    lambda: torch.nn.LSTMCell(3, 4, bias=False),
    lambda: torch.nn.Linear(3, 4),
    lambda: torch.nn.Linear(3, 4, bias=False),
]


@pytest.mark.parametrize("make", MODULES)
def test_from_torch_and_back(make):
    theirs = make().eval()
    before = cylstm.random.get_rng_state(), torch.get_rng_state()
    ours = cylstm.torch.from_torch(theirs)
    kind = type(ours)
    assert not ours.training
    assert getattr(ours, "backend", None) == getattr(theirs, "backend", None)
    x = torch.randn(5, 3, dtype=torch.float64 if ours.dtype == np.float64 else torch.float32)
    result, expected = ours(x), theirs(x)
    torch.set_rng_state(before[1])
    for actual, wanted in zip(leaves_of(as_tensors(result)), leaves_of(expected), strict=True):
        assert close(actual, wanted)
    back = kind.from_torch(theirs).to_torch()
    assert type(back).__module__.startswith("torch.nn")
    assert not back.training
    assert all(map(close, leaves_of(back(x)), leaves_of(expected)))
    assert isinstance(next(back.parameters()), torch.nn.Parameter)
    assert repr(kind.from_torch(back)) == repr(ours)
    assert np.array_equal(cylstm.random.get_rng_state(), before[0])
    assert torch.equal(torch.get_rng_state(), before[1])


def as_tensors(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else tuple(map(as_tensors, value))


def test_from_torch_copies():
    theirs = torch.nn.LSTM(3, 4)
    ours = cylstm.LSTM.from_torch(theirs, backend="numpy")
    assert ours.backend == "numpy"
    before = ours.weight_ih_l0.copy()
    with torch.no_grad():
        theirs.weight_ih_l0.zero_()
    assert np.array_equal(ours.weight_ih_l0, before)
    back = ours.to_torch()
    with torch.no_grad():
        back.weight_ih_l0.zero_()
    assert np.array_equal(ours.weight_ih_l0, before)


def test_from_torch_refuses_other_modules():
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.LSTM, got Linear"):
        cylstm.LSTM.from_torch(torch.nn.Linear(3, 4))
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.LSTM, LSTMCell or Linear, got GRU"):
        cylstm.torch.from_torch(torch.nn.GRU(3, 4))
    with pytest.raises(TypeError, match="backend must be None for a Linear"):
        cylstm.Linear.from_torch(torch.nn.Linear(3, 4), backend="numpy")
    with pytest.raises(TypeError, match=r"module must be a cylstm\.LSTM, LSTMCell or Linear, got LSTM"):
        cylstm.torch.to_torch(torch.nn.LSTM(3, 4))
    with pytest.raises(RuntimeError, match="float8"):
        cylstm.Linear.from_torch(torch.nn.Linear(3, 4).to(torch.float8_e5m2))


# Weights that hooks compute -------------------------------------------------------------------------------------------

KINDS = {
    "LSTM": (lambda: torch.nn.LSTM(3, 4, 2, bidirectional=True), "weight_hh_l1_reverse"),
    "LSTMCell": (lambda: torch.nn.LSTMCell(3, 4), "weight_ih"),
    "Linear": (lambda: torch.nn.Linear(3, 4), "weight"),
    "drop-in": (lambda: cylstm.torch.LSTM(3, 4), "weight_hh_l0"),
}


def pruned_twice(module: torch.nn.Module, name: str) -> None:
    prune.random_unstructured(module, name, 0.5)
    prune.l1_unstructured(module, name, 0.2)


def pruned_and_normed(module: torch.nn.Module, name: str) -> None:
    prune.l1_unstructured(module, "bias" + name.removeprefix("weight"), 0.5)
    torch.nn.utils.weight_norm(module, name)


HOOKS = {
    "weight_norm": torch.nn.utils.weight_norm,
    "spectral_norm": torch.nn.utils.spectral_norm,
    "prune": lambda module, name: prune.l1_unstructured(module, name, 0.5),
    "pruned twice": pruned_twice,
    "pruned and normed": pruned_and_normed,
    "parametrised spectral_norm": parametrizations.spectral_norm,
}


def hooked(kind: str, hook: str, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    make, name = KINDS[kind]
    module = make()
    HOOKS[hook](module, name)
    return module


def loaded(module: torch.nn.Module, other: torch.nn.Module) -> None:
    module.load_state_dict(other.state_dict())


def stepped(module: torch.nn.Module, other: torch.nn.Module) -> None:
    next(leaves_of(module(torch.ones(2, 3)))).square().sum().backward()
    torch.optim.SGD(module.parameters(), lr=1.0).step()


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("change", [loaded, stepped])
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("kind", KINDS)
def test_from_torch_takes_what_the_next_call_would_compute(kind, hook, change, training):
    module = hooked(kind, hook).train(training)
    change(module, hooked(kind, hook, seed=1))
    state = {name: value.clone() for name, value in module.state_dict().items()}
    attributes = {name: value for name, value in vars(module).items() if isinstance(value, torch.Tensor)}
    x = torch.randn(5, 3)
    ours = cylstm.torch.from_torch(module)
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert all(vars(module)[name] is value for name, value in attributes.items())
    if hook == "parametrised spectral_norm":
        module.eval()  # in training mode PyTorch iterates at each look at the weight, and its LSTM looks twice
        ours = cylstm.torch.from_torch(module)
    assert all(map(close, leaves_of(as_tensors(ours(x))), leaves_of(module(x))))


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
def test_from_torch_of_a_hooked_module_leaves_its_gradients():
    module = hooked("Linear", "weight_norm")
    cylstm.torch.from_torch(module)
    module.weight.sum().backward()
    assert module.weight_g.grad is not None
    module(torch.ones(2, 3)).sum().backward()


def test_weights_of_unknown_hooks_are_refused():
    module = torch.nn.LSTM(3, 4)
    weight = torch.nn.Parameter(module.weight_hh_l0.detach())
    del module.weight_hh_l0
    module.weight_hh_l0 = weight * 2
    assert np.array_equal(cylstm.torch.from_torch(module).weight_hh_l0, 2 * weight.detach().numpy())
    module.register_forward_pre_hook(lambda module, args: setattr(module, "weight_hh_l0", weight * 3))
    with pytest.raises(RuntimeError, match=r"weight_hh_l0 must be a parameter, got a tensor that a forward_pre_hook"):
        cylstm.torch.from_torch(module)
    plain = torch.nn.LSTM(3, 4)
    plain.register_forward_pre_hook(lambda module, args: None)  # a hook that looks on
    cylstm.torch.from_torch(plain)


class Shifted(torch.nn.Linear):
    """A subclass whose forward is its own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) + 1


def test_a_forward_of_its_own_is_refused():
    with pytest.raises(TypeError, match=r"forward of torch\.nn\.Linear, got a Shifted with a forward of its own"):
        cylstm.torch.from_torch(Shifted(3, 4))
    patched = torch.nn.LSTMCell(3, 4)
    patched.forward = lambda input: input
    with pytest.raises(TypeError, match="forward of its own"):
        cylstm.LSTMCell.from_torch(patched)
    kept = type("Kept", (torch.nn.LSTM,), {})(3, 4)
    assert repr(cylstm.torch.from_torch(kept)) == "LSTM(3, 4)"


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_modules_without_data_are_refused():
    with pytest.raises(RuntimeError, match="weight must hold data, got a parameter that is not initialised yet"):
        cylstm.torch.from_torch(torch.nn.LazyLinear(3))
    with pytest.raises(RuntimeError, match="weight_ih_l0 must hold data, got a parameter on the meta device"):
        cylstm.torch.from_torch(torch.nn.LSTM(3, 4, device="meta"))
