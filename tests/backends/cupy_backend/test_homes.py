"""Arrays of PyTorch and JAX on a GPU: results go back there, and PyTorch's stream is the one that computes. No GPU.

Arrays of a device stand for theirs; that PyTorch and JAX take the memory of CuPy's is left to a GPU
(``tools/gpu_first_minute.py``).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cuda_host import HostBackend, HostSystem
from device_array import DeviceArray, here, to_device
from fake_cupy import FakeCupy
from gpu_places import assert_close

import cylstm
from cylstm.arrays import arguments, homes

pytestmark = pytest.mark.names_backend("cupy")


class Tensor:
    """An array of another library, as far as cylstm looks at it."""

    is_cuda = True

    def __init__(self, array: DeviceArray) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)


TORCH = type("Tensor", (Tensor,), {"__module__": "torch"})
JAX = type("ArrayImpl", (Tensor,), {"__module__": "jaxlib._jax"})


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand-ins of both libraries; what they were asked for."""
    asked: list[str] = []

    @contextmanager
    def stream_of_torch() -> Iterator[None]:
        asked.append("torch")
        before, here.stream = here.stream, "torch's"
        try:
            yield
        finally:
            here.stream = before

    @contextmanager
    def before_jax() -> Iterator[None]:
        asked.append("jax")
        yield
        asked.append("waited")

    monkeypatch.setattr(arguments, "_on_gpu", lambda value: value.array)
    monkeypatch.setattr(homes, "in_stream_of_torch", stream_of_torch)
    monkeypatch.setattr(homes, "_before_jax", before_jax)
    monkeypatch.setattr(homes, "_torch_waits", lambda: asked.append("torch waits"))
    monkeypatch.setattr(homes, "_jax_waits", lambda: asked.append("jax waits"))
    monkeypatch.setattr(homes, "_to_torch", TORCH)
    monkeypatch.setattr(homes, "_to_jax", JAX)
    return asked


def numbers(value: Any) -> Any:
    """NumPy's arrays of the arrays of a library."""
    if isinstance(value, Tensor):
        return value.array.get()
    if isinstance(value, dict):
        return {name: numbers(item) for name, item in value.items()}
    return tuple(map(numbers, value)) if isinstance(value, tuple) else value


def kinds(value: Any) -> set[type]:
    """The types of all arrays."""
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, tuple):
        return set().union(*map(kinds, value))
    return {type(value)}


@pytest.mark.parametrize("library", [TORCH, JAX], ids=["torch", "jax"])
def test_what_comes_from_a_library_goes_back_there(library: type, libraries: list[str]) -> None:
    lstm, reference = cylstm.LSTM(4, 5, backend=HostBackend()), cylstm.LSTM(4, 5, backend="numpy")
    cell, cell_reference = cylstm.LSTMCell(4, 5, backend=HostBackend()), cylstm.LSTMCell(4, 5, backend="numpy")
    linear = cylstm.Linear(4, 3)
    reference.load_state_dict(lstm.state_dict())
    cell_reference.load_state_dict(cell.state_dict())
    x, h = cylstm.randn(6, 3, 4), cylstm.randn(1, 3, 5)

    def run(lstm: Any, cell: Any, move: Any) -> Any:
        output, state = lstm(move(x), (move(h), move(h)))
        again, _, pullback = lstm.vjp(input=move(x))
        grads = pullback(move(np.ones((6, 3, 5), np.float32)))
        of_cell, cell_pullback = cell.vjp(move(x[0]))
        stream = lstm.stream(3)
        of_linear, linear_pullback = linear.vjp(move(x))
        return (
            output, state, again, tuple(grads), of_cell, tuple(cell_pullback(of_cell)[:2]), cell(move(x[0])),
            stream(move(x[0])), of_linear, linear(move(x)), linear_pullback(of_linear).parameters,
        )  # fmt: skip

    got = run(lstm, cell, lambda array: library(to_device(array)))
    expected = run(reference, cell_reference, lambda array: array)
    assert kinds(got) == {library}
    assert_close(numbers(got), expected)
    assert set(libraries) == ({"torch"} if library is TORCH else {"jax", "waited"})
    assert here.stream == 0


def test_work_with_tensors_is_in_the_stream_of_pytorch(libraries: list[str]) -> None:
    """The pullback too, in the one that is current when it is called; what fails leaves CuPy's as it was."""
    system = HostSystem()
    lstm = cylstm.LSTM(4, 5, backend=HostBackend(system=system))
    x = to_device(cylstm.randn(6, 3, 4))
    _, _, pullback = lstm.vjp(TORCH(x))
    assert libraries == ["torch"]
    pullback()
    assert libraries == ["torch", "torch"]
    assert not system.device(0).waits
    lstm(x)
    assert system.device(0).waits == [(0, "torch's")]  # the parameters went up in PyTorch's stream
    with pytest.raises(RuntimeError, match="input_size"):
        lstm(TORCH(to_device(cylstm.randn(6, 3, 7))))
    assert here.stream == 0


