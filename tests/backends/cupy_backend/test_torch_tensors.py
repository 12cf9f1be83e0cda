"""`cylstm.torch` with tensors on a GPU, without one: tensors of the CPU stand for them.

Only the conversions of tensors are others, so that the arrays that are computed with are those of a device, whose
transfers are counted. That CuPy and PyTorch take each other's memory is left to a GPU (``tools/gpu_first_minute.py``).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cuda_host import HostBackend, HostSystem, needs_compiler
from device_array import DeviceArray, here
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.rnn import pack_padded_sequence

import cylstm.torch
from cylstm.arrays.arguments import as_array
from cylstm.backends import registry
from cylstm.torch import modules, operator, tensors

pytestmark = [pytest.mark.names_backend("cupy"), needs_compiler]

TIERS = pytest.mark.parametrize("tier", ["array", "steps"])


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """All tensors are on a GPU."""

    @contextmanager
    def in_stream_of_torch(tensor: torch.Tensor) -> Iterator[None]:
        before, here.stream = here.stream, "torch's"
        try:
            yield
        finally:
            here.stream = before

    for module in (tensors, operator, modules):
        monkeypatch.setattr(module, "on_gpu", lambda tensor: True)
    monkeypatch.setattr(operator, "device_of", lambda tensor: "cuda:0")
    monkeypatch.setattr(tensors, "_on_its_device", in_stream_of_torch)
    monkeypatch.setattr(tensors, "_array_on_gpu", lambda tensor, name: DeviceArray(tensor.detach().numpy()))
    monkeypatch.setattr(tensors, "_tensor_on_gpu", lambda array: torch.from_numpy(array._array))


def transfers() -> tuple[int, int]:
    return here.to_host, here.to_device


def both(theirs: torch.nn.Module, tier: str, **options: Any) -> tuple[torch.nn.Module, torch.nn.Module, HostSystem]:
    """The module of PyTorch, and the drop-in with its parameters."""
    system = HostSystem()
    kind = cylstm.torch.LSTM if isinstance(theirs, torch.nn.LSTM) else cylstm.torch.LSTMCell
    ours = kind(4, 5, backend=HostBackend(tier=tier, system=system), **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours, system


def close(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@TIERS
@pytest.mark.parametrize("form", ["time first", "batch first", "unbatched", "packed", "states", "projection"])
def test_forward_and_backward_stay_on_the_device(form: str, tier: str, on_gpu: None) -> None:
    """Output, states and all gradients, with nothing on the CPU in between but what the first calls bring up."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "batch_first": form == "batch first"}
    options |= {"proj_size": 3} if form == "projection" else {}
    theirs, ours, system = both(torch.nn.LSTM(4, 5, **options), tier, **options)
    x = torch.randn((7, 4) if form == "unbatched" else (7, 3, 4))
    hx = (torch.randn(4, 3, 5), torch.randn(4, 3, 5)) if form == "states" else None
    counts = []
    for _ in range(3):
        results = []
        for module in (theirs, ours):
            module.zero_grad()
            given = x.clone().requires_grad_()
            state = None if hx is None else tuple(h.clone().requires_grad_() for h in hx)
            value = pack_padded_sequence(given, [4, 7, 2], enforce_sorted=False) if form == "packed" else given
            before = transfers()
            output, (h_n, c_n) = module(value, state)
            rows = output.data if form == "packed" else output
            ((rows**2).sum() + h_n.sum() + (c_n * 0.5).sum()).backward()
            counts.append(tuple(b - a for a, b in zip(before, transfers(), strict=True)))
            of_states = [] if state is None else [h.grad for h in state]
            results.append([rows, h_n, c_n, given.grad, *of_states, *(p.grad for p in module.parameters())])
        close(results[1], results[0])
    assert counts[-1] == counts[-3] == (0, 0)
    assert here.stream == 0
    assert not system.device(0).waits  # all in one stream


@TIERS
def test_training_with_an_optimiser_of_pytorch(tier: str, on_gpu: None) -> None:
    """Changes are seen, those too that no version counts; dropout masks of a seed are PyTorch's."""
    torch.manual_seed(0)
    options = {"num_layers": 2, "dropout": 0.5}
    theirs, ours, system = both(torch.nn.LSTM(4, 5, **options), tier, **options)
    optimizers = [torch.optim.SGD(module.parameters(), lr=0.1) for module in (theirs, ours)]
    x = torch.randn(20, 3, 4)
    for step in range(4):
        for module, optimizer in zip((theirs, ours), optimizers, strict=True):
            torch.manual_seed(step)
            optimizer.zero_grad()
            before = transfers()
            module(x)[0].square().sum().backward()
            assert step < 1 or transfers() == before
            optimizer.step()
            with torch.no_grad():
                module.weight_hh_l1.data.mul_(0.9)
        close(list(ours.parameters()), list(theirs.parameters()))
    if tier == "steps":
        assert len(system.device(0).recordings) == 2
        assert system.device(0).replays > 20


