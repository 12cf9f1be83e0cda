"""The schedule of a pass: which rows each step takes, and the launches, one by one or recorded.

Symbols and shapes are those of `cylstm.backends.base`. What is recorded, a CUDA graph of some steps, does not depend on
the arrays of a call, nor on its lengths: both stand in device memory, in ``struct Bound`` of lstm.cu. So training, and
ragged batches whose lengths never come again, replay what the second call recorded.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from .device import Device, Launch
from .planner import Tile, choose_tile, grid
from .source import BOUND_BYTES, KERNELS, WINDOW, definitions, source
from .weights import StepWeights

#: Steps of the graphs. The rest of a sequence is filled up with steps of no rows, which cost next to nothing.
CHUNKS = (WINDOW, 8)
#: What is kept: bytes of tables on the device; streams of a thread, and graphs in each.
MOST_TABLE_BYTES, MOST_STREAMS, MOST_GRAPHS = 16 << 20, 8, 32

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """Values by key, for several threads; the least recently used ones go where all together weigh too much."""

    def __init__(self, most: int, weight: Callable[[Value], int] = lambda value: 1) -> None:
        self.most, self.weight = most, weight
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of this key, made where it is not there. Nothing is kept if that fails."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()  # outside the lock: it may take long
        with self._lock:
            self._values[key] = value
            while len(self._values) > 1 and sum(map(self.weight, self._values.values())) > self.most:
                self._values.popitem(last=False)
        return value

    def clear(self) -> None:
        """Keep nothing."""
        with self._lock:
            self._values.clear()


def key_of(batch_sizes: np.ndarray) -> Hashable:
    """What tells batch sizes from others: short where all sequences have one length."""
    B = int(batch_sizes[0])
    return (len(batch_sizes), B) if batch_sizes[-1] == B else batch_sizes.tobytes()


# The table of steps --------------------------------------------------------------------------------------------------


def walk(batch_sizes: np.ndarray, *, reverse: bool) -> np.ndarray:
    """The steps in the order of a walk: (T, 4), the ``first, rows, before, carried`` of ``struct Step`` in lstm.h."""
    order = slice(None, None, -1 if reverse else 1)
    rows, first = batch_sizes[order], (np.cumsum(batch_sizes) - batch_sizes)[order]
    before, carried = np.zeros_like(first), np.zeros_like(rows)
    before[1:], carried[1:] = first[:-1], np.minimum(rows[1:], rows[:-1])
    return np.stack([first, rows, before, carried], axis=1).astype(np.int32)


def last_rows(batch_sizes: np.ndarray) -> np.ndarray:
    """The row of the last step of each sequence: (B,)."""
    b = np.arange(batch_sizes[0])
    lengths = np.searchsorted(-batch_sizes, -b, side="left")  # the number of steps with more than b rows
    return (np.cumsum(batch_sizes) - batch_sizes)[lengths - 1] + b


class Table(NamedTuple):
    """The steps of a pass over some batch sizes."""

    steps: Any  # (T', D, 4), on the device; T' is T, filled up with steps of no rows
    rows: list[int]  # of each of the T steps, the most of any direction
    ends: Any  # (D, B), on the device: the rows that the walk of each direction ends in

    @classmethod
    def of(cls, batch_sizes: np.ndarray, D: int, *, against: bool, xp: Any) -> Table:
        """The table of a forward pass, or of a backward pass, against it."""
        T = len(batch_sizes)
        table = np.zeros((-(-T // CHUNKS[-1]) * CHUNKS[-1], D, 4), np.int32)
        ends = np.empty((D, int(batch_sizes[0])), np.int64)
        for d in range(D):
            reverse = (d == 1) != against
            table[:T, d] = walk(batch_sizes, reverse=reverse)
            ends[d] = np.arange(len(ends[d])) if reverse else last_rows(batch_sizes)
        return cls(xp.asarray(table), table[:T, :, 1].max(axis=1).tolist(), xp.asarray(ends))

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return int(np.prod(self.steps.shape)) * 4 + int(np.prod(self.ends.shape)) * 8


# Launches ------------------------------------------------------------------------------------------------------------


class Pass(NamedTuple):
    """What the launches of a pass depend on."""

    forward: bool
    dtype: str
    D: int
    B: int
    H: int
    P: int

    @classmethod
    def of(cls, p: StepWeights, B: int, *, forward: bool) -> Pass:
        """The pass of a layer with these weights."""
        return cls(forward, p.dtype.name, p.D, B, p.H, p.P)

    @property
    def tile(self) -> Tile:
        """That of all its kernels."""
        return choose_tile(B=self.B, itemsize=8 if self.dtype == "float64" else 4)

    @property
    def kernels(self) -> list[tuple[str, int, int]]:
        """Of each step: the name, the units that it computes, its last argument."""
        H, P, R = self.H, self.P, self.P or self.H
        both = (
            [("forward", H, R), ("project", P, P)]
            if self.forward
            else [("backward", R, R), ("backward_projected", H, P)]
        )
        return both if P else both[:1]


class Channel:
    """What one thread needs for its calls in one stream: where it says which arrays they take, and what it recorded.

    So nobody else says so before the work that reads it is done.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._bound = device.xp.zeros(BOUND_BYTES, np.uint8)
        self._launched: set[Pass] = set()
        self._graphs: Recent[Callable[[], None]] = Recent(MOST_GRAPHS)

    def run(self, what: Pass, table: Table, arrays: tuple[Any, ...]) -> None:
        """Do the launches of a pass with these arrays, in the order of ``bind_forward`` or ``bind_backward``.

        The first time one by one; by the second time the kernels are loaded, which cannot be done while launches are
        being recorded. Short passes, those of streams say, are not worth a graph.
        """
        if not what.B:
            return
        kernels = self._kernels(what)
        kernels["bind_forward" if what.forward else "bind_backward"](
            (1, 1, 1), what.tile.block, (self._bound, table.steps, *arrays)
        )
        T = len(table.rows)
        if CHUNKS[-1] > T or what not in self._launched:
            for begin in range(0, T, WINDOW):
                _launch(kernels, what, self._bound, table.rows[begin : begin + WINDOW])
            self._launched.add(what)
            return
        left = len(table.steps)
        for steps in CHUNKS:
            launch = partial(_launch, kernels, what, self._bound, [what.B] * steps)
            while left >= steps:
                self._graphs.get((what, steps), partial(self._device.recorded, launch))()
                left -= steps

    def _kernels(self, what: Pass) -> Any:
        return self._device.functions(source(), definitions(what.dtype, what.tile), KERNELS)


def _launch(kernels: dict[str, Launch], what: Pass, bound: Any, rows: list[int]) -> None:
    """The launches of some steps with these rows: at most those of a window."""
    B, H, tile, of_step = np.int32(what.B), np.int32(what.H), what.tile, what.kernels
    block = tile.block
    kernels["advance"]((1, 1, 1), block, (bound, np.int32(len(rows)), np.int32(what.D)))
    for step, most in enumerate(rows):
        for name, units, last in of_step:
            blocks = grid(rows=most, units=units, D=what.D, tile=tile)
            kernels[name](blocks, block, (bound, np.int32(step), B, H, np.int32(last)))


class Schedules(threading.local):
    """The channels of each thread, on one device; they end with their thread."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._channels: Recent[Channel] = Recent(MOST_STREAMS)

    def channel(self) -> Channel:
        """That of the current stream, which lives as long as the channel."""
        return self._channels.get(self._device.stream(), partial(Channel, self._device))
