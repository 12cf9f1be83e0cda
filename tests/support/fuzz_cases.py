"""What ``make fuzz`` checks of one random case, known by its seed: against PyTorch, and against other ways to call."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
import wide_lstm
from random_cases import (
    BITS_COME_FROM_MKL,
    WIDE,
    Case,
    data,
    draw,
    dtypes_of,
    modules,
    our_input,
    rounding,
    run_torch,
    tensor,
    widened,
)

import cylstm
from cylstm.arrays.activations import ACTIVATIONS
from cylstm.backends.base import Backend
from cylstm.backends.cython_backend import _layer
from cylstm.backends.cython_backend.backend import VARIABLE, CythonBackend

#: A backend's name, or the backend.
Named = str | Backend


def threads_of(seed: int) -> int:
    """One to four, the same for the same seed."""
    return 1 + seed % 4


def cython_backends(isa: str | None = None) -> dict[str, CythonBackend]:
    """The cython backend on each instruction set of this machine, or on one: best first."""
    found, before = {}, os.environ.get(VARIABLE)
    try:
        for name in _layer.instruction_sets() if isa is None else [isa]:
            os.environ[VARIABLE] = name
            found[name] = CythonBackend()
            assert found[name].instruction_set() == name  # it has read the variable
    finally:
        os.environ.pop(VARIABLE) if before is None else os.environ.update({VARIABLE: before})
    return found


def on_each(backends: Iterable[Named], module: cylstm.LSTM) -> Iterable[str]:
    """The module on one backend after the other; what each is called."""
    for backend in backends:
        module.backend = backend
        yield backend if isinstance(backend, str) else f"{backend.name} {backend.info().get('instruction_set', '')}"


#: Dtypes of which PyTorch has none wider, and those whose sigmoid and tanh have poles.
BADLY_CONDITIONED = ("float64", "complex64", "complex128")
#: Units in the last place that any result may be off. Of 288,000 results of float32 the worst were off by 3.1.
ULPS = 3


def excess(ours: np.ndarray, theirs: torch.Tensor, exact: torch.Tensor, floor: float) -> tuple[float, ...]:
    """Nothing where our error is at most 1.5 times PyTorch's, or below the floor; else both and the floor, in ulp."""
    theirs, exact = theirs.detach().numpy(), exact.detach().numpy()
    assert ours.shape == theirs.shape == exact.shape
    assert ours.dtype == theirs.dtype
    if not ours.size:
        return ()
    ulp = np.finfo(ours.dtype).eps * max(1.0, float(np.abs(exact).max()))
    error, their_error = float(np.abs(ours - exact).max()), float(np.abs(theirs - exact).max())
    allowed = 1.5 * their_error + ULPS * ulp + floor
    return () if error <= allowed else (error / ulp, their_error / ulp, floor / ulp)


@torch.no_grad()
def forward(seed: int, backends: list[Named]) -> None:
    """Names, first parameters, output and states against PyTorch's, on backends of the same dtypes."""
    case = draw(seed, dtypes_of(backends[0]))
    theirs, ours = modules(case, backends[0])
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, parameter in theirs.named_parameters():
        np.testing.assert_array_equal(getattr(ours, name), parameter.detach().numpy(), strict=True)

    x, wide_x = tensor(case.x), tensor(case.x, WIDE[case.dtype])
    hx, wide_hx = None, None
    if case.hx is not None:
        hx, wide_hx = ([tensor(state, dtype) for state in case.hx] for dtype in (None, WIDE[case.dtype]))
    wide = widened(theirs, case.dtype)
    exact = run_torch(wide, case, wide_x, wide_hx)
    expected = run_torch(theirs, case, x, hx)
    for backend in on_each(backends, ours):
        output, (h_n, c_n) = ours(our_input(case), case.hx)
        for n, (what, result) in enumerate({"output": data(output), "h_n": h_n, "c_n": c_n}.items()):
            wrong = excess(result, expected[n], exact[n], 0.0)
            if wrong and case.dtype in BADLY_CONDITIONED:
                if case.dtype in wide_lstm.WIDEST:  # `exact` is PyTorch's own
                    exact = [torch.from_numpy(array.astype(case.dtype)) for array in wide_lstm.run(theirs, case)]
                floor = 10 * rounding(wide, case, wide_x, wide_hx, exact)[n]
                wrong = excess(result, expected[n], exact[n], floor)
            assert not wrong, (backend, case, what, *wrong)