@TIERS
@pytest.mark.parametrize("batch", [(3,), ()], ids=["batch", "unbatched"])
def test_the_cell(batch: tuple[int, ...], tier: str, on_gpu: None) -> None:
    theirs, ours, _ = both(torch.nn.LSTMCell(4, 5), tier)
    x, hx = torch.randn(*batch, 4), (torch.randn(*batch, 5), torch.randn(*batch, 5))
    results = []
    for module in (theirs, ours):
        given = x.clone().requires_grad_()
        before = transfers()[0]
        h, c = module(given, module(given, hx))
        (h.sum() + c.sum()).backward()
        assert transfers()[0] == before
        results.append([h, c, given.grad, *(p.grad for p in module.parameters())])
    close(results[1], results[0])


def test_gradients_that_are_missing_or_zero_without_memory(on_gpu: None) -> None:
    theirs, ours, _ = both(torch.nn.LSTM(4, 5), "array")
    x = torch.randn(7, 3, 4)
    for grads in ((torch.ones(7, 3, 5), None), (None, torch.ones(1, 3, 5))):
        results = []
        for module in (theirs, ours):
            given = x.clone().requires_grad_()
            output, (h_n, _) = module(given)
            chosen = [(out, grad) for out, grad in zip((output, h_n), grads, strict=True) if grad is not None]
            results.append(torch.autograd.grad([out for out, _ in chosen], given, [grad for _, grad in chosen]))
        close(results[1], results[0])


def test_backends_of_the_cpu_refuse_tensors_of_a_gpu(on_gpu: None) -> None:
    """They would have to copy them."""
    for module in (cylstm.torch.LSTM(4, 5, backend="numpy"), cylstm.torch.LSTMCell(4, 5, backend="cython")):
        with pytest.raises(cylstm.UnsupportedError, match="cannot compute on device 'cuda:0'"):
            module(torch.randn(7, 4) if isinstance(module, torch.nn.LSTM) else torch.randn(4))


def test_the_backend_of_tensors_on_a_gpu_is_cupy(on_gpu: None, new_registry: None) -> None:
    registry._state.by_name["cupy"] = HostBackend(tier="array")
    theirs, ours, _ = both(torch.nn.LSTM(4, 5), "array")
    ours.backend = None
    x = torch.randn(7, 3, 4)
    close(ours(x)[0], theirs(x)[0])


def test_shapes_and_devices_are_known_without_a_gpu() -> None:
    """As compilers ask: results lie where the input does, what stands for Python's objects on the CPU."""
    shapes = [tuple(p.shape) for p in torch.nn.LSTM(4, 5, num_layers=2, bidirectional=True).parameters()]
    with FakeTensorMode():
        weights = [torch.empty(shape, device="cuda") for shape in shapes]
        arguments = operator.Arguments(torch.empty(7, 3, 4, device="cuda"), *[None] * 6, weights)
        options = operator.Options(2, True, False, True, 0, None)
        *results, workspace = operator.lstm(*arguments, *options, True)
        *grads, of_weights = operator.lstm_backward(results[0], None, None, workspace, *arguments, *options)
    assert [tuple(each.shape) for each in results] == [(7, 3, 10), (4, 3, 5), (4, 3, 5)]
    assert [tuple(each.shape) for each in grads] == [(7, 3, 4), (4, 3, 5), (4, 3, 5)]
    assert [tuple(each.shape) for each in of_weights] == shapes
    assert {each.device.type for each in (*results, *grads, *of_weights)} == {"cuda"}
    assert (workspace.device.type, tuple(workspace.shape)) == ("cpu", (1,))


def test_which_way_arrays_of_a_gpu_come_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """By DLPack where there is it, which knows bfloat16 and streams; PyTorch's lazy conjugation is done before."""
    taken: list[tuple[str, Any]] = []
    fake = SimpleNamespace(
        from_dlpack=lambda value: taken.append(("dlpack", value)), asarray=lambda value: taken.append(("cai", value))
    )
    monkeypatch.setitem(sys.modules, "cupy", fake)

    class Dlpack:
        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, 0

        def __dlpack__(self, **_: Any) -> None: ...

    class Both(Dlpack):
        __cuda_array_interface__: Any = None

    class Interface:
        __cuda_array_interface__: Any = None

    class Tensor(Dlpack):
        def detach(self) -> Any:
            taken.append(("detach", self))
            return self

        resolve_conj = resolve_neg = detach

    values = [Dlpack(), Both(), Interface(), Tensor()]
    for value in values:
        as_array(value, "x", cuda=True)
    expected = [("dlpack", 0), ("dlpack", 1), ("cai", 2), *[("detach", 3)] * 3, ("dlpack", 3)]
    assert [(how, values.index(value)) for how, value in taken] == expected
    for value in values[:2]:
        with pytest.raises(TypeError, match="x must lie on the CPU"):
            as_array(value, "x")


def test_arrays_of_the_cpu_are_numpys_and_back() -> None:
    tensor, array = torch.randn(3), np.zeros(3)
    assert type(tensors.array_of(tensor, "x")) is np.ndarray
    assert tensors.array_of(tensor, "x").ctypes.data == tensor.data_ptr()
    assert tensors.tensor_of(array).data_ptr() == array.ctypes.data
    assert tensors.device_of(tensor) == "cpu"
