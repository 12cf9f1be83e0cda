"""Mistakes: the same code runs with PyTorch and with cylstm, and the exceptions are of one type.

Where PyTorch leaks an AttributeError or IndexError, cylstm raises TypeError or ValueError. The message says what was
expected and what came.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from random_cases import BACKENDS
from same_errors import OURS, TORCH, assert_same_error

import cylstm

# Calls --------------------------------------------------------------------------------------------------------------


def plain(lib: Any, **options: Any) -> Any:
    return lib.LSTM(3, 4, **options)


def stacked(lib: Any) -> Any:
    return lib.LSTM(3, 4, num_layers=2, bidirectional=True, proj_size=2)


def packed(lib: Any, module: Any, hx: Any = None, data: Any = None, sizes: Any = (3, 2, 1), **more: Any) -> Any:
    data = lib.zeros(6, 3) if data is None else data
    indices = {name: lib.integers(value) for name, value in more.items()}
    sizes = sizes if not isinstance(sizes, tuple) else lib.integers(sizes)
    return module(lib.PackedSequence(data, sizes, **indices), hx)


CALLS: dict[str, tuple[Callable[[Any], Any], list[str]]] = {
    "0-D input": (lambda lib: plain(lib)(lib.zeros()), ["2-D", "3-D", "0-D"]),
    "1-D input": (lambda lib: plain(lib)(lib.zeros(3)), ["2-D", "3-D", "1-D", "(3,)"]),
    "4-D input": (lambda lib: plain(lib)(lib.zeros(1, 5, 2, 3)), ["2-D", "3-D", "4-D", "(1, 5, 2, 3)"]),
    "last dimension": (lambda lib: plain(lib)(lib.zeros(5, 2, 9)), ["input_size", "expected 3", "got 9"]),
    "last dimension, unbatched": (lambda lib: plain(lib)(lib.zeros(5, 9)), ["input_size", "expected 3", "got 9"]),
    "no features": (lambda lib: plain(lib)(lib.zeros(5, 2, 0)), ["input_size", "expected 3", "got 0"]),
    "no steps": (lambda lib: plain(lib)(lib.zeros(0, 2, 3)), ["at least one", "got 0"]),
    "no steps, unbatched": (lambda lib: plain(lib)(lib.zeros(0, 3)), ["at least one", "got 0"]),
    "no steps, batch first": (lambda lib: plain(lib, batch_first=True)(lib.zeros(2, 0, 3)), ["at least one", "got 0"]),
    "nothing at all": (lambda lib: plain(lib)(lib.zeros(0, 0, 3)), ["at least one", "got 0"]),
    "float64 input": (lambda lib: plain(lib)(lib.zeros(5, 2, 3, dtype="float64")), ["float64", "float32", "astype"]),
    "float16 input": (lambda lib: plain(lib)(lib.zeros(5, 2, 3, dtype="float16")), ["float16", "float32", "astype"]),
    "integer input": (lambda lib: plain(lib)(lib.zeros(5, 2, 3, dtype="int64")), ["int64", "float32", "astype"]),
    "bool input": (lambda lib: plain(lib)(lib.zeros(5, 2, 3, dtype="bool")), ["bool", "float32"]),
    "complex input": (lambda lib: plain(lib)(lib.zeros(5, 2, 3, dtype="complex64")), ["complex64", "float32"]),
    "float32 input for float64": (
        lambda lib: plain(lib, dtype=lib.dtype("float64"))(lib.zeros(5, 2, 3)),
        ["float32", "float64"],
    ),
    "float32 input for complex64": (
        lambda lib: plain(lib, dtype=lib.dtype("complex64"))(lib.zeros(5, 2, 3)),
        ["float32", "complex64"],
    ),
    "wrong dtype before wrong size": (lambda lib: plain(lib)(lib.zeros(5, 2, 9, dtype="float64")), ["float64"]),
    "wrong dimensions before wrong dtype": (lambda lib: plain(lib)(lib.zeros(3, dtype="float64")), ["1-D"]),
    "None": (lambda lib: plain(lib)(None), ["input", "array", "NoneType"]),
    "a list": (lambda lib: plain(lib)([[1.0, 2.0, 3.0]]), ["input", "array", "list"]),
    "a number": (lambda lib: plain(lib)(1.0), ["input", "array", "float"]),
    "a string": (lambda lib: plain(lib)("x"), ["input", "array", "str"]),
    "no input": (lambda lib: plain(lib)(), ["input"]),
    "unknown keyword": (lambda lib: plain(lib)(lib.zeros(5, 2, 3), hidden=1), ["hidden"]),
    "three arguments": (lambda lib: plain(lib)(lib.zeros(5, 2, 3), None, None), ["positional"]),
    "hx of three": (lambda lib: with_states(lib, (1, 2, 4), (1, 2, 4), (1, 2, 4)), ["two", "got 3"]),
    "hx of one": (lambda lib: with_states(lib, (1, 2, 4)), ["two", "got 1"]),
    "hx empty": (lambda lib: with_states(lib), ["two", "got 0"]),
    "hx one array": (lambda lib: plain(lib)(lib.zeros(5, 2, 3), lib.zeros(2, 1, 2, 4)), ["tuple of two", "got"]),
    "hx one array of length 1": (lambda lib: plain(lib)(lib.zeros(5, 2, 3), lib.zeros(1, 2, 4)), ["tuple of two"]),
    "hx int": (lambda lib: plain(lib)(lib.zeros(5, 2, 3), 3), ["tuple of two", "int"]),
    "hx False": (lambda lib: plain(lib)(lib.zeros(5, 2, 3), False), ["tuple of two", "bool"]),
    "hx string": (lambda lib: plain(lib)(lib.zeros(5, 2, 3), "ab"), ["tuple of two", "str"]),
    "hx dict": (
        lambda lib: plain(lib)(lib.zeros(5, 2, 3), {0: lib.zeros(1, 2, 4), 1: lib.zeros(1, 2, 4)}),
        ["tuple of two", "dict"],
    ),
    "c_0 None": (lambda lib: plain(lib)(lib.zeros(5, 2, 3), (lib.zeros(1, 2, 4), None)), ["c_0", "array", "NoneType"]),
    "h_0 None": (lambda lib: plain(lib)(lib.zeros(5, 2, 3), (None, lib.zeros(1, 2, 4))), ["h_0", "array", "NoneType"]),
    "hx lists": (lambda lib: plain(lib)(lib.zeros(5, 2, 3), ([[[0.0]]], [[[0.0]]])), ["h_0", "array", "list"]),
    "2-D hx, 3-D input": (lambda lib: with_states(lib, (1, 4), (1, 4)), ["(1, 2, 4)", "(1, 4)"]),
    "2-D h_0, 3-D input": (lambda lib: with_states(lib, (1, 4), (1, 2, 4)), ["(1, 2, 4)", "(1, 4)"]),
    "3-D hx, 2-D input": (lambda lib: with_states(lib, (1, 1, 4), (1, 1, 4), x=(5, 3)), ["(1, 4)", "(1, 1, 4)"]),
    "3-D c_0, 2-D input": (lambda lib: with_states(lib, (1, 4), (1, 1, 4), x=(5, 3)), ["(1, 4)", "(1, 1, 4)"]),
    "1-D hx, 2-D input": (lambda lib: with_states(lib, (4,), (4,), x=(5, 3)), ["(1, 4)", "(4,)"]),
    "layers, unbatched": (lambda lib: with_states(lib, (2, 4), (2, 4), x=(5, 3)), ["(1, 4)", "(2, 4)"]),
    "batch of hx": (lambda lib: with_states(lib, (1, 3, 4), (1, 3, 4)), ["(1, 2, 4)", "(1, 3, 4)"]),
    "batch 1 of hx is not broadcast": (lambda lib: with_states(lib, (1, 1, 4), (1, 1, 4)), ["(1, 2, 4)", "(1, 1, 4)"]),
    "batch of c_0": (lambda lib: with_states(lib, (1, 2, 4), (1, 3, 4)), ["(1, 2, 4)", "(1, 3, 4)"]),
    "features of h_0": (lambda lib: with_states(lib, (1, 2, 5), (1, 2, 4)), ["(1, 2, 4)", "(1, 2, 5)"]),
    "layers of hx": (lambda lib: with_states(lib, (2, 2, 4), (2, 2, 4)), ["(1, 2, 4)", "(2, 2, 4)"]),
    "batch-first hx": (
        lambda lib: plain(lib, batch_first=True)(lib.zeros(2, 5, 3), (lib.zeros(2, 1, 4), lib.zeros(2, 1, 4))),
        ["(1, 2, 4)", "(2, 1, 4)"],
    ),
    "states swapped under projection": (
        lambda lib: stacked(lib)(lib.zeros(5, 2, 3), (lib.zeros(4, 2, 4), lib.zeros(4, 2, 2))),
        ["(4, 2, 2)", "(4, 2, 4)"],
    ),
    "c_0 of projected size": (
        lambda lib: stacked(lib)(lib.zeros(5, 2, 3), (lib.zeros(4, 2, 2), lib.zeros(4, 2, 2))),
        ["c_0 of shape (4, 2, 4)", "(4, 2, 2)"],
    ),
    "dtype of h_0": (
        lambda lib: plain(lib)(lib.zeros(5, 2, 3), (lib.zeros(1, 2, 4, dtype="float64"), lib.zeros(1, 2, 4))),
        ["float32", "float64"],
    ),
    "dtype of c_0": (
        lambda lib: plain(lib)(lib.zeros(5, 2, 3), (lib.zeros(1, 2, 4), lib.zeros(1, 2, 4, dtype="float64"))),
        ["float32", "float64"],
    ),
    "integer hx": (
        lambda lib: plain(lib)(lib.zeros(5, 2, 3), (lib.zeros(1, 2, 4, dtype="int64"),) * 2),
        ["float32", "int64"],
    ),
    "float32 hx for float64": (
        lambda lib: plain(lib, dtype=lib.dtype("float64"))(
            lib.zeros(5, 2, 3, dtype="float64"), (lib.zeros(1, 2, 4), lib.zeros(1, 2, 4))
        ),
        ["float32", "float64"],
    ),
    "packed, too few rows": (lambda lib: packed(lib, plain(lib), sizes=(3, 2, 2)), ["7", "(6, 3)"]),
    "packed, growing sizes": (lambda lib: packed(lib, plain(lib), sizes=(1, 2, 3)), ["never grow"]),
    "packed, growing later": (lambda lib: packed(lib, plain(lib), sizes=(2, 3, 1)), ["never grow"]),
    "packed, negative size": (lambda lib: packed(lib, plain(lib), sizes=(4, 3, -1)), ["positive"]),
    "packed, 1-D data": (lambda lib: packed(lib, plain(lib), data=lib.zeros(6)), ["2-D", "(6,)"]),
    "packed, last dimension": (lambda lib: packed(lib, plain(lib), data=lib.zeros(6, 4)), ["expected 3", "got 4"]),
    "packed, dtype": (
        lambda lib: packed(lib, plain(lib), data=lib.zeros(6, 3, dtype="float64")),
        ["float64", "float32"],
    ),
    "packed, 2-D hx": (lambda lib: packed_states(lib, (1, 4), (1, 4)), ["(1, 3, 4)", "(1, 4)"]),
    "packed, batch of hx": (lambda lib: packed_states(lib, (1, 2, 4), (1, 2, 4)), ["(1, 3, 4)", "(1, 2, 4)"]),
    "packed, batch of c_0": (lambda lib: packed_states(lib, (1, 3, 4), (1, 2, 4)), ["(1, 3, 4)", "(1, 2, 4)"]),
    "packed, features of h_0": (lambda lib: packed_states(lib, (1, 3, 5), (1, 3, 4)), ["(1, 3, 4)", "(1, 3, 5)"]),
    "packed, hx of three": (lambda lib: packed_states(lib, (1, 3, 4), (1, 3, 4), (1, 3, 4)), ["two", "got 3"]),
    "packed, dtype of hx": (
        lambda lib: packed(lib, plain(lib), (lib.zeros(1, 3, 4, dtype="float64"),) * 2),
        ["float64", "float32"],
    ),
    "packed, unsorted, batch of hx": (
        lambda lib: packed(lib, plain(lib), (lib.zeros(1, 2, 4),) * 2, sorted_indices=(2, 0, 1)),
        ["(1, 3, 4)", "(1, 2, 4)"],
    ),
    "packed, indices out of range": (
        lambda lib: packed(lib, plain(lib), (lib.zeros(1, 3, 4),) * 2, sorted_indices=(2, 0, 5)),
        ["permutation"],
    ),
    "packed, too few indices": (
        lambda lib: packed(lib, plain(lib), (lib.zeros(1, 3, 4),) * 2, sorted_indices=(1, 0)),
        ["permutation"],
    ),
    "training mode None": (lambda lib: plain(lib).train(None), ["boolean", "NoneType"]),
    "training mode 1": (lambda lib: plain(lib).train(1), ["boolean", "int"]),
    "state_dict list": (lambda lib: plain(lib).load_state_dict([1]), ["mapping", "list"]),
    "state_dict incomplete": (
        lambda lib: plain(lib).load_state_dict({"weight_ih_l0": lib.zeros(2, 2), "more": lib.zeros(1)}),
        ["Missing key", "weight_hh_l0", "bias_ih_l0", "Unexpected key", "more", "size mismatch", "(16, 3)", "(2, 2)"],
    ),
    "state_dict mis-shaped, not strict": (
        lambda lib: plain(lib).load_state_dict({"weight_ih_l0": lib.zeros(2, 2)}, strict=False),
        ["size mismatch", "weight_ih_l0", "(16, 3)", "(2, 2)"],
    ),
    "state_dict with a prefix": (
        lambda lib: plain(lib).load_state_dict({"lstm." + k: v for k, v in plain(lib).state_dict().items()}),
        ["Missing key", "Unexpected key", "lstm.weight_ih_l0"],
    ),
    "state_dict value": (
        lambda lib: plain(lib).load_state_dict({**plain(lib).state_dict(), "bias_ih_l0": 1.0}),
        ["bias_ih_l0", "array", "float"],
    ),
    "to an integer dtype": (lambda lib: plain(lib).to(lib.dtype("int32")), ["floating point", "int32"]),
    "to a GPU": (lambda lib: plain(lib).to("cuda"), ["cpu", "cuda", "cupy-cuda13x[ctk]"]),
    "to nowhere": (lambda lib: plain(lib).to("foo"), ["cpu", "foo"]),
    "parameter of another layer": (lambda lib: plain(lib).weight_ih_l1, ["weight_ih_l1"]),
}


def with_states(lib: Any, *shapes: tuple[int, ...], x: tuple[int, ...] = (5, 2, 3)) -> Any:
    return plain(lib)(lib.zeros(*x), tuple(lib.zeros(*shape) for shape in shapes))


def packed_states(lib: Any, *shapes: tuple[int, ...]) -> Any:
    return packed(lib, plain(lib), tuple(lib.zeros(*shape) for shape in shapes))


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_call_refuses_what_torch_refuses(name: str, backend: str) -> None:
    function, words = CALLS[name]
    if name == "to a GPU" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with cylstm.use_backend("numpy" if "complex64" in name else backend):
        assert_same_error(function, words, attribute_error=name.startswith("parameter"))


# What only cylstm refuses, and what happens after an error ----------------------------------------------------------


def test_packed_sequence_with_too_many_rows_is_refused_where_torch_looks_away() -> None:
    packed(TORCH, plain(TORCH), sizes=(3, 2))
    with pytest.raises(RuntimeError, match="data must have 5 rows"):
        packed(OURS, plain(OURS, backend="numpy"), sizes=(3, 2))


@pytest.mark.parametrize("sizes", [[[3, 2, 1]], []])
def test_batch_sizes_that_are_no_sizes(sizes: Any) -> None:
    with pytest.raises(RuntimeError, match=r"batch_sizes must have shape \(T,\)"):
        packed(OURS, plain(OURS, backend="numpy"), sizes=np.array(sizes, np.int64))


@pytest.mark.parametrize("name", ["input_size", "hidden_size", "num_layers", "bias", "bidirectional", "proj_size"])
def test_sizes_cannot_be_changed_later(name: str) -> None:
    lstm = cylstm.LSTM(3, 4, backend="numpy")
    with pytest.raises(AttributeError, match=f"{name} is fixed.*make a new LSTM"):
        setattr(lstm, name, getattr(lstm, name))


@pytest.mark.parametrize("backend", BACKENDS)
def test_after_an_error_nothing_has_changed(backend: str) -> None:
    lstm = cylstm.LSTM(3, 4, num_layers=2, backend=backend)
    before = copy.deepcopy(lstm.__getstate__())
    x = np.ones((5, 2, 3), np.float32)
    expected = lstm(x)[0]
    mistakes: list[Callable[[], Any]] = [
        lambda: lstm(x[0, 0]),
        lambda: lstm(x, (x, x)),
        lambda: lstm.train(1),  # type: ignore[arg-type]
        lambda: lstm.load_state_dict({"weight_ih_l0": np.zeros((16, 3)), "weight_hh_l0": np.zeros(3)}, strict=False),
        lambda: lstm.to("cuda"),
        lambda: lstm.to("cuda", np.float64),
        lambda: setattr(lstm, "weight_ih_l0", np.zeros((3, 16), np.float32)),
    ]
    for mistake in mistakes:
        with pytest.raises((TypeError, ValueError, RuntimeError)):
            mistake()
    np.testing.assert_equal(lstm.__getstate__(), before)
    np.testing.assert_array_equal(lstm(x)[0], expected)


def test_an_error_leaves_the_generator_as_it_was() -> None:
    def reset_while_unlocked() -> None:
        with lstm.unlocked():
            lstm.reset_parameters()

    lstm = cylstm.LSTM(3, 4)
    mistakes: list[Callable[[], Any]] = [
        lambda: cylstm.LSTM(3, 4, backend="nobody"),
        lambda: cylstm.LSTM(3, 4, dtype="complex64", backend="cython"),
        lambda: cylstm.LSTM(3, 4, device="cuda"),
        lambda: cylstm.LSTM(3, 4, dtype="int32"),
        lambda: cylstm.LSTMCell(3, 4, backend="nobody"),
        lambda: cylstm.LSTMCell(3, 4, device="cuda"),
        reset_while_unlocked,
    ]
    cylstm.manual_seed(3)
    before = cylstm.random.get_rng_state()
    for mistake in mistakes:
        with pytest.raises((cylstm.BackendError, RuntimeError)), cylstm.use_backend("numpy"):  # it has no GPU
            mistake()
        np.testing.assert_array_equal(cylstm.random.get_rng_state(), before)


def test_tensors_of_other_devices_are_refused() -> None:
    class OnGpu:
        device = "cuda:0"

        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, 0

    with pytest.raises(TypeError, match=r"input must lie on the CPU, got an array on cuda:0.*cupy-cuda13x\[ctk\]"):
        cylstm.LSTM(3, 4, backend="numpy")(OnGpu())
    with pytest.raises((TypeError, ValueError, RuntimeError), match="meta"):
        cylstm.LSTM(3, 4, backend="numpy")(torch.zeros(5, 2, 3, device="meta"))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((np.zeros((5, 2, 8), np.float32),), "grad_output must have shape \\(5, 2, 4\\)"),
        ((np.zeros((5, 2, 4)),), "dtype float32.*float64"),
        ((None, (np.zeros((1, 3, 4), np.float32), None)), "grad_h_n must have shape \\(1, 2, 4\\)"),
        ((None, (None, np.zeros((1, 2, 4)))), "grad_c_n must have.*dtype float32.*float64"),
    ],
)
def test_pullback_refuses_gradients_of_another_shape_or_dtype(arguments: Any, error: str) -> None:
    _, _, pullback = cylstm.LSTM(3, 4, backend="numpy").vjp(np.zeros((5, 2, 3), np.float32))
    with pytest.raises(RuntimeError, match=error):
        pullback(*arguments)


@pytest.mark.parametrize("grad_hx", [np.zeros((1, 2, 4)), (None,), (None, None, None), 3])
def test_pullback_refuses_a_state_that_is_no_pair(grad_hx: Any) -> None:
    _, _, pullback = cylstm.LSTM(3, 4, backend="numpy").vjp(np.zeros((5, 2, 3), np.float32))
    with pytest.raises(TypeError, match="grad_hx must be a tuple of two"):
        pullback(None, grad_hx)


@pytest.mark.parametrize(("dtype", "module_may_change"), [("float64", True), ("float16", True), ("int64", False)])
def test_the_remedy_for_a_wrong_dtype_is_one(dtype: str, module_may_change: bool) -> None:
    lstm, x = cylstm.LSTM(3, 4, backend="numpy"), np.ones((5, 3), dtype)
    with pytest.raises(ValueError, match=r"input\.astype\('float32'\)") as caught:
        lstm(x)
    assert (f"module.to({dtype!r})" in str(caught.value)) == module_may_change
    lstm(x.astype("float32"))
    if module_may_change:
        lstm.to(dtype)(x)
