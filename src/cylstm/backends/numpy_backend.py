"""The executable definition of the LSTM: plain, short, every dtype, forward and backward.

Equation numbers are those of ``docs/equations.md``. For one direction, one step, with x = input row, h and c = state::

    (1) a = W_ih x + b_ih + W_hh h + b_hh         a = [a_i, a_f, a_g, a_o], each of H elements
    (2) i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o);  g = tanh(a_g)
    (3) c = f * c + i * g
    (4) h = o * tanh(c)
    (5) h = W_hr h                                 only with proj_size > 0

In the backward pass, ``dz`` is the gradient of z. The page has the formulas of (6) to (12).

The code runs where its arrays lie: new arrays are made ``like=`` the arguments, and NumPy's functions pass on to the
library of their arguments. So the array loop of the cupy backend is this code.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..arrays.arithmetic import sigmoid, silent, widened
from .base import Backend, Capabilities, DirectionParameters, Keep, LayerGradients, LayerOutput, LayerParameters


class Workspace(NamedTuple):
    """What equations (1)-(5) read and gave in each packed row, by direction."""

    input: np.ndarray  # (N, I)
    batch_sizes: np.ndarray  # (T,)
    h_prev: list[np.ndarray]  # D times (N, R)
    c_prev: list[np.ndarray]  # D times (N, H)
    gates: list[np.ndarray] | None  # D times (N, 4H), activated; None: computed again


class NumpyBackend(Backend):
    """Plain NumPy, every dtype. Those of 16 bits are computed in float32; states are rounded after each step."""

    name: ClassVar[str] = "numpy"
    capabilities: ClassVar[Capabilities] = Capabilities(
        dtypes=frozenset({"bfloat16", "float16", "float32", "float64", "complex64", "complex128"}), training=True
    )

    def prepare(self, layer_parameters: LayerParameters) -> LayerParameters:
        return tuple(
            DirectionParameters(*(None if p is None else widened(p, copy=True) for p in parameters))
            for parameters in layer_parameters
        )

    @silent
    def forward(
        self,
        prepared: LayerParameters,
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

        for d, p in enumerate(prepared):
            for rows, b in steps(batch_sizes, reverse=d == 1):
                h, c = h_n[d, :b], c_n[d, :b]  # the rows beyond b have ended, or (reverse) not begun
                gates = _gates(p, x[rows], h)
                if keep != "nothing":
                    h_prev[d][rows], c_prev[d][rows] = h, c
                if all_gates is not None:
                    all_gates[d][rows] = gates
                i, f, g, o = np.split(gates, 4, axis=1)
                c[...] = _rounded(f * c + i * g, dtype)  # (3)
                h_full = o * np.tanh(c)  # (4)
                h[...] = _rounded(h_full if p.weight_hr is None else h_full @ p.weight_hr.T, dtype)  # (5)
                output[rows, d * R : (d + 1) * R] = h

        workspace = None if keep == "nothing" else Workspace(input, batch_sizes, h_prev, c_prev, all_gates)
        output, h_n, c_n = (a.astype(dtype, copy=False) for a in (output, h_n, c_n))
        return LayerOutput(output, h_n, c_n, workspace)

    @silent
    def backward(
        self,
        prepared: LayerParameters,
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
            dW_hr = None if p.weight_hr is None else np.zeros_like(p.weight_hr)
            # Against the order of the forward pass: the carried gradients dh, dc start as those of h_n, c_n and
            # end as those of h_0, c_0.
            for rows, b in reversed(list(steps(batch_sizes, reverse=d == 1))):
                dh, dc = dh_0[d, :b], dc_0[d, :b]
                gates = (
                    _gates(p, x[rows], workspace.h_prev[d][rows])
                    if workspace.gates is None
                    else workspace.gates[d][rows]
                )
                i, f, g, o = np.split(gates, 4, axis=1)
                c_prev = workspace.c_prev[d][rows]
                tanh_c = np.tanh(_rounded(f * c_prev + i * g, dtype))
                dh += dy[rows, d * R : (d + 1) * R]  # (6)
                if dW_hr is None:
                    dh_full = dh.copy()
                else:
                    dW_hr += dh.T @ (o * tanh_c).conj()  # (12)
                    dh_full = dh @ p.weight_hr.conj()  # (7)
                do = dh_full * tanh_c.conj()  # (8)
                dc += dh_full * (o * (1 - tanh_c * tanh_c)).conj()
                di, df, dg = dc * g.conj(), dc * c_prev.conj(), dc * i.conj()  # (9)
                dc *= f.conj()
                da = da_all[rows]  # (10): sigmoid' = s (1 - s), tanh' = 1 - t²
                da[:, :H] = di * (i * (1 - i)).conj()
                da[:, H : 2 * H] = df * (f * (1 - f)).conj()
                da[:, 2 * H : 3 * H] = dg * (1 - g * g).conj()
                da[:, 3 * H :] = do * (o * (1 - o)).conj()
                dh[...] = da @ p.weight_hh.conj()  # (11)
            dx += da_all @ p.weight_ih.conj()  # (11)
            db = None if p.bias_ih is None else da_all.sum(axis=0)  # (12)
            grads = (
                da_all.T @ x.conj(),
                da_all.T @ workspace.h_prev[d].conj(),
                db,
                None if db is None else db.copy(),
                dW_hr,
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


def _gates(p: DirectionParameters, x: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Activated gates (b, 4H) of the rows x (b, I) and h (b, R)."""
    a = x @ p.weight_ih.T + h @ p.weight_hh.T  # (1)
    if p.bias_ih is not None:
        a += p.bias_ih + p.bias_hh
    H = a.shape[1] // 4
    for k in range(4):  # (2)
        gate = a[:, k * H : (k + 1) * H]
        gate[...] = np.tanh(gate) if k == 2 else sigmoid(gate)
    return a


def _rounded(a: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Rounded to what an array of this dtype can hold."""
    return a.astype(dtype).astype(a.dtype) if dtype.itemsize == 2 else a
