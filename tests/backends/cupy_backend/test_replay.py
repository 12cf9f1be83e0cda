"""What the cupy backend keeps from call to call, and what it does again: memory, recordings, launches. No GPU."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cuda_host import HostBackend, HostSystem, needs_compiler
from device_array import DeviceArray, complex_quotient, here, to_device
from gpu_places import TIERS

import cylstm
from cylstm import testing
from cylstm.backends.cupy_backend import schedule
from cylstm.backends.numpy_backend import NumpyBackend
from cylstm.testing.problems import backward, forward, make_problem

pytestmark = pytest.mark.names_backend("cupy")


class Memory:
    """The memory of arrays of devices that are alive."""

    def __init__(self) -> None:
        self.bytes = 0

    def allocated(self, array: np.ndarray) -> np.ndarray:
        if array.base is None:
            self.bytes += array.nbytes
            weakref.finalize(array, self._freed, array.nbytes)
        return array

    def _freed(self, nbytes: int) -> None:
        self.bytes -= nbytes


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Memory]:
    """Counts, while Python's collector of cycles is off."""
    memory = Memory()
    monkeypatch.setattr("device_array.allocated", memory.allocated)
    gc.collect()
    gc.disable()
    yield memory
    gc.enable()


def train(lstm: cylstm.LSTM, x: Any) -> None:
    output, _, pullback = lstm.vjp(x)
    pullback(output)
    lstm.bias_ih_l0 = lstm.bias_ih_l0 + 1e-3


@TIERS
def test_nothing_of_old_parameters_stays(tier: str, memory: Memory) -> None:
    """Not until the collector of cycles comes, which may be long after the memory of a GPU is full."""
    lstm = cylstm.LSTM(4, 5, num_layers=2, backend=HostBackend(tier=tier))
    x, used = to_device(cylstm.randn(20, 3, 4)), []
    for _ in range(6):
        train(lstm, x)
        used.append(memory.bytes)
    assert used[2:] == used[1:-1]


@needs_compiler
def test_training_replays(memory: Memory) -> None:
    """What the second step recorded serves all that follow, whatever the parameters are."""
    system = HostSystem()
    lstm = cylstm.LSTM(4, 5, num_layers=2, backend=HostBackend(tier="steps", system=system))
    x, device = to_device(cylstm.randn(20, 3, 4)), system.device(0)
    train(lstm, x)
    assert (len(device.recordings), device.replays) == (2, 2 * 3)
    for step in range(1, 5):
        train(lstm, x)
        assert len(device.recordings) == 2  # of 8 steps; forward and backward. Both layers have the same sizes there
        # 20 steps are three times 8. Already in the first step the second layer was the second to come.
        assert device.replays == (2 * step + 1) * 2 * 3
    reference = cylstm.LSTM(4, 5, num_layers=2, backend="numpy")
    reference.load_state_dict(lstm.state_dict())
    np.testing.assert_allclose(lstm(x)[0].get(), reference(x.get())[0], rtol=1e-5, atol=1e-6)


@needs_compiler
def test_ragged_batches_whose_lengths_never_come_again_replay_and_leave_nothing(memory: Memory) -> None:
    """Bytes, not numbers, of what is kept: tables alone depend on lengths."""
    system = HostSystem()
    backend, device = HostBackend(tier="steps", system=system), system.device(0)
    lstm, reference = cylstm.LSTM(4, 16, backend=backend), cylstm.LSTM(4, 16, backend="numpy")
    reference.load_state_dict(lstm.state_dict())
    x, used = cylstm.randn(40, 3, 4), []
    for length in range(39, 9, -1):
        lengths = [40, length, 9]
        packed = cylstm.pack_padded_sequence(to_device(x), lengths)
        got = lstm(packed)[0]
        expected = reference(cylstm.pack_padded_sequence(x, lengths))[0]
        np.testing.assert_allclose(got.data.get(), expected.data, rtol=1e-5, atol=1e-6)
        del packed, got
        used.append(memory.bytes)
    assert len(device.recordings) == 1
    assert device.replays == (len(used) - 1) * 5
    table = 40 * 4 * 4 + 3 * 8
    assert max(np.diff(used)) <= table
    assert used[-1] - used[0] <= len(used) * table


@needs_compiler
def test_tables_are_bounded_by_bytes(monkeypatch: pytest.MonkeyPatch, memory: Memory) -> None:
    monkeypatch.setattr("cylstm.backends.cupy_backend.steps.MOST_TABLE_BYTES", 4000)
    lstm = cylstm.LSTM(2, 3, backend=HostBackend(tier="steps"))
    used = []
    for T in range(100, 140):
        lstm(to_device(cylstm.randn(T, 1, 2)))
        used.append(memory.bytes)
    assert max(used[5:]) - min(used[5:]) < 4000


