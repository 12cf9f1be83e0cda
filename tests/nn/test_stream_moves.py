"""A stream whose state cannot be moved or set stays as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cylstm
from cylstm.backends.numpy_backend import NumpyBackend


class Stepper:
    """Steps of a backend that may run out of memory when it takes a state."""

    serial = True
    fails = False
    state = "its own business: only steppers of GPUs have a method of this name"

    def __init__(self, layers: Any, batch_size: int) -> None:
        self.layers, self.batch_size, self.h, self.c = layers, batch_size, None, None

    def step(self, x_t: np.ndarray, out: np.ndarray | None, threads: int) -> np.ndarray:
        result = NumpyBackend().forward(
            self.layers[0],
            input=x_t.reshape(self.batch_size, -1),
            batch_sizes=np.array([self.batch_size]),
            h_0=self.h,
            c_0=self.c,
            keep="nothing",
        )
        self.h, self.c = result.h_n, result.c_n
        return result.output

    def get_state(self, h: np.ndarray, c: np.ndarray) -> None:
        h[...], c[...] = self.h, self.c

    def set_state(self, h: np.ndarray, c: np.ndarray) -> None:
        if type(self).fails:
            raise MemoryError
        self.h, self.c = h.copy(), c.copy()


class Stepping(NumpyBackend):
    name = "stepping"

    def stepper(self, layers: Any, *, batch_size: int) -> Any:
        return Stepper(layers, batch_size)


def same(actual: Any, expected: Any) -> bool:
    return all(map(np.array_equal, actual, expected))


@pytest.mark.parametrize("change", ["parameters", "state"])
def test_a_state_that_cannot_be_set_leaves_the_one_before(change, monkeypatch):
    lstm = cylstm.LSTM(2, 3, backend=Stepping())
    stream = lstm.stream()
    x = cylstm.randn(4, 1, 2)
    for x_t in x:
        stream(x_t)
    before = stream.state
    if change == "parameters":
        lstm.weight_ih_l0 = 2 * lstm.weight_ih_l0
    attempts = {
        "parameters": lambda: stream(x[0]),
        "state": lambda: setattr(stream, "state", (before[0] + 1, before[1])),
    }
    monkeypatch.setattr(Stepper, "fails", True)
    with pytest.raises(MemoryError):
        attempts[change]()
    assert same(stream.state, before)
    monkeypatch.setattr(Stepper, "fails", False)
    expected, _ = lstm(x[:1], before)
    assert np.array_equal(stream(x[0]), expected[0])


def test_a_state_that_is_assigned_is_copied(backend):
    stream = cylstm.LSTM(2, 3, backend=backend).stream()
    h, c = cylstm.randn(1, 1, 3), cylstm.randn(1, 1, 3)
    stream.state = (h, c)
    before = h.copy(), c.copy()
    h[...], c[...] = 7, 7
    assert same(stream.state, before)
    output = stream(cylstm.randn(1, 2))
    before = stream.state
    output[...] = 7
    assert same(stream.state, before)
