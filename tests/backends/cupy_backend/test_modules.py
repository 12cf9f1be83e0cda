"""Stream, LSTMCell, Linear, packing and optimisers with arrays of a device: they stay there, or are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_host import HostBackend, HostSystem
from device_array import here, on_device, to_device
from gpu_places import PLACES, TIERS, assert_close, at, moved, on_host

import cylstm
from cylstm.random import dropout_mask
from cylstm.random.beside import dropout_mask_beside

pytestmark = pytest.mark.names_backend("cupy")


def masks_of_the_cpu(rows: Any, shape: tuple[int, ...], p: float) -> Any:
    """Those that the CPU draws, so that results can be compared."""
    return np.asarray(dropout_mask(shape, p, rows.dtype), like=rows)


@PLACES
@TIERS
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_stream_stays_on_the_device(dropout: float, tier: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames, outputs and the state, from the first frame on."""
    monkeypatch.setattr("cylstm.nn.lstm.dropout_mask_beside", masks_of_the_cpu)
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
    with pytest.raises(TypeError, match="x_t must lie on the CPU"):
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
    assert [device.marks > 0 for device in system.devices] == [False, True]
    with on_device(1):
        with pytest.raises(RuntimeError, match="h_0 must lie where the input does, on the GPU"):
            cell(to_device(x), (h, h))
        _, pullback = cell.vjp(to_device(x))
        with pytest.raises(RuntimeError, match="grad_c_1 must lie where the input does, on the GPU"):
            pullback((None, h))
    with pytest.raises(TypeError, match="input must lie on the CPU"):
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
    with pytest.raises(
        RuntimeError,
        match=r"current device must be cuda:1, where input lies, got cuda:0: call inside `with cupy.cuda.Device\(1\):`",
    ):
        linear(there)
    waited = here.to_host
    for _ in range(2):
        with on_device(1):
            output = linear(there)
        assert output.device.id == 1
        assert here.to_host == waited + 1
    assert_close(output.get(), linear(x))


def test_strided_arrays_go_to_the_host_by_way_of_a_copy() -> None:
    """Else CuPy would change the current stream, which the stand-in does not let pass."""
    numbers = np.arange(12, dtype=np.float32).reshape(6, 2)
    strided = to_device(np.asfortranarray(numbers))
    np.testing.assert_array_equal(cylstm.PackedSequence(strided, np.array([6])).cpu().data, numbers)
    linear = cylstm.Linear(2, 6, bias=False)
    before = linear.weight.copy()
    cylstm.optim.SGD(linear, lr=1.0).step({"weight": strided})
    np.testing.assert_array_equal(linear.weight, before - numbers)


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


def test_optimisers_take_gradients_of_either_side() -> None:
    """One step is the same."""
    lstm, reference = cylstm.LSTM(4, 5, backend=HostBackend()), cylstm.LSTM(4, 5, backend="numpy")
    reference.load_state_dict(lstm.state_dict())
    x = cylstm.randn(5, 3, 4)
    for module, there in ((lstm, to_device(x)), (reference, x)):
        optimizer = cylstm.optim.Adam(module)
        output, _, pullback = module.vjp(there)
        grads = pullback(output).parameters
        optimizer.step(grads)
    assert_close(lstm.state_dict(), reference.state_dict())


@PLACES
@pytest.mark.parametrize("dtype", ["float16", "float32", "complex64"])
@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_gradients_are_clipped_where_they_lie(max_norm: float, dtype: str, place: str) -> None:
    """Only norms come to the host: one number for each array."""
    _, move = at(place, "array")
    rng = np.random.default_rng(0)
    grads = {name: rng.normal(size=shape).astype(dtype) for name, shape in (("a", (3, 4)), ("b", (5,)))}
    there = {name: move(array) for name, array in grads.items()}
    norms = [cylstm.optim.clip_grad_norm(each, max_norm) for each in (grads, there)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3 if dtype == "float16" else 1e-6)
    for name, array in grads.items():
        assert type(there[name]) is type(move(array))
        np.testing.assert_allclose(there[name].get(), array, rtol=2e-3 if dtype == "float16" else 1e-6)
    with pytest.raises(TypeError, match="grads must be writable NumPy arrays, or arrays on a GPU, of floating point"):
        cylstm.optim.clip_grad_norm({"a": there["a"], "b": move(np.ones(3, np.int32))}, 0.1)
    np.testing.assert_allclose(there["a"].get(), grads["a"], rtol=2e-3 if dtype == "float16" else 1e-6)


@PLACES
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dropout_masks_are_drawn_where_the_rows_lie(dtype: str, place: str) -> None:
    """Of a seed alone, one after the other different; nothing of their size is copied."""
    _, move = at(place, "array")
    rows, p = move(np.zeros((1, 1), dtype)), 0.3
    transfers = here.to_device
    cylstm.manual_seed(5)
    masks = [dropout_mask_beside(rows, (300, 200), p) for _ in range(2)]
    cylstm.manual_seed(5)
    again = dropout_mask_beside(rows, (300, 200), p)
    assert here.to_device == transfers
    first, second, third = (mask.get().astype(float) for mask in (*masks, again))
    assert masks[0].dtype == dtype
    np.testing.assert_array_equal(first, third)
    for mask in (first, second):
        assert set(np.unique(mask)) == {0.0, float((1 / np.float64(1 - p)).astype(dtype))}
        assert abs((mask > 0).mean() - 0.7) < 5 * (0.3 * 0.7 / mask.size) ** 0.5
        for lag in (1, 2, 200, 201):  # neighbours know nothing of each other
            kept = (mask > 0).ravel()
            assert abs(np.corrcoef(kept[:-lag], kept[lag:])[0, 1]) < 5 / kept.size**0.5
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 5 / first.size**0.5
    assert (dropout_mask_beside(rows, (3, 4), 1.0).get() == 0).all()
    with pytest.raises(RuntimeError, match="dtype must be real for dropout"):
        dropout_mask_beside(move(np.zeros(1, np.complex64)), (3, 4), p)


