"""The steps of a stream: a graph that is recorded once and launched for each frame. The state stays on the device.

A step is three things for the device: the frame is copied into a buffer, the graph runs, the output is copied out. The
graph is one launch per layer, two with projection, whose arguments never change. There are two of them, which take
turns: each reads the h that the other has written. They are recorded before the first step, so that a step is taken as
a whole or, for lack of memory say, not at all.

Symbols and shapes are those of `cylstm.backends.base`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .device import Device
from .planner import choose_tile, grid
from .source import KERNELS, definitions, source
from .weights import StepWeights, in_fours


class Level(NamedTuple):
    """A layer: its weights as the kernels of a stream read them."""

    packed: StepWeights
    weight_ih: Any  # (I / 4, H, 4, 4), as those in `StepWeights` are

    @classmethod
    def of(cls, packed: StepWeights, xp: Any) -> Level:
        """The level of a layer of one direction."""
        by_gate = packed.weight_ih.reshape(1, 4, packed.H, packed.I).transpose(0, 3, 2, 1)
        return cls(packed, in_fours(xp, by_gate))


class StreamStepper:
    """Single steps through layers of one direction; see `cylstm.backends.base.DeviceStepper`.

    Parameters
    ----------
    device : Device
        Where they are taken; the current one.
    layers : sequence of StepWeights
        Their weights.
    B : int
        The rows of a frame.
    run : callable
        Does work where the device is the current one, and deals with a lack of memory.
    check : callable
        Refuses arrays of another device, by name.
    """

    serial = True

    def __init__(
        self,
        device: Device,
        layers: Sequence[StepWeights],
        B: int,
        *,
        run: Callable[[Callable[[], Any]], Any],
        check: Callable[[dict[str, Any]], None],
    ) -> None:
        xp, first, last = device.xp, layers[0], layers[-1]
        self._device, self._run, self._check = device, run, check
        self._levels = [Level.of(layer, xp) for layer in layers]
        L, dtype = len(layers), first.dtype
        self._x = xp.zeros((B, first.I), dtype)
        self._h = [xp.zeros((L, B, last.R), dtype) for _ in range(2)]  # of the last step, and of the next one
        self._last = [h[-1] for h in self._h]  # of the last layer
        self._c = xp.zeros((L, B, last.H), dtype)
        self._unprojected = xp.empty((B, last.H), first.arithmetic) if last.P else None
        self._turn = 0
        self._stream = self._home = device.stream()
        self._on_gpu = False  # the last frame, or the state that was set
        self._tile = choose_tile(B=B, itemsize=first.arithmetic.itemsize)
        self._kernels = device.functions(source(), definitions(dtype.name, self._tile), KERNELS)
        self._shapes = {(B, first.I): (B, last.R)} | ({(first.I,): (last.R,)} if B == 1 else {})
        self._launch(0)  # kernels are not loaded while launches are recorded
        for state in (*self._h, self._c):
            state.fill(0)
        self._graphs = [device.recorded(partial(self._launch, turn)) for turn in (0, 1)]

    def step(self, x_t: Any, out: Any, threads: int) -> Any:
        """As `Stepper.step`; x_t and out are both NumPy's, or both the device's."""
        on_gpu = isinstance(x_t, type(self._x))
        if not (on_gpu or type(x_t) is np.ndarray) or x_t.dtype != self._x.dtype or x_t.shape not in self._shapes:
            return None
        shape = self._shapes[x_t.shape]
        if out is not None and not _fits(out, type(x_t), shape, x_t.dtype):
            return None
        self._check({"x_t": x_t, "out": out})

        def step() -> Any:
            device, xp = self._device, self._device.xp
            h_t = (xp if on_gpu else np).empty(shape, x_t.dtype) if out is None else out
            self._follow()
            # CuPy keeps the order of a matrix that lies by its columns, and it is memory that is copied.
            frame = xp.ascontiguousarray(x_t) if on_gpu else xp.asarray(np.ascontiguousarray(x_t))
            device.copy(frame, self._x)
            self._graphs[self._turn]()
            self._turn = 1 - self._turn  # from here on nothing needs memory
            last = self._last[self._turn]
            if on_gpu:
                device.copy(last, h_t)
            else:
                last.get(out=h_t.reshape(last.shape))
            return h_t

        h_t = self._run(step)
        self._on_gpu = on_gpu
        return h_t

    def _launch(self, turn: int) -> None:
        """The launches of a step that reads the states of this turn."""
        before, after, kernels, tile = self._h[turn], self._h[1 - turn], self._kernels, self._tile
        B, x = len(self._x), self._x
        for level, (p, weight_ih) in enumerate(self._levels):
            B_, I, H, P, R = map(np.int32, (B, p.I, p.H, p.P, p.R))
            kernels["stream"](
                grid(rows=B, units=p.H, D=1, tile=tile), tile.block,
                (x, before[level], weight_ih, p.forward_in_fours, p.bias, self._c[level], after[level],
                 self._unprojected, B_, I, H, R),
            )  # fmt: skip
            if p.P:
                kernels["stream_projected"](
                    grid(rows=B, units=p.P, D=1, tile=tile), tile.block,
                    (self._unprojected, p.project_in_fours, after[level], B_, H, P),
                )  # fmt: skip
            x = after[level]

    def _follow(self) -> None:
        """Let the current stream come after the one of the last step."""
        stream = self._device.stream()
        if stream != self._stream:
            self._device.order(self._stream, stream)
            self._stream = stream

    def __del__(self) -> None:
        """Memory goes back to the stream in which it was made: what comes there is to come after the last step."""
        home = getattr(self, "_home", None)
        if home is not None and self._stream != home and not sys.is_finalizing():
            with suppress(Exception), self._device.current():  # the device may have failed
                self._device.order(self._stream, home)

    def state(self, on_gpu: bool | None = None) -> tuple[Any, Any]:
        """As `DeviceStepper.state`."""
        there = self._on_gpu if on_gpu is None else on_gpu

        def state() -> tuple[Any, Any]:
            self._follow()
            h, c = self._h[self._turn], self._c
            return (h.copy(), c.copy()) if there else (h.get(), c.get())

        return self._run(state)

    def get_state(self, h: Any, c: Any) -> None:
        """As `Stepper.get_state`."""
        h[...], c[...] = self.state(not isinstance(h, np.ndarray))

    def set_state(self, h: Any, c: Any) -> None:
        """As `Stepper.set_state`, from NumPy's arrays or from the device's."""
        self._check({"h": h, "c": c})

        def set_state() -> None:
            h_there, c_there = map(self._device.xp.asarray, (h, c))
            self._follow()
            self._h[self._turn][...], self._c[...] = h_there, c_there

        self._run(set_state)
        self._on_gpu = not isinstance(h, np.ndarray)


def _fits(out: Any, kind: Any, shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether an output can be written there."""
    if type(out) is not kind or out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous:
        return False
    return kind is not np.ndarray or out.flags.writeable
