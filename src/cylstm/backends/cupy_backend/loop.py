"""The kernel variant ``array``: the loop over steps in array operations, for every dtype and device.

It computes what the numpy backend does, with the equation numbers of docs/equations.md, in fewer operations per step,
each of which is a launch: what can be computed for all rows at once is not computed in the loop, and the gates lie in
the order o, i, f, g. So the sigmoid is one of three gates side by side, and the gradient of c goes to three at once.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np

from ...arrays.arithmetic import arithmetic_dtype, silent, widened
from ..base import DirectionParameters, Keep, LayerGradients, LayerOutput, LayerParameters
from ..numpy_backend import steps
from .device import Device
from .variants import LayerShape

#: Where PyTorch's gates i, f, g, o are in the order o, i, f, g, and back.
ORDER, BACK = [3, 0, 1, 2], [1, 2, 3, 0]


class Direction(NamedTuple):
    """One direction, with the gates in the order o, i, f, g, in the dtype of the arithmetic."""

    weight_ih: Any  # (4 H, I)
    weight_hh: Any  # (4 H, R)
    bias: Any  # (4 H,), the sum of both, or None
    weight_hr: Any  # (P, H), or None
    scale: Any  # (4 H,): what `_activate` wants the sums to be multiplied by
    scaled_hh: Any  # (R, 4 H), so multiplied


class ArrayWorkspace(NamedTuple):
    """What equations (1)-(4) read and gave in each packed row, by direction."""

    input: Any  # (N, I)
    batch_sizes: np.ndarray  # (T,)
    h_prev: list[Any]  # D times (N, R)
    c_prev: list[Any]  # D times (N, H)
    gates: list[Any] | None  # D times (N, 4 H), activated; None: computed again


class Array:
    """The array loop, on one device."""

    name: ClassVar[str] = "array"

    def __init__(self, device: Device, *, tf32: bool = False) -> None:
        self.device = device

    def unavailable(self) -> str:
        return ""

    def refusal(self, shape: LayerShape, batch_sizes: np.ndarray, keep: Keep) -> str:
        return ""

    def slower_than(self, shape: LayerShape, B: int) -> str:
        """No variant after it is faster."""
        return ""

    def prepare(self, layer_parameters: LayerParameters) -> PreparedArray:
        return PreparedArray(self.device.xp, tuple(_direction(self.device.xp, p) for p in layer_parameters))

    def forget(self) -> None:
        """Nothing is kept for calls to come."""


class PreparedArray:
    """The parameters of a layer, and the passes with them."""

    def __init__(self, xp: Any, directions: tuple[Direction, ...]) -> None:
        self.xp = xp
        self.directions = directions

    @silent
    def forward(self, *, input: Any, batch_sizes: np.ndarray, h_0: Any, c_0: Any, keep: Keep) -> LayerOutput:
        xp, dtype, x = self.xp, input.dtype, widened(input)
        D, B, N = len(self.directions), int(batch_sizes[0]), len(x)
        R, H4 = self.directions[0].scaled_hh.shape
        H = H4 // 4
        h_n = xp.zeros((D, B, R), x.dtype) if h_0 is None else widened(h_0, copy=True)
        c_n = xp.zeros((D, B, H), x.dtype) if c_0 is None else widened(c_0, copy=True)
        output = xp.empty((N, D * R), x.dtype)
        kept = keep != "nothing"
        h_prev = [xp.empty((N, R), x.dtype) for _ in range(D * kept)]
        c_prev = [xp.empty((N, H), x.dtype) for _ in range(D * kept)]
        all_gates = []
        for d, p in enumerate(self.directions):
            gates = _sums(p, x)
            for rows, b in steps(batch_sizes, reverse=d == 1):
                h, c, a = h_n[d, :b], c_n[d, :b], gates[rows]
                if kept:
                    h_prev[d][rows], c_prev[d][rows] = h, c
                a += h @ p.scaled_hh  # (1)
                _activate(xp, a)  # (2)
                o, i, f, g = _parts(a)
                xp.multiply(f, c, out=c)  # (3)
                c += i * g
                _round(c, dtype)
                h_full = o * xp.tanh(c)  # (4)
                h[...] = h_full if p.weight_hr is None else h_full @ p.weight_hr.T  # (5)
                _round(h, dtype)
                output[rows, d * R : (d + 1) * R] = h
            all_gates.append(gates)
        workspace = None
        if kept:
            workspace = ArrayWorkspace(input, batch_sizes, h_prev, c_prev, all_gates if keep == "gates" else None)
        output, h_n, c_n = (a.astype(dtype, copy=False) for a in (output, h_n, c_n))
        return LayerOutput(output, h_n, c_n, workspace)

    @silent
    def backward(self, workspace: ArrayWorkspace, *, grad_output: Any, grad_h_n: Any, grad_c_n: Any) -> LayerGradients:
        xp, dtype, x = self.xp, workspace.input.dtype, widened(workspace.input)
        D, B, N = len(self.directions), int(workspace.batch_sizes[0]), len(x)
        R, H = self.directions[0].scaled_hh.shape[0], self.directions[0].scaled_hh.shape[1] // 4
        dh_0 = xp.zeros((D, B, R), x.dtype) if grad_h_n is None else widened(grad_h_n, copy=True)
        dc_0 = xp.zeros((D, B, H), x.dtype) if grad_c_n is None else widened(grad_c_n, copy=True)
        dy = None if grad_output is None else widened(grad_output)
        dx, parameters = xp.zeros_like(x), []
        for d, p in enumerate(self.directions):
            gates = self._gates(workspace, d)
            f, to_c, da, h_full = _derivatives(xp, gates, workspace.c_prev[d], dtype)
            dh_rows = None if p.weight_hr is None else xp.empty((N, R), x.dtype)
            # Against the order of the forward pass: the carried gradients dh, dc start as those of h_n, c_n and
            # end as those of h_0, c_0.
            for rows, b in reversed(list(steps(workspace.batch_sizes, reverse=d == 1))):
                dh, dc = dh_0[d, :b], dc_0[d, :b]
                if dy is not None:
                    dh += dy[rows, d * R : (d + 1) * R]  # (6)
                dh_full = dh
                if dh_rows is not None:
                    dh_rows[rows] = dh
                    dh_full = dh @ p.weight_hr.conj()  # (7)
                dc += dh_full * to_c[rows]  # (8)
                by_gate = da[rows].reshape(b, 4, H)
                by_gate[:, 0] *= dh_full  # (8) to (10)
                by_gate[:, 1:] *= dc[:, np.newaxis]
                dc *= f[rows]
                dh[...] = da[rows] @ p.weight_hh.conj()  # (11)
            dx += da @ p.weight_ih.conj()
            db = None if p.bias is None else _reordered(da.sum(axis=0), BACK)  # (12)
            grads = (
                _reordered(da.T @ x.conj(), BACK),
                _reordered(da.T @ workspace.h_prev[d].conj(), BACK),
                db,
                None if db is None else db.copy(),
                None if dh_rows is None else dh_rows.T @ h_full.conj(),
            )
            parameters.append(DirectionParameters(*(None if g is None else g.astype(dtype, copy=False) for g in grads)))
        dx, dh_0, dc_0 = (a.astype(dtype, copy=False) for a in (dx, dh_0, dc_0))
        return LayerGradients(dx, dh_0, dc_0, tuple(parameters))

    def _gates(self, workspace: ArrayWorkspace, d: int) -> Any:
        """The activated gates of a direction, (N, 4 H)."""
        if workspace.gates is not None:
            return workspace.gates[d]
        gates = _sums(self.directions[d], widened(workspace.input))
        gates += workspace.h_prev[d] @ self.directions[d].scaled_hh
        _activate(self.xp, gates)
        return gates


def _direction(xp: Any, parameters: DirectionParameters) -> Direction:
    p = DirectionParameters(*(None if array is None else widened(array, copy=True) for array in parameters))
    weight_ih, weight_hh = _reordered(p.weight_ih, ORDER), _reordered(p.weight_hh, ORDER)
    H = weight_ih.shape[0] // 4
    scale = xp.ones(4 * H, weight_ih.dtype)
    scale[: 3 * H] = 0.5 if scale.dtype.kind == "c" else -1
    bias = None if p.bias_ih is None else _reordered(p.bias_ih + p.bias_hh, ORDER)
    return Direction(weight_ih, weight_hh, bias, p.weight_hr, scale, weight_hh.T * scale)


def _reordered(array: Any, order: list[int]) -> Any:
    """The four gates of the first axis in another order, copied."""
    shape = array.shape
    return array.reshape(4, -1)[order].reshape(shape)


def _parts(gates: Any) -> tuple[Any, ...]:
    """The four gates, as views."""
    H = gates.shape[1] // 4
    return tuple(gates[:, k * H : (k + 1) * H] for k in range(4))


def _sums(p: Direction, x: Any) -> Any:
    """The input's share of (1), for all rows, scaled."""
    sums = x @ p.weight_ih.T
    if p.bias is not None:
        sums += p.bias
    sums *= p.scale
    return sums


