"""The cupy backend without a GPU: on arrays that follow NumPy's protocols and cannot be read by NumPy, as CuPy's.

The CPU is in the place of GPUs (`cuda_host`): all but the calls of CuPy in ``cupy_backend/cupy_device.py`` runs. With a
GPU at hand, the same tests run on it too.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from cuda_host import HostBackend, HostSystem, OutOfMemory, needs_compiler, needs_gpu
from device_array import DeviceArray, here, on_device, to_device
from gpu_places import PLACES, TIERS, assert_close, at, moved, on_host
from thorough import others_thorough

import cylstm
from cylstm import testing
from cylstm.backends.cupy_backend import CupyBackend
from cylstm.backends.cupy_backend.device import Device, System
from cylstm.random import dropout_mask

pytestmark = pytest.mark.names_backend("cupy")
PATH = "cylstm.backends.cupy_backend:CupyBackend"


def named(check: testing.Check) -> str:
    return check.id


def is_short(check: testing.Check) -> bool:
    """On the CPU as GPU."""
    return "float32" in check.id and "threads" not in check.id


@pytest.mark.parametrize("check", others_thorough(testing.checks(HostBackend(tier="array")), is_short), ids=named)
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


@pytest.mark.parametrize("tier", ["array", "steps", "persistent"])
def test_more_rows_than_32_bits_count_are_an_error(tier: str) -> None:
    """Before anything is allocated or launched."""
    problem = testing.problems.make_problem(testing.Case(I=1), "float32")
    backend, T, B = HostBackend(tier=tier), 1 << 12, 1 << 19
    prepared = backend.prepare(problem.parameters)
    input, batch_sizes = np.broadcast_to(np.float32(0), (T * B, 1)), np.full(T, B)
    with pytest.raises(ValueError, match=r"input must have at most 2147483647 rows.* got 2147483648: use smaller"):
        backend.forward(prepared, input=input, batch_sizes=batch_sizes, h_0=None, c_0=None)


# Arrays of a device through LSTM -------------------------------------------------------------------------------------


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


@PLACES
@TIERS
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("with_state", [False, True])
def test_what_comes_from_the_device_goes_back_there(
    form: str, with_state: bool, tier: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the numbers that the numpy backend gives on the host, and no array on the host in between."""
    monkeypatch.setattr(
        "cylstm.nn.lstm.dropout_mask_beside",
        lambda rows, shape, p: np.asarray(dropout_mask(shape, p, rows.dtype), like=rows),
    )
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
    x = to_device(cylstm.randn(9, 3, 4))

    def run() -> None:
        output, state = lstm(x)
        _, _, pullback = lstm.vjp(x, state)
        pullback(output, state)

    run()  # parameters and tables go up
    device = system.device(0)
    run()  # passes that come again are recorded
    before = (here.to_host, here.to_device, device.marks, len(device.recordings))
    run()
    assert (here.to_host, here.to_device, device.marks, len(device.recordings)) == before
    assert not device.waits  # one stream


@pytest.mark.parametrize("tier", ["array", pytest.param("steps", marks=needs_compiler)])
def test_a_stream_waits_for_parameters_and_the_host_does_not(tier: str) -> None:
    """They go up in the stream of the first call; other streams wait there until they have arrived."""
    system = HostSystem()
    lstm = cylstm.LSTM(4, 5, backend=HostBackend(tier=tier, system=system))
    x = to_device(cylstm.randn(5, 3, 4))
    try:
        for here.stream in ("a", "b", "a"):
            lstm(x)
    finally:
        here.stream = 0
    assert system.device(0).waits == [("b", "a")]


@pytest.mark.parametrize("tier", ["array", pytest.param("steps", marks=needs_compiler)])
def test_a_pullback_in_another_stream_comes_after_the_forward_pass(tier: str) -> None:
    """And what comes in that one, where the memory of what was kept goes back to, after the pullback."""
    system = HostSystem()
    device = system.device(0)
    lstm = cylstm.LSTM(4, 5, num_layers=2, backend=HostBackend(tier=tier, system=system))
    x, grad = (to_device(cylstm.randn(5, 3, n)) for n in (4, 5))
    try:
        here.stream = "forward"
        _, _, pullback = lstm.vjp(x)
        expected = pullback(grad).input.get()
        assert not device.waits
        here.stream = "backward"
        got = pullback(grad).input.get()
    finally:
        here.stream = 0
    assert device.waits == [("backward", "forward"), ("forward", "backward")] * 2  # of each layer
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("tier", ["array", pytest.param("steps", marks=needs_compiler)])
def test_calls_are_not_recorded_in_graphs_of_others(tier: str) -> None:
    """Whatever would be called, nothing is queued."""
    system = HostSystem()
    device = system.device(0)
    lstm = cylstm.LSTM(4, 5, backend=HostBackend(tier=tier, system=system))
    x = to_device(cylstm.randn(5, 3, 4))
    _, _, pullback = lstm.vjp(x)
    stream = lstm.stream(3)
    stream(x[0])
    grad = to_device(np.ones((5, 3, 5), np.float32))
    device.recorded_by_others = True
    before = (len(device.launches), device.replays)
    calls = [lambda: lstm(x), lambda: lstm.vjp(x), lambda: pullback(grad)]
    if tier == "steps":
        calls += [lambda: stream(x[1]), lambda: stream.state]
    for call in calls:
        with pytest.raises(RuntimeError, match="calls cannot be recorded in a CUDA graph"):
            call()
    assert (len(device.launches), device.replays) == before