@needs_compiler
def test_a_graph_has_64_steps_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long sequence is the same two graphs many times; the steps that fill up the last have no rows."""
    system = HostSystem()
    device = system.device(0)
    problem = make_problem(testing.Case(T=150, B=2, H=3, states=True), "float32")
    backend = HostBackend(tier="steps", system=system)
    prepared = backend.prepare(problem.parameters)
    results = [forward(backend, problem, prepared, "gates") for _ in range(2)]
    assert results[0].output.tobytes() == results[1].output.tobytes()
    grads = [backward(backend, problem, prepared, results[1].workspace) for _ in range(2)]
    assert grads[0].input.tobytes() == grads[1].input.tobytes()
    assert device.recordings == [
        ["advance", *[kernel] * steps] for kernel in ("forward", "backward") for steps in (64, 8)
    ]
    assert device.replays == 2 * (2 + 3)  # of 64, 64, 8, 8, 8 steps: 150, filled up


@needs_compiler
def test_what_says_where_arrays_lie_belongs_to_one_stream_and_one_thread() -> None:
    """So nobody else says so before the work that reads it is done. The stream lives as long as it may be named."""

    class Stream:
        pass

    system = HostSystem()
    backend = HostBackend(tier="steps", system=system)
    problem = make_problem(testing.Case(T=9, B=2), "float32")
    prepared = backend.prepare(problem.parameters)
    streams = [Stream(), Stream()]
    alive = [weakref.ref(stream) for stream in streams]

    def run(stream: Any) -> None:
        here.stream = stream
        try:
            forward(backend, problem, prepared)
        finally:
            here.stream = 0

    for k in (0, 1, 0, 1):
        run(streams[k])
    assert len(system.device(0).recordings) == 2
    thread = threading.Thread(target=run, args=(streams[1],))
    thread.start()
    thread.join()
    assert len(system.device(0).recordings) == 2  # in the thread for the first time
    del streams
    gc.collect()
    assert all(ref() is not None for ref in alive)


@needs_compiler
def test_channels_and_graphs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "MOST_STREAMS", 2)
    monkeypatch.setattr(schedule, "MOST_GRAPHS", 3)
    system = HostSystem()
    backend = HostBackend(tier="steps", system=system)
    prepared = None
    for _ in range(2):
        for B in range(1, 6):
            problem = make_problem(testing.Case(T=8, B=B), "float32")
            prepared = prepared or backend.prepare(problem.parameters)
            forward(backend, problem, prepared)
    [steps] = [variant for variant in prepared.variants if variant.name == "steps"]
    assert len(steps.schedules.channel()._graphs) == 3
    try:
        for here.stream in "abcd":
            forward(backend, problem, prepared)
        assert len(steps.schedules._channels) == 2
    finally:
        here.stream = 0


# The array loop ------------------------------------------------------------------------------------------------------


def test_launches_of_the_array_loop() -> None:
    """Per step, each operation being a launch: half of those of the code of the numpy backend, and no more."""
    counts = {}
    for name, backend in (("definition", Definition()), ("array", HostBackend(tier="array"))):
        for keep in ("nothing", "gates"):
            per_length = []
            for T in (8, 9):
                problem = make_problem(testing.Case(T=T, B=3), "float32")
                problem = problem._replace(
                    input=to_device(problem.input),
                    grad_output=to_device(problem.grad_output),
                    grad_h_n=to_device(problem.grad_h_n),
                    grad_c_n=to_device(problem.grad_c_n),
                    parameters=tuple(
                        type(p)(*(None if a is None else to_device(a) for a in p)) for p in problem.parameters
                    ),
                )
                prepared, before = backend.prepare(problem.parameters), here.operations
                result = forward(backend, problem, prepared, keep)
                between = here.operations
                if keep == "gates":
                    backward(backend, problem, prepared, result.workspace)
                per_length.append((between - before, here.operations - between))
            counts[name, keep] = tuple(b - a for a, b in zip(*per_length, strict=True))
    assert counts["definition", "nothing"][0] >= 2 * counts["array", "nothing"][0]
    assert counts["definition", "gates"][0] >= 2 * counts["array", "gates"][0]
    assert counts["definition", "gates"][1] >= 2 * counts["array", "gates"][1]
    assert counts["array", "nothing"][0] <= 15
    assert counts["array", "gates"] <= (17, 12)


class Definition(NumpyBackend):
    """The numpy backend, on arrays of a device."""

    name = "definition"


def test_complex_quotients_are_those_of_cupy() -> None:
    """Its formula gives not a number for 1 / inf: the definition's sigmoid fails there, and the loop must not."""
    infinite = to_device(np.array([np.inf + 0j, 2 + 1j], np.complex64))
    with np.errstate(all="ignore"):
        quotient = (1 / infinite).get()
    assert np.isnan(quotient[0])
    np.testing.assert_allclose(quotient[1], 1 / (2 + 1j), rtol=1e-6)
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=50) + 1j * rng.normal(size=50) for _ in "ab")
    np.testing.assert_allclose(complex_quotient(a, b), a / b, rtol=1e-12)
    lstm = cylstm.LSTM(3, 4, dtype="complex64", backend=HostBackend())
    output, _, pullback = lstm.vjp(to_device((cylstm.randn(5, 2, 3) * 2000).astype(np.complex64)))
    grads = pullback(output)
    assert isinstance(grads.input, DeviceArray)
    assert all(np.isfinite(array.get()).all() for array in (output, grads.input, *grads.parameters.values()))
