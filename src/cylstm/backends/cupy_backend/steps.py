"""The kernel variant ``steps``: a layer as a sequence of launches, one per step, forward and backward.

It is written for a `Device`: CuPy's on a GPU, the CPU in the tests. Symbols and shapes are those of
`cylstm.backends.base`. float16 and bfloat16 are stored and multiplied, and added up in float32; states, outputs and the
gradients of the gates are rounded after each step. Of arrays with rows, the directions lie side by side in each row, so
that one product gives the input's share of both.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np

from ...arrays.arithmetic import sigmoid
from ..base import DirectionParameters, Keep, LayerGradients, LayerOutput, LayerParameters
from .device import Device, copied, part
from .planner import TYPES
from .schedule import MOST_TABLE_BYTES, Pass, Recent, Schedules, Table, key_of
from .variants import LayerShape
from .weights import StepWeights


class StepsWorkspace(NamedTuple):
    """What forward keeps for backward."""

    input: Any  # (N, I)
    batch_sizes: np.ndarray  # (T,)
    h_prev: Any  # (N, D, R)
    c_prev: Any  # (N, D, H)
    gates: Any  # (N, D, 4, H), or None: computed again


class Steps:
    """One launch per step, on one device."""

    name: ClassVar[str] = "steps"

    def __init__(self, device: Device, *, tf32: bool = False) -> None:
        self.device = device
        self.tf32 = tf32
        self.schedules = Schedules(device)
        self.tables: Recent[Table] = Recent(MOST_TABLE_BYTES, lambda table: table.nbytes)

    def unavailable(self) -> str:
        major, minor = self.device.facts.compute_capability
        if (major, minor) >= (7, 5):
            return ""
        return f"its kernels need compute capability 7.5, and {self.device.name} has {major}.{minor}"

    def refusal(self, shape: LayerShape, batch_sizes: np.ndarray, keep: Keep) -> str:
        return "" if shape.dtype in TYPES else f"it does not compute {shape.dtype}"

    def slower_than(self, shape: LayerShape, B: int) -> str:
        """No variant after it is faster."""
        return ""

    def prepare(self, layer_parameters: LayerParameters) -> PreparedSteps:
        return PreparedSteps(self, StepWeights.packed(layer_parameters, self.device.xp))

    def table(self, batch_sizes: np.ndarray, D: int, *, against: bool) -> Table:
        """The table of a pass. It belongs to a stream, in which it has been copied to the device."""
        key = (self.device.stream(), key_of(batch_sizes), D, against)
        return self.tables.get(key, lambda: Table.of(batch_sizes, D, against=against, xp=self.device.xp))

    def forget(self) -> None:
        """Give up what is kept for calls to come, but for that of other threads."""
        self.tables.clear()
        self.schedules = Schedules(self.device)


class PreparedSteps:
    """The parameters of a layer, and the passes with them."""

    def __init__(self, steps: Steps, weights: StepWeights) -> None:
        self.steps = steps
        self.weights = weights

    def _product(self, a: Any, b: Any, out: Any, *, add: bool = False) -> None:
        self.steps.device.product(a, b, out, add=add, tf32=self.steps.tf32)

    def _made_product(self, a: Any, b: Any) -> Any:
        """The product in a new array of the dtype of the parameters."""
        out = self.steps.device.xp.empty((a.shape[0], b.shape[1]), self.weights.dtype)
        self._product(a, b, out)
        return out

    def forward(self, *, input: Any, batch_sizes: np.ndarray, h_0: Any, c_0: Any, keep: Keep) -> LayerOutput:
        xp, p = self.steps.device.xp, self.weights
        N, B, D, H, R = len(input), int(batch_sizes[0]), p.D, p.H, p.R
        keeps = keep != "nothing"
        gates = xp.empty((N, D * 4 * H), p.arithmetic)
        self._product(input, p.weight_ih.T, gates)
        table = self.steps.table(batch_sizes, D, against=False)
        h_0 = _copied(xp, h_0, (D, B, R), p.dtype)  # a copy: aligned
        c_n = _copied(xp, c_0, (D, B, H), p.dtype)
        h_n = xp.empty((D, B, R), p.dtype)
        output = xp.empty((N, D * R), p.dtype)
        unprojected = xp.empty((D, B, H), p.arithmetic) if p.P else None
        h_prev = xp.empty((N, D, R), p.dtype) if keeps else None
        c_prev = xp.empty((N, D, H), p.dtype) if keeps else None
        self.steps.schedules.channel().run(
            Pass.of(p, B, forward=True),
            table,
            (p.forward_in_fours, p.project_in_fours, p.bias, h_0, h_n, c_n, output, unprojected, h_prev, gates, c_prev),
        )
        workspace = None
        if keeps:
            kept = gates.reshape(N, D, 4, H) if keep == "gates" else None
            workspace = StepsWorkspace(input, batch_sizes, h_prev, c_prev, kept)
        return LayerOutput(output, h_n, c_n, workspace)

    def backward(self, workspace: StepsWorkspace, *, grad_output: Any, grad_h_n: Any, grad_c_n: Any) -> LayerGradients:
        device, xp, p = self.steps.device, self.steps.device.xp, self.weights
        x, batch_sizes, h_prev, c_prev, gates = workspace
        N, B, D, H, R = len(x), int(batch_sizes[0]), p.D, p.H, p.R
        if gates is None:
            gates = self._gates_again(workspace)
        table = self.steps.table(batch_sizes, D, against=True)
        dc = _copied(xp, grad_c_n, (D, B, H), p.arithmetic)
        da = xp.empty((N, D * 4 * H), p.dtype)
        dh: Any = xp.empty((N, D, R), p.dtype) if p.P else None
        self.steps.schedules.channel().run(
            Pass.of(p, B, forward=False),
            table,
            (p.backward_in_fours, p.unproject_in_fours, gates, c_prev, grad_output, grad_h_n, dc, da, dh),
        )
        dx, dW_ih = self._made_product(da, p.weight_ih), self._made_product(da.T, x)
        db = None if p.bias is None else da.sum(axis=0, dtype=p.arithmetic).astype(p.dtype, copy=False)
        h_full: Any = self._unprojected(gates, c_prev) if p.P else None
        dh_0, parameters = xp.empty((D, B, R), p.dtype), []
        for d in range(D):
            rows = slice(d * 4 * H, (d + 1) * 4 * H)
            self._product(da[:, rows][table.ends[d]], p.weight_hh[d], dh_0[d])
            grads = DirectionParameters(
                part(device, dW_ih[rows]),
                self._made_product(da[:, rows].T, h_prev[:, d]),
                None if db is None else part(device, db[rows]),
                None if db is None else copied(device, db[rows]),
                None if h_full is None else self._made_product(dh[:, d].T, h_full[:, d]),
            )
            parameters.append(grads)
        return LayerGradients(dx, dh_0, dc.astype(p.dtype, copy=False), tuple(parameters))

    def _gates_again(self, workspace: StepsWorkspace) -> Any:
        """The activated gates (N, D, 4, H). All states are known, so one product covers all rows."""
        xp, p, N = self.steps.device.xp, self.weights, len(workspace.input)
        sums = xp.empty((N, p.D * 4 * p.H), p.arithmetic)
        self._product(workspace.input, p.weight_ih.T, sums)
        for d in range(p.D):
            of_direction = sums[:, d * 4 * p.H : (d + 1) * 4 * p.H]
            self._product(workspace.h_prev[:, d], p.weight_hh[d].T, of_direction, add=True)
        if p.bias is not None:
            sums += p.bias.reshape(-1)
        gates = sums.reshape(N, p.D, 4, p.H)
        gates[:, :, :2] = sigmoid(gates[:, :, :2])
        gates[:, :, 2] = xp.tanh(gates[:, :, 2])
        gates[:, :, 3] = sigmoid(gates[:, :, 3])
        return gates

    def _unprojected(self, gates: Any, c_prev: Any) -> Any:
        """h before the projection: (N, D, H)."""
        p = self.weights
        c = (gates[:, :, 1] * c_prev + gates[:, :, 0] * gates[:, :, 2]).astype(p.dtype).astype(p.arithmetic)
        return (gates[:, :, 3] * self.steps.device.xp.tanh(c)).astype(p.dtype)


def _copied(xp: Any, array: Any, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    """A copy of an array in a dtype, or zeros."""
    return xp.zeros(shape, dtype) if array is None else xp.array(array, dtype)
