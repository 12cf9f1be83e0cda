"""One time step at a time equals whole sequences."""

from __future__ import annotations

import copy
import pickle
import tracemalloc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from random_cases import BACKENDS, dtypes_of

import cylstm
from cylstm.backends import registry
from cylstm.backends.numpy_backend import NumpyBackend

EVERY_BACKEND = pytest.mark.parametrize("backend", BACKENDS)
OPTIONS = [{}, {"num_layers": 3}, {"num_layers": 2, "proj_size": 3}, {"bias": False, "batch_first": True}]


@EVERY_BACKEND
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("B", [1, 3])
def test_stream_equals_step_by_step_bit_for_bit(backend: str, options: dict[str, Any], B: int) -> None:
    for dtype in dtypes_of(backend):
        lstm = cylstm.LSTM(4, 5, **options, dtype=dtype, backend=backend)
        x = cylstm.randn(6, B, 4, dtype=dtype)
        stream, hx = lstm.stream(B), None
        for x_t in x:
            h = stream(x_t)
            step, hx = lstm(x_t[:, np.newaxis] if lstm.batch_first else x_t[np.newaxis], hx)
            np.testing.assert_array_equal(h, step.reshape(B, -1), strict=True)
            for a, b in zip(stream.state, hx, strict=True):
                np.testing.assert_array_equal(a, b, strict=True)


@EVERY_BACKEND
def test_stream_equals_bulk(backend: str) -> None:
    lstm = cylstm.LSTM(4, 5, 2, dtype="float64", backend=backend)
    x = cylstm.randn(20, 3, 4, dtype="float64")
    output, state = lstm(x)
    stream = lstm.stream(batch_size=3)
    np.testing.assert_allclose([stream(x_t) for x_t in x], output, rtol=0, atol=1e-14)
    np.testing.assert_allclose(np.concatenate(stream.state), np.concatenate(state), rtol=0, atol=1e-14)


@EVERY_BACKEND
def test_one_sequence_without_a_batch_dimension(backend: str) -> None:
    lstm = cylstm.LSTM(4, 5, backend=backend)
    x = cylstm.randn(6, 4)
    with_batch, without = lstm.stream(), lstm.stream()
    for x_t in x:
        h = without(x_t)
        assert h.shape == (5,)
        np.testing.assert_array_equal(with_batch(x_t[np.newaxis]), h[np.newaxis])
    theirs = torch.nn.LSTM(4, 5)
    theirs.load_state_dict({name: torch.tensor(p) for name, p in lstm.named_parameters()})
    np.testing.assert_allclose(h, theirs(torch.tensor(x))[0][-1].detach().numpy(), atol=1e-6)


@EVERY_BACKEND
def test_reset_and_state(backend: str) -> None:
    lstm = cylstm.LSTM(4, 5, 2, backend=backend)
    x = cylstm.randn(6, 2, 4)
    stream = lstm.stream(2)
    assert not np.concatenate(stream.state).any()
    first = [stream(x_t) for x_t in x]
    stream.reset()
    assert not np.concatenate(stream.state).any()
    np.testing.assert_array_equal([stream(x_t) for x_t in x], first)

    stream.reset()
    for x_t in x[:3]:
        stream(x_t)
    saved = stream.state
    other = lstm.stream(2)
    other.state = saved
    rest = [other(x_t) for x_t in x[3:]]
    np.testing.assert_array_equal(rest, first[3:])
    for array in (*saved, *stream.state, *rest):
        array[...] = np.nan  # copies: the streams do not see it
    np.testing.assert_array_equal([stream(x_t) for x_t in x[3:]], first[3:])
    other.state = tuple(torch.zeros(2, 2, 5) for _ in range(2))
    np.testing.assert_array_equal([other(x_t) for x_t in x], first)


@EVERY_BACKEND
def test_outputs_are_not_overwritten_by_the_next_step(backend: str) -> None:
    stream = cylstm.LSTM(4, 5, backend=backend).stream()
    first = stream(np.ones(4, np.float32))
    kept = first.copy()
    first_state = copy.deepcopy(stream.state)
    first[...] = np.nan  # the caller's own: the state does not see it
    np.testing.assert_equal(stream.state, first_state)
    second = stream(np.ones(4, np.float32))
    assert not np.array_equal(second, kept)
    assert np.isfinite(second).all()
    assert not np.shares_memory(first, second)


