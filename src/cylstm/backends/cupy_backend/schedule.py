"""The schedule of a pass: which rows each step takes, the arrays that the kernels share, and their launches.

Symbols and shapes are those of `cylstm.backends.base`. Of arrays with rows, the directions lie side by side in each
row: gates are (N, D, 4, H), so that one product gives the input's share of both directions.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from .device import Device
from .planner import choose_tile, grid
from .weights import StepWeights

# The table of steps --------------------------------------------------------------------------------------------------


def walk(batch_sizes: np.ndarray, *, reverse: bool) -> np.ndarray:
    """The steps in the order of a walk: (T, 4), the ``first, rows, before, carried`` of ``struct Step`` in lstm.h."""
    order = slice(None, None, -1 if reverse else 1)
    rows, first = batch_sizes[order], (np.cumsum(batch_sizes) - batch_sizes)[order]
    before, carried = np.zeros_like(first), np.zeros_like(rows)
    before[1:], carried[1:] = first[:-1], np.minimum(rows[1:], rows[:-1])
    return np.stack([first, rows, before, carried], axis=1).astype(np.int32)


def previous_rows(batch_sizes: np.ndarray, *, reverse: bool) -> np.ndarray:
    """The row before each packed row in the walk, or N + b where sequence b begins: (N,)."""
    table = walk(batch_sizes, reverse=reverse)[:: -1 if reverse else 1]  # as the rows are packed
    first, _, before, carried = np.repeat(table, batch_sizes, axis=0).astype(np.int64).T
    N = len(first)
    b = np.arange(N) - first
    return np.where(b < carried, before + b, N + b)


def last_rows(batch_sizes: np.ndarray) -> np.ndarray:
    """The row of the last step of each sequence: (B,)."""
    b = np.arange(batch_sizes[0])
    lengths = np.searchsorted(-batch_sizes, -b, side="left")  # the number of steps with more than b rows
    return (np.cumsum(batch_sizes) - batch_sizes)[lengths - 1] + b


# Schedules -----------------------------------------------------------------------------------------------------------


class ForwardSchedule:
    """The arrays of a forward pass over these batch sizes, and its launches."""

    def __init__(self, device: Device, p: StepWeights, batch_sizes: np.ndarray, keep_states: bool) -> None:
        xp, D, H, R, B, N = device.xp, p.D, p.H, p.R, int(batch_sizes[0]), int(batch_sizes.sum())
        self.gates = xp.empty((N, D * 4 * H), p.arithmetic)
        self.h_0 = xp.empty((D, B, R), p.dtype)
        self.c = xp.empty((D, B, H), p.dtype)
        self.c_prev = xp.empty((D, N, H), p.dtype) if keep_states else None
        self.output = xp.empty((N, D, R), p.dtype)
        self.unprojected = xp.empty((D, B, H), p.arithmetic) if p.P else None
        table = np.stack([walk(batch_sizes, reverse=d == 1) for d in range(D)], axis=1)
        self.steps = xp.asarray(table)  # (T, D, 4)
        ends = [last_rows(batch_sizes), np.arange(B)][:D]
        self.ends = xp.asarray(np.stack(ends))  # (D, B): the rows that h_n is in
        previous = [previous_rows(batch_sizes, reverse=d == 1) for d in range(D)]
        self.previous = xp.asarray(np.stack(previous)) if keep_states else None  # (D, N)
        self.run = _recorded(device, self._launches(device, p, table), B)

    def _launches(self, device: Device, p: StepWeights, table: np.ndarray) -> Callable[[], None]:
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


class BackwardSchedule:
    """The arrays of a backward pass over these batch sizes, and its launches."""

    def __init__(
        self, device: Device, p: StepWeights, batch_sizes: np.ndarray, grad_output: bool, grad_h_n: bool
    ) -> None:
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

    def _launches(self, device: Device, p: StepWeights, table: np.ndarray) -> Callable[[], None]:
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


def _kernel(device: Device, p: StepWeights, B: int, units: int, name: str) -> Callable[[int, Sequence[Any]], None]:
    """A kernel for `units` units; it is called with the number of rows of a step and the arguments."""
    tile = choose_tile(B=B, units=units, D=p.D, itemsize=p.arithmetic.itemsize, facts=device.facts)
    launch = device.kernel(name, p.dtype.name, tile)
    return lambda rows, arguments: launch(grid(rows=rows, units=units, D=p.D, tile=tile), arguments)


def _recorded(device: Device, launch_all: Callable[[], None], B: int) -> Callable[[], None]:
    """A function that does the launches: the first time one by one, from the second time on recorded.

    Many schedules are used once: an update changes the weights, and another batch the lengths. By the second time the
    kernels are loaded, which cannot be done while launches are being recorded.
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


class ScheduleCache:
    """Schedules by key, for several threads. The least recently used one goes."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._schedules: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._schedules)

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The schedule of this key, made where it is not there. Nothing is kept if that fails."""
        with self._lock:
            if key in self._schedules:
                self._schedules.move_to_end(key)
                return self._schedules[key]
        schedule = make()  # outside the lock: it may take long, and a key belongs to one thread
        with self._lock:
            self._schedules[key] = schedule
            while len(self._schedules) > self.most:
                self._schedules.popitem(last=False)
        return schedule
