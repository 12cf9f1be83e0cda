"""The cupy backend without a GPU: on arrays that follow NumPy's protocols and cannot be read by NumPy, as CuPy's.

The CPU is in the place of GPUs (`cuda_host`): all but the calls of CuPy in ``cupy_backend/cupy_device.py`` runs. With a
GPU at hand, the same tests run on it too.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from cuda_host import AVAILABLE, WHY_NOT, HostBackend, HostSystem, OutOfMemory, needs_compiler, needs_gpu, without_gpu
from device_array import DeviceArray, here, on_device, to_device

import cylstm
from cylstm import testing
from cylstm.backends import registry
from cylstm.backends.cupy_backend import CupyBackend
from cylstm.backends.cupy_backend.device import Device, System

pytestmark = pytest.mark.names_backend("cupy")
PATH = "cylstm.backends.cupy_backend:CupyBackend"


def named(check: testing.Check) -> str:
    return check.id


@pytest.mark.parametrize("check", list(testing.checks(HostBackend())), ids=named)
def test_array_loop_computes_where_its_arrays_lie(check: testing.Check) -> None:
    check()


def test_device_arrays_are_as_strict_as_those_of_cupy() -> None:
    array = to_device(np.ones(3))
    with pytest.raises(TypeError, match="implicit conversion"):
        np.asarray(array)
    with pytest.raises(TypeError, match="cannot be mixed"):
        array + np.ones(3)
    assert isinstance(np.zeros(3, like=array), DeviceArray)
    with on_device(1), pytest.raises(AssertionError, match="of cuda:0, and cuda:1 is the current one"):
        array + 1


@needs_gpu
@pytest.mark.parametrize("tier", ["array", "steps"])
def test_conformance(tier: str) -> None:
    testing.check_backend(CupyBackend(tier=tier))


# Arrays of a device through LSTM -------------------------------------------------------------------------------------


def moved(value: Any, move: Callable[[np.ndarray], Any]) -> Any:
    """Every array of it on the device."""
    if isinstance(value, cylstm.PackedSequence):
        return value._replace(data=move(value.data))
    if isinstance(value, tuple):
        return tuple(moved(item, move) for item in value)
    return move(value) if isinstance(value, np.ndarray) else value


def on_host(value: Any) -> Any:
    """Every array of it on the host; it must have been on the device."""
    if isinstance(value, cylstm.PackedSequence):
        assert value.is_cuda
        assert not value.cpu().is_cuda
        return value.cpu()
    if isinstance(value, dict):
        return {name: on_host(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return tuple(map(on_host, value))
    assert not isinstance(value, np.ndarray)
    return value.get()


def assert_close(got: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        got, expected = tuple(got.values()), tuple(expected.values())
    if isinstance(expected, tuple):
        for one, other in zip(got, expected, strict=True):
            assert_close(one, other)
    elif expected is not None:
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def packed(x: np.ndarray) -> cylstm.PackedSequence:
    return cylstm.pack_padded_sequence(x, [2, 5, 3], enforce_sorted=False)


FORMS: dict[str, tuple[dict[str, Any], Callable[[np.ndarray], Any], tuple[int, ...]]] = {
    "time first": ({}, lambda x: x, (3,)),
    "batch first": ({"batch_first": True}, lambda x: x.transpose(1, 0, 2), (3,)),
    "unbatched": ({}, lambda x: x[:, 0], ()),
    "packed": ({}, packed, (3,)),
    "dropout": ({"dropout": 0.5}, lambda x: x, (3,)),
    "projection": ({"proj_size": 2}, lambda x: x, (3,)),
}


def at(place: str, tier: str) -> tuple[CupyBackend, Callable[[np.ndarray], Any]]:
    """The backend at a place, and what moves arrays there."""
    if place == "CPU as GPU":
        return HostBackend(tier=tier), to_device
    import cupy

    return CupyBackend(tier=tier), cupy.asarray


PLACES = pytest.mark.parametrize("place", ["CPU as GPU", pytest.param("GPU", marks=needs_gpu)])
TIERS = pytest.mark.parametrize("tier", ["array", pytest.param("steps", marks=needs_compiler)])


@PLACES
@TIERS
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("with_state", [False, True])
def test_what_comes_from_the_device_goes_back_there(form: str, with_state: bool, tier: str, place: str) -> None:
    """With the numbers that the numpy backend gives on the host, and no array on the host in between."""
    backend, move = at(place, tier)
    options, form_of, batch = FORMS[form]
    cylstm.manual_seed(0)
    host = cylstm.LSTM(4, 5, num_layers=2, bidirectional=True, backend="numpy", **options)
    device = cylstm.LSTM(4, 5, num_layers=2, bidirectional=True, backend=backend, **options)
    device.load_state_dict(host.state_dict())
    R = options.get("proj_size", 5)
    x = form_of(cylstm.randn(5, 3, 4))
    hx = (cylstm.randn(4, *batch, R), cylstm.randn(4, *batch, 5)) if with_state else None
    results = []
    for module, enter, leave in ((host, np.copy, lambda a: a), (device, move, on_host)):
        cylstm.manual_seed(1)
        x_there, hx_there = moved(x, enter), moved(hx, enter)
        transfers = here.to_host
        output, state = module(x_there, hx_there)
        output_again, _, pullback = module.vjp(x_there, hx_there)
        grads = pullback(output_again, state)
        assert here.to_host == transfers
        results.append(leave((output, state, output_again, grads.input, grads.hx, grads.parameters)))
    expected, got = results
    assert_close(got, expected)


@TIERS
def test_nothing_is_moved_nor_waited_for_in_a_call_with_arrays_of_the_device(tier: str) -> None:
    system = HostSystem()
    lstm = cylstm.LSTM(4, 5, num_layers=2, backend=HostBackend(tier=tier, system=system))
    x = to_device(cylstm.randn(5, 3, 4))

    def run() -> None:
        output, state = lstm(x)
        _, _, pullback = lstm.vjp(x, state)
        pullback(output, state)

    run()  # parameters go up, schedules are made
    device = system.device(0)
    assert device.recordings == 0
    run()  # schedules are used again, and recorded
    before = (here.to_host, here.to_device, device.waits, device.recordings)
    run()
    assert (here.to_host, here.to_device, device.waits, device.recordings) == before
    assert device.waits == 2  # one per layer: parameters have arrived before any stream uses them
    assert device.recordings == (0 if tier == "array" else 6)  # a call, and forward and backward, of two layers


def test_what_comes_from_the_host_goes_back_there() -> None:
    host, device = cylstm.LSTM(4, 5, backend="numpy"), cylstm.LSTM(4, 5, backend=HostBackend())
    device.load_state_dict(host.state_dict())
    x = cylstm.randn(5, 3, 4)
    np.testing.assert_equal(device(x), host(x))
    assert all(isinstance(p, np.ndarray) for p in device.state_dict().values())


def test_parameters_go_up_once_per_version(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, prepared = HostBackend(), []
    prepare = backend.prepare
    monkeypatch.setattr(backend, "prepare", lambda p: prepared.append(1) or prepare(p))
    lstm, x = cylstm.LSTM(4, 5, num_layers=2, backend=backend), to_device(cylstm.randn(5, 3, 4))
    before = lstm(x)[0].get()
    lstm.vjp(x)
    assert len(prepared) == 2  # one per layer
    lstm.bias_ih_l0 = lstm.bias_ih_l0 + 1
    assert not np.array_equal(lstm(x)[0].get(), before)
    assert len(prepared) == 4


def test_arrays_of_host_and_device_are_not_mixed() -> None:
    lstm, x = cylstm.LSTM(4, 5, backend=HostBackend()), cylstm.randn(5, 3, 4)
    hx = (cylstm.randn(1, 3, 5), cylstm.randn(1, 3, 5))
    with pytest.raises(RuntimeError, match=r"h_0 must lie where the input does, on the GPU: use cupy.asarray\(h_0\)"):
        lstm(to_device(x), hx)
    with pytest.raises(RuntimeError, match=r"c_0 must lie where the input does, on the CPU: use c_0.get\(\)"):
        lstm(x, (hx[0], to_device(hx[1])))
    output, _, pullback = lstm.vjp(to_device(x))
    with pytest.raises(RuntimeError, match="grad_output must lie where the input does, on the GPU"):
        pullback(output.get())
    with pytest.raises(RuntimeError, match="grad_c_n must lie where the input does, on the GPU"):
        pullback(output, (None, hx[1]))
    output, _, pullback = lstm.vjp(x)
    with pytest.raises(TypeError, match="grad_output lies on another device than the CPU"):
        pullback(to_device(output))
    with pytest.raises(TypeError, match=r"input lies on another device.*cylstm\[cuda13\]"):
        cylstm.LSTM(4, 5, backend="numpy")(to_device(x))


# The other modules with arrays of a device ---------------------------------------------------------------------------


@PLACES
@TIERS
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_stream_stays_on_the_device(dropout: float, tier: str, place: str) -> None:
    """Frames, outputs and the state, from the first frame on."""
    backend, move = at(place, tier)
    lstm = cylstm.LSTM(4, 5, num_layers=2, dropout=dropout, backend=backend)
    reference = cylstm.LSTM(4, 5, num_layers=2, dropout=dropout, backend="numpy")
    reference.load_state_dict(lstm.state_dict())
    x = cylstm.randn(6, 3, 4)
    frames = [move(x_t) for x_t in x]
    stream, expected = lstm.stream(3), reference.stream(3)
    out = move(np.zeros((3, 5), np.float32))
    cylstm.manual_seed(1)
    transfers = here.to_host
    results = [stream(frame) for frame in frames[:4]]
    assert stream(frames[4], out) is out
    state = stream.state
    stream.reset()
    stream.state = state
    results += [out, stream(frames[5])]
    state = stream.state
    assert here.to_host == transfers
    cylstm.manual_seed(1)
    assert_close(on_host(tuple(results)), tuple(expected(x_t) for x_t in x))
    assert_close(on_host(state), expected.state)
    assert isinstance(stream(x[0]), np.ndarray)  # the state goes where the frames go
    assert all(isinstance(part, np.ndarray) for part in stream.state)


def test_stream_refuses_what_lies_elsewhere() -> None:
    stream, x = cylstm.LSTM(4, 5, backend=HostBackend()).stream(), cylstm.randn(4)
    stream(to_device(x))
    before = stream.state[0].get()
    with pytest.raises(TypeError, match=r"out must be a device_array.DeviceArray, got ndarray"):
        stream(to_device(x), np.zeros(5, np.float32))
    with pytest.raises(TypeError, match=r"out must be a numpy.ndarray, got DeviceArray"):
        stream(x, to_device(np.zeros(5, np.float32)))
    with pytest.raises(RuntimeError, match="c must lie where the input does"):
        stream.state = (stream.state[0], np.zeros((1, 1, 5), np.float32))
    np.testing.assert_array_equal(stream.state[0].get(), before)
    with pytest.raises(TypeError, match="x_t lies on another device"):
        cylstm.LSTM(4, 5, backend="numpy").stream()(to_device(x))


@PLACES
@TIERS
@pytest.mark.parametrize("batch", [(3,), ()], ids=["batch", "unbatched"])
def test_cell_stays_on_the_device(batch: tuple[int, ...], tier: str, place: str) -> None:
    backend, move = at(place, tier)
    cell, reference = cylstm.LSTMCell(4, 5, backend=backend), cylstm.LSTMCell(4, 5, backend="numpy")
    reference.load_state_dict(cell.state_dict())
    x, hx = cylstm.randn(*batch, 4), (cylstm.randn(*batch, 5), cylstm.randn(*batch, 5))
    results = []
    for module, enter, leave in ((reference, np.copy, lambda a: a), (cell, move, on_host)):
        x_there, hx_there = moved(x, enter), moved(hx, enter)
        transfers = here.to_host
        without = module(x_there)
        state, pullback = module.vjp(x_there, hx_there)
        grads = pullback(state)
        partial = pullback((None, state[1]))
        assert here.to_host == transfers
        results.append(leave((without, state, tuple(grads[:2]), grads.parameters, partial.input)))
    assert_close(results[1], results[0])
    assert_close(cell(x, hx), reference(x, hx))  # NumPy's arrays come back


def test_cell_refuses_what_lies_elsewhere() -> None:
    system = HostSystem(count=2)
    cell = cylstm.LSTMCell(4, 5, device="cuda:1", backend=HostBackend(system=system))
    x, h = cylstm.randn(3, 4), cylstm.randn(3, 5)
    cell(x)
    assert [device.waits for device in system.devices] == [0, 1]
    with on_device(1):
        with pytest.raises(RuntimeError, match="h_0 must lie where the input does, on the GPU"):
            cell(to_device(x), (h, h))
        _, pullback = cell.vjp(to_device(x))
        with pytest.raises(RuntimeError, match="grad_c_1 must lie where the input does, on the GPU"):
            pullback((None, h))
    with pytest.raises(TypeError, match="input lies on another device"):
        cylstm.LSTMCell(4, 5, backend="numpy")(to_device(x))


@PLACES
@pytest.mark.parametrize("dtype", ["float16", "float32", "complex64"])
def test_linear_computes_where_its_input_lies(dtype: str, place: str) -> None:
    _, move = at(place, "array")
    linear, x = cylstm.Linear(4, 5, dtype=dtype), cylstm.randn(6, 3, 4, dtype=dtype)
    results = []
    for enter, leave in ((np.copy, lambda a: a), (move, on_host)):
        x_there = enter(x)
        linear(x_there)  # parameters go up
        transfers = here.to_host
        linear(x_there)
        output, pullback = linear.vjp(x_there)
        grads = pullback(output)
        assert here.to_host == transfers
        results.append(leave((output, grads.input, grads.parameters)))
    assert_close(*results)
    if place == "CPU as GPU":
        before = here.to_device
        linear(x_there)
        assert here.to_device == before  # once per version
        linear.bias = linear.bias + 1
        linear(x_there)
        assert here.to_device == before + 2
    with pytest.raises(RuntimeError, match="grad_output must lie where the input does, on the GPU"):
        linear.vjp(move(x))[1](cylstm.randn(6, 3, 5, dtype=dtype))


def test_parameters_of_linear_go_up_to_the_device_of_the_input() -> None:
    """They have arrived before any stream uses them; a call where another device is current leaves nothing behind."""
    linear, x = cylstm.Linear(4, 5), cylstm.randn(3, 4)
    with on_device(1):
        there = to_device(x)
    with pytest.raises(RuntimeError, match=r"current device is cuda:0: call inside `with cupy.cuda.Device\(1\):`"):
        linear(there)
    waited = here.to_host
    for _ in range(2):
        with on_device(1):
            output = linear(there)
        assert output.device.id == 1
        assert here.to_host == waited + 1
    assert_close(output.get(), linear(x))


@PLACES
@pytest.mark.parametrize("enforce_sorted", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_packing_stays_on_the_device(batch_first: bool, enforce_sorted: bool, place: str) -> None:
    _, move = at(place, "array")
    lengths = [5, 3, 2] if enforce_sorted else [2, 5, 3]
    x = cylstm.randn(3, 5, 4) if batch_first else cylstm.randn(5, 3, 4)
    sequences = [cylstm.randn(length, 4) for length in lengths]
    results = []
    for enter, leave in ((np.copy, lambda a: a), (move, on_host)):
        x_there, sequences_there = enter(x), tuple(map(enter, sequences))
        transfers = here.to_host
        packed = cylstm.pack_padded_sequence(x_there, lengths, batch_first, enforce_sorted)
        padded, lengths_again = cylstm.pad_packed_sequence(packed, batch_first, padding_value=-1.0, total_length=7)
        listed = cylstm.pack_sequence(sequences_there, enforce_sorted)
        unpacked = cylstm.unpack_sequence(listed)
        left = cylstm.pad_sequence(sequences_there, batch_first, padding_side="left")
        assert here.to_host == transfers
        assert lengths_again.tolist() == lengths
        results.append(leave((packed, padded, listed, tuple(unpacked), left)))
    for got, expected in zip(*reversed(results), strict=True):
        np.testing.assert_equal(got, expected)
    with pytest.raises(RuntimeError, match=r"sequences\[1\] must lie where the input does"):
        cylstm.pad_sequence([move(x), x])


def test_optimisers_bring_gradients_to_the_cpu() -> None:
    """Where the parameters are; one step is the same with gradients of either side."""
    lstm, reference = cylstm.LSTM(4, 5, backend=HostBackend()), cylstm.LSTM(4, 5, backend="numpy")
    reference.load_state_dict(lstm.state_dict())
    x = cylstm.randn(5, 3, 4)
    for module, there in ((lstm, to_device(x)), (reference, x)):
        optimizer = cylstm.optim.Adam(module)
        output, _, pullback = module.vjp(there)
        grads = pullback(output).parameters
        if module is lstm:
            with pytest.raises(TypeError, match=r"bring those of a GPU to the CPU first, by .*grad.get\(\)"):
                cylstm.optim.clip_grad_norm(grads, 1.0)
        optimizer.step(grads)
    assert_close(lstm.state_dict(), reference.state_dict())


def test_the_devices_of_cupy_have_all_that_is_asked_of_them() -> None:
    """What can be said of ``cupy_backend/cupy_device.py`` without a GPU."""
    pytest.importorskip("cupy")
    from cylstm.backends.cupy_backend import cupy_device

    for protocol, ours, hosts in (
        (System, cupy_device.CupySystem(), HostSystem()),
        (Device, cupy_device.CupyDevice, HostSystem().device(0)),
    ):
        for name in (name for name in vars(protocol) if not name.startswith("_")):
            signatures = [inspect.signature(getattr(each, name)) for each in (protocol, type(hosts), ours)]
            names = [[p for p in s.parameters if p != "self"] for s in signatures]
            assert names[0] == names[1]
            assert name == "device" or names[0] == names[2]  # `device` is a cache
        assert all(hasattr(hosts, name) for name in protocol.__annotations__)


@needs_gpu
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "complex64"])
@pytest.mark.parametrize("kind", ["dlpack", "interface"])
def test_arrays_of_other_libraries_are_taken(dtype: str, kind: str) -> None:
    """Without a copy, and CuPy's come back."""
    import cupy

    lstm = cylstm.LSTM(4, 5, dtype=dtype, backend=CupyBackend())
    x = cupy.asarray(cylstm.randn(5, 3, 4, dtype=dtype))
    methods: dict[str, Any] = {"__cuda_array_interface__": x.__cuda_array_interface__}
    if kind == "dlpack":
        methods = {"__dlpack__": x.__dlpack__, "__dlpack_device__": x.__dlpack_device__}
    elif dtype == "bfloat16":
        pytest.skip("the interface has no name for bfloat16")
    output, _ = lstm(SimpleNamespace(**methods))
    assert isinstance(output, cupy.ndarray)
    cupy.testing.assert_array_equal(output, lstm(x)[0])


