"""A stream on a GPU: what a step launches and copies, and that it computes what the numpy backend does. No GPU."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from cuda_host import HostBackend, HostSystem, OutOfMemory, needs_compiler
from device_array import DeviceArray, here, on_device, to_device
from thorough import others_thorough

import cylstm
from cylstm.backends.cupy_backend.planner import tiles
from cylstm.backends.cupy_backend.source import definitions

pytestmark = [pytest.mark.names_backend("cupy"), needs_compiler]


def both(B: int = 3, tier: str = "steps", **options: Any) -> tuple[cylstm.LSTM, cylstm.LSTM, HostSystem, list[Any]]:
    """A module on the device, the same of the numpy backend, and frames."""
    system = HostSystem()
    cylstm.manual_seed(0)
    given = {"num_layers": 2} | options
    lstm = cylstm.LSTM(4, 5, backend=HostBackend(tier=tier, system=system), **given)
    reference = cylstm.LSTM(4, 5, backend="numpy", **given)
    reference.load_state_dict(lstm.state_dict())
    return lstm, reference, system, list(cylstm.randn(8, B, 4, dtype=lstm.dtype))


def counts(system: HostSystem) -> np.ndarray:
    device = system.device(0)
    return np.array([device.replays, here.operations, here.to_host, here.to_device, len(device.recordings)])


@pytest.mark.parametrize(("L", "P"), [(1, 0), (3, 0), (2, 3)])
def test_a_step_is_a_copy_a_graph_and_a_copy(L: int, P: int) -> None:
    """Nothing else is launched, moved or recorded, in the first step neither; the kernels are as few as the layers."""
    lstm, _, system, frames = both(num_layers=L, proj_size=P)
    stream, device = lstm.stream(3), system.device(0)
    frames = list(map(to_device, frames))
    kernels = ["stream", "stream_projected"][: 1 + (P > 0)] * L
    stream(frames[0])
    assert device.recordings == [kernels, kernels]
    for frame in frames[1:]:
        before, launched = counts(system), len(device.launches)
        stream(frame)
        assert (counts(system) - before).tolist() == [1, 2, 0, 0, 0]
        assert [launch.name for launch in device.launches[launched:]] == kernels


CASES = [
    (dtype, B, P, bias)
    for dtype in ("float32", "float64", "float16", "bfloat16")
    for B, P, bias in ((1, 0, True), (3, 3, True), (20, 0, False))
]


@pytest.mark.parametrize(("dtype", "B", "P", "bias"), others_thorough(CASES, lambda case: case[0] == "float32"))
def test_values_are_those_of_the_definition(dtype: str, B: int, P: int, bias: bool) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    lstm, reference, _, frames = both(B, dtype=dtype, proj_size=P, bias=bias, num_layers=3)
    R, tolerance = P or 5, {"float32": 1e-5, "float64": 1e-12, "float16": 4e-3, "bfloat16": 3e-2}[dtype]
    hx = cylstm.randn(3, B, R, dtype=dtype), cylstm.randn(3, B, 5, dtype=dtype)
    stream, expected = lstm.stream(B, hx=tuple(map(to_device, hx))), reference.stream(B, hx=hx)
    for frame in frames:
        got = stream(to_device(frame))
        assert isinstance(got, DeviceArray)
        np.testing.assert_allclose(got.get().astype(float), expected(frame).astype(float), atol=tolerance)
    for got, of_definition in zip(stream.state, expected.state, strict=True):
        np.testing.assert_allclose(got.get().astype(float), of_definition.astype(float), atol=tolerance)


def test_each_kernel_in_each_tile() -> None:
    used = set()
    for B in (1, 3, 20):
        for P in (0, 3):
            lstm, reference, system, frames = both(B, proj_size=P)
            stream, expected = lstm.stream(B), reference.stream(B)
            for frame in frames[:3]:
                np.testing.assert_allclose(stream(frame), expected(frame), atol=1e-5)
            used |= {(launch.name, launch.options) for launch in system.device(0).launches}
    kernels = ("stream", "stream_projected")
    assert used == {(name, definitions("float32", tile)) for name in kernels for tile in tiles(4)}


FRAMES = {
    "by columns": np.asfortranarray,
    "reversed": lambda x: x[::-1, ::-1],
    "strided": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "one row for all": lambda x: np.broadcast_to(x[0], x.shape),
}


@pytest.mark.parametrize("on_gpu", [True, False])
@pytest.mark.parametrize("order", FRAMES)
def test_frames_lie_in_any_order(order: str, on_gpu: bool) -> None:
    lstm, reference, _, frames = both()
    stream, expected = lstm.stream(3), reference.stream(3)
    for frame in map(FRAMES[order], frames):
        h_t = stream(to_device(frame) if on_gpu else frame)
        np.testing.assert_allclose(h_t.get() if on_gpu else h_t, expected(frame), atol=1e-6)


def test_outputs_are_new_or_the_callers_own() -> None:
    lstm, reference, _, frames = both(1)
    stream, expected = lstm.stream(), reference.stream()
    first = stream(to_device(frames[0][0]))  # unbatched
    kept = first.get()
    out = to_device(np.zeros((1, 5), np.float32))
    assert stream(to_device(frames[1]), out) is out
    np.testing.assert_array_equal(first.get(), kept)
    np.testing.assert_allclose(kept, expected(frames[0][0]), atol=1e-6)
    np.testing.assert_allclose(out.get(), expected(frames[1]), atol=1e-6)
    strided = to_device(np.zeros((1, 10), np.float32))[:, ::2]
    assert stream(to_device(np.repeat(frames[2], 2, axis=1))[:, ::2], strided) is strided
    np.testing.assert_allclose(strided.get(), expected(frames[2]), atol=1e-6)
    on_host = np.zeros((1, 5), np.float32)
    assert stream(frames[3], on_host) is on_host  # NumPy's frames as well, by the same graphs
    np.testing.assert_allclose(on_host, expected(frames[3]), atol=1e-6)
    assert all(isinstance(part, np.ndarray) for part in stream.state)
    assert isinstance(stream(to_device(frames[4])), DeviceArray)
    expected(frames[4])
    assert all(isinstance(part, DeviceArray) for part in stream.state)
    for got, of_definition in zip(stream.state, expected.state, strict=True):
        np.testing.assert_allclose(got.get(), of_definition, atol=1e-6)


def test_a_change_of_parameters_or_backend_takes_the_state_along() -> None:
    lstm, reference, _, frames = both()
    stream, expected = lstm.stream(3), reference.stream(3)
    for k, frame in enumerate(frames):
        if k == 3:
            for module in (lstm, reference):
                module.bias_ih_l1 = module.bias_ih_l1 + 1
        before = here.to_host
        got = stream(to_device(frame) if k < 5 else frame)
        assert k >= 5 or here.to_host == before
        if k == 4:
            lstm.backend = "numpy"  # the state was on the device
        np.testing.assert_allclose(got.get() if k < 5 else got, expected(frame), atol=1e-5)
    lstm.backend = HostBackend()
    assert isinstance(stream(to_device(frames[0])), DeviceArray)


def test_another_stream_of_cuda_comes_after_the_last_step() -> None:
    lstm, reference, system, frames = both()
    stream, expected = lstm.stream(3), reference.stream(3)
    device = system.device(0)
    stream(to_device(frames[0]))
    waits = len(device.waits)
    try:
        here.stream = "mine"
        got = stream(to_device(frames[1]))
        assert device.waits[waits:] == [("mine", 0)]
        stream(to_device(frames[2]))
        assert len(device.waits) == waits + 1
        state = stream.state
        here.stream = 0
        stream.state = state
        assert device.waits[waits + 1 :] == [(0, "mine")]
        here.stream = "mine"
        stream(to_device(frames[1]))
        del device.waits[:], stream
        assert device.waits == [(0, "mine")]  # where its memory goes back to
    finally:
        here.stream = 0
    expected(frames[0])
    np.testing.assert_allclose(got.get(), expected(frames[1]), atol=1e-6)


def test_what_has_no_kernels_goes_step_by_step() -> None:
    for options in ({"dtype": "complex64"}, {"tier": "array"}):
        lstm, reference, system, frames = both(**options)
        stream, expected = lstm.stream(3), reference.stream(3)
        for frame in frames[:3]:
            np.testing.assert_allclose(stream(to_device(frame)).get(), expected(frame), atol=1e-5)
        assert not system.device(0).recordings


def test_after_an_error_the_state_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    lstm, reference, _, frames = both()
    stream, expected = lstm.stream(3), reference.stream(3)
    there = list(map(to_device, frames))
    for k, frame in enumerate(frames[:6]):
        before = [part.get() for part in stream.state] if k else None
        if k == 4:
            with monkeypatch.context() as patch:
                patch.setattr("device_array.allocated", out_of_memory)
                with pytest.raises(MemoryError, match="device cuda:0 has not enough memory"):
                    stream(there[k])
            with pytest.raises(RuntimeError, match=r"x_t must have shape \(3, 4\), got \(3, 5\)"):
                stream(to_device(np.zeros((3, 5), np.float32)))
            with pytest.raises(ValueError, match="x_t dtype"):
                stream(to_device(np.zeros((3, 4))))
            np.testing.assert_array_equal([part.get() for part in stream.state], before)
        np.testing.assert_allclose(stream(there[k]).get(), expected(frame), atol=1e-5)


@pytest.mark.parametrize("on_gpu", [True, False])
def test_a_step_that_lacks_memory_is_taken_once(on_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever allocation fails, of the first step or of a later one: it is done again after memory was freed."""
    made = fails_at = 0

    def allocated(array: np.ndarray) -> np.ndarray:
        nonlocal made
        made += 1
        if made == fails_at:
            raise OutOfMemory("Out of memory allocating 1 byte")
        return array

    lstm, reference, system, frames = both(proj_size=2)
    monkeypatch.setattr("device_array.allocated", allocated)
    there = [to_device(frame) if on_gpu else frame for frame in frames[:4]]
    made = 0
    lstm.stream(3)(there[0])
    for fails in range(1, made + 1):
        lstm.bias_ih_l0 = lstm.bias_ih_l0 + 0  # it all goes up again
        stream, expected = lstm.stream(3), reference.stream(3)
        freed = system.device(0).freed
        for k, frame in enumerate(frames[:4]):
            made, fails_at = 0, fails if k in (0, 2) else 0
            h_t = stream(there[k])
            fails_at = 0
            np.testing.assert_allclose(h_t.get() if on_gpu else h_t, expected(frame), atol=1e-5)
        assert system.device(0).freed > freed