@torch.no_grad()
def dropout(seed: int, backends: list[Named]) -> bool:
    """In training mode, with the masks of PyTorch: whether there was something to compare."""
    case = draw(seed, sorted({"float32", "float64"} & set(dtypes_of(backends[0]))))
    if case.options["dropout"] == 0 or BITS_COME_FROM_MKL:
        return False
    theirs, ours = modules(case, backends[0], training=True)
    expected = run_torch(theirs, case, tensor(case.x), None if case.hx is None else tuple(map(tensor, case.hx)))
    tolerance = 1e-4 if case.dtype == "float32" else 1e-12
    for backend in on_each(backends, ours):
        cylstm.manual_seed(case.seed)
        output, state = ours(our_input(case), case.hx)
        for a, b in zip((data(output), *state), expected, strict=True):
            np.testing.assert_allclose(a, b.detach().numpy(), rtol=0, atol=tolerance, err_msg=f"{backend}: {case}")
    return True


def gradients(seed: int, backends: list[Named]) -> None:
    """All gradients against those of PyTorch in a wider dtype, with and without recomputation: the same bits."""
    dtypes = dtypes_of(backends[0])
    case = draw(seed, dtypes)
    if case.form in ("packed", "unsorted") and case.dtype.startswith("complex"):  # PyTorch has no gradients of these
        case = draw(seed, [dtype for dtype in dtypes if not dtype.startswith("complex")])
    if not case.lengths:
        return
    theirs, ours = modules(case, backends[0])
    rng, given = np.random.default_rng(seed), None
    for backend in on_each(backends, ours):
        output, states, pullback = ours.vjp(our_input(case), case.hx)
        if given is None:
            given = [rng.standard_normal(data(a).shape).astype(case.dtype) for a in (output, *states)]
            exact = gradients_of_torch(case, widened(theirs, case.dtype), given, WIDE[case.dtype])
            rounded = gradients_of_torch(case, theirs, given)
        grad = output._replace(data=given[0]) if isinstance(output, cylstm.PackedSequence) else given[0]
        found = named(pullback(grad, given[1:]))
        again = named(ours.vjp(our_input(case), case.hx, recompute=True)[2](grad, given[1:]))
        assert found.keys() == exact.keys()
        for name, array in found.items():
            context = f"{backend}, {case}: {name}"
            assert np.array_equal(array, again[name], equal_nan=True), f"{context}, recompute=True"
            scale = max(1.0, float(np.abs(exact[name]).max()))
            allowed = 2 * np.abs(rounded[name] - exact[name]).max() + 50 * np.finfo(case.dtype).eps * scale
            if case.dtype in ("float64", "complex64", "complex128"):  # nothing wider; near poles
                allowed = max(allowed, 1e-9 * scale if case.dtype != "complex64" else 1e-2 * scale)
            error = np.abs(array - exact[name]).max()
            assert error <= allowed, (context, float(error), float(allowed))


def named(found: Any) -> dict[str, np.ndarray]:
    """All gradients by name."""
    return {"input": data(found.input), "h_0": found.hx[0], "c_0": found.hx[1], **found.parameters}


