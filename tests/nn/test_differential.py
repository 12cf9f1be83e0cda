"""Two thousand random configurations against ``torch.nn.LSTM``: initialisation, forward, ragged batches, errors."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import fuzz_cases
import numpy as np
import pytest
import wide_lstm
from random_cases import (
    BACKENDS,
    BITS_COME_FROM_MKL,
    Case,
    data,
    draw,
    dtypes_of,
    modules,
    our_input,
    run_torch,
    tensor,
)
from torch.nn.utils import rnn

import cylstm

CASES, CHUNK = 2000, 100
CHUNKS = [range(start, start + CHUNK) for start in range(0, CASES, CHUNK)]


def chunk_id(chunk: range) -> str:
    return f"{chunk.start}-{chunk.stop - 1}"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("chunk", CHUNKS, ids=chunk_id)
def test_forward(backend: str, chunk: range) -> None:
    for seed in chunk:
        fuzz_cases.forward(seed, [backend])


@pytest.mark.skipif(BITS_COME_FROM_MKL, reason="on an Intel CPU PyTorch has MKL draw the bits of dropout")
@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_in_training_mode_has_the_masks_of_torch(backend: str) -> None:
    compared = sum(fuzz_cases.dropout(seed, [backend]) for seed in range(CASES, CASES + 300))
    assert compared > 30


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf, 1e30, -1e30])
def test_nan_and_infinity_go_where_those_of_torch_go(backend: str, special: float) -> None:
    for seed in range(40):
        case = draw(seed, ["float32", "float64"])
        x = case.x.copy()
        if x.size == 0:
            continue
        x.reshape(-1)[seed % x.size] = special
        hx = case.hx
        if hx is not None and seed % 3 == 0:
            for state in hx:
                state.reshape(-1)[seed % state.size] = special
        case = case._replace(x=x)
        theirs, ours = modules(case, backend)
        expected = run_torch(theirs, case, tensor(x), None if hx is None else tuple(map(tensor, hx)))
        with np.errstate(all="ignore"):
            output, state = ours(our_input(case), hx)
        for a, b in zip((data(output), *state), expected, strict=True):
            np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-5, atol=1e-5, err_msg=repr(case))


MISTAKES = [
    "features of the input",
    "dimensions of the input",
    "dtype of the input",
    "steps of the input",
    "number of states",
    "batch of the states",
    "features of the states",
    "layers of the states",
    "dimensions of the states",
    "dtype of a state",
    "order of the states",
]


def spoil(case: Case, rng: np.random.Generator) -> tuple[str, np.ndarray, Any]:
    """The input's array (that of the packed rows, where it is packed) and the states, with one mistake."""
    x, mistake = np.array(data(our_input(case))), str(rng.choice(MISTAKES))
    L = case.options["num_layers"] * (1 + case.options["bidirectional"])
    H, batch = case.options["hidden_size"], [] if case.form == "unbatched" else [len(case.lengths)]
    hx: Any = [np.zeros([L, *batch, n], case.dtype) for n in (case.options["proj_size"] or H, H)]
    other = "float32" if case.dtype != "float32" else "float64"
    which = int(rng.integers(2))  # h_0 or c_0
    if mistake == "features of the input":
        x = np.concatenate([x, x[..., :1]], axis=-1) if rng.random() < 0.5 else x[..., 1:]
    elif mistake == "dimensions of the input":
        x = x[np.newaxis, np.newaxis] if rng.random() < 0.5 else x.reshape(-1)
    elif mistake == "dtype of the input":
        x = x.real.astype(other)
    elif mistake == "steps of the input":
        x = x[:, :0] if case.options["batch_first"] and x.ndim == 3 else x[:0]
    elif mistake == "number of states":
        hx = hx[: int(rng.integers(2))] if rng.random() < 0.5 else [*hx, hx[0]]
    elif mistake == "batch of the states":
        hx[which] = np.concatenate([hx[which], hx[which]], axis=-2)[..., : 1 + 2 * L, :]
    elif mistake == "features of the states":
        hx[which] = np.zeros([*hx[which].shape[:-1], hx[which].shape[-1] + int(rng.integers(1, 3))], case.dtype)
    elif mistake == "layers of the states":
        hx = [np.concatenate([state, state[:1]]) for state in hx]
    elif mistake == "dimensions of the states":
        hx[which] = hx[which][0] if rng.random() < 0.5 else hx[which][np.newaxis]
    elif mistake == "dtype of a state":
        hx[which] = hx[which].real.astype(other)
    else:
        hx.reverse()
    return mistake, x, hx


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("chunk", CHUNKS[:8], ids=chunk_id)
def test_mistakes(backend: str, chunk: range) -> None:
    refused = 0
    for seed in chunk:
        case = draw(seed, dtypes_of(backend))
        theirs, ours = modules(case, backend)
        mistake, x, hx = spoil(case, np.random.default_rng(seed))
        packed = our_input(case)
        our_x, their_x = x, tensor(x)
        if isinstance(packed, cylstm.PackedSequence):
            if mistake == "steps of the input":
                continue
            our_x = packed._replace(data=x)
            their_x = rnn.PackedSequence(their_x, *(None if part is None else tensor(part) for part in packed[1:]))
        error = error_of(lambda module=ours, x=our_x, hx=hx: module(x, tuple(hx)))
        if isinstance(packed, cylstm.PackedSequence) and mistake == "dimensions of the states":
            assert error is ValueError, (case, mistake)  # PyTorch leaks an IndexError, or crashes the process
            continue
        their_error = error_of(lambda module=theirs, x=their_x, hx=hx: module(x, tuple(map(tensor, hx))))
        context = (case, mistake, error, their_error)
        if their_error is None:
            # Nothing is wrong; or PyTorch looks away, as at the parts of a PackedSequence, at the dtype of states of
            # no sequences, and at a third state beside unbatched input.
            careless = case.form in ("packed", "unsorted") or not case.lengths or mistake == "number of states"
            assert error is None or careless, context
        else:
            refused += 1
            leaked = their_error in (IndexError, AttributeError)
            assert error in ((ValueError, TypeError) if leaked else (their_error,)), context
    assert refused > CHUNK // 2


def error_of(function: Callable[[], Any]) -> type[Exception] | None:
    """The type of the exception that the function raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            function()
        except Exception as error:
            return type(error)
    return None


@pytest.mark.names_backend("numpy")
@pytest.mark.skipif(not wide_lstm.WIDEST, reason="long double is not wider than float64 here")
def test_the_equations_in_long_double_are_those_of_torch() -> None:
    """They judge where PyTorch has nothing wider."""
    for seed in range(60):
        case = draw(seed, ["float64"])
        module, _ = modules(case, "numpy")
        x, hx = tensor(case.x), None if case.hx is None else list(map(tensor, case.hx))
        for ours, theirs in zip(wide_lstm.run(module, case), run_torch(module, case, x, hx), strict=True):
            np.testing.assert_allclose(ours.astype(float), theirs.detach().numpy(), rtol=0, atol=1e-13)