def test_a_kernel_that_cannot_be_loaded_at_first_is_launched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA loads kernels when they are first launched: what the launches before one have changed is not kept."""
    lstm, reference, system, frames = both(proj_size=2)
    device, launched, fails = system.device(0), 0, 0
    functions = device.functions

    def failing(*source: Any) -> Any:
        return {name: partial(launch, kernel) for name, kernel in functions(*source).items()}

    def launch(kernel: Any, *arguments: Any) -> None:
        nonlocal launched
        launched += 1
        if launched == fails:
            raise OutOfMemory("no memory to load a kernel")
        kernel(*arguments)

    monkeypatch.setattr(device, "functions", failing)
    for number in range(1, 9):
        launched, fails, freed = 0, number, device.freed
        stream, expected = lstm.stream(3), reference.stream(3)
        for frame in frames[:3]:
            np.testing.assert_allclose(stream(frame), expected(frame), atol=1e-5)
        assert device.freed == freed + 1


def out_of_memory(array: np.ndarray) -> np.ndarray:
    raise OutOfMemory("Out of memory allocating 1 byte")


def test_frames_of_another_device_are_refused() -> None:
    lstm = cylstm.LSTM(4, 5, device="cuda:1", backend=HostBackend(tier="steps", system=HostSystem(count=2)))
    stream, frame = lstm.stream(), cylstm.randn(4)
    with pytest.raises(RuntimeError, match="x_t must lie on cuda:1, as the parameters do, got cuda:0"):
        stream(to_device(frame))
    with on_device(1):
        there = to_device(frame)
        assert stream(there).device.id == 1
    with pytest.raises(RuntimeError, match="the current device must be cuda:1, where x_t lies, got cuda:0"):
        stream(there)
