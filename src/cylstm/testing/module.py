"""Checks of `cylstm.LSTM` on a backend: stacking, dropout, changes of weights, streams, packed sequences."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays.packing import pack_sequence, pad_packed_sequence
from ..backends.base import Backend
from ..nn.lstm import LSTM
from ..random import manual_seed
from . import problems
from .compare import TOLERANCES, assert_close, assert_consistent
from .problems import Case, make_problem, wide_dtype, widened


def make_modules(backend: Backend, dtype: str, **options: Any) -> tuple[Any, Any]:
    """An LSTM on the backend, and one with the same weights on the definition in float64 or complex128."""
    options = {"input_size": 5, "hidden_size": 7} | options
    module = LSTM(**options, dtype=dtype, backend=backend)
    reference = LSTM(**options, dtype=wide_dtype(dtype), backend=problems.REFERENCE)
    copy_weights(module, reference)
    return module, reference


def copy_weights(module: Any, reference: Any) -> None:
    """Give `reference` the weights of `module`."""
    reference.load_state_dict({name: widened(np.asarray(a)) for name, a in module.state_dict().items()})


def draw(dtype: str, *shape: int, seed: int = 0) -> np.ndarray:
    """Random numbers; those of complex dtypes are small."""
    problem = make_problem(Case(T=shape[0], B=int(np.prod(shape[1:-1])), I=shape[-1]), dtype, seed)
    return problem.input.reshape(shape)


def called(module: Any, *arguments: Any) -> dict[str, np.ndarray]:
    """What a call of an LSTM gives, by name."""
    output, (h_n, c_n) = module(*arguments)
    return {"output": output, "h_n": h_n, "c_n": c_n}


def module_stacked(backend: Backend, *, dtype: str) -> None:
    """LSTM with three layers, both directions, projection, initial state: the definition's values."""
    for bidirectional in (False, True):
        proj_size = 3 if backend.capabilities.projection else 0
        module, reference = make_modules(backend, dtype, num_layers=3, bidirectional=bidirectional, proj_size=proj_size)
        x, layers = draw(dtype, 6, 4, 5), 3 * (1 + bidirectional)
        hx = (draw(dtype, layers, 4, proj_size or 7, seed=1), draw(dtype, layers, 4, 7, seed=2))
        expected = called(reference, widened(x), tuple(map(widened, hx)))
        about = f"num_layers=3 bidirectional={bidirectional}"
        assert_close(called(module, x, hx), expected, dtype, TOLERANCES[dtype].values, about)


def module_dropout(backend: Backend, *, dtype: str) -> None:
    """Dropout between layers: the same seed gives the same numbers, eval() switches it off."""
    module, reference = make_modules(backend, dtype, num_layers=2, dropout=0.5)
    x = draw(dtype, 6, 4, 5)
    results = []
    for seed in (1, 1, 2):
        manual_seed(seed)
        results.append(called(module, x))
    assert_consistent(results[1], results[0], dtype, "the same seed again")
    assert not np.allclose(results[2]["output"], results[0]["output"]), "another seed gives the same dropout"
    module.eval()
    reference.eval()
    assert_close(called(module, x), called(reference, widened(x)), dtype, TOLERANCES[dtype].values, "after eval()")


def module_weights_changed(backend: Backend, *, dtype: str) -> None:
    """However weights are changed, the next call sees it."""
    module, reference = make_modules(backend, dtype)
    x = draw(dtype, 6, 4, 5)

    def assign() -> None:
        module.weight_hh_l0 = -np.asarray(module.weight_hh_l0)

    def unlock() -> None:
        with module.unlocked() as params:
            params["weight_ih_l0"][...] *= -0.5

    def load_state() -> None:
        module.load_state_dict({name: np.asarray(a)[::-1].copy() for name, a in module.state_dict().items()})

    for change in (assign, unlock, load_state):
        called(module, x)
        change()
        copy_weights(module, reference)
        expected = called(reference, widened(x))
        assert_close(called(module, x), expected, dtype, TOLERANCES[dtype].values, f"changed by {change.__name__}")


def module_steps(backend: Backend, *, dtype: str) -> None:
    """Step by step, by calls and by a stream, equals the whole at once."""
    module, _ = make_modules(backend, dtype, num_layers=2)
    x = draw(dtype, 6, 4, 5)
    whole = called(module, x)
    state: Any = None
    outputs = []
    for t in range(len(x)):
        output, state = module(x[t : t + 1], state)
        outputs.append(output)
    steps = {"output": np.concatenate(outputs), "h_n": state[0], "c_n": state[1]}
    assert_consistent(steps, whole, dtype, "one call per step")
    stream = module.stream(batch_size=4)
    outputs = [np.array(stream(x_t)) for x_t in x]
    h_n, c_n = map(np.array, stream.state)
    assert_consistent({"output": np.stack(outputs), "h_n": h_n, "c_n": c_n}, whole, dtype, "a stream")


def module_packed(backend: Backend, *, dtype: str) -> None:
    """Sequences of different lengths in a PackedSequence: each as if it were alone."""
    module, reference = make_modules(backend, dtype, num_layers=2, bidirectional=True)
    sequences = [draw(dtype, length, 1, 5, seed=length)[:, 0] for length in (3, 6, 1, 4)]
    packed = pack_sequence(sequences, enforce_sorted=False)
    output, (h_n, c_n) = module(packed)
    padded, lengths = pad_packed_sequence(output)
    for b, sequence in enumerate(sequences):
        expected = called(reference, widened(sequence))
        got = {"output": padded[: int(lengths[b]), b], "h_n": h_n[:, b], "c_n": c_n[:, b]}
        assert_close(got, expected, dtype, TOLERANCES[dtype].values, f"sequence {b} of length {len(sequence)}")


def module_gradients(backend: Backend, *, dtype: str) -> None:
    """LSTM.vjp with two layers, both directions: the definition's gradients, twice."""
    module, reference = make_modules(backend, dtype, num_layers=2, bidirectional=True)
    x, g = draw(dtype, 6, 4, 5), draw(dtype, 6, 4, 14, seed=1)
    hx = (draw(dtype, 4, 4, 7, seed=2), draw(dtype, 4, 4, 7, seed=3))
    grad_hx = (draw(dtype, 4, 4, 7, seed=4), draw(dtype, 4, 4, 7, seed=5))

    def named(grads: Any) -> dict[str, np.ndarray]:
        return {"input": grads.input, "h_0": grads.hx[0], "c_0": grads.hx[1], **grads.parameters}

    *_, pullback = reference.vjp(widened(x), tuple(map(widened, hx)))
    expected = named(pullback(widened(g), tuple(map(widened, grad_hx))))
    *_, pullback = module.vjp(x, hx)
    for time in ("first", "second"):
        assert_close(named(pullback(g, grad_hx)), expected, dtype, TOLERANCES[dtype].gradients, f"{time} pullback")


CHECKS = (module_stacked, module_dropout, module_weights_changed, module_steps, module_packed)


TRAINING_CHECKS = (module_gradients,)
