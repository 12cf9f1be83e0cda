"""The executable definition of the LSTM: plain, short, every dtype, forward and backward.

Equation numbers are those of ``docs/equations.md``. For one direction, one step, with x = input row, h and c = state::

    (1) a = W_ih x + b_ih + W_hh h + b_hh         a = [a_i, a_f, a_g, a_o], each of H elements
    (2) i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o);  g = tanh(a_g)
    (3) c = f * c + i * g
    (4) h = o * tanh(c)
    (5) h = W_hr h                                 only with proj_size > 0

The options beyond PyTorch's LSTM change them: other activations in (2) and (4), peepholes and a clip in (1), coupled
gates in (2), limits of c in (3) and of h in (5). In the backward pass, ``dz`` is the gradient of z. The page has the
formulas of (6) to (12), and those of the options.

The code runs where its arrays lie: new arrays are made ``like=`` the arguments, and NumPy's functions pass on to the
library of their arguments. So the array loop of the cupy backend is this code.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..arrays.activations import Activation
from ..arrays.arithmetic import silent, widened
from ..arrays.quantization import prepared_for_bfloat16, prepared_for_int8, product
from .base import Backend, Capabilities, DirectionParameters, Keep, LayerGradients, LayerOptions, LayerOutput
from .base import LayerParameters as LayerParameters  # of the signature, for subclasses


class Direction(NamedTuple):
    """One direction as it is prepared: copies of its parameters, and what is computed with them."""

    weight_ih: np.ndarray  # the fields of DirectionParameters
    weight_hh: np.ndarray
    bias_ih: np.ndarray | None
    bias_hh: np.ndarray | None
    weight_hr: np.ndarray | None
    weight_ch: np.ndarray | None
    f: Activation
    g: Activation
    h: Activation
    options: LayerOptions


class Workspace(NamedTuple):
    """What equations (1)-(5) read and gave in each packed row, by direction."""

    input: np.ndarray  # (N, I)
    batch_sizes: np.ndarray  # (T,)
    h_prev: list[np.ndarray]  # D times (N, R)
    c_prev: list[np.ndarray]  # D times (N, H)
    gates: list[np.ndarray] | None  # D times (N, 4H), activated; None: computed again, as always with options


class NumpyBackend(Backend):
    """Plain NumPy, every dtype. Those of 16 bits are computed in float32; states are rounded after each step."""

    name: ClassVar[str] = "numpy"
    capabilities: ClassVar[Capabilities] = Capabilities(
        dtypes=frozenset({"bfloat16", "float16", "float32", "float64", "complex64", "complex128"}),
        training=True,
        precisions=("float32", "bfloat16", "int8"),
        options=frozenset(LayerOptions._fields),
    )

    def prepare(
        self, layer_parameters: LayerParameters, *, precision: str = "float32", options: LayerOptions | None = None
    ) -> tuple[Direction, ...]:
        options = options or LayerOptions()
        each = options.activations * len(layer_parameters)  # the one of a plain layer is that of both directions
        return tuple(
            Direction._make([*_in_precision(parameters, precision), *activations, options])
            for parameters, activations in zip(layer_parameters, each, strict=False)
        )

    @silent
    def forward(
        self,
        prepared: tuple[Direction, ...],
        *,
        input: np.ndarray,
        batch_sizes: np.ndarray,
        h_0: np.ndarray | None,
        c_0: np.ndarray | None,
        keep: Keep = "nothing",
    ) -> LayerOutput:
        dtype, x = input.dtype, widened(input)
        D, B, N = len(prepared), int(batch_sizes[0]), len(input)
        H, R = prepared[0].weight_ih.shape[0] // 4, prepared[0].weight_hh.shape[1]
        output = np.empty((N, D * R), x.dtype, like=x)
        h_n = np.zeros((D, B, R), x.dtype, like=x) if h_0 is None else widened(h_0, copy=True)
        c_n = np.zeros((D, B, H), x.dtype, like=x) if c_0 is None else widened(c_0, copy=True)
        h_prev = [np.empty((N, R), x.dtype, like=x) for _ in prepared] if keep != "nothing" else []
        c_prev = [np.empty((N, H), x.dtype, like=x) for _ in prepared] if keep != "nothing" else []
        all_gates = [np.empty((N, 4 * H), x.dtype, like=x) for _ in prepared] if keep == "gates" else None
        if prepared[0].options.named():
            all_gates = None

        for d, p in enumerate(prepared):
            for rows, b in steps(batch_sizes, reverse=d == 1):
                h, c = h_n[d, :b], c_n[d, :b]  # the rows beyond b have ended, or (reverse) not begun
                _, gates, c_new = _gates_and_cell(p, x[rows], h, c, dtype)  # (1) to (3)
                if keep != "nothing":
                    h_prev[d][rows], c_prev[d][rows] = h, c
                if all_gates is not None:
                    all_gates[d][rows] = gates
                c[...] = c_new
                h_full = _parts(gates)[3] * p.h.value(c)  # (4)
                h_new = h_full if p.weight_hr is None else product(h_full, p.weight_hr)  # (5)
                h[...] = _rounded(_limited(h_new, p.options.proj_clip), dtype)
                output[rows, d * R : (d + 1) * R] = h

        workspace = None if keep == "nothing" else Workspace(input, batch_sizes, h_prev, c_prev, all_gates)
        output, h_n, c_n = (a.astype(dtype, copy=False) for a in (output, h_n, c_n))
        return LayerOutput(output, h_n, c_n, workspace)

    @silent
    def backward(
        self,
        prepared: tuple[Direction, ...],
        workspace: Workspace,
        *,
        grad_output: np.ndarray | None,
        grad_h_n: np.ndarray | None,
        grad_c_n: np.ndarray | None,
    ) -> LayerGradients:
        dtype, x, batch_sizes = workspace.input.dtype, widened(workspace.input), workspace.batch_sizes
        D, B, N = len(prepared), int(batch_sizes[0]), len(x)
        H, R = prepared[0].weight_ih.shape[0] // 4, prepared[0].weight_hh.shape[1]
        dh_0 = np.zeros((D, B, R), x.dtype, like=x) if grad_h_n is None else widened(grad_h_n, copy=True)
        dc_0 = np.zeros((D, B, H), x.dtype, like=x) if grad_c_n is None else widened(grad_c_n, copy=True)
        dy = np.zeros((N, D * R), x.dtype, like=x) if grad_output is None else widened(grad_output)
        dx = np.zeros_like(x)
        grad_parameters = []

        for d, p in enumerate(prepared):
            da_all = np.empty((N, 4 * H), x.dtype, like=x)
            sums = _Sums(*(None if w is None else np.zeros_like(w) for w in (p.weight_hr, p.weight_ch)))
            # Against the order of the forward pass: the carried gradients dh, dc start as those of h_n, c_n and
            # end as those of h_0, c_0.
            for rows, b in reversed(list(steps(batch_sizes, reverse=d == 1))):
                dh, dc, c_prev = dh_0[d, :b], dc_0[d, :b], workspace.c_prev[d][rows]
                if workspace.gates is None:
                    a, gates, c = _gates_and_cell(p, x[rows], workspace.h_prev[d][rows], c_prev, dtype)
                else:
                    i, f, g, _ = _parts(a := workspace.gates[d][rows])  # the plain derivatives need the gates alone
                    gates, c = a, _rounded(f * c_prev + i * g, dtype)
                dh += dy[rows, d * R : (d + 1) * R]  # (6)
                da_all[rows] = _backward_step(p, a, gates, c_prev, c, dh, dc, sums)  # (7) to (10), dc
                dh[...] = da_all[rows] @ p.weight_hh.conj()  # (11)
            dx += da_all @ p.weight_ih.conj()  # (11)
            db = None if p.bias_ih is None else da_all.sum(axis=0)  # (12)
            grads = (
                da_all.T @ x.conj(),
                da_all.T @ workspace.h_prev[d].conj(),
                db,
                None if db is None else db.copy(),
                *sums,
            )
            grad_parameters.append(
                DirectionParameters(*(None if g is None else g.astype(dtype, copy=False) for g in grads))
            )

        dx, dh_0, dc_0 = (a.astype(dtype, copy=False) for a in (dx, dh_0, dc_0))
        return LayerGradients(dx, dh_0, dc_0, tuple(grad_parameters))


def steps(batch_sizes: np.ndarray, reverse: bool) -> Any:
    """The steps in the order a direction takes them: (slice of packed rows, number of rows)."""
    ends = np.cumsum(batch_sizes).tolist()
    in_time = [(slice(end - b, end), b) for end, b in zip(ends, batch_sizes.tolist(), strict=True)]
    return reversed(in_time) if reverse else iter(in_time)


def _in_precision(p: DirectionParameters, precision: str) -> DirectionParameters:
    """Copies of the parameters; the matrices are such that their products are those of the precision."""
    copies = (None if array is None else widened(array, copy=True) for array in p[2:])
    if precision == "float32":
        return DirectionParameters(widened(p.weight_ih, copy=True), widened(p.weight_hh, copy=True), *copies)
    prepared = DirectionParameters(
        prepared_for_bfloat16(p.weight_ih),
        prepared_for_int8(p.weight_hh) if precision == "int8" else prepared_for_bfloat16(p.weight_hh),
        *copies,
    )
    return prepared if p.weight_hr is None else prepared._replace(weight_hr=prepared_for_bfloat16(p.weight_hr))


# One step of one direction -------------------------------------------------------------------------------------------


class _Sums(NamedTuple):
    """Gradients that gather one term at each step."""

    weight_hr: np.ndarray | None
    weight_ch: np.ndarray | None


def _gates_and_cell(
    p: Direction, x: np.ndarray, h: np.ndarray, c: np.ndarray, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """a and the activated gates (b, 4H), and c after the step (b, H), of the rows x (b, I), h (b, R) and c (b, H)."""
    options = p.options
    a = product(x, p.weight_ih) + product(h, p.weight_hh)  # (1)
    if p.bias_ih is not None:
        a += p.bias_ih + p.bias_hh
    gates = np.empty_like(a)
    a_i, a_f, a_g, a_o = _parts(a)
    i, f, g, o = _parts(gates)
    if p.weight_ch is not None:
        w_i, w_f, w_o = np.split(p.weight_ch, 3)
        a_i += w_i * c
        a_f += w_f * c
    i[...] = p.f.value(_limited(a_i, options.clip))  # (2)
    f[...] = 1 - i if options.input_forget else p.f.value(_limited(a_f, options.clip))
    g[...] = p.g.value(_limited(a_g, options.clip))
    c = _rounded(_limited(f * c + i * g, options.cell_clip), dtype)  # (3)
    if p.weight_ch is not None:
        a_o += w_o * c
    o[...] = p.f.value(_limited(a_o, options.clip))
    return a, gates, c


def _backward_step(
    p: Direction,
    a: np.ndarray,
    gates: np.ndarray,
    c_prev: np.ndarray,
    c: np.ndarray,
    dh: np.ndarray,
    dc: np.ndarray,
    sums: _Sums,
) -> np.ndarray:
    """The gradient of a (b, 4H), given those of h and c after the step. dc becomes that of c before the step."""
    options, (a_i, a_f, a_g, a_o), (i, f, g, o) = p.options, _parts(a), _parts(gates)
    h_c = p.h.value(c)
    if sums.weight_hr is None or p.weight_hr is None:
        dh_full = dh
    else:
        h_full = o * h_c
        dh = dh * _within(h_full @ p.weight_hr.T, options.proj_clip)
        sums.weight_hr[...] += dh.T @ h_full.conj()  # (12)
        dh_full = dh @ p.weight_hr.conj()  # (7)
    da = np.empty_like(gates)
    da_i, da_f, da_g, da_o = _parts(da)
    da_o[...] = dh_full * h_c.conj() * p.f.derivative(a_o, o).conj() * _within(a_o, options.clip)  # (8), (10)
    dc += dh_full * (o * p.h.derivative(c, h_c)).conj()
    if p.weight_ch is not None:
        w_i, w_f, w_o = np.split(p.weight_ch.conj(), 3)
        dc += da_o * w_o
    dc *= _within(f * c_prev + i * g, options.cell_clip)
    di, df, dg = dc * g.conj(), dc * c_prev.conj(), dc * i.conj()  # (9)
    if options.input_forget:
        di, df = di - df, np.zeros_like(df)
    da_i[...] = di * p.f.derivative(a_i, i).conj() * _within(a_i, options.clip)  # (10)
    da_f[...] = df * p.f.derivative(a_f, f).conj() * _within(a_f, options.clip)
    da_g[...] = dg * p.g.derivative(a_g, g).conj() * _within(a_g, options.clip)
    dc *= f.conj()
    if p.weight_ch is not None and sums.weight_ch is not None:
        dc += da_i * w_i + da_f * w_f
        terms = (da_i * c_prev.conj(), da_f * c_prev.conj(), da_o * c.conj())
        sums.weight_ch[...] += np.concatenate([term.sum(axis=0) for term in terms])
    return da


def _parts(a: np.ndarray) -> tuple[np.ndarray, ...]:
    """Those of the gates i, f, g, o, as views."""
    H = a.shape[1] // 4
    return a[:, :H], a[:, H : 2 * H], a[:, 2 * H : 3 * H], a[:, 3 * H :]


def _limited(a: np.ndarray, limit: float | None) -> np.ndarray:
    return a if limit is None else np.clip(a, -limit, limit)


def _within(a: np.ndarray, limit: float | None) -> Any:
    """The derivative of the limitation, with PyTorch's 1 at the limit itself."""
    return 1 if limit is None else (np.abs(a) <= limit).astype(a.dtype)


def _rounded(a: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Rounded to what an array of this dtype can hold."""
    return a.astype(dtype).astype(a.dtype) if dtype.itemsize == 2 else a