@EVERY_BACKEND
def test_out(backend: str) -> None:
    lstm = cylstm.LSTM(4, 5, backend=backend)
    x = cylstm.randn(6, 2, 4)
    expected = [h for stream in [lstm.stream(2)] for h in map(stream, x)]
    stream, out = lstm.stream(2), np.empty((6, 2, 5), np.float32)
    for x_t, h in zip(x, out, strict=True):
        assert stream(x_t, out=h) is h
    np.testing.assert_array_equal(out, expected)
    strided = np.empty((2, 10), np.float32)[:, ::2]
    stream.reset()
    stream(x[0], out=strided)
    np.testing.assert_array_equal(strided, expected[0])


@EVERY_BACKEND
def test_a_change_of_parameters_is_seen_by_the_next_step(backend: str) -> None:
    lstm = cylstm.LSTM(4, 5, backend=backend)
    stream, x_t = lstm.stream(), np.ones((1, 4), np.float32)
    stream(x_t)
    state = stream.state
    with lstm.unlocked() as params:
        params["bias_ih_l0"] += 1
    np.testing.assert_array_equal(stream(x_t), lstm(x_t[np.newaxis], state)[0][0])


@EVERY_BACKEND
def test_input_may_be_strided_read_only_or_a_tensor(backend: str) -> None:
    lstm = cylstm.LSTM(4, 5, backend=backend)
    x_t = cylstm.randn(2, 4)
    expected = lstm.stream(2)(x_t)
    strided = np.repeat(x_t, 2, axis=1)[:, ::2]
    strided.flags.writeable = False
    np.testing.assert_array_equal(lstm.stream(2)(strided), expected)
    locked = x_t.copy()
    locked.flags.writeable = False
    np.testing.assert_array_equal(lstm.stream(2)(locked), expected)
    np.testing.assert_array_equal(lstm.stream(2)(torch.tensor(x_t, requires_grad=True)), expected)


def zeros(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.zeros(shape, dtype)


@EVERY_BACKEND
@pytest.mark.parametrize(
    ("x_t", "error", "message"),
    [
        (zeros(2, 3), RuntimeError, r"\(2, 4\), got \(2, 3\)"),
        (zeros(4), RuntimeError, r"\(2, 4\), got \(4,\)"),
        (zeros(1, 2, 4), RuntimeError, r"\(2, 4\), got \(1, 2, 4\)"),
        (zeros(3, 4), RuntimeError, r"\(2, 4\), got \(3, 4\)"),
        (zeros(2, 4, dtype="float64"), ValueError, "float64.*float32.*astype"),
        ([[0.0] * 4] * 2, TypeError, "x_t must be an array.*list"),
    ],
)
def test_wrong_input_leaves_the_state(x_t: Any, error: type[Exception], message: str, backend: str) -> None:
    stream = cylstm.LSTM(4, 5, backend=backend).stream(2)
    stream(np.ones((2, 4), np.float32))
    before = stream.state
    with pytest.raises(error, match=message):
        stream(x_t)
    np.testing.assert_equal(stream.state, before)


@EVERY_BACKEND
@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (zeros(10), ValueError, r"\(2, 5\).*of shape \(10,\)"),
        (zeros(1, 2, 5), ValueError, r"\(2, 5\).*of shape \(1, 2, 5\)"),
        (zeros(2, 4), ValueError, r"\(2, 5\).*got a writable one of shape \(2, 4\)"),
        (zeros(2, 5, dtype="float64"), ValueError, "float32, got.*float64"),
        (np.broadcast_to(zeros(1, 1), (2, 5)), ValueError, "writable.*got a read-only"),
        (np.frombuffer(bytes(40), np.float32).reshape(2, 5), ValueError, "writable.*got a read-only"),
        ([[0.0] * 5] * 2, TypeError, "numpy.ndarray, got list"),
    ],
)
def test_wrong_out_leaves_the_state(out: Any, error: type[Exception], message: str, backend: str) -> None:
    stream = cylstm.LSTM(4, 5, backend=backend).stream(2)
    with pytest.raises(error, match=message):
        stream(np.ones((2, 4), np.float32), out=out)
    assert not np.concatenate(stream.state).any()