def test_what_comes_from_the_host_goes_back_there() -> None:
    host, device = cylstm.LSTM(4, 5, backend="numpy"), cylstm.LSTM(4, 5, backend=HostBackend())
    device.load_state_dict(host.state_dict())
    x = cylstm.randn(5, 3, 4)
    assert_close(device(x), host(x))
    assert all(isinstance(array, np.ndarray) for array in (device(x)[0], *device(x)[1]))
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
    with pytest.raises(TypeError, match="grad_output must lie on the CPU"):
        pullback(to_device(output))
    with pytest.raises(TypeError, match=r"input must lie on the CPU.*cupy-cuda13x"):
        cylstm.LSTM(4, 5, backend="numpy")(to_device(x))


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
    with pytest.raises(TypeError, match=r"CuPy must be installed for an array on a GPU.*cupy-cuda13x"):
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
    assert [device.marks > 0 for device in system.devices] == [False, True, False]
    assert here.device == 0
    with on_device(1):
        output, _, pullback = lstm.vjp(to_device(x))
        grads = pullback(output)
        assert {array.device.id for array in (output, grads.input, *grads.parameters.values())} == {1}
    assert lstm.to("cuda:2") is lstm
    np.testing.assert_allclose(lstm(x)[0], expected, rtol=1e-5, atol=1e-6)
    assert [device.marks > 0 for device in system.devices] == [False, True, True]
    lstm.to("cuda")  # the current one
    with on_device(2):
        np.testing.assert_allclose(lstm(x)[0], expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(RuntimeError, match="device must be 'cuda', or 'cuda:N' with N less than 3, got 'cuda:3'"):
        lstm.to("cuda:3")
    np.testing.assert_allclose(lstm(x)[0], expected, rtol=1e-5, atol=1e-6)


def test_arrays_of_another_device_are_refused() -> None:
    lstm = cylstm.LSTM(4, 5, device="cuda:1", backend=HostBackend(system=HostSystem(count=2)))
    x = cylstm.randn(5, 3, 4)
    with pytest.raises(
        RuntimeError, match="input must lie on cuda:1, as the parameters do, got cuda:0: copy it there, or make"
    ):
        lstm(to_device(x))
    with on_device(1):
        elsewhere = to_device(x)
    with pytest.raises(
        RuntimeError,
        match=r"current device must be cuda:1, where input lies, got cuda:0: call inside `with cupy.cuda.Device\(1\):`",
    ):
        lstm(elsewhere)


@TIERS
def test_lack_of_memory_changes_nothing(tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever memory runs out: the next call works as if nothing had been."""
    backend = HostBackend(tier=tier, system=HostSystem())
    lstm = cylstm.LSTM(4, 5, backend=backend)
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
        if fails_at and (made == fails_at if once else made >= fails_at):
            raise OutOfMemory("Out of memory allocating 1 byte")
        return array

    once, device = True, backend._devices().device(0)
    monkeypatch.setattr("device_array.allocated", allocated)
    run()
    numbers = range(1, made + 1, 3)
    for number in numbers:
        lstm.bias_ih_l0 = lstm.bias_ih_l0 + 0  # parameters go up again
        backend._free(device)
        freed, made, fails_at, once = device.freed, 0, number, True
        assert_close(run(), expected)  # what is kept was given up
        assert device.freed == freed + 1
        lstm.bias_ih_l0 = lstm.bias_ih_l0 + 0
        backend._free(device)
        made, fails_at, once = 0, number, False
        with pytest.raises(MemoryError, match=r"device cuda:0 has not enough memory \(Out of.*empty_cache"):
            run()
        fails_at = 0
        assert_close(run(), expected)
    assert len(numbers) > 4
    assert all(np.array_equal(array, before[name]) for name, array in lstm.state_dict().items())


def test_a_device_that_cannot_be_used_is_refused_and_nothing_changes(new_registry: None) -> None:
    lstm, x = cylstm.LSTM(4, 5, backend="numpy"), cylstm.randn(5, 3, 4)
    expected = lstm(x)[0]
    with pytest.raises(RuntimeError, match=r"device 'cuda' cannot be used, 'cpu' can: .*computes on cpu.*'cupy'"):
        lstm.to("cuda")
    np.testing.assert_array_equal(lstm(x)[0], expected)
    with pytest.raises(RuntimeError, match="device must be None or 'cpu', got 'cuda'"):
        cylstm.Linear(3, 4, device="cuda")
