"""Autograd goes through the drop-in modules: PyTorch's checks of derivatives and operators."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.utils import rnn
from torch_modules import flat

import cylstm
import cylstm.torch
from cylstm.torch import operator

torch.set_num_threads(1)

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning"),
    # PyTorch compiles, pickles and traces with functions of its own and of Python that it deprecates
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:torch"),
]

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
    with_masks = form in ("batch_first", "packed")
    masks = torch.rand(1, x.shape[:-1].numel(), 6, dtype=torch.float64) if with_masks else None
    weights = [weight.requires_grad_() for weight in module.parameters()]
    arguments = operator.Arguments(x.requires_grad_(), *indices, *states, masks, weights)
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


def test_changing_a_tensor_between_forward_and_backward_is_refused():
    module = cylstm.torch.LSTM(2, 3)
    x = torch.randn(4, 1, 2)
    for changed in (x, module.weight_hh_l0):
        y = module(x)[0].sum()
        with torch.no_grad():
            changed.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.backward()
