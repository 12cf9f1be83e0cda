"""Pickles: configuration and arrays, no copies of memory that nobody can write to, copies of all other."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch

import cylstm
from cylstm import keras

X = np.linspace(-1, 1, 7 * 2 * 8, dtype=np.float32).reshape(7, 2, 8)


def sequential() -> keras.Sequential:
    layers = [
        keras.Masking(),
        keras.LSTM(6, return_sequences=True, recurrent_initializer="he_normal"),
        keras.Bidirectional(keras.LSTM(5, kernel_initializer="random_uniform", stateful=True)),
        keras.Dropout(0.5),
        keras.Dense(4, activation="softmax", kernel_initializer="random_normal"),
    ]
    return keras.Sequential([keras.Input((7, 8)), *layers])


#: Name, how to make it, how to run it, the most bytes beside the arrays.
MODULES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], int]] = {
    "LSTM": (lambda: cylstm.LSTM(8, 6), lambda m: m(X)[0], 1024),
    "LSTM, 16 arrays": (lambda: cylstm.LSTM(8, 6, 2, bidirectional=True), lambda m: m(X)[0], 2048),
    "LSTM, projection": (lambda: cylstm.LSTM(8, 6, proj_size=3, batch_first=True), lambda m: m(X)[0], 1024),
    "LSTM, float64": (lambda: cylstm.LSTM(8, 6, dtype="float64"), lambda m: m(X.astype(np.float64))[0], 1024),
    "LSTM, complex64": (lambda: cylstm.LSTM(8, 6, dtype="complex64"), lambda m: m(X.astype(np.complex64))[0], 1024),
    "LSTM, float16": (lambda: cylstm.LSTM(8, 6, dtype="float16"), lambda m: m(X.astype(np.float16))[0], 1024),
    "LSTMCell": (lambda: cylstm.LSTMCell(8, 6), lambda m: m(X[0])[0], 1024),
    "Linear": (lambda: cylstm.Linear(8, 6), lambda m: m(X), 1024),
    "keras.LSTM": (lambda: built(keras.LSTM(6)), lambda m: m(X), 1024),
    "keras.Sequential": (sequential, lambda m: m.predict(X.transpose(1, 0, 2)), 5 * 1024),
}


def built(layer: Any) -> Any:
    layer(X)
    return layer


def arrays(module: Any) -> list[np.ndarray]:
    """The arrays that a pickle of the module holds."""
    if isinstance(module, keras.Sequential):
        return [array for layer in module.layers for array in arrays(layer)]
    if isinstance(module, keras.Bidirectional):
        return [array for layer in (module.forward_layer, module.backward_layer) for array in arrays(layer)]
    for part in ("lstm", "linear"):
        if hasattr(module, part):
            return arrays(getattr(module, part))
    return list(module.parameters()) if hasattr(module, "parameters") else []


def owner(array: np.ndarray) -> Any:
    while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    return array


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("name", MODULES)
def test_a_pickle_is_as_large_as_the_arrays(name: str, protocol: int) -> None:
    make, run, most = MODULES[name]
    module = make()
    before = len(pickle.dumps(module, protocol))
    run(module)
    if isinstance(module, cylstm.LSTM):
        module.vjp(X.astype(module.dtype))
    data = pickle.dumps(module, protocol)
    assert len(arrays(module)) > 1
    assert len(data) < sum(array.nbytes for array in arrays(module)) + most
    if name != "keras.Sequential":  # one of its layers is stateful
        assert len(data) == before
    other = pickle.loads(data)
    for mine, theirs in zip(arrays(module), arrays(other), strict=True):
        np.testing.assert_array_equal(theirs, mine, strict=True)
        with pytest.raises(ValueError, match="WRITEABLE"):
            theirs.flags.writeable = True
    np.testing.assert_array_equal(run(other), run(module))


@pytest.mark.parametrize("name", MODULES)
def test_joblib_maps_the_parameters_without_copies(name: str, tmp_path: Path) -> None:
    make, run, _ = MODULES[name]
    module = make()
    joblib.dump(module, tmp_path / "module.joblib")
    module, mapped, other = (joblib.load(tmp_path / "module.joblib", mmap_mode=mode) for mode in (None, "r", "r"))
    for array in arrays(mapped):
        assert type(array) is np.ndarray
        assert isinstance(owner(array), np.memmap)
        assert Path(owner(array).filename) == tmp_path / "module.joblib"
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True
    for mine, theirs in zip(arrays(module), arrays(mapped), strict=True):
        np.testing.assert_array_equal(theirs, mine, strict=True)
    np.testing.assert_array_equal(run(mapped), run(module))
    before = (tmp_path / "module.joblib").read_bytes()
    for array, copied in zip(arrays(mapped), arrays(copy.deepcopy(mapped)), strict=True):
        assert not np.shares_memory(array, copied)
        assert isinstance(owner(copied), bytes)
    if isinstance(mapped, cylstm.LSTM):
        mapped.bias_ih_l0 = np.zeros_like(mapped.bias_ih_l0)
        with mapped.unlocked() as params:
            params["weight_ih_l0"][...] = 0
        assert not mapped.weight_ih_l0.any()
        np.testing.assert_array_equal(other.weight_ih_l0, module.weight_ih_l0)
    assert (tmp_path / "module.joblib").read_bytes() == before


@pytest.mark.parametrize("mode", ["r+", "c"])
def test_a_map_that_can_be_written_to_is_copied(mode: str, tmp_path: Path) -> None:
    joblib.dump(cylstm.Linear(8, 6), tmp_path / "module.joblib")
    module = joblib.load(tmp_path / "module.joblib", mmap_mode=mode)
    assert isinstance(owner(module.weight), bytes)
    assert module.weight.any()
    whole = np.memmap(tmp_path / "module.joblib", mode="r+", dtype=np.uint8)
    whole[...] = 0
    whole.flush()
    assert module.weight.any()


def test_what_is_written_to_a_file_by_hand_can_be_mapped(tmp_path: Path) -> None:
    """A pickle with the arrays beside it: protocol 5 out of band."""
    module, parts = cylstm.LSTM(8, 6), []
    data = pickle.dumps(module, protocol=5, buffer_callback=parts.append)
    assert len(data) < 1024
    (tmp_path / "arrays").write_bytes(b"".join(part.raw() for part in parts))
    whole = memoryview(np.memmap(tmp_path / "arrays", mode="r", dtype=np.uint8))
    ends = np.cumsum([part.raw().nbytes for part in parts])
    mapped = pickle.loads(data, buffers=[whole[end - p.raw().nbytes : end] for end, p in zip(ends, parts, strict=True)])
    assert np.shares_memory(mapped.weight_ih_l0, np.frombuffer(whole, np.uint8))
    np.testing.assert_array_equal(mapped(X)[0], module(X)[0])


def test_buffers_that_nobody_can_write_to_are_taken_as_they_are() -> None:
    module, parts = cylstm.LSTM(8, 6), []
    data = pickle.dumps(module, protocol=5, buffer_callback=parts.append)
    for received in (parts, [bytes(part) for part in parts], [memoryview(bytes(part)) for part in parts]):
        other = pickle.loads(data, buffers=received)
        for array, part in zip(other.parameters(), received, strict=True):
            assert np.shares_memory(array, np.frombuffer(part, np.float32))
        np.testing.assert_array_equal(other(X)[0], module(X)[0])
    in_band = pickle.loads(pickle.dumps(module, protocol=5))
    assert isinstance(owner(in_band.weight_ih_l0), bytes)


@pytest.mark.parametrize("view", [lambda buffer: buffer, memoryview, lambda buffer: memoryview(buffer).toreadonly()])
def test_buffers_that_somebody_can_write_to_are_copied(view: Callable[[bytearray], Any]) -> None:
    """As where one buffer receives message after message."""
    module, parts = cylstm.LSTM(8, 6), []
    data = pickle.dumps(module, protocol=5, buffer_callback=parts.append)
    received = [bytearray(part) for part in parts]
    other = pickle.loads(data, buffers=list(map(view, received)))
    for buffer in received:
        buffer[:] = bytes(len(buffer))
    for mine, theirs in zip(module.parameters(), other.parameters(), strict=True):
        np.testing.assert_array_equal(theirs, mine)
    np.testing.assert_array_equal(other(X)[0], module(X)[0])


def linear_of(array: np.ndarray) -> cylstm.Linear:
    """A module that was given this array as its weight by unpickling."""
    module = cylstm.Linear(8, 6)
    state = module.__getstate__()
    state["_store"]["weight"] = array
    module.__setstate__(state)
    return module


def test_a_flag_alone_does_not_make_an_array_immutable() -> None:
    weight = np.ones((6, 8), np.float32)
    weight.flags.writeable = False
    view = np.ones((6, 8), np.float32)[:]
    read_only = view[:]
    read_only.flags.writeable = False
    tensor = torch.ones(6, 8)
    of_tensor = tensor.numpy()
    of_tensor.flags.writeable = False
    modules = [linear_of(array) for array in (weight, read_only, of_tensor)]
    weight.flags.writeable = True
    weight[...] = view[...] = 0
    tensor.zero_()
    for module in modules:
        np.testing.assert_array_equal(module.weight, 1)


def test_memory_that_kernels_would_not_take_is_copied() -> None:
    weight = np.arange(48, dtype=np.float32).reshape(6, 8)
    swapped = np.frombuffer(weight.astype(">f4").tobytes(), ">f4").reshape(6, 8)
    turned = np.frombuffer(weight.tobytes("F"), np.float32).reshape(6, 8, order="F")
    odd = np.frombuffer(b"." + weight.tobytes(), np.float32, offset=1).reshape(6, 8)
    assert not odd.flags.aligned
    for array in (swapped, turned, odd):
        taken = linear_of(array).weight
        np.testing.assert_array_equal(taken, weight)
        assert taken.flags.c_contiguous
        assert taken.flags.aligned
        assert not np.shares_memory(taken, array)


def test_a_copy_shares_nothing_that_changes() -> None:
    module = cylstm.LSTM(8, 6)
    expected = module(X)[0]
    for other in (copy.copy(module), copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        with other.unlocked() as params:
            params["weight_ih_l0"][...] = 0
        assert not np.array_equal(other(X)[0], expected)
        np.testing.assert_array_equal(module(X)[0], expected)


def test_a_stream_goes_on_where_it_was() -> None:
    stream = cylstm.LSTM(8, 6).stream(2)
    stream(X[0])
    parts: list[pickle.PickleBuffer] = []
    data = pickle.dumps(stream, protocol=5, buffer_callback=parts.append)
    other = pickle.loads(data, buffers=parts)
    for x_t in X[1:]:
        np.testing.assert_array_equal(other(x_t), stream(x_t))


def test_a_module_that_is_unlocked_is_pickled_as_it_was() -> None:
    module = cylstm.Linear(8, 6)
    before = module.weight
    with module.unlocked() as params:
        params["weight"][...] = 0
        other = pickle.loads(pickle.dumps(module))
    np.testing.assert_array_equal(other.weight, before)
    assert not module.weight.any()
