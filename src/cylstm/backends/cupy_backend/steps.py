"""The kernel variant ``steps``: a layer as a sequence of launches, one per step, forward and backward.

It is written for a `Device`: CuPy's on a GPU, the CPU in the tests. Symbols and shapes are those of
`cylstm.backends.base`. float16 and bfloat16 are stored and float32 computed; states and outputs are rounded after each
step.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np

from ...arrays.arithmetic import sigmoid
from ..base import DirectionParameters, Keep, LayerGradients, LayerOutput, LayerParameters
from .device import Device
from .schedule import BackwardSchedule, ForwardSchedule, ScheduleCache
from .weights import StepWeights

#: Schedules that one version of the parameters of a layer keeps; the least recently used one goes.
MOST_SCHEDULES = 8


class PreparedSteps(NamedTuple):
    """The parameters of a layer, and the schedules of its calls."""

    weights: StepWeights
    schedules: ScheduleCache


class StepsWorkspace(NamedTuple):
    """What forward keeps for backward."""

    input: Any  # (N, I)
    batch_sizes: np.ndarray  # (T,)
    h_prev: Any  # (N, D, R)
    c_prev: Any  # (D, N, H)
    gates: Any  # (N, D, 4, H), or None: computed again


class Steps:
    """One launch per step, on one device."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def prepare(self, layer_parameters: LayerParameters) -> PreparedSteps:
        """Take arrays of the device's library; the result shares nothing with them."""
        return PreparedSteps(StepWeights.packed(layer_parameters, self.device.xp), ScheduleCache(MOST_SCHEDULES))

    def _schedule(self, prepared: PreparedSteps, kind: type, batch_sizes: np.ndarray, *options: bool) -> Any:
        """A schedule belongs to one thread and one stream, so nobody else uses its arrays before the stream has."""
        key = (kind, self.device.stream(), threading.get_ident(), batch_sizes.tobytes(), options)
        return prepared.schedules.get(key, lambda: kind(self.device, prepared.weights, batch_sizes, *options))

    def _input_product(self, p: StepWeights, x: Any, out: Any) -> None:
        """The input's share of the sums of all gates, with the biases: (N, D * 4 H)."""
        self.device.xp.matmul(x.astype(p.arithmetic, copy=False), p.weight_ih.T, out=out)
        if p.bias is not None:
            out += p.bias

    def forward(
        self, prepared: PreparedSteps, *, input: Any, batch_sizes: np.ndarray, h_0: Any, c_0: Any, keep: Keep
    ) -> LayerOutput:
        xp, p = self.device.xp, prepared.weights
        N, D, H, R = len(input), p.D, p.H, p.R
        schedule = self._schedule(prepared, ForwardSchedule, batch_sizes, keep != "nothing")
        self._input_product(p, input, schedule.gates)
        schedule.h_0[...] = 0 if h_0 is None else h_0
        schedule.c[...] = 0 if c_0 is None else c_0
        schedule.run()
        h_n = xp.stack([schedule.output[:, d][schedule.ends[d]] for d in range(D)])
        workspace = None
        if keep != "nothing":
            h_prev = [xp.concatenate([schedule.output[:, d], schedule.h_0[d]])[schedule.previous[d]] for d in range(D)]
            gates = schedule.gates.reshape(N, D, 4, H).copy() if keep == "gates" else None
            workspace = StepsWorkspace(input, batch_sizes, xp.stack(h_prev, axis=1), schedule.c_prev.copy(), gates)
        return LayerOutput(schedule.output.reshape(N, D * R).copy(), h_n, schedule.c.copy(), workspace)

    def _gates_again(self, p: StepWeights, workspace: StepsWorkspace) -> Any:
        """The activated gates (N, D, 4, H). All states are known, so one product covers all rows."""
        xp, N = self.device.xp, len(workspace.input)
        sums = xp.empty((N, p.D * 4 * p.H), p.arithmetic)
        self._input_product(p, workspace.input, sums)
        gates = sums.reshape(N, p.D, 4, p.H)
        for d in range(p.D):
            h_prev = workspace.h_prev[:, d].astype(p.arithmetic)
            gates[:, d] += (h_prev @ p.weight_hh[d].astype(p.arithmetic, copy=False).T).reshape(N, 4, p.H)
        for k in range(4):
            gates[:, :, k] = xp.tanh(gates[:, :, k]) if k == 2 else sigmoid(gates[:, :, k])
        return gates

    def backward(
        self, prepared: PreparedSteps, workspace: StepsWorkspace, *, grad_output: Any, grad_h_n: Any, grad_c_n: Any
    ) -> LayerGradients:
        xp, p = self.device.xp, prepared.weights
        N, D, H = len(workspace.input), p.D, p.H
        given = (grad_output is not None, grad_h_n is not None)
        schedule = self._schedule(prepared, BackwardSchedule, workspace.batch_sizes, *given)
        schedule.gates[...] = self._gates_again(p, workspace) if workspace.gates is None else workspace.gates
        schedule.c_prev[...] = workspace.c_prev
        schedule.dc[...] = 0 if grad_c_n is None else grad_c_n
        if grad_output is not None:
            schedule.grad_output[...] = grad_output
        if grad_h_n is not None:
            schedule.grad_h_n[...] = grad_h_n
        h_full = self._unprojected(p, schedule) if p.P else None  # before the gates are overwritten
        schedule.run()
        da = schedule.gates.reshape(N, D * 4 * H)
        dW_ih = (da.T @ workspace.input.astype(p.arithmetic, copy=False)).reshape(D, 4 * H, p.I)
        db = None if p.bias is None else da.sum(axis=0).reshape(D, 4 * H)
        dh_0, parameters = [], []
        for d in range(D):
            da_d = da[:, d * 4 * H : (d + 1) * 4 * H]
            dh_0.append(da_d[schedule.ends[d]] @ p.weight_hh[d].astype(p.arithmetic, copy=False))
            grads = (
                dW_ih[d],
                da_d.T @ workspace.h_prev[:, d].astype(p.arithmetic),
                None if db is None else db[d],
                None if db is None else db[d],
                None if h_full is None else schedule.dh[:, d].T @ h_full[d],
            )
            parameters.append(DirectionParameters(*(None if g is None else xp.array(g, p.dtype) for g in grads)))
        dx, dh_0, dc_0 = (xp.array(g, p.dtype) for g in (da @ p.weight_ih, xp.stack(dh_0), schedule.dc))
        return LayerGradients(dx, dh_0, dc_0, tuple(parameters))

    def _unprojected(self, p: StepWeights, schedule: BackwardSchedule) -> Any:
        """h before the projection: (D, N, H)."""
        i, f, g, o = schedule.gates.transpose(2, 1, 0, 3)
        c = (f * schedule.c_prev.astype(p.arithmetic) + i * g).astype(p.dtype).astype(p.arithmetic)
        return o * self.device.xp.tanh(c)