def gradients_of_torch(case: Case, module: Any, given: list[np.ndarray], dtype: Any = None) -> dict[str, np.ndarray]:
    """By name, in the forms of ours; `given` are those of output, h_n and c_n."""
    x = tensor(case.x, dtype).requires_grad_()
    hx = case.hx or tuple(map(np.zeros_like, given[1:]))
    h_0, c_0 = (tensor(state, dtype).requires_grad_() for state in hx)
    torch.autograd.backward(run_torch(module, case, x, (h_0, c_0)), [tensor(grad, dtype) for grad in given])
    of_input = data(our_input(case._replace(x=x.grad.numpy())))
    of_states = {"h_0": h_0.grad.numpy(), "c_0": c_0.grad.numpy()}
    return {"input": of_input, **of_states} | {name: p.grad.numpy() for name, p in module.named_parameters()}


def options(seed: int, backends: list[Named]) -> None:
    """What PyTorch's LSTM does not have, against the definition, the numpy backend."""
    case = draw(seed, ["float32", "float64"])
    rng = np.random.default_rng(seed)
    names = sorted(set(ACTIVATIONS) & CythonBackend.capabilities.options)
    more: dict[str, Any] = {"peephole": rng.random() < 0.5, "input_forget": rng.random() < 0.3}
    more |= {limit: 2 * rng.random() + 0.01 for limit in ("clip", "cell_clip") if rng.random() < 0.4}
    if case.options["proj_size"] and rng.random() < 0.5:
        more["proj_clip"] = rng.random() + 0.01
    if rng.random() < 0.7:
        chosen = rng.choice(names, 3 * (1 + (case.options["bidirectional"] and rng.random() < 0.5)))
        more["activations"] = [
            (str(name), *rng.uniform(0.1, 0.9, ACTIVATIONS[name].parameters)) if ACTIVATIONS[name].parameters else name
            for name in chosen.tolist()
        ]
        more.setdefault("cell_clip", 3.0)  # some of them are not bounded
    cylstm.manual_seed(seed)
    ours = cylstm.LSTM(**case.options, **more, dtype=case.dtype, backend="numpy").eval()
    expected = None
    for backend in on_each(["numpy", *backends], ours):
        output, (h_n, c_n) = ours(our_input(case), case.hx)
        found = [data(output), h_n, c_n]
        if expected is None:
            expected = found
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == other.dtype
            scale = max(1.0, np.abs(other).max(initial=0))
            tolerance = scale * (2e-4 if case.dtype == "float32" else 1e-11)
            np.testing.assert_allclose(one, other, rtol=0, atol=tolerance, err_msg=f"{backend}: {case}, {more}")


def same_bits(a: Any, b: Any, case: Case, what: str) -> None:
    """Equal, nan beside nan."""
    if not np.array_equal(a, b, equal_nan=True):  # a quick look; then in words
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=f"{case}: {what}")


def real_case(seed: int, backend: Named) -> tuple[Case, cylstm.LSTM, np.ndarray]:
    """A case in float32 or float64, its module, and its input as (T, B, I)."""
    case = draw(seed, ["float32", "float64"], largest=70)
    _, ours = modules(case, backend)
    ours.eval().batch_first = False
    x = np.array(case.x)
    x = x[:, None] if x.ndim == 2 else x.swapaxes(0, 1) if case.options["batch_first"] else x
    return case, ours, np.ascontiguousarray(x)


def pieces(seed: int, backend: Named) -> None:
    """At once, in pieces, and by a stream."""
    case, lstm, x = real_case(seed, backend)
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


def batches(seed: int, backend: Named) -> None:
    """A sequence alone, padded in a batch, and packed in a ragged batch."""
    case, lstm, x = real_case(seed, backend)
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


def threads(seed: int, backend: Named) -> None:
    """One thread and several, forward and backward."""
    case, lstm, x = real_case(seed, backend)
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


#: With another implementation: one case for all backends that have its dtype.
COMPARISONS: dict[str, Callable[[int, list[Named]], Any]] = {
    "forward": forward,
    "dropout": dropout,
    "gradients": gradients,
    "options": options,
}
#: Of one backend with itself, bit for bit.
INVARIANCES: dict[str, Callable[[int, Named], None]] = {"pieces": pieces, "batches": batches, "threads": threads}
torch.set_num_threads(1)
