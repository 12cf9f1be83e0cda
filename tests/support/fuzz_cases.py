"""What ``make fuzz`` checks of one random case, known by its seed: against PyTorch, and against other ways to call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from random_cases import WIDE, Case, data, draw, dtypes_of, modules, our_input, run_torch, tensor, widened

import cylstm


def threads_of(seed: int) -> int:
    """One to four, the same for the same seed."""
    return 1 + seed % 4


def gradients(backend: str, seed: int) -> None:
    """All gradients against those of PyTorch in a wider dtype, with and without recomputation: the same bits."""
    case = draw(seed, dtypes_of(backend))
    if not case.lengths:
        return
    theirs, ours = modules(case, backend)
    wide = widened(theirs, case.dtype)
    output, _, pullback = ours.vjp(our_input(case), case.hx)
    rng = np.random.default_rng(seed)
    grad = rng.standard_normal(data(output).shape).astype(case.dtype)
    given = output._replace(data=grad) if isinstance(output, cylstm.PackedSequence) else grad
    found = pullback(given)
    again = ours.vjp(our_input(case), case.hx, recompute=True)[2](given)
    for exact_module, dtype in ((wide, WIDE[case.dtype]), (theirs, None)):
        x = tensor(case.x, dtype).requires_grad_()
        hx = None if case.hx is None else tuple(tensor(state, dtype) for state in case.hx)
        run_torch(exact_module, case, x, hx)[0].backward(tensor(grad, dtype))
    exact = {name: p.grad.numpy() for name, p in wide.named_parameters()}
    rounded = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
    for name, array in found.parameters.items():
        np.testing.assert_array_equal(array, again.parameters[name], err_msg=f"{case}: {name}, recompute=True")
        scale = max(1.0, float(np.abs(exact[name]).max()))
        allowed = 2 * np.abs(rounded[name] - exact[name]).max() + 50 * np.finfo(case.dtype).eps * scale
        if case.dtype in ("float64", "complex64", "complex128"):  # nothing wider; near poles
            allowed = max(allowed, 1e-9 * scale if case.dtype != "complex64" else 1e-2 * scale)
        error = np.abs(array - exact[name]).max()
        assert error <= allowed, (case, name, float(error), float(allowed))


def same_bits(a: Any, b: Any, case: Case, what: str) -> None:
    """Equal, nan beside nan."""
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=f"{case}: {what}")


def real_case(seed: int) -> tuple[Case, cylstm.LSTM, np.ndarray]:
    """A case in float32 or float64 on the cython backend, its module, and its input as (T, B, I)."""
    case = draw(seed, ["float32", "float64"], largest=70)
    _, ours = modules(case, "cython")
    ours.eval().batch_first = False
    x = np.array(case.x)
    x = x[:, None] if x.ndim == 2 else x.swapaxes(0, 1) if case.options["batch_first"] else x
    return case, ours, np.ascontiguousarray(x)


def pieces(seed: int) -> None:
    """At once, in pieces, and by a stream."""
    case, lstm, x = real_case(seed)
    T, B, _ = x.shape
    if lstm.bidirectional or not B:
        return
    whole, (h, c) = lstm(x)
    state: Any = None
    cut = 1 + seed % T
    for t in range(0, T, cut):
        part, state = lstm(x[t : t + cut], state)
        same_bits(part, whole[t : t + cut], case, f"{cut} steps at a time")
    same_bits(state[0], h, case, "h_n of pieces")
    same_bits(state[1], c, case, "c_n of pieces")
    stream = lstm.stream(B)
    for t in range(T):
        same_bits(stream(x[t]), whole[t], case, "a stream")


def batches(seed: int) -> None:
    """A sequence alone, padded in a batch, and packed in a ragged batch."""
    case, lstm, x = real_case(seed)
    T, B, _ = x.shape
    if not B:
        return
    whole, _ = lstm(x)
    lengths = [1 + (seed + 3 * b) % T for b in range(B)]
    packed, (h_n, _) = lstm(cylstm.pack_padded_sequence(x, lengths, enforce_sorted=False))
    rows, _ = cylstm.pad_packed_sequence(packed, total_length=T)
    for b, length in enumerate(lengths):
        same_bits(lstm(x[:, b])[0], whole[:, b], case, f"sequence {b} alone")
        alone, (h_b, _) = lstm(np.ascontiguousarray(x[:length, b]))
        same_bits(rows[:length, b], alone, case, f"sequence {b} packed")
        same_bits(h_n[:, b], h_b, case, f"h_n of sequence {b} packed")


def threads(seed: int) -> None:
    """One thread and several, forward and backward."""
    case, lstm, x = real_case(seed)
    if not x.size:
        return
    x = np.concatenate([x] * 4, axis=1)  # enough rows for groups of rows
    results = []
    before = cylstm.get_num_threads()
    try:
        for n in (1, 2 + seed % 6):
            cylstm.set_num_threads(n)
            output, (h, c), pullback = lstm.vjp(x)
            grads = pullback(output, (h, c))
            results.append([output, h, c, grads.input, *grads.hx, *grads.parameters.values()])
    finally:
        cylstm.set_num_threads(before)
    for one, several in zip(*results, strict=True):
        same_bits(one, several, case, f"{2 + seed % 6} threads")


INVARIANCES: dict[str, Callable[[int], None]] = {"pieces": pieces, "batches": batches, "threads": threads}
torch.set_num_threads(1)