TRAINED = [
    ("SGD", {"lr": 0.001, "momentum": 0.9}),
    ("Adam", {"amsgrad": True}),
    ("AdamW", {}),
    ("RMSprop", {"centered": True}),
]


@PLACES
@pytest.mark.parametrize(("kind", "options"), TRAINED, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("dtype", ["float64", "complex128"])  # steps of Adam make much of roundings
def test_training_stays_on_the_device(kind: str, options: dict[str, Any], dtype: str, place: str) -> None:
    """Parameters, gradients and what an optimiser keeps; a parameter comes to the CPU when it is read, once."""
    backend, move = at(place, "array")
    lstm, reference = (cylstm.LSTM(4, 5, num_layers=2, dtype=dtype, backend=one) for one in (backend, "numpy"))
    head, head_reference = cylstm.Linear(5, 3, dtype=dtype), cylstm.Linear(5, 3, dtype=dtype)
    reference.load_state_dict(lstm.state_dict())
    head_reference.load_state_dict(head.state_dict())
    x = cylstm.randn(6, 3, 4, dtype=dtype)
    optimizers = []
    for one, top, there in ((reference, head_reference, x), (lstm, head, move(x))):
        optimizer = getattr(cylstm.optim, kind)([one, top], **options)
        optimizers.append(optimizer)
        for step in range(4):
            if step == 1:
                before = (here.to_host, here.to_device)
            output, _, pullback = one.vjp(there)
            result, pull_top = top.vjp(output)
            of_top = pull_top(result)
            optimizer.step([pullback(of_top.input).parameters, of_top.parameters])
        if one is lstm:
            assert (here.to_host, here.to_device) == before
    version = lstm._store.version
    transfers = here.to_host
    assert_close(lstm.state_dict(), reference.state_dict())
    counted = len(lstm.state_dict()) if place == "CPU as GPU" else 0  # CuPy's own arrays count nothing
    assert here.to_host == transfers + counted
    assert isinstance(lstm.weight_ih_l0, np.ndarray)
    assert not lstm.weight_ih_l0.flags.writeable
    assert here.to_host == transfers + counted
    assert_close(head.state_dict(), head_reference.state_dict())
    assert lstm._store.version == version
    assert_close(lstm(x)[0], reference(x)[0])  # NumPy's arrays still go up and back
    states = [optimizer.state_dict() for optimizer in optimizers]
    assert all(isinstance(array, np.ndarray) for array in states[1].values())
    assert_close(*reversed(states))


def test_parameters_go_up_once() -> None:
    """The optimiser's first step takes those that the backend has brought there; zeros of its own go up beside."""
    lstm, head = cylstm.LSTM(4, 5, num_layers=2, backend=HostBackend(tier="array")), cylstm.Linear(5, 3)
    x = to_device(cylstm.randn(6, 3, 4))
    before = here.to_device
    output, _, pullback = lstm.vjp(x)
    result, pull_head = head.vjp(output)
    of_head = pull_head(result)
    grads = [pullback(of_head.input).parameters, of_head.parameters]
    count = len(lstm.state_dict()) + len(head.state_dict())
    assert here.to_device == before + count
    cylstm.optim.SGD([lstm, head]).step(grads)
    assert here.to_device == before + count


def test_training_may_change_sides(new_registry: None) -> None:
    """From the GPU to the CPU and back: other gradients, another backend, a new value, a state that is loaded."""
    lstm, reference = cylstm.LSTM(4, 5, backend=HostBackend()), cylstm.LSTM(4, 5, backend="numpy")
    reference.load_state_dict(lstm.state_dict())
    x, rng = cylstm.randn(6, 3, 4), np.random.default_rng(0)
    ours, theirs = cylstm.optim.Adam(lstm), cylstm.optim.Adam(reference)
    for step in range(8):
        grads = {name: rng.normal(size=p.shape).astype(np.float32) for name, p in reference.named_parameters()}
        on_gpu = step % 3 != 2
        ours.step({name: to_device(grad) for name, grad in grads.items()} if on_gpu else grads)
        theirs.step(grads)
        if step == 3:
            for module in (lstm, reference):
                module.bias_ih_l0 = module.bias_ih_l0 + 1
                with module.unlocked() as params:
                    params["bias_hh_l0"][:] = 2
        if step == 4:
            lstm.backend = "numpy"
        if step == 5:
            state = ours.state_dict()
            ours = cylstm.optim.Adam(lstm)
            ours.load_state_dict(state)
            lstm.backend = HostBackend()
        assert_close(lstm(x)[0], reference(x)[0])
    assert_close(lstm.state_dict(), reference.state_dict())
    with pytest.raises(RuntimeError, match="the gradient of weight_ih_l0 must have shape"):
        ours.step({name: to_device(grad[:1]) for name, grad in grads.items()})
    assert_close(lstm.state_dict(), reference.state_dict())
