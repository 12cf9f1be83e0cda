"""cylstm.torch: the drop-in modules do what torch.nn.LSTM and LSTMCell do, with every tool of PyTorch around them."""

from __future__ import annotations

import copy
import datetime
import gc
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import random_cases
import torch
from available import names, pairs
from torch.nn.utils import parametrizations, parametrize, rnn
from torch.testing._internal.common_modules import module_db

import cylstm
import cylstm.torch
from cylstm.backends.numpy_backend import NumpyBackend
from cylstm.torch import operator

torch.set_num_threads(1)

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning"),
    # PyTorch compiles, pickles and traces with functions of its own and of Python that it deprecates
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:torch"),
]

KINDS = {"LSTM": (torch.nn.LSTM, cylstm.torch.LSTM), "LSTMCell": (torch.nn.LSTMCell, cylstm.torch.LSTMCell)}


def both(*args: Any, kind: str = "LSTM", seed: int = 0, backend: str | None = None, **kwargs: Any) -> list[Any]:
    """PyTorch's module and the drop-in from the same seed."""
    theirs, ours = KINDS[kind]
    torch.manual_seed(seed)
    first = theirs(*args, **kwargs)
    torch.manual_seed(seed)
    return [first, ours(*args, backend=backend, **kwargs)]


def close(actual: torch.Tensor, expected: torch.Tensor, factor: float = 100) -> bool:
    """Equal but for roundings, on the scale of the largest element."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    if not expected.numel():
        return True
    scale = max(1.0, float(expected.detach().abs().max()))
    return float((actual - expected).detach().abs().max()) <= factor * torch.finfo(expected.dtype).eps * scale


def flat(result: Any) -> list[torch.Tensor]:
    output, state = result
    return [output.data, *state] if isinstance(output, rnn.PackedSequence) else [output, *state]


def gradients(module: torch.nn.Module, run: Callable[[torch.nn.Module], list[torch.Tensor]]) -> list[Any]:
    """Of the parameters, for random gradients of the results, always the same."""
    results = run(module)
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(r.shape, generator=generator, dtype=torch.float64).to(r.dtype) for r in results]
    return list(torch.autograd.grad(results, list(module.parameters()), grads))


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


def leaves_of(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from leaves_of(part)


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


# Checks of autograd and of the operators ------------------------------------------------------------------------------

OPTIONS = [
    {},
    {"num_layers": 2, "bidirectional": True},
    {"bias": False, "batch_first": True},
    {"proj_size": 2, "num_layers": 2, "bidirectional": True},
    {"num_layers": 3, "dropout": 0.4},
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradcheck(options, packed, backend):
    module = cylstm.torch.LSTM(2, 3, **options, dtype=torch.float64, backend=backend)
    D, L = 2 if module.bidirectional else 1, module.num_layers
    x = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    h, c = (torch.randn(L * D, x.shape[0 if module.batch_first else 1], s, dtype=torch.float64, requires_grad=True)
            for s in (module.proj_size or 3, 3))  # fmt: skip

    def run(x: torch.Tensor, h: torch.Tensor, c: torch.Tensor, *parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(0)  # the same dropout at each call
        value: Any = x
        if packed:
            lengths = [1, 3, 2] if not module.batch_first else [1, 2]
            first = x if not module.batch_first else x.transpose(0, 1).transpose(0, 1)
            steps = first.shape[1 if module.batch_first else 0]
            value = rnn.pack_padded_sequence(
                first, torch.tensor([min(n, steps) for n in lengths]), module.batch_first, enforce_sorted=False
            )
        named = dict(zip(dict(module.named_parameters()), parameters, strict=True))
        return tuple(flat(torch.func.functional_call(module, named, (value, (h, c)))))

    assert torch.autograd.gradcheck(run, (x, h, c, *module.parameters()), fast_mode=True)
    if not options:
        assert torch.autograd.gradcheck(run, (x, h, c, *module.parameters()))


def operator_arguments(form: str) -> tuple[operator.Arguments, operator.Options]:
    D, L, B = (2, 2, 3) if form != "unbatched" else (1, 1, 1)
    module = cylstm.torch.LSTM(2, 3, L, bidirectional=D == 2, dtype=torch.float64)
    x = torch.randn(4, B, 2, dtype=torch.float64)
    if form == "unbatched":
        x = x[:, 0]
    h = torch.randn(L * D, B, 3, dtype=torch.float64, requires_grad=True)
    indices: tuple[Any, ...] = (None, None, None)
    if form == "packed":
        x, *indices = rnn.pack_padded_sequence(x, torch.tensor([2, 4, 1]), enforce_sorted=False)
    states = (None, None) if form == "unbatched" else (h, h.detach().clone().requires_grad_())
    masks = [torch.rand(x.shape[:-1].numel(), 6, dtype=torch.float64)] if form in ("batch_first", "packed") else []
    weights = [weight.requires_grad_() for weight in module.parameters()]
    arguments = operator.Arguments(x.requires_grad_(), *indices, *states, weights, masks)
    if form == "batch_first":
        arguments = arguments._replace(input=x.detach().transpose(0, 1).contiguous().requires_grad_())
    return arguments, operator.Options(L, True, form == "batch_first", D == 2, 0, None)


FORMS = ["batched", "batch_first", "unbatched", "packed"]


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_opcheck_forward(form, keep):
    arguments, options = operator_arguments(form)
    torch.library.opcheck(operator.lstm, (*arguments, *options, keep))


@pytest.mark.parametrize("form", FORMS)
def test_opcheck_backward(form):
    arguments, options = operator_arguments(form)
    *results, workspace = (t.detach() for t in operator.lstm(*arguments, *options, True))
    grads = [torch.randn_like(result) for result in results]
    plain = [[t.detach() for t in a] if isinstance(a, list) else a if a is None else a.detach() for a in arguments]
    torch.library.opcheck(operator.lstm_backward, (*grads, workspace, *plain, *options))
    torch.library.opcheck(operator.lstm_backward, (grads[0], None, None, workspace, *plain, *options))


def test_second_derivatives_are_refused():
    module = cylstm.torch.LSTM(2, 3)
    x = torch.randn(4, 1, 2, requires_grad=True)
    (grad,) = torch.autograd.grad(module(x)[0].sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"no second derivatives.*restore\(model\)"):
        grad.sum().backward()


def test_forward_mode_is_refused():
    module = cylstm.torch.LSTM(2, 3)
    with pytest.raises(NotImplementedError, match=r"no forward-mode derivatives.*restore\(model\)"):
        torch.func.jvp(lambda x: module(x)[0], (torch.randn(4, 2),), (torch.randn(4, 2),))
    with torch.autograd.forward_ad.dual_level():
        weight = torch.autograd.forward_ad.make_dual(module.weight_hh_l0.detach(), torch.ones(12, 3))
        with pytest.raises(NotImplementedError, match="no forward-mode derivatives"):
            torch.func.functional_call(module, {"weight_hh_l0": weight}, (torch.randn(4, 2),))


@pytest.mark.parametrize("transform", [torch.func.vmap, torch.func.grad])
def test_function_transforms_are_refused(transform):
    module = cylstm.torch.LSTM(2, 3)
    with pytest.raises(RuntimeError):
        transform(lambda x: module(x)[0].sum())(torch.randn(4, 1, 2))


def test_changing_a_tensor_between_forward_and_backward_is_refused():
    module = cylstm.torch.LSTM(2, 3)
    x = torch.randn(4, 1, 2)
    for changed in (x, module.weight_hh_l0):
        y = module(x)[0].sum()
        with torch.no_grad():
            changed.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.backward()


# What is kept ---------------------------------------------------------------------------------------------------------


class Counting(NumpyBackend):
    """Counts what it prepares, and how often it keeps something."""

    name = "counting"

    def __init__(self) -> None:
        self.prepared = 0
        self.kept = 0

    def prepare(self, layer_parameters: Any) -> Any:
        self.prepared += 1
        return super().prepare(layer_parameters)

    def forward(self, prepared: Any, **kwargs: Any) -> Any:
        self.kept += kwargs["keep"] != "nothing"
        return super().forward(prepared, **kwargs)


def test_nothing_is_kept_where_there_is_no_backward_pass():
    counting = Counting()
    module = cylstm.torch.LSTM(2, 3, backend=counting)
    before = len(operator._workspaces)
    with torch.no_grad():
        module(torch.randn(4, 2))
    with torch.inference_mode():
        assert module(torch.randn(4, 2))[0].is_inference()
    module.requires_grad_(False)
    assert not module(torch.randn(4, 2))[0].requires_grad
    assert (counting.kept, len(operator._workspaces)) == (0, before)
    y = module(torch.randn(4, 2, requires_grad=True))[0]
    assert (counting.kept, len(operator._workspaces)) == (1, before + 1)
    y.sum().backward()
    assert len(operator._workspaces) == before
    y = module(torch.randn(4, 2, requires_grad=True))
    assert len(operator._workspaces) == before + 1
    del y
    assert len(operator._workspaces) == before


def test_weights_are_prepared_once_per_version():
    counting = Counting()
    module = cylstm.torch.LSTM(2, 3, num_layers=2, backend=counting)
    x = torch.randn(4, 2)
    for _ in range(3):
        module(x)[0].sum().backward()
    assert counting.prepared == 2
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    module(x)
    module(x)
    assert counting.prepared == 4


def through_optimiser(module: torch.nn.Module) -> None:
    module(torch.ones(1, 2))[0].sum().backward()
    torch.optim.SGD(module.parameters(), lr=0.5).step()


def through_data(module: torch.nn.Module) -> None:
    module.weight_ih_l0.data.mul_(0.9).add_(0.1)  # as averages and target networks are updated: no version counts it


def through_numpy(module: torch.nn.Module) -> None:
    module.bias_hh_l0.detach().numpy()[4] += 1


def through_new_data(module: torch.nn.Module) -> None:
    module.weight_hh_l0.data = module.weight_hh_l0.data * 2


def through_a_new_parameter(module: torch.nn.Module) -> None:
    module.weight_hh_l0 = torch.nn.Parameter(module.weight_hh_l0.detach() * 2)


def through_inference_mode(module: torch.nn.Module) -> None:
    with torch.inference_mode():
        module.weight_ih_l0.mul_(2)


def through_a_sign(module: torch.nn.Module) -> None:
    module.weight_ih_l0.data.neg_()


CHANGES = [
    through_data,
    through_numpy,
    through_new_data,
    through_a_new_parameter,
    through_inference_mode,
    through_a_sign,
    through_optimiser,
]


@pytest.mark.parametrize(
    ("change", "inference"),
    [(change, inference) for change in CHANGES for inference in (False, True)][:-1],  # no gradients in inference mode
    ids=lambda value: getattr(value, "__name__", value),
)
def test_every_change_of_the_weights_is_seen(change, inference, backend):
    with torch.inference_mode(inference):
        module = cylstm.torch.LSTM(2, 3, backend=backend)
        x = torch.randn(4, 2)
        before = module(x)[0]
        change(module)
        plain = torch.nn.LSTM(2, 3)
        plain.load_state_dict(module.state_dict())
        assert not torch.equal(module(x)[0], before)
        assert close(module(x)[0], plain(x)[0])


def test_prepared_weights_go_with_the_weights():
    gc.collect()
    before = len(operator._prepared)
    module = parametrizations.weight_norm(cylstm.torch.LSTM(2, 3), "weight_ih_l0")
    for _ in range(5):
        module(torch.randn(4, 2))[0].sum().backward()
        parameters = {name: value.detach().clone() for name, value in module.named_parameters()}
        torch.func.functional_call(module, parameters, (torch.randn(4, 2),))
    del module, parameters
    gc.collect()
    assert len(operator._prepared) == before


@pytest.mark.parametrize("form", ["checkpoint", "save_on_cpu"])
def test_saved_tensors_may_be_others(form, backend):
    module = cylstm.torch.LSTM(2, 3, 2, dropout=0.5, bidirectional=True, backend=backend)
    x = torch.randn(4, 2, 2, requires_grad=True)

    def gradient(run: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        torch.manual_seed(3)
        return torch.autograd.grad(run(x).sum(), x)[0]

    expected = gradient(lambda x: module(x)[0])
    if form == "checkpoint":
        checkpoint = torch.utils.checkpoint.checkpoint
        actual = gradient(lambda x: checkpoint(lambda x: module(x)[0], x, use_reentrant=False))
    else:
        with torch.autograd.graph.save_on_cpu():
            actual = gradient(lambda x: module(x)[0])
    assert torch.equal(actual, expected)


# PyTorch's tools around the module ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_copies_and_files(kind, tmp_path):
    module = KINDS[kind][1](2, 3, backend="numpy").eval()
    x = torch.randn(4, 2)
    expected = list(leaves_of(module(x)))
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    loaded = KINDS[kind][0](2, 3)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    assert all(map(close, leaves_of(loaded(x)), expected))
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), copy.deepcopy(module).double().float()):
        assert (type(copied), copied.backend, copied.training) == (type(module), "numpy", False)
        assert all(map(torch.equal, leaves_of(copied(x)), expected))
        with torch.no_grad():
            next(copied.parameters()).add_(1)
        assert not torch.equal(next(leaves_of(copied(x))), expected[0])
    assert all(map(torch.equal, leaves_of(module(x)), expected))


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrizations(wrap):
    theirs, ours = both(3, 4, 2)
    x = torch.randn(5, 2, 3)
    for module in (theirs, ours):
        torch.manual_seed(0)
        wrap(module, "weight_hh_l1")
        module.eval()  # spectral_norm iterates at each look at the weight in training mode, and PyTorch looks twice
    assert close(ours(x)[0], theirs(x)[0])
    for actual, expected in zip(*(gradients(m, lambda m: flat(m(x))) for m in (ours, theirs)), strict=True):
        assert close(actual, expected)
    assert torch.equal(copy.deepcopy(ours)(x)[0], ours(x)[0])
    with parametrize.cached():
        assert close(ours(x)[0], theirs(x)[0])
    parametrize.remove_parametrizations(ours, "weight_hh_l1")
    assert close(ours(x)[0], theirs(x)[0])


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
def test_weight_norm_by_hooks():
    theirs, ours = (torch.nn.utils.weight_norm(module, "weight_hh_l0") for module in both(3, 4))
    x = torch.randn(5, 2, 3)
    for _ in range(2):
        for module in (theirs, ours):
            module(x)[0].square().sum().backward()
            with torch.no_grad():
                module.weight_hh_l0_g.sub_(0.1)
        assert close(ours.weight_hh_l0_v.grad, theirs.weight_hh_l0_v.grad)


def test_functional_call():
    theirs, ours = both(3, 4, bidirectional=True)
    x = torch.randn(5, 2, 3)
    before = ours(x)[0]
    doubled = {name: (2 * value.detach()).requires_grad_() for name, value in theirs.named_parameters()}
    results = [torch.func.functional_call(module, doubled, (x,))[0] for module in (ours, theirs)]
    assert close(*results)
    grads = [torch.autograd.grad(result.sum(), list(doubled.values())) for result in results]
    assert all(map(close, *grads))
    assert torch.equal(ours(x)[0], before)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("allow_rnn", [False, True])
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_compile(compiler, allow_rnn):
    """By default the compiler leaves recurrent modules to eager execution. Allowed to, it traces the whole."""
    torch._dynamo.reset()
    theirs, ours = both(3, 4, 2, bidirectional=True, batch_first=True)

    def gradient(module: torch.nn.Module, compiled: bool) -> list[torch.Tensor]:
        def loss(x: torch.Tensor) -> torch.Tensor:
            output, (h_n, _) = module(x * 2)
            return (output * 3).sin().sum() + h_n.exp().sum()

        x = torch.linspace(-1, 1, 30).reshape(2, 5, 3).requires_grad_()
        run = torch.compile(loss, backend=compiler, fullgraph=allow_rnn) if compiled else loss
        return list(torch.autograd.grad(run(x), [x, *module.parameters()]))

    with torch._dynamo.config.patch(allow_rnn=allow_rnn):
        for actual, expected in zip(gradient(ours, True), gradient(theirs, False), strict=True):
            assert close(actual, expected)


def test_compile_a_loop_over_a_cell():
    torch._dynamo.reset()
    theirs, ours = both(3, 4, kind="LSTMCell")
    x = torch.randn(3, 2, 3)

    def loop(cell: torch.nn.Module) -> torch.Tensor:
        state = None
        for x_t in x:
            state = cell(x_t, state)
        return state[0].sum()

    compiled = torch.compile(loop, backend="aot_eager", fullgraph=True)
    assert close(compiled(ours), loop(theirs))
    assert all(map(close, torch.autograd.grad(compiled(ours), list(ours.parameters())), gradients_of_sum(loop, theirs)))


def gradients_of_sum(
    run: Callable[[torch.nn.Module], torch.Tensor], module: torch.nn.Module
) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(run(module), list(module.parameters()))


def test_autocast_leaves_it_in_the_dtype_of_its_parameters():
    module = cylstm.torch.LSTM(3, 4)
    x = torch.randn(5, 2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = torch.nn.Linear(3, 3)(x)
        assert low.dtype == torch.bfloat16
        output, _ = module(low)
        assert output.dtype == torch.float32
    assert torch.equal(output, module(low.float())[0])


def test_meta_device_gives_shapes():
    module = cylstm.torch.LSTM(3, 4, proj_size=2, device="meta")
    output, (h_n, c_n) = module(torch.empty(5, 2, 3, device="meta"))
    assert (output.shape, h_n.shape, c_n.shape) == ((5, 2, 2), (1, 2, 2), (1, 2, 4))


def train_one_of_two(rank: int, folder: str) -> None:
    """One process of two: the gradients of its half of the batch, averaged by DDP."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", f"file://{folder}/meeting", rank=rank, world_size=2, timeout=datetime.timedelta(seconds=60)
    )
    module = torch.nn.parallel.DistributedDataParallel(ddp_module(seed=rank))  # rank 0 sends its weights to the other
    loss = module(ddp_data()[:, 3 * rank : 3 * rank + 3])[0].square().mean()
    loss.backward()
    torch.save([parameter.grad for parameter in module.parameters()], f"{folder}/{rank}.pt")
    del module, loss  # a DDP module that outlives the process group hangs now and then when it ends
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def ddp_module(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return cylstm.torch.LSTM(3, 4, 2, bidirectional=True)


def ddp_data() -> torch.Tensor:
    return torch.linspace(-1, 1, 90).reshape(5, 6, 3).sin()


@pytest.mark.skipif(sys.platform == "win32", reason="the two processes meet on a loopback interface named lo")
def test_distributed_data_parallel(tmp_path):
    command = "import sys, test_torch_bridge as t; t.train_one_of_two(int(sys.argv[1]), sys.argv[2])"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    workers = [
        subprocess.Popen([sys.executable, "-c", command, str(rank), str(tmp_path)], env=env, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    try:
        errors = [worker.communicate(timeout=120)[1].decode() for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], errors
    whole = ddp_module(seed=0)
    whole(ddp_data())[0].square().mean().backward()
    for rank in range(2):
        grads = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for grad, parameter in zip(grads, whole.parameters(), strict=True):
            assert close(grad, parameter.grad)


# Backends and errors --------------------------------------------------------------------------------------------------


def test_selection_of_the_backend():
    module = cylstm.torch.LSTM(2, 3)
    cell = cylstm.torch.LSTMCell(2, 3, backend="cylstm.backends.numpy_backend:NumpyBackend")
    x = torch.randn(4, 2)
    counting = Counting()
    counted = cylstm.torch.LSTM(2, 3, backend=counting)
    counted(x)
    assert counting.prepared == 1
    cell(x)
    with cylstm.use_backend("numpy"):
        by_numpy = module(x)[0]
    by_name = cylstm.torch.LSTM(2, 3, backend="numpy")
    by_name.load_state_dict(module.state_dict())
    assert torch.equal(by_name(x)[0], by_numpy)
    with pytest.raises(cylstm.UnknownBackendError, match="nmpy"):
        cylstm.torch.LSTM(2, 3, backend="nmpy")
    with pytest.raises(TypeError, match="backend must be"):
        cylstm.torch.LSTMCell(2, 3, backend=3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_backend_leaves_the_generator_as_it_is(kind: str) -> None:
    before = torch.get_rng_state()
    with pytest.raises(cylstm.UnknownBackendError, match="nope"):
        KINDS[kind][1](3, 4, backend="nope")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif("cython" not in names(), reason="not built")
@pytest.mark.filterwarnings("ignore:Complex modules are a new feature:UserWarning")
def test_explicit_backend_that_cannot_is_refused():
    with pytest.raises(cylstm.UnsupportedError, match="complex64"):
        cylstm.torch.LSTM(2, 3, dtype=torch.complex64, backend="cython")


def state(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


#: kind, input, hx, what the message says. PyTorch's exception has the same type, unless it leaks another one.
MISTAKES = [
    ("LSTM", state(5, 2, 4), None, "expected 3, got 4"),
    ("LSTM", state(5), None, "2-D"),
    ("LSTM", state(1, 5, 2, 3), None, "3-D"),
    ("LSTM", state(5, 2, 3, dtype=torch.float64), None, r"input has dtype torch.float64.*\.to\(torch.float32\)"),
    ("LSTM", state(0, 2, 3), None, "at least one time step"),
    ("LSTM", state(5, 2, 3), (state(1, 3, 4), state(1, 2, 4)), r"h_0 of shape \(1, 2, 4\)"),
    ("LSTM", state(5, 2, 3), (state(1, 2, 4), state(1, 2, 5)), r"c_0 of shape \(1, 2, 4\)"),
    ("LSTM", state(5, 2, 3), (state(1, 4), state(1, 4)), "batched 3-D input"),
    ("LSTM", state(5, 3), (state(1, 1, 4), state(1, 1, 4)), "unbatched 2-D input"),
    ("LSTM", state(5, 2, 3), (state(1, 2, 4),) * 3, "two tensors"),
    ("LSTMCell", state(2, 4), None, "expected 3, got 4"),
    ("LSTMCell", state(1, 2, 3), None, "1-D"),
    ("LSTMCell", state(2, 3), (state(3, 4), state(2, 4)), r"h_0 must have shape \(2, 4\)"),
    ("LSTMCell", state(2, 3), (state(2, 4), state(2, 5)), r"c_0 must have shape \(2, 4\)"),
    ("LSTMCell", state(2, 3), (state(2, 4), None), "c_0 must be a torch.Tensor, got NoneType"),
    ("LSTMCell", state(2, 3), state(2, 2, 4), "hx must be a tuple of two tensors"),
    ("LSTMCell", state(2, 3, dtype=torch.float64), None, "input has dtype torch.float64"),
]


@pytest.mark.parametrize(("kind", "input", "hx", "message"), MISTAKES)
def test_errors_are_pytorchs(kind, input, hx, message):
    theirs, ours = both(3, 4, kind=kind)
    with pytest.raises((ValueError, TypeError, RuntimeError), match=message) as ours_raised:
        ours(input, hx)
    with pytest.raises(Exception) as theirs_raised:  # noqa: PT011  any, for the types are compared
        theirs(input, hx)
    if theirs_raised.type in (ValueError, TypeError, RuntimeError):
        assert ours_raised.type is theirs_raised.type


@pytest.mark.parametrize(
    "hx", [(state(1, 2, 4),), state(2, 1, 4), (state(1, 2, 4), None)], ids=["one", "tensor", "None"]
)
def test_errors_where_pytorch_leaks_others(hx):
    with pytest.raises((ValueError, TypeError), match=r"hx must be a tuple|c_0 must be a torch.Tensor"):
        cylstm.torch.LSTM(3, 4)(state(5, 2, 3), hx)
    with pytest.raises(TypeError, match=r"input must be a torch.Tensor, got ndarray"):
        cylstm.torch.LSTM(3, 4)(np.zeros((5, 2, 3), np.float32))


def test_states_of_another_dtype_are_refused():
    with pytest.raises(ValueError, match=r"h_0 has dtype torch\.float64"):
        cylstm.torch.LSTM(3, 4)(state(5, 2, 3), (state(1, 2, 4, dtype=torch.float64),) * 2)


def test_packed_input_of_another_size_is_refused():
    packed = rnn.pack_sequence([state(3, 5), state(2, 5)])
    with pytest.raises(RuntimeError, match="expected 3, got 5"):
        cylstm.torch.LSTM(3, 4)(packed)


def test_weights_that_do_not_fit_are_refused():
    module = cylstm.torch.LSTM(3, 4)
    module.weight_hh_l0 = torch.nn.Parameter(state(16, 5))
    with pytest.raises(RuntimeError, match=r"weight_hh_l0 must have shape \(16, 4\).*got shape \(16, 5\)"):
        module(state(5, 2, 3))


def test_dtypes_that_numpy_lacks_are_refused():
    module = cylstm.torch.LSTM(3, 4, dtype=torch.bfloat16)
    with pytest.raises(RuntimeError, match=r"one of float16.*got bfloat16"):
        module(state(5, 2, 3, dtype=torch.bfloat16))


def test_two_devices_are_refused():
    with pytest.raises(RuntimeError, match=r"input lies on meta, the weights on cpu: move one of them"):
        cylstm.torch.LSTM(3, 4)(torch.empty(5, 2, 3, device="meta"))


@pytest.mark.parametrize(
    "kwargs", [{"hidden_size": 0}, {"proj_size": 9}, {"dropout": 2}, {"bias": 1}, {"frobnicate": 1}]
)
def test_constructor_refuses_what_pytorch_refuses(kwargs):
    arguments = {"input_size": 3, "hidden_size": 4, **kwargs}
    with pytest.raises((ValueError, TypeError)) as expected:
        torch.nn.LSTM(**arguments)
    with pytest.raises(expected.type):
        cylstm.torch.LSTM(**arguments)


def test_importing_cylstm_does_not_import_pytorch():
    command = "import sys, cylstm; assert not {m for m in sys.modules if m.split('.')[0] == 'torch'}"
    subprocess.run(
        [sys.executable, "-c", command], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


# Conversions ----------------------------------------------------------------------------------------------------------

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
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.LSTM, got Linear"):
        cylstm.LSTM.from_torch(torch.nn.Linear(3, 4))
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.LSTM, LSTMCell or Linear, got GRU"):
        cylstm.torch.from_torch(torch.nn.GRU(3, 4))
    with pytest.raises(TypeError, match="a Linear has no backend"):
        cylstm.Linear.from_torch(torch.nn.Linear(3, 4), backend="numpy")
    with pytest.raises(TypeError, match=r"expected a cylstm\.LSTM, LSTMCell or Linear, got LSTM"):
        cylstm.torch.to_torch(torch.nn.LSTM(3, 4))
    with pytest.raises(RuntimeError, match="float8"):
        cylstm.Linear.from_torch(torch.nn.Linear(3, 4).to(torch.float8_e5m2))