def test_an_array_of_a_gpu_without_cupy_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnlyInterface:
        __cuda_array_interface__: ClassVar[dict[str, Any]] = {}

    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(TypeError, match=r"an array on a GPU needs CuPy.*cylstm\[cuda13\]"):
        cylstm.LSTM(4, 5, backend=HostBackend())(OnlyInterface())


# device= -------------------------------------------------------------------------------------------------------------


@TIERS
def test_the_device_computes_whichever_is_current(tier: str) -> None:
    """Arrays of NumPy go there and come back; those of the device belong to it."""
    system = HostSystem(count=3)
    backend, x = HostBackend(tier=tier, system=system), cylstm.randn(5, 3, 4)
    expected_lstm = cylstm.LSTM(4, 5, num_layers=2, backend="numpy")
    expected = expected_lstm(x)[0]
    lstm = cylstm.LSTM(4, 5, num_layers=2, device="cuda:1", backend=backend)
    lstm.load_state_dict(expected_lstm.state_dict())
    np.testing.assert_allclose(lstm(x)[0], expected, rtol=1e-5, atol=1e-6)
    assert [device.waits for device in system.devices] == [0, 2, 0]
    assert here.device == 0
    with on_device(1):
        output, _, pullback = lstm.vjp(to_device(x))
        grads = pullback(output)
        assert {array.device.id for array in (output, grads.input, *grads.parameters.values())} == {1}
    assert lstm.to("cuda:2") is lstm
    np.testing.assert_allclose(lstm(x)[0], expected, rtol=1e-5, atol=1e-6)
    assert [device.waits for device in system.devices] == [0, 2, 2]
    lstm.to("cuda")  # the current one
    with on_device(2):
        np.testing.assert_allclose(lstm(x)[0], expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(
        RuntimeError, match="there is no device 'cuda:3': expected 'cuda', or 'cuda:N' with N less than 3"
    ):
        lstm.to("cuda:3")
    np.testing.assert_allclose(lstm(x)[0], expected, rtol=1e-5, atol=1e-6)


def test_arrays_of_another_device_are_refused() -> None:
    lstm = cylstm.LSTM(4, 5, device="cuda:1", backend=HostBackend(system=HostSystem(count=2)))
    x = cylstm.randn(5, 3, 4)
    with pytest.raises(RuntimeError, match="input lies on cuda:0 and the parameters on cuda:1: copy it there, or make"):
        lstm(to_device(x))
    with on_device(1):
        elsewhere = to_device(x)
    with pytest.raises(RuntimeError, match=r"current device is cuda:0: call inside `with cupy.cuda.Device\(1\):`"):
        lstm(elsewhere)


@TIERS
def test_lack_of_memory_changes_nothing(tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever memory runs out: the next call works as if nothing had been."""
    lstm = cylstm.LSTM(4, 5, backend=HostBackend(tier=tier, system=HostSystem()))
    reference = cylstm.LSTM(4, 5, backend="numpy")
    reference.load_state_dict(lstm.state_dict())
    x = cylstm.randn(5, 3, 4)
    expected, before = reference(x), lstm.state_dict()

    def run() -> Any:
        output, state, pullback = lstm.vjp(x)
        pullback(output)
        return output, state

    made, fails_at = 0, 0

    def allocated(array: np.ndarray) -> np.ndarray:
        nonlocal made
        made += 1
        if made == fails_at:
            raise OutOfMemory("Out of memory allocating 1 byte")
        return array

    monkeypatch.setattr("device_array.allocated", allocated)
    run()
    for number in range(1, made + 1):
        lstm.bias_ih_l0 = lstm.bias_ih_l0 + 0  # parameters go up again
        made, fails_at = 0, number
        with pytest.raises(MemoryError, match=r"device cuda:0 has not enough memory \(Out of.*free_all_blocks"):
            run()
        assert_close(run(), expected)
    assert fails_at > 10
    assert all(np.array_equal(array, before[name]) for name, array in lstm.state_dict().items())


def test_a_device_that_cannot_be_used_is_refused_and_nothing_changes(new_registry: None) -> None:
    lstm, x = cylstm.LSTM(4, 5, backend="numpy"), cylstm.randn(5, 3, 4)
    expected = lstm(x)[0]
    with pytest.raises(RuntimeError, match=r"device 'cuda' cannot be used, 'cpu' can: .*computes on cpu.*'cupy'"):
        lstm.to("cuda")
    np.testing.assert_array_equal(lstm(x)[0], expected)
    with pytest.raises(RuntimeError, match="expected device None or 'cpu', got 'cuda'"):
        cylstm.Linear(3, 4, device="cuda")


# Where it cannot run -------------------------------------------------------------------------------------------------


@without_gpu
def test_refusal_says_what_is_missing(new_registry: None) -> None:
    with pytest.raises(cylstm.BackendNotAvailableError, match="is not available: ") as caught:
        cylstm.LSTM(3, 4, backend=PATH)
    assert WHY_NOT.rstrip(".") in str(caught.value)
    assert "cylstm[cuda13]" in WHY_NOT or "needs an NVIDIA GPU and a driver" in WHY_NOT


def test_the_entry_point_leads_to_it(
    new_registry: None, install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backend is found as any third party's, under the name and path that this project declares."""
    declared = tomllib.loads(Path(__file__).parents[3].joinpath("pyproject.toml").read_text("utf-8"))["project"]
    entry = declared["entry-points"]["cylstm.backends"]["cupy"]
    assert entry == PATH
    assert {"cuda12", "cuda13"} <= declared["optional-dependencies"].keys()
    install("some-distribution", f"gpu = {entry}")
    assert "gpu" in {info.name for info in cylstm.available_backends() if info.status in ("available", "unavailable")}
    monkeypatch.setenv("CYLSTM_BACKEND", "gpu")
    if AVAILABLE:
        assert cylstm.get_backend() == "gpu"
    else:
        with pytest.raises(
            cylstm.BackendNotAvailableError, match=r"'gpu' of distribution 'some-distribution'.*CYLSTM_B"
        ):
            cylstm.LSTM(3, 4)(cylstm.randn(2, 3))


def test_without_cupy_the_extra_is_named(tmp_path: Path) -> None:
    """In a process in which CuPy cannot be imported."""
    (tmp_path / "cupy.py").write_text("raise ImportError('No module named cupy')")
    script = f"""
        import cylstm
        try:
            cylstm.set_backend({PATH!r})
        except cylstm.BackendNotAvailableError as error:
            print(error)
    """
    paths = os.pathsep.join([str(tmp_path), str(Path(cylstm.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "is not available: it needs CuPy (No module named cupy): install the extra cylstm[cuda13]" in done.stdout


def test_importing_the_module_imports_no_cupy() -> None:
    script = "import sys, cylstm.backends.cupy_backend; print('cupy' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(Path(cylstm.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_child_is_told_what_to_do() -> None:
    lstm, x = cylstm.LSTM(4, 5, backend=HostBackend()), cylstm.randn(3, 4)
    _, _, pullback = lstm.vjp(x)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            for use in (lambda: CupyBackend.prepare(lstm.backend, ()), lambda: lstm(x), lambda: pullback()):
                try:
                    use()
                except RuntimeError as error:
                    os.write(write, f"{error}\n".encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        messages = pipe.read().splitlines()
    assert len(messages) == 3
    for message in messages:
        assert f"forked (pid {child}) from one that has used it (pid {os.getpid()})" in message
        assert "'spawn'" in message


def test_capabilities_are_those_of_the_definition() -> None:
    assert CupyBackend.capabilities.dtypes == registry.load("numpy").capabilities.dtypes
    assert CupyBackend.capabilities.devices == ("cpu", "cuda")
