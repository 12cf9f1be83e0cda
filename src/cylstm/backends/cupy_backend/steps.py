"""A layer as a sequence of launches, one per step. Written for a `Device`: CuPy's on a GPU, the CPU in the tests.

Symbols and shapes are those of `cylstm.backends.base`. Of arrays with rows, the directions lie side by side in each
row: gates are (N, D, 4, H), so that one product gives the input's share of both directions. float16 and bfloat16 are
stored and float32 computed; states and outputs are rounded after each step.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..base import DirectionParameters, Keep, LayerGradients, LayerOutput, LayerParameters
from ..numpy_backend import _sigmoid
from .planner import Facts, Tile, choose_tile, grid

#: Plans that one version of the parameters of a layer keeps, the least recently used one goes.
MOST_PLANS = 8


class Device(Protocol):
    """What the cupy backend needs of a GPU; `number` and `current` apart it is called where it is the current one."""

    number: int
    name: str
    xp: Any  # the array library: CuPy, or in the tests one that follows it
    facts: Facts
    out_of_memory: type[Exception]

    def current(self) -> AbstractContextManager[Any]:
        """A context in which it is the current one."""

    def synchronize(self) -> None:
        """Wait for the current stream of this thread."""

    def stream(self) -> Hashable:
        """What stands for the current stream of this thread."""

    def kernel(self, name: str, dtype: str, tile: Tile) -> Callable[[tuple[int, int, int], Sequence[Any]], None]:
        """A compiled kernel: call it with the grid and the arguments, each an array, None, or a NumPy scalar."""

    def recorded(self, launch_all: Callable[[], None]) -> Callable[[], None]:
        """A function that does again, in the current stream, what the launches of `launch_all` do."""


class System(Protocol):
    """The GPUs of a machine."""

    def count(self) -> int:
        """How many there are."""

    def current(self) -> int:
        """The number of the current one."""

    def device(self, number: int) -> Device:
        """One of them, the same object each time."""


# The table of steps --------------------------------------------------------------------------------------------------


def walk(batch_sizes: np.ndarray, *, reverse: bool) -> np.ndarray:
    """The steps in the order of a walk, (T, 4): ``first, rows, before, carried`` of ``struct Step`` in lstm.h."""
    order = slice(None, None, -1 if reverse else 1)
    rows, first = batch_sizes[order], (np.cumsum(batch_sizes) - batch_sizes)[order]
    before, carried = np.zeros_like(first), np.zeros_like(rows)
    before[1:], carried[1:] = first[:-1], np.minimum(rows[1:], rows[:-1])
    return np.stack([first, rows, before, carried], axis=1).astype(np.int32)


def previous_rows(batch_sizes: np.ndarray, *, reverse: bool) -> np.ndarray:
    """For each packed row, the row before it in the walk, or N + b where sequence b begins: (N,)."""
    table = walk(batch_sizes, reverse=reverse)[:: -1 if reverse else 1]  # as the rows are packed
    first, _, before, carried = np.repeat(table, batch_sizes, axis=0).astype(np.int64).T
    N = len(first)
    b = np.arange(N) - first
    return np.where(b < carried, before + b, N + b)


def last_rows(batch_sizes: np.ndarray) -> np.ndarray:
    """The row of the last step of each sequence, (B,)."""
    b = np.arange(batch_sizes[0])
    lengths = np.searchsorted(-batch_sizes, -b, side="left")  # the number of steps with more than b rows
    return (np.cumsum(batch_sizes) - batch_sizes)[lengths - 1] + b


# Parameters, workspaces, plans ---------------------------------------------------------------------------------------


class Plans:
    """Plans by key, the least recently used one goes. For several threads."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._plans: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._plans)

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The plan of this key, made where it is not there. Nothing is kept if making it fails."""
        with self._lock:
            if key in self._plans:
                self._plans.move_to_end(key)
                return self._plans[key]
        plan = make()  # outside the lock: it may take long, and a key belongs to one thread
        with self._lock:
            self._plans[key] = plan
            while len(self._plans) > self.most:
                self._plans.popitem(last=False)
        return plan


class Prepared(NamedTuple):
    """The parameters of a layer as the kernels want them."""

    dtype: np.dtype  # of what is stored
    D: int
    I: int
    H: int
    P: int
    weight_ih: Any  # (D * 4 H, I), in the dtype of the arithmetic
    bias: Any  # (D * 4 H,), the sum of both, or None
    weight_hh: Any  # (D, 4 H, R)
    weight_hh_by_unit: Any  # (D, R, H, 4)
    weight_hr: Any  # (D, P, H), or None
    weight_hr_by_unit: Any  # (D, H, P), or None
    plans: Plans

    @property
    def R(self) -> int:
        return self.P or self.H

    @property
    def arithmetic(self) -> np.dtype:
        return _arithmetic(self.dtype)


def _arithmetic(dtype: np.dtype) -> np.dtype:
    """The dtype computed in: float32 for float16 and bfloat16, else the same."""
    return np.dtype(np.float32) if dtype.itemsize == 2 else dtype


class Workspace(NamedTuple):
    """What forward keeps for backward."""

    input: Any  # (N, I)
    batch_sizes: np.ndarray  # (T,)
    h_prev: Any  # (N, D, R)
    c_prev: Any  # (D, N, H)
    gates: Any  # (N, D, 4, H), or None: computed again


class _ForwardPlan:
    """The arrays of a forward pass of one shape, and its launches."""

    def __init__(self, device: Device, p: Prepared, batch_sizes: np.ndarray, keeping: bool) -> None:
        xp, D, H, R, B, N = device.xp, p.D, p.H, p.R, int(batch_sizes[0]), int(batch_sizes.sum())
        self.gates = xp.empty((N, D * 4 * H), p.arithmetic)
        self.h_0 = xp.empty((D, B, R), p.dtype)
        self.c = xp.empty((D, B, H), p.dtype)
        self.c_prev = xp.empty((D, N, H), p.dtype) if keeping else None
        self.output = xp.empty((N, D, R), p.dtype)
        self.unprojected = xp.empty((D, B, H), p.arithmetic) if p.P else None
        table = np.stack([walk(batch_sizes, reverse=d == 1) for d in range(D)], axis=1)
        self.steps = xp.asarray(table)  # (T, D, 4)
        ends = [last_rows(batch_sizes), np.arange(B)][:D]
        self.ends = xp.asarray(np.stack(ends))  # (D, B): the rows that h_n is in
        previous = [previous_rows(batch_sizes, reverse=d == 1) for d in range(D)]
        self.previous = xp.asarray(np.stack(previous)) if keeping else None  # (D, N)
        self.run = _recorded(device, self._launches(device, p, table), B)

    def _launches(self, device: Device, p: Prepared, table: np.ndarray) -> Callable[[], None]:
        H, R, B, N = p.H, p.R, self.h_0.shape[1], len(self.gates)
        kernel = _kernel(device, p, B, H, "forward")
        project = _kernel(device, p, B, p.P, "project") if p.P else None
        sizes = (np.int32(B), np.int64(N), np.int32(H), np.int32(R))

        def launch_all() -> None:
            for step, rows in enumerate(table[:, :, 1].max(axis=1).tolist()):
                at = (self.steps, np.int32(step))
                kernel(
                    rows,
                    (*at, *sizes, p.weight_hh_by_unit, self.h_0, self.gates, self.c, self.c_prev, self.output,
                     self.unprojected),
                )  # fmt: skip
                if project is not None:
                    project(
                        rows,
                        (*at, np.int32(B), np.int32(H), np.int32(p.P), p.weight_hr_by_unit, self.unprojected,
                         self.output),
                    )  # fmt: skip

        return launch_all


class _BackwardPlan:
    """The same for a backward pass."""

    def __init__(self, device: Device, p: Prepared, batch_sizes: np.ndarray, grad_output: bool, grad_h_n: bool) -> None:
        xp, D, H, R, B, N = device.xp, p.D, p.H, p.R, int(batch_sizes[0]), int(batch_sizes.sum())
        self.gates = xp.empty((N, D, 4, H), p.arithmetic)  # they become the gradients of their sums
        self.c_prev = xp.empty((D, N, H), p.dtype)
        self.grad_output = xp.empty((N, D * R), p.dtype) if grad_output else None
        self.grad_h_n = xp.empty((D, B, R), p.dtype) if grad_h_n else None
        self.dc = xp.empty((D, B, H), p.arithmetic)
        self.dh = xp.empty((N, D, R), p.arithmetic) if p.P else None
        table = np.stack([walk(batch_sizes, reverse=d == 0) for d in range(D)], axis=1)  # against the forward pass
        self.steps = xp.asarray(table)
        ends = [np.arange(B), last_rows(batch_sizes)][:D]
        self.ends = xp.asarray(np.stack(ends))  # (D, B): the rows that h_0 goes into
        self.run = _recorded(device, self._launches(device, p, table), B)

    def _launches(self, device: Device, p: Prepared, table: np.ndarray) -> Callable[[], None]:
        H, R, B, N = p.H, p.R, self.dc.shape[1], len(self.gates)
        kernel = _kernel(device, p, B, R, "backward")
        projected = _kernel(device, p, B, H, "backward_projected") if p.P else None
        sizes = (np.int32(B), np.int64(N), np.int32(H), np.int32(R))

        def launch_all() -> None:
            for step, rows in enumerate(table[:, :, 1].max(axis=1).tolist()):
                at = (self.steps, np.int32(step), *sizes)
                kernel(
                    rows,
                    (*at, p.weight_hh, self.grad_output, self.grad_h_n, self.gates, self.c_prev, self.dc, self.dh),
                )
                if projected is not None:
                    projected(rows, (*at, p.weight_hr, self.dh, self.gates, self.c_prev, self.dc))

        return launch_all


def _kernel(device: Device, p: Prepared, B: int, units: int, name: str) -> Callable[[int, Sequence[Any]], None]:
    """A kernel that computes so many units, to be called with the number of rows of a step and the arguments."""
    tile = choose_tile(B=B, units=units, D=p.D, itemsize=p.arithmetic.itemsize, facts=device.facts)
    launch = device.kernel(name, p.dtype.name, tile)
    return lambda rows, arguments: launch(grid(rows=rows, units=units, D=p.D, tile=tile), arguments)


def _recorded(device: Device, launch_all: Callable[[], None], B: int) -> Callable[[], None]:
    """The launches: one by one at first, recorded when they are asked for again.

    Many a plan is used once, for an update changes the weights, and another batch the lengths. And by then the kernels
    are loaded, which cannot be done while launches are being recorded.
    """
    if not B:
        return lambda: None
    used, replay = False, None

    def run() -> None:
        nonlocal used, replay
        if used and replay is None:
            replay = device.recorded(launch_all)
        (replay or launch_all)()
        used = True

    return run


# The passes ----------------------------------------------------------------------------------------------------------


class Steps:
    """One launch per step."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def prepare(self, layer_parameters: LayerParameters) -> Prepared:
        """Of arrays of the device's library; the result shares nothing with them."""
        xp = self.device.xp
        first = layer_parameters[0]
        dtype, D, (H4, I) = first.weight_ih.dtype, len(layer_parameters), first.weight_ih.shape
        H, R, P = H4 // 4, first.weight_hh.shape[1], 0 if first.weight_hr is None else first.weight_hr.shape[0]
        arithmetic = _arithmetic(dtype)
        bias = weight_hr = None
        if first.bias_ih is not None:
            bias = xp.concatenate(
                [p.bias_ih.astype(arithmetic) + p.bias_hh.astype(arithmetic) for p in layer_parameters]
            )
        weight_hh = xp.stack([p.weight_hh for p in layer_parameters])
        if P:
            weight_hr = xp.stack([p.weight_hr for p in layer_parameters])
        return Prepared(
            dtype=dtype,
            D=D,
            I=I,
            H=H,
            P=P,
            weight_ih=xp.concatenate([p.weight_ih.astype(arithmetic) for p in layer_parameters]),
            bias=bias,
            weight_hh=weight_hh,
            weight_hh_by_unit=xp.ascontiguousarray(weight_hh.reshape(D, 4, H, R).transpose(0, 3, 2, 1)),
            weight_hr=weight_hr,
            weight_hr_by_unit=None if weight_hr is None else xp.ascontiguousarray(weight_hr.transpose(0, 2, 1)),
            plans=Plans(MOST_PLANS),
        )

    def _plan(self, p: Prepared, kind: type, batch_sizes: np.ndarray, *options: bool) -> Any:
        """A plan belongs to one thread and one stream, so nobody else uses its arrays before the stream has."""
        key = (kind, self.device.stream(), threading.get_ident(), batch_sizes.tobytes(), options)
        return p.plans.get(key, lambda: kind(self.device, p, batch_sizes, *options))

    def _input_product(self, p: Prepared, x: Any, out: Any) -> None:
        """The input's share of the sums of all gates, with the biases, (N, D * 4 H)."""
        self.device.xp.matmul(x.astype(p.arithmetic, copy=False), p.weight_ih.T, out=out)
        if p.bias is not None:
            out += p.bias

    def forward(
        self, prepared: Prepared, *, input: Any, batch_sizes: np.ndarray, h_0: Any, c_0: Any, keep: Keep
    ) -> LayerOutput:
        xp, p = self.device.xp, prepared
        N, D, H, R = len(input), p.D, p.H, p.R
        plan = self._plan(p, _ForwardPlan, batch_sizes, keep != "nothing")
        self._input_product(p, input, plan.gates)
        plan.h_0[...] = 0 if h_0 is None else h_0
        plan.c[...] = 0 if c_0 is None else c_0
        plan.run()
        h_n = xp.stack([plan.output[:, d][plan.ends[d]] for d in range(D)])
        workspace = None
        if keep != "nothing":
            h_prev = [xp.concatenate([plan.output[:, d], plan.h_0[d]])[plan.previous[d]] for d in range(D)]
            gates = plan.gates.reshape(N, D, 4, H).copy() if keep == "gates" else None
            workspace = Workspace(input, batch_sizes, xp.stack(h_prev, axis=1), plan.c_prev.copy(), gates)
        return LayerOutput(plan.output.reshape(N, D * R).copy(), h_n, plan.c.copy(), workspace)

    def _gates_again(self, p: Prepared, workspace: Workspace) -> Any:
        """The activated gates (N, D, 4, H), by products over all rows at once, for all states are known."""
        xp, N = self.device.xp, len(workspace.input)
        sums = xp.empty((N, p.D * 4 * p.H), p.arithmetic)
        self._input_product(p, workspace.input, sums)
        gates = sums.reshape(N, p.D, 4, p.H)
        for d in range(p.D):
            h_prev = workspace.h_prev[:, d].astype(p.arithmetic)
            gates[:, d] += (h_prev @ p.weight_hh[d].astype(p.arithmetic, copy=False).T).reshape(N, 4, p.H)
        for k in range(4):
            gates[:, :, k] = xp.tanh(gates[:, :, k]) if k == 2 else _sigmoid(gates[:, :, k])
        return gates

    def backward(
        self, prepared: Prepared, workspace: Workspace, *, grad_output: Any, grad_h_n: Any, grad_c_n: Any
    ) -> LayerGradients:
        xp, p = self.device.xp, prepared
        N, D, H = len(workspace.input), p.D, p.H
        plan = self._plan(p, _BackwardPlan, workspace.batch_sizes, grad_output is not None, grad_h_n is not None)
        plan.gates[...] = self._gates_again(p, workspace) if workspace.gates is None else workspace.gates
        plan.c_prev[...] = workspace.c_prev
        plan.dc[...] = 0 if grad_c_n is None else grad_c_n
        if grad_output is not None:
            plan.grad_output[...] = grad_output
        if grad_h_n is not None:
            plan.grad_h_n[...] = grad_h_n
        h_full = self._unprojected(p, plan) if p.P else None  # before the gates are overwritten
        plan.run()
        da = plan.gates.reshape(N, D * 4 * H)
        dW_ih = (da.T @ workspace.input.astype(p.arithmetic, copy=False)).reshape(D, 4 * H, p.I)
        db = None if p.bias is None else da.sum(axis=0).reshape(D, 4 * H)
        dh_0, parameters = [], []
        for d in range(D):
            da_d = da[:, d * 4 * H : (d + 1) * 4 * H]
            dh_0.append(da_d[plan.ends[d]] @ p.weight_hh[d].astype(p.arithmetic, copy=False))
            grads = (
                dW_ih[d],
                da_d.T @ workspace.h_prev[:, d].astype(p.arithmetic),
                None if db is None else db[d],
                None if db is None else db[d],
                None if h_full is None else plan.dh[:, d].T @ h_full[d],
            )
            parameters.append(DirectionParameters(*(None if g is None else xp.array(g, p.dtype) for g in grads)))
        dx, dh_0, dc_0 = (xp.array(g, p.dtype) for g in (da @ p.weight_ih, xp.stack(dh_0), plan.dc))
        return LayerGradients(dx, dh_0, dc_0, tuple(parameters))

    def _unprojected(self, p: Prepared, plan: _BackwardPlan) -> Any:
        """h before the projection, (D, N, H)."""
        i, f, g, o = plan.gates.transpose(2, 1, 0, 3)
        c = (f * plan.c_prev.astype(p.arithmetic) + i * g).astype(p.dtype).astype(p.arithmetic)
        return o * self.device.xp.tanh(c)
