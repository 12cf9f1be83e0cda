"""The drop-in modules give the values and gradients of torch.nn.LSTM and LSTMCell, and pass their tests."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import random_cases
import torch
from available import names, pairs
from torch.nn.utils import rnn
from torch.testing._internal.common_modules import module_db
from torch_modules import KINDS, both, close, flat, gradients, leaves_of

import cylstm
import cylstm.torch

torch.set_num_threads(1)

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning"),
    # PyTorch compiles, pickles and traces with functions of its own and of Python that it deprecates
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:torch"),
]

# Values and gradients -------------------------------------------------------------------------------------------------


def run_case(module: torch.nn.Module, case: random_cases.Case) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Results, and the gradients of input, states and parameters."""
    x = random_cases.tensor(case.x).requires_grad_()
    hx = None if case.hx is None else tuple(random_cases.tensor(h).requires_grad_() for h in case.hx)
    value: Any = x
    if case.form in ("packed", "unsorted"):
        lengths, sort = torch.tensor(case.lengths), case.form == "packed"
        value = rnn.pack_padded_sequence(x, lengths, case.options["batch_first"], sort)
    torch.manual_seed(case.seed)
    results = flat(module(value, hx))
    generator = torch.Generator().manual_seed(case.seed)
    chosen = [r for i, r in enumerate(results) if (case.seed + i) % 4]  # some gradients are missing
    grads = [torch.randn(r.shape, generator=generator, dtype=torch.float64).to(r.dtype) for r in chosen]
    leaves = [x, *(hx or ()), *module.parameters()]
    return results, list(torch.autograd.grad(chosen, leaves, grads, allow_unused=True))


@pytest.mark.parametrize(("backend", "dtype"), pairs(["float32", "float64"]))
def test_values_and_gradients_of_random_configurations(backend, dtype):
    for seed in range(60):
        case = random_cases.draw(seed, [dtype])
        theirs, ours = both(**case.options, dtype=getattr(torch, dtype), backend=backend)
        (expected, expected_grads), (results, grads) = run_case(theirs, case), run_case(ours, case)
        for actual, wanted in zip(results, expected, strict=True):
            assert close(actual, wanted), case
            assert actual.stride() == wanted.stride() or case.form != "batched" or 0 in wanted.shape, case
        for actual, wanted in zip(grads, expected_grads, strict=True):
            # PyTorch returns zeros, not None, for a state that a missing gradient leaves unused
            assert close(torch.zeros_like(wanted) if actual is None else actual, wanted, 400), case


@pytest.mark.parametrize("dtype", ["float16", "complex64", "complex128"])
@pytest.mark.filterwarnings("ignore:Complex modules are a new feature:UserWarning")
def test_dtypes_of_the_numpy_backend(dtype):
    theirs, ours = both(3, 4, 2, bidirectional=True, dtype=getattr(torch, dtype), backend="numpy")
    x = 0.3 * torch.randn(5, 2, 3, dtype=getattr(torch, dtype))
    assert close(ours(x)[0], theirs(x)[0])
    for actual, expected in zip(*(gradients(m, lambda m: flat(m(x))) for m in (ours, theirs)), strict=True):
        assert close(actual, expected)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("backend", "dtype"), pairs(["float32", "float64"]))
def test_cell(backend, dtype, bias):
    theirs, ours = both(3, 4, bias, kind="LSTMCell", dtype=getattr(torch, dtype), backend=backend)
    x = torch.randn(2, 6, 3, dtype=getattr(torch, dtype))

    def loop(cell: torch.nn.Module) -> list[torch.Tensor]:
        state = None
        for x_t in x:
            state = cell(x_t, state)
        return [*state, *cell(x[0, 0]), *cell(x[0, 0], (state[0][0], state[1][0]))]

    for actual, expected in zip(loop(ours), loop(theirs), strict=True):
        assert close(actual, expected)
    for actual, expected in zip(gradients(ours, loop), gradients(theirs, loop), strict=True):
        assert close(actual, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_is_pytorchs_class_but_for_who_computes(kind):
    theirs, ours = both(3, 4, kind=kind)
    assert isinstance(ours, type(theirs))
    assert repr(ours) == repr(theirs)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))
    assert all(type(parameter) is torch.nn.Parameter for parameter in ours.parameters())
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())


