"""No lock of two is taken in two orders, and none is held while code of others runs that might wait for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import cylstm
import cylstm.optim
from cylstm.backends import registry
from cylstm.backends.numpy_backend import NumpyBackend
from cylstm.nn import parameters

X = cylstm.randn(4, 2, 3)


def at_once(*work: Callable[[], Any]) -> list[Any]:
    """What each returns, or raises, in a thread of its own; all must end."""
    results: list[Any] = [None] * len(work)

    def run(n: int) -> None:
        try:
            results[n] = work[n]()
        except Exception as error:
            results[n] = error

    threads = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    return results


@pytest.mark.usefixtures("new_registry")
def test_a_backend_that_loads_one_whose_constructor_calls_a_module(install: Callable[..., Path]) -> None:
    """One thread prepares weights and loads a backend; another loads that backend, which calls a module."""
    source = """
import threading, time
import cylstm
from cylstm.backends import registry
from cylstm.backends.numpy_backend import NumpyBackend
both = threading.Barrier(2, timeout=300)
module = cylstm.LSTM(3, 5, backend="numpy")
class Loads(NumpyBackend):
    name = "loads"
    def prepare(self, layer_parameters):
        both.wait()
        time.sleep(0.2)
        registry.load("calls")
        return super().prepare(layer_parameters)
class Calls(NumpyBackend):
    name = "calls"
    def __init__(self):
        both.wait()
        time.sleep(0.2)
        module(cylstm.randn(4, 2, 3))
