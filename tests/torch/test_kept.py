"""What the drop-in modules keep: no more than the backward pass needs, and weights prepared once per version."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from torch.nn.utils import parametrizations
from torch_modules import Counting, close

import cylstm
import cylstm.torch
from cylstm.torch import operator

torch.set_num_threads(1)

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning"),
    # PyTorch compiles, pickles and traces with functions of its own and of Python that it deprecates
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:torch"),
]

# What is kept ---------------------------------------------------------------------------------------------------------


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


def test_modules_that_share_a_weight_get_their_own_results(backend):
    """While one module stores what it has prepared, another thread may store its own in the same place."""
    first, second = (cylstm.torch.LSTM(2, 3, backend=backend) for _ in range(2))
    second.weight_ih_l0 = first.weight_ih_l0
    x = torch.randn(4, 2)

    class Overtaken(dict):
        """The place where `first` stores; `second` comes right after."""

        def __setitem__(self, key: object, value: object) -> None:
            super().__setitem__(key, value)
            if not overtaken:
                overtaken.append(second(x))

    overtaken: list[object] = []
    operator._prepared[first.weight_ih_l0.untyped_storage()] = Overtaken()
    for module in (first, second):
        plain = torch.nn.LSTM(2, 3)
        plain.load_state_dict(module.state_dict())
        assert close(module(x)[0], plain(x)[0])
    assert overtaken


def test_modules_whose_weights_lie_in_one_memory_stay_prepared():
    counting = Counting()
    modules = [cylstm.torch.LSTM(2, 3, backend=counting) for _ in range(3)]
    parameters = [parameter for module in modules for parameter in module.parameters()]
    vector = torch.nn.utils.parameters_to_vector(parameters).detach()
    torch.nn.utils.vector_to_parameters(vector, parameters)  # views of one memory
    for _ in range(4):
        for module in modules:
            module(torch.randn(4, 2))
    assert counting.prepared == 3