def _activate(xp: Any, a: Any) -> None:
    """(2) of scaled sums, in place.

    sigmoid(a) is 1 / (1 + exp(-a)), and of complex numbers (1 + tanh(a / 2)) / 2: CuPy's quotient of complex numbers is
    not a number where the divisor is infinite.
    """
    three = a[:, : a.shape[1] // 4 * 3]
    if a.dtype.kind == "c":
        xp.tanh(a, out=a)
        three *= 0.5
        three += 0.5
        return
    xp.exp(three, out=three)
    three += 1
    xp.reciprocal(three, out=three)
    g = a[:, a.shape[1] // 4 * 3 :]
    xp.tanh(g, out=g)


def _derivatives(xp: Any, gates: Any, c_prev: Any, dtype: np.dtype) -> tuple[Any, Any, Any, Any]:
    """What the gradients of h and c are multiplied by, all rows at once: f; for c; for the sums; and h before (5)."""
    o, i, f, g = _parts(gates)
    c = f * c_prev + i * g
    _round(c, dtype)
    tanh_c = xp.tanh(c)
    of_sums = xp.empty_like(gates)
    for part, factor, gate in zip(_parts(of_sums), (tanh_c, g, c_prev), (o, i, f), strict=False):
        part[...] = (factor * gate * (1 - gate)).conj()
    _parts(of_sums)[3][...] = (i * (1 - g * g)).conj()
    return f.conj(), (o * (1 - tanh_c * tanh_c)).conj(), of_sums, o * tanh_c


def _round(a: Any, dtype: np.dtype) -> None:
    """Round in place to what an array of this dtype can hold."""
    if dtype != arithmetic_dtype(dtype):
        a[...] = a.astype(dtype)