"""
    install("two-dist", "loads = two_backends:Loads\ncalls = two_backends:Calls", two_backends=source)
    lstm = cylstm.LSTM(3, 5, backend="loads")
    first, second = at_once(lambda: lstm(X), lambda: cylstm.set_backend("calls"))
    np.testing.assert_array_equal(first[0], cylstm.LSTM._of(lstm.state_dict(), input_size=3, hidden_size=5)(X)[0])
    assert second is None


def test_gradients_that_another_thread_computes() -> None:
    """A mapping may wait for another thread, which calls a module and changes it."""
    lstm, other = cylstm.LSTM(3, 5), cylstm.LSTM(3, 5)

    class Computed(Mapping):
        def __getitem__(self, name: str) -> np.ndarray:
            def work() -> None:
                other(X)
                cylstm.optim.SGD(other).step({n: np.ones_like(p) for n, p in other.named_parameters()})

            at_once(work, lambda: lstm.load_state_dict(lstm.state_dict()))
            return np.ones_like(other.state_dict()[name])

        def __iter__(self) -> Iterator[str]:
            return iter(other.state_dict())

        def __len__(self) -> int:
            return len(other.state_dict())

    before = lstm.state_dict()
    cylstm.optim.SGD(lstm, lr=0.5).step(Computed())
    for name, array in lstm.named_parameters():
        np.testing.assert_array_equal(array, before[name] - np.float32(0.5))


def test_values_that_another_thread_computes() -> None:
    lstm, other = cylstm.LSTM(3, 5), cylstm.LSTM(3, 5)

    class Computed:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            at_once(lambda: lstm(X), lambda: other(X), other.reset_parameters)
            return np.ones((20, 3), np.float32)

    lstm.weight_ih_l0 = Computed()
    lstm.load_state_dict({"weight_ih_l0": Computed()}, strict=False)
    with lstm.unlocked() as params:
        params["weight_ih_l0"] = Computed()
    assert np.all(lstm.weight_ih_l0 == 1)


def test_optimisers_of_the_same_modules_in_two_orders() -> None:
    modules = [cylstm.LSTM(3, 5), cylstm.Linear(5, 2)]
    grads = [{n: np.ones_like(p) for n, p in m.named_parameters()} for m in modules]

    def steps(order: int) -> None:
        optimizer = cylstm.optim.SGD(modules[::order], lr=1.0)
        for _ in range(200):
            optimizer.step(grads[::order])

    before = [m.state_dict() for m in modules]
    assert at_once(*[lambda o=o: steps(o) for o in (1, -1, 1, -1)]) == [None] * 4
    for module, old in zip(modules, before, strict=True):
        for name, array in module.named_parameters():
            np.testing.assert_allclose(array, old[name] - 800, atol=1e-3)


def test_weights_are_prepared_once_whoever_comes_first() -> None:
    class Slow(NumpyBackend):
        name: ClassVar[str] = "slow"
        count: ClassVar[list[int]] = []

        def prepare(self, layer_parameters: Any) -> Any:
            self.count.append(1)
            time.sleep(0.05)
            return super().prepare(layer_parameters)

    lstm = cylstm.LSTM(3, 5, backend=Slow())
    results = at_once(*[lambda: lstm(X)[0].tobytes()] * 6)
    assert len(set(results)) == len(Slow.count) == 1


@pytest.mark.usefixtures("new_registry")
def test_a_selection_that_another_thread_gives_up_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """set_backend and back, between the moment that a call notes the selection and the moment that it chooses."""
    lstm = cylstm.LSTM(3, 5)
    lstm(X)
    automatic = lstm._choice(lstm._store.snapshot, training=False).backend
    choose = registry.choose

    def choose_late(*arguments: Any, **named: Any) -> Any:
        cylstm.set_backend("numpy")
        chosen = choose(*arguments, **named)
        cylstm.set_backend(None)
        choose(dtype="float32")
        return chosen

    lstm.reset_parameters()
    with monkeypatch.context() as patch:
        patch.setattr(registry, "choose", choose_late)
        lstm(X)
    lstm(X)
    assert lstm._choice(lstm._store.snapshot, training=False).backend is automatic


@pytest.mark.parametrize("failing", ["get", "stepper", "set"])
def test_a_stream_that_fails_on_the_way_to_new_parameters(failing: str) -> None:
    """The state is as before, and the next step goes on from there."""
    lstm = cylstm.LSTM(3, 5)

    class Failing(NumpyBackend):
        name: ClassVar[str] = "failing"
        fails: ClassVar[bool] = False

        def stepper(self, layers: Any, *, batch_size: int) -> Any:
            inner = cylstm.LSTM._of(lstm.state_dict(), input_size=3, hidden_size=5).stream(batch_size)

            class Steps:
                serial = True

                def step(self, x_t: Any, out: Any, threads: int) -> Any:
                    return inner(x_t)

                def get_state(self, h: np.ndarray, c: np.ndarray) -> None:
                    if Failing.fails and failing == "get":
                        raise MemoryError
                    h[...], c[...] = inner.state

                def set_state(self, h: np.ndarray, c: np.ndarray) -> None:
                    if Failing.fails and failing == "set":
                        raise MemoryError
                    inner.state = h, c

            if Failing.fails and failing == "stepper":
                raise MemoryError
            return Steps()

    lstm = cylstm.LSTM(3, 5, backend=Failing())
    stream, expected = lstm.stream(2), cylstm.LSTM._of(lstm.state_dict(), input_size=3, hidden_size=5).stream(2)
    for x_t in X[:2]:
        np.testing.assert_array_equal(stream(x_t), expected(x_t))
    changed = {name: array + 1 for name, array in lstm.state_dict().items()}
    expected._lstm.load_state_dict(changed)
    lstm.load_state_dict(changed)
    Failing.fails = True
    for _ in range(2):
        with pytest.raises(MemoryError):
            stream(X[2])
    Failing.fails = False
    np.testing.assert_array_equal(stream(X[2]), expected(X[2]))


def test_unlocked_without_memory_leaves_the_module_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    lstm = cylstm.LSTM(3, 5)

    class NoMemory(dict):
        def items(self) -> Any:
            raise MemoryError

    arrays = lstm._store.snapshot.arrays
    lstm._store.snapshot.kept = NoMemory(arrays)
    with pytest.raises(MemoryError), lstm.unlocked():
        pass
    lstm._store.snapshot.kept = arrays
    with lstm.unlocked() as params:
        params["bias_ih_l0"][:] = 0
    assert isinstance(lstm._store, parameters.ParameterStore)
    assert not lstm.bias_ih_l0.any()