def test_eval_drops_nothing_and_train_drops_what_pytorch_drops():
    theirs, ours = both(3, 4, 3, dropout=0.5, batch_first=True)
    x = torch.randn(2, 5, 3)
    assert not torch.equal(ours(x)[0], ours(x)[0])
    torch.manual_seed(7)
    expected = theirs(x)[0]
    torch.manual_seed(7)
    assert close(ours(x)[0], expected)
    ours.eval()
    assert torch.equal(ours(x)[0], ours(x)[0])


@pytest.mark.parametrize("backend", names())
def test_strided_and_expanded_tensors(backend):
    theirs, ours = both(3, 4, backend=backend)
    x = torch.randn(2, 3, 10).permute(2, 0, 1)
    state = torch.randn(1, 1, 4).expand(1, 2, 4)
    for m in (theirs, ours):
        m.weight_hh_l0 = torch.nn.Parameter(m.weight_hh_l0.detach().t().contiguous().t())
    for actual, expected in zip(flat(ours(x, (state, state))), flat(theirs(x, (state, state))), strict=True):
        assert close(actual, expected)
    ours(x)[0].sum().backward()  # its gradient is an expanded scalar
    theirs(x)[0].sum().backward()
    assert close(ours.weight_hh_l0.grad, theirs.weight_hh_l0.grad)


def test_backward_twice_gives_the_same_bits(backend):
    ours = cylstm.torch.LSTM(3, 4, 2, backend=backend)
    y = ours(torch.randn(5, 2, 3))[0].sum()
    first = torch.autograd.grad(y, list(ours.parameters()), retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(y, list(ours.parameters()))))


# PyTorch's own module tests -------------------------------------------------------------------------------------------

MODULE_INFO = {
    kind: next(info for info in module_db if info.module_cls is theirs) for kind, (theirs, _) in KINDS.items()
}


def module_inputs(kind: str, training: bool) -> list[Any]:
    info = MODULE_INFO[kind]
    return info.module_inputs_func(info, device="cpu", dtype=torch.float64, requires_grad=True, training=training)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_common_modules(kind, training, backend):
    """What test_modules.py of PyTorch does with these inputs: forward, reference, pickle, repr, gradients, strides."""
    cases = module_inputs(kind, training)
    assert len(cases) >= (2 if kind == "LSTMCell" else 32)
    for case in cases:
        kwargs = {**case.constructor_input.kwargs, "dtype": torch.float64, "backend": backend}
        module = KINDS[kind][1](*case.constructor_input.args, **kwargs).train(training)
        args, kwargs = case.forward_input.args, case.forward_input.kwargs
        result = module(*args, **kwargs)
        assert repr(module) == str(module)
        copied = pickle.loads(pickle.dumps(module))
        assert all(map(torch.equal, leaves_of(copied(*args, **kwargs)), leaves_of(result)))
        if case.reference_fn is not None:
            expected = case.reference_fn(module, *args, **kwargs)
            assert all(map(close, leaves_of(result), leaves_of(expected)))
        inputs = [leaf for leaf in leaves_of(args) if leaf.is_floating_point()]
        assert torch.autograd.gradcheck(lambda *_, m=module, a=args: tuple(leaves_of(m(*a))), inputs, fast_mode=True)
        strided = [torch.stack([leaf.detach(), leaf.detach()], -1)[..., 0] for leaf in inputs]
        if len(strided) == 1 and isinstance(args[0], torch.Tensor):
            assert all(map(torch.equal, leaves_of(module(strided[0])), leaves_of(result)))


@pytest.mark.parametrize("kind", KINDS)
def test_common_modules_errors(kind):
    info = MODULE_INFO[kind]
    theirs = KINDS[kind][0]
    found = info.module_error_inputs_func(info, device="cpu", dtype=torch.float64, requires_grad=False, training=True)
    for error in found:
        case = error.module_error_input
        args, kwargs = case.constructor_input.args, case.constructor_input.kwargs
        if args and args[0] in ("LSTM", "RNN", "GRU"):
            args = args[1:]
        try:  # PyTorch shares these cases among its recurrent modules
            module = KINDS[kind][1](*args, **{**kwargs, "dtype": torch.float64})
        except Exception as raised:
            with pytest.raises(type(raised)):
                theirs(*args, **kwargs)
            continue
        with pytest.raises(error.error_type):
            module(*case.forward_input.args, **case.forward_input.kwargs)