@EVERY_BACKEND
def test_out_has_as_many_dimensions_as_the_input(backend: str) -> None:
    stream = cylstm.LSTM(4, 5, backend=backend).stream()
    stream(zeros(4))
    before = stream.state
    for x_t, out in ((zeros(4), zeros(1, 5)), (zeros(1, 4), zeros(5))):
        with pytest.raises(ValueError, match="out must be a writable array of shape"):
            stream(x_t, out=out)
    np.testing.assert_equal(stream.state, before)


def test_a_stepper_that_refuses_what_it_must_take() -> None:
    class Refusing(NumpyBackend):
        def stepper(self, layers: Any, *, batch_size: int) -> Any:
            nothing = dict.fromkeys(("step", "get_state", "set_state"), lambda *_: None)
            return SimpleNamespace(serial=True, **nothing)

    stream = cylstm.LSTM(4, 5, backend=Refusing()).stream()
    with pytest.raises(RuntimeError, match=r"the stepper of backend 'numpy' refuses x_t of shape \(4,\)"):
        stream(zeros(4))


@EVERY_BACKEND
def test_arrays_of_a_subclass(backend: str) -> None:
    class Named(np.ndarray):
        pass

    lstm = cylstm.LSTM(4, 5, backend=backend)
    x_t, out = cylstm.randn(4), zeros(5).view(Named)
    expected = lstm.stream()(x_t)
    stream = lstm.stream()
    assert type(stream(x_t.view(Named))) is np.ndarray
    stream.reset()
    assert stream(x_t, out=out) is out
    np.testing.assert_array_equal(out, expected)


def test_what_cannot_stream() -> None:
    with pytest.raises(ValueError, match=r"bidirectional.*call the module on whole sequences"):
        cylstm.LSTM(4, 5, bidirectional=True, backend="numpy").stream()
    lstm = cylstm.LSTM(4, 5, backend="numpy")
    with pytest.raises(ValueError, match="batch_size must be greater than zero, got 0"):
        lstm.stream(0)
    for wrong in (1.0, "1", None, True):
        with pytest.raises(TypeError, match="batch_size must be an int"):
            lstm.stream(wrong)


def test_state_is_checked() -> None:
    stream = cylstm.LSTM(4, 5, backend="numpy").stream(2)
    with pytest.raises(RuntimeError, match=r"h_0 of shape \(1, 2, 5\).*\(1, 3, 5\)"):
        stream.state = zeros(1, 3, 5), zeros(1, 2, 5)
    with pytest.raises(RuntimeError, match=r"float32.*float64"):
        stream.state = zeros(1, 2, 5, dtype="float64"), zeros(1, 2, 5)
    with pytest.raises(TypeError, match="tuple of two"):
        stream.state = zeros(2, 2, 5)


def test_a_change_of_dtype_asks_for_a_reset() -> None:
    lstm = cylstm.LSTM(4, 5, backend="numpy")
    stream = lstm.stream()
    lstm.double()
    with pytest.raises(RuntimeError, match=r"state must have the module's dtype float64, got float32: call reset\(\)"):
        stream(zeros(4, dtype="float64"))
    stream.reset()
    assert stream(zeros(4, dtype="float64")).dtype == np.float64


@EVERY_BACKEND
def test_input_may_be_in_another_byte_order_or_not_aligned(backend: str) -> None:
    lstm = cylstm.LSTM(4, 5, backend=backend)
    x = cylstm.randn(3, 4)
    shifted = np.empty(4 * 4 + 1, np.uint8)[1:].view(np.float32)
    out = np.empty(5 * 4 + 1, np.uint8)[1:].view(np.float32)
    assert not shifted.flags.aligned
    assert not out.flags.aligned
    plain, swapped, unaligned = (lstm.stream() for _ in range(3))
    for x_t in x:
        shifted[:] = x_t
        expected = plain(x_t)
        np.testing.assert_array_equal(swapped(x_t.astype(x.dtype.newbyteorder())), expected)
        np.testing.assert_array_equal(unaligned(shifted, out=out), expected)


def test_repr() -> None:
    assert repr(cylstm.LSTM(4, 5, 2, backend="numpy").stream(3)) == "Stream(LSTM(4, 5, num_layers=2), batch_size=3)"


