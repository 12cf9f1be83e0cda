"""Prepared weights: once per version, for many threads; what a call takes, and what it gives."""

from __future__ import annotations

import copy
import sys
import threading
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_cases import BACKENDS, dtypes_of

import cylstm
from cylstm.backends.base import Backend, LayerParameters
from cylstm.backends.numpy_backend import NumpyBackend

X = np.linspace(-1, 1, 5 * 2 * 3, dtype=np.float32).reshape(5, 2, 3)
EVERY_BACKEND = pytest.mark.parametrize("backend", BACKENDS)


def lstm(**options: Any) -> cylstm.LSTM:
    return cylstm.LSTM(3, 4, **{"backend": "numpy", **options})


class Counting(NumpyBackend):
    """The numpy backend, counting what it prepares."""

    name = "counting"

    def __init__(self) -> None:
        self.prepared = 0
        self.alive = 0

    def prepare(self, layer_parameters: LayerParameters) -> LayerParameters:
        self.prepared += 1
        return super().prepare(layer_parameters)


def test_weights_are_prepared_once_per_version() -> None:
    backend = Counting()
    module = lstm(num_layers=2, backend=backend)
    assert backend.prepared == 0
    for _ in range(3):
        module(X)
        module.vjp(X)[2]()
        module.stream(2)(X[0])
    assert backend.prepared == 2
    module.bias_ih_l0 = np.zeros(16, np.float32)
    module(X)
    assert backend.prepared == 4


def test_prepared_weights_of_an_old_version_are_released() -> None:
    class Prepared(tuple):
        alive = 0

        def __del__(self) -> None:
            Prepared.alive -= 1

    class Backend(NumpyBackend):
        name = "releasing"

        def prepare(self, layer_parameters: LayerParameters) -> LayerParameters:
            Prepared.alive += 1
            return Prepared(super().prepare(layer_parameters))

    module = lstm(backend=Backend())
    for _ in range(5):
        module(X)
        module.vjp(X)
        module.reset_parameters()
    assert Prepared.alive == 0
    module(X)
    assert Prepared.alive == 1
    del module
    assert Prepared.alive == 0


def test_many_threads_prepare_once_and_agree() -> None:
    backend = Counting()
    module = lstm(num_layers=2, backend=backend)
    barrier = threading.Barrier(8)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:

        def call(_: int) -> np.ndarray:
            barrier.wait()
            return module(X)[0]

        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(call, range(8)))
    finally:
        sys.setswitchinterval(interval)
    assert backend.prepared == 2
    for result in results:
        np.testing.assert_array_equal(result, results[0])


@EVERY_BACKEND
def test_a_call_sees_one_version_while_another_thread_changes_the_parameters(backend: str) -> None:
    """All parameters are 0 or all are 1: a mixture would give another output than either."""
    module = cylstm.LSTM(3, 4, num_layers=2, backend=backend)
    versions = [{name: np.full_like(p, value) for name, p in module.named_parameters()} for value in (0, 1)]
    allowed = []
    for version in versions:
        module.load_state_dict(version)
        allowed.append(module(X)[0])
    done = threading.Event()

    def change() -> None:
        for i in range(200):
            module.load_state_dict(versions[i % 2])
        done.set()

    thread = threading.Thread(target=change)
    thread.start()
    calls = 0
    while not done.is_set() or calls == 0:
        output = module(X)[0]
        assert any(np.array_equal(output, one) for one in allowed)
        calls += 1
    thread.join()


@EVERY_BACKEND
def test_arrays_of_other_kinds_give_the_same_output(backend: str, tmp_path: Any) -> None:
    for dtype in dtypes_of(backend):
        module = lstm(dtype=dtype, backend=backend)
        x = cylstm.randn(5, 2, 3, dtype=dtype)
        hx = tuple(cylstm.randn(1, 2, 4, dtype=dtype) for _ in range(2))
        expected, expected_state = module(x, hx)
        path = tmp_path / f"{dtype}.bin"
        path.write_bytes(b"#" + x.tobytes())  # one byte off: not aligned
        read_only = x.copy()
        read_only.flags.writeable = False
        for other in (
            read_only,
            np.asfortranarray(x),
            np.repeat(x, 2, axis=2)[..., ::2],
            x[::-1].copy()[::-1],
            x.astype(x.dtype.newbyteorder(">")),
            np.memmap(path, dtype, "r", offset=1, shape=x.shape),
            torch.tensor(x),
            torch.tensor(x, requires_grad=True),
            torch.tensor(x.conj()).conj(),
            _OnlyArray(x),
            _OnlyDlpack(x),
        ):
            np.testing.assert_array_equal(module(other, hx)[0], expected, strict=True)
        for other in (list(hx), [torch.tensor(state) for state in hx], tuple(np.asfortranarray(s) for s in hx)):
            output, state = module(x, other)
            np.testing.assert_array_equal(output, expected)
            np.testing.assert_array_equal(state, expected_state)


class _OnlyArray:
    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.array


class _OnlyDlpack:
    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **arguments: Any) -> Any:
        return self.array.__dlpack__(**arguments)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


def test_packed_sequences_of_torch_are_accepted() -> None:
    sequences = [np.ones((n, 3), np.float32) * n for n in (2, 4, 1)]
    module = lstm(bidirectional=True)
    expected, state = module(cylstm.pack_sequence(sequences, enforce_sorted=False))
    theirs = torch.nn.utils.rnn.pack_sequence([torch.tensor(s) for s in sequences], enforce_sorted=False)
    output, other_state = module(theirs)
    assert isinstance(output, cylstm.PackedSequence)
    np.testing.assert_equal(output, expected)
    np.testing.assert_equal(other_state, state)


@EVERY_BACKEND
def test_results_belong_to_the_caller(backend: str) -> None:
    module = lstm(backend=backend)
    hx = tuple(cylstm.randn(1, 2, 4) for _ in range(2))
    x = X.copy()
    output, state = module(x, hx)
    arrays = [output, *state]
    for i, array in enumerate(arrays):
        assert array.flags.writeable
        assert not any(np.shares_memory(array, other) for other in [x, *hx, *arrays[:i]])
    again = module(x, hx)[0]
    assert not np.shares_memory(again, output)
    np.testing.assert_array_equal(x, X)


def test_version_is_that_of_the_distribution() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    assert cylstm.__version__ == project["version"]


def test_backend_may_be_an_instance() -> None:
    backend: Backend = NumpyBackend()
    module = lstm(backend=backend)
    np.testing.assert_array_equal(module(X)[0], copy.copy(module)(X)[0])
    assert module.backend is backend