def test_packed_data_stay_in_the_array_library(libraries: list[str]) -> None:
    """A PackedSequence has NumPy's or CuPy's arrays; that of PyTorch is computed in PyTorch's stream."""
    lstm, x = cylstm.LSTM(4, 5, backend=HostBackend()), to_device(cylstm.randn(5, 4))
    packed = SimpleNamespace(data=TORCH(x), batch_sizes=np.array([3, 2]), sorted_indices=None, unsorted_indices=None)
    output, (h_n, _) = lstm(packed)
    assert isinstance(output, cylstm.PackedSequence)
    assert isinstance(output.data, DeviceArray)
    assert isinstance(h_n, TORCH)
    assert libraries == ["torch"]


@pytest.mark.parametrize(("library", "name"), [(TORCH, "torch"), (JAX, "jax")], ids=["torch", "jax"])
def test_work_whose_results_stay_cupys_is_waited_for(
    library: type, name: str, libraries: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next thing that the library does with the memory may be to give it to others, or to write there."""
    monkeypatch.setitem(sys.modules, "cupy", object())  # it is there

    def there(*shape: int) -> Any:
        return library(to_device(np.ones(shape, np.float32)))

    linear, lstm = cylstm.Linear(4, 3), cylstm.LSTM(4, 5, backend=HostBackend())
    packed = SimpleNamespace(data=there(5, 4), batch_sizes=np.array([3, 2]), sorted_indices=None, unsorted_indices=None)
    grads = {"weight": there(3, 4), "bias": there(3)}
    calls = [
        lambda: cylstm.pack_padded_sequence(there(5, 2, 4), [5, 3]),
        lambda: cylstm.pack_padded_sequence(input=there(5, 2, 4), lengths=[5, 3]),
        lambda: cylstm.pack_sequence([there(5, 4), there(3, 4)]),
        lambda: cylstm.pack_sequence(there(n, 4) for n in (5, 3)),
        lambda: cylstm.pack_sequence(sequences=(there(n, 4) for n in (5, 3))),
        lambda: cylstm.pad_sequence([there(5, 4), there(3, 4)]),
        lambda: cylstm.unpad_sequence(there(5, 2, 4), [5, 3]),
        lambda: cylstm.pad_packed_sequence(packed),
        lambda: cylstm.unpack_sequence(packed),
        lambda: cylstm.optim.SGD(linear, lr=0.1).step(grads),
        lambda: lstm.stream(2, hx=(there(1, 2, 5), there(1, 2, 5))),
    ]
    if library is TORCH:
        calls.append(lambda: cylstm.optim.clip_grad_norm(grads, 0.1))
    else:
        with pytest.raises(TypeError, match=r"gradient of weight must be writable, got an array of JAX.*: multiply"):
            cylstm.optim.clip_grad_norm(grads, 0.1)
    for call in calls:
        del libraries[:]
        call()
        assert set(libraries) == {f"{name} waits"}
        assert here.stream == 0
    for wrong in (
        lambda: cylstm.pack_padded_sequence(),
        lambda: cylstm.pack_padded_sequence(there(5, 2, 4), iter([5])),
    ):
        with pytest.raises(TypeError):
            wrong()
    monkeypatch.delitem(sys.modules, "cupy")
    del libraries[:]
    cylstm.pack_sequence([there(5, 4), there(3, 4)])
    assert not libraries
    monkeypatch.setitem(sys.modules, "cupy", object())
    cylstm.pack_sequence([to_device(np.ones((5, 4), np.float32)), to_device(np.ones((3, 4), np.float32))])
    cylstm.pack_sequence(np.ones((n, 4), np.float32) for n in (5, 3))
    assert not libraries


def test_arrays_of_the_cpu_ask_nobody(libraries: list[str]) -> None:
    torch = pytest.importorskip("torch")
    lstm, x = cylstm.LSTM(4, 5), cylstm.randn(6, 3, 4)
    for array in (x, torch.from_numpy(x), to_device(x)):
        if array is x or not isinstance(array, DeviceArray):
            assert isinstance(lstm(array)[0], np.ndarray)
    cylstm.LSTM(4, 5, backend=HostBackend())(to_device(x))
    assert not libraries


def test_the_stream_of_pytorch_is_used_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """By CuPy's rules; see `fake_cupy`."""
    torch = pytest.importorskip("torch")
    cupy, theirs = FakeCupy(), object()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: theirs)
    mine = cupy.cuda.Stream().use()
    with homes.in_stream_of_torch():
        assert cupy.current.external is theirs
    assert cupy.current is mine
    with pytest.raises(ZeroDivisionError), homes.in_stream_of_torch():
        raise ZeroDivisionError
    assert cupy.current is mine
    with homes._before_jax():
        assert mine.waits == 0
    assert mine.waits == 1
    homes._torch_waits()
    [(did, first), (then, other)] = cupy.events
    assert (did, first, then, other.external) == ("record", mine, "wait", theirs)
    cupy.cuda.Stream.from_external(theirs).use()
    homes._torch_waits()
    assert len(cupy.events) == 2  # they are one