def test_a_step_into_out_allocates_nothing() -> None:
    """On the compiled backend: all buffers were made beforehand."""
    pytest.importorskip("cylstm.backends.cython_backend._lstm", reason="the compiled backend is not built")
    lstm = cylstm.LSTM(300, 200, 2, backend="cython")
    stream = lstm.stream(batch_size=3)
    x_t, out = cylstm.randn(3, 300), np.empty((3, 200), np.float32)
    stream(x_t, out)
    tracemalloc.start()
    try:
        for _ in range(3):
            stream(x_t, out)
        tracemalloc.reset_peak()
        current = tracemalloc.get_traced_memory()[0]
        for _ in range(200):
            stream(x_t, out)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak - current < 1024  # the frames and tuples of Python; an array of the output alone has 2400 bytes
    resource = pytest.importorskip("resource", reason="this system does not tell the memory of a process")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(5_000):
        stream(x_t, out)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024  # KiB


@EVERY_BACKEND
@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("clone", [copy.deepcopy, copy.copy, lambda stream: pickle.loads(pickle.dumps(stream))])
def test_a_copy_goes_on_by_itself(clone: Callable[[Any], Any], steps: int, backend: str) -> None:
    stream = cylstm.LSTM(4, 5, 2, backend=backend).stream(batch_size=3)
    x = cylstm.randn(6, 3, 4)
    for x_t in x[:steps]:
        stream(x_t)
    before = stream.state
    other = clone(stream)
    expected = [stream(x_t) for x_t in x[steps:]]
    for a, b in zip(other.state, before, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)
    np.testing.assert_array_equal([other(x_t) for x_t in x[steps:]], expected, strict=True)
    other.reset()
    assert np.any(stream.state[0])


def test_a_deep_copy_has_a_module_of_its_own() -> None:
    stream = cylstm.LSTM(4, 5).stream()
    x_t = cylstm.randn(4)
    expected = stream(x_t)
    other = copy.deepcopy(stream)
    other._lstm.bias_ih_l0 = np.ones(20, np.float32)
    stream.reset()
    other.reset()
    np.testing.assert_array_equal(stream(x_t), expected)
    np.testing.assert_array_equal(other(x_t), other._lstm(x_t[np.newaxis])[0][0])
    assert not np.array_equal(other._lstm(x_t[np.newaxis])[0][0], expected)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda lstm: pickle.loads(pickle.dumps(lstm))])
def test_a_module_may_hold_its_own_stream(clone: Callable[[Any], Any]) -> None:
    lstm = cylstm.LSTM(4, 5)
    lstm.live = lstm.stream()
    x = cylstm.randn(2, 4)
    lstm.live(x[0])
    other = clone(lstm)
    assert other.live._lstm is other
    np.testing.assert_array_equal(other.live(x[1]), lstm.live(x[1]))


def test_another_backend_between_two_steps() -> None:
    """Whoever computes the next step takes the state along."""
    lstm, x = cylstm.LSTM(4, 5), cylstm.randn(3, 4)
    stream = lstm.stream()
    expected = lstm(x)[0]
    own = cylstm.get_backend()
    h, backends = [], []
    for name, x_t in zip((own, "numpy", own), x, strict=True):
        with cylstm.use_backend(name):
            h.append(stream(x_t))
            backends.append(stream._choice.backend.name)
    assert backends == [registry.load(name).name for name in (own, "numpy", own)]
    np.testing.assert_allclose(h, expected, rtol=1e-5, atol=1e-6)


@EVERY_BACKEND
def test_dropout_while_the_module_trains(backend: str) -> None:
    lstm = cylstm.LSTM(4, 5, 2, dropout=0.5, backend=backend).eval()
    stream, x_t = lstm.stream(), cylstm.randn(1, 4)
    for training in (False, True, False):
        state = stream.state
        lstm.train(training)
        cylstm.manual_seed(1)
        h_t = stream(x_t)
        cylstm.manual_seed(1)
        np.testing.assert_array_equal(h_t, lstm(x_t[np.newaxis], state)[0][0])
        assert np.array_equal(h_t, lstm.eval()(x_t[np.newaxis], state)[0][0]) is not training
