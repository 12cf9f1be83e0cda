"""The kernel variant ``persistent``: the steps of a layer in one launch, forward and backward.

The recurrent weights stay in registers for the whole sequence, and products are those of tensor cores: 16-bit numbers,
float32 sums. States and outputs are rounded after each step, as everywhere; the gradients of the gates are, too, when
they go from step to step. Symbols and shapes are those of `cylstm.backends.base`. Nothing of it has run on a GPU yet,
so it is used where it is asked for by name alone.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np

from ...base import Keep, LayerGradients, LayerOutput, LayerParameters
from ..device import Device, GridKernel
from ..schedule import last_rows, walk
from ..variants import LayerShape
from .configurations import TABLE, Configuration, Row, backward_configurations, forward_configurations, padded
from .kernels import TYPES, definitions, source
from .rows import of_sequences, previous_rows
from .weights import PersistentWeights

#: How often a thread polls before it gives up: some seconds, where a step takes a microsecond.
TRIES = 1 << 22
#: The first compute capability with the instruction mma for bfloat16.
CAPABILITY = (8, 0)


class Persistent:
    """One launch for all steps, on one device; see `cylstm.backends.cupy_backend.variants.Variant`."""

    name: ClassVar[str] = "persistent"
    by_default: ClassVar[bool] = False
    table: ClassVar[tuple[Row, ...]] = TABLE
    tries: ClassVar[int] = TRIES

    def __init__(self, device: Device, *, tf32: bool = False) -> None:
        self.device = device  # products of float32 are not computed, so tf32 changes nothing

    def unavailable(self) -> str:
        """Why it cannot run here, "" if it can."""
        capability = self.device.facts.compute_capability
        if capability >= CAPABILITY:
            return ""
        return f"it needs compute capability {_dotted(CAPABILITY)}, and this device has {_dotted(capability)}"

    def refusal(self, shape: LayerShape, batch_sizes: np.ndarray, keep: Keep) -> str:
        """Why it does not compute such a call, "" if it does."""
        if shape.dtype not in TYPES:
            return f"it computes {' and '.join(TYPES)}, not {shape.dtype}"
        if shape.P:
            return "it computes no projection"
        if not batch_sizes[0]:
            return "there is nothing to launch for an empty batch"
        row = self.row(shape.H)
        if row is None:
            return f"hidden_size is above {self.table[-1].H}"
        B = int(batch_sizes[0])
        for configurations in (forward_configurations, backward_configurations)[: 1 if keep == "nothing" else 2]:
            if self.kernel(shape, configurations(row, B)) is None:
                return "the blocks of one direction do not fit on this device at once"
        return ""

    def row(self, H: int) -> Row | None:
        """The row of the table for a layer of this size."""
        return next((row for row in self.table if row.H >= H), None)

    def kernel(self, shape: LayerShape, configurations: list[Configuration]) -> tuple[Configuration, GridKernel] | None:
        """The first configuration whose blocks of one direction run at once, and its kernel."""
        for c in configurations:
            kernel = self.device.grid_kernel(
                f"persistent_{c.name}", source(c.name), definitions(shape.dtype, c),
                threads=c.threads, shared_memory=c.shared_memory,
            )  # fmt: skip
            if kernel.resident >= c.blocks(padded(shape.H)):
                return c, kernel
        return None

    def forget(self) -> None:
        """Nothing is kept for calls to come."""

    def prepare(self, layer_parameters: LayerParameters) -> PreparedPersistent:
        """Take parameters that are arrays of the device. The result shares nothing with them."""
        shape = LayerShape.of(layer_parameters)
        row = self.row(shape.H)
        assert row is not None
        (forward, *_), (backward, *_) = forward_configurations(row, 1), backward_configurations(row, 1)
        weights = PersistentWeights.packed(layer_parameters, forward, backward, self.device.xp)
        return PreparedPersistent(self, shape, row, weights)


class PersistentWorkspace(NamedTuple):
    """What forward keeps for backward. H is padded."""

    input: Any  # (N, I)
    batch_sizes: np.ndarray  # (T,)
    h_prev: Any  # (N, D, H)
    c_prev: Any  # (D, N, H)
    gates: Any  # (N, D, 4, H), or None: computed again


class PreparedPersistent:
    """The parameters of a layer, and the two passes."""

    def __init__(self, variant: Persistent, shape: LayerShape, row: Row, weights: PersistentWeights) -> None:
        self._variant = variant
        self._shape = shape
        self._row = row
        self._weights = weights
        self._xp = variant.device.xp

    def forward(self, *, input: Any, batch_sizes: np.ndarray, h_0: Any, c_0: Any, keep: Keep) -> LayerOutput:
        xp, w, dtype = self._xp, self._weights, input.dtype
        N, B, D, H = len(input), int(batch_sizes[0]), w.D, w.H
        gates = w.input_product(input, self._variant.device)
        h_0, c = w.padded(h_0, xp), w.padded(c_0, xp)
        c = xp.zeros((D, B, H), dtype) if c is None else c.copy()
        output = self._missing((N, D, H), dtype)
        c_prev = None if keep == "nothing" else xp.empty((D, N, H), dtype)
        self._launch("forward", batch_sizes, w.forward_fragments, (h_0, gates, c, c_prev, output))
        ends = [last_rows(batch_sizes), np.arange(B)][:D]
        h_n = xp.stack([output[:, d][xp.asarray(rows)] for d, rows in enumerate(ends)])
        workspace = None
        if keep != "nothing":
            h_prev = self._previous(output, h_0, batch_sizes)
            workspace = PersistentWorkspace(input, batch_sizes, h_prev, c_prev, gates if keep == "gates" else None)
        output = w.cut(output, xp).reshape(N, D * self._shape.H)
        return LayerOutput(output, w.cut(h_n, xp), w.cut(c, xp), workspace)

    def backward(
        self, workspace: PersistentWorkspace, *, grad_output: Any, grad_h_n: Any, grad_c_n: Any
    ) -> LayerGradients:
        xp, w, (x, batch_sizes, h_prev, c_prev, gates) = self._xp, self._weights, workspace
        N, B, D, H, dtype, device = len(x), int(batch_sizes[0]), w.D, w.H, x.dtype, self._variant.device
        if gates is None:
            gates = w.gates(x, h_prev, device)
        if grad_output is not None:
            grad_output = w.padded(grad_output.reshape(N, D, self._shape.H), xp)
        dc = w.padded(grad_c_n, xp)
        dc = xp.zeros((D, B, H), np.float32) if dc is None else dc.astype(np.float32)
        da = self._missing((N, D, 4, H), dtype)
        arguments = (grad_output, w.padded(grad_h_n, xp), gates, c_prev, dc, da)
        self._launch("backward", batch_sizes, w.backward_fragments, arguments)
        ends = [np.arange(B), last_rows(batch_sizes)]
        rows, dh_0, dx = da.reshape(N, D * 4 * H), xp.empty((D, B, H), dtype), xp.empty((N, w.layer.I), dtype)
        device.product(rows, w.weight_ih, dx)
        for d in range(D):
            begin = da[:, d].reshape(N, 4 * H)[xp.asarray(ends[d])]
            device.product(begin, w.weight_hh[d], dh_0[d])
        parameters = w.gradients(rows, x, h_prev, device)
        return LayerGradients(dx, w.cut(dh_0, xp), w.cut(dc, xp).astype(dtype), parameters)

    def _missing(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """An array in which nothing is there yet, as the kernels see it."""
        return self._xp.full(shape, 0xFFFF, np.uint16).view(dtype)

    def _previous(self, output: Any, h_0: Any, batch_sizes: np.ndarray) -> Any:
        """h before each packed row, (N, D, H)."""
        xp, w, B = self._xp, self._weights, int(batch_sizes[0])
        begin = xp.zeros((w.D, B, w.H), output.dtype) if h_0 is None else h_0
        rows = [xp.asarray(previous_rows(batch_sizes, reverse=d == 1)) for d in range(w.D)]
        return xp.stack([xp.concatenate([output[:, d], begin[d]])[rows[d]] for d in range(w.D)], axis=1)

    def _launch(self, name: str, batch_sizes: np.ndarray, fragments: Any, arrays: tuple[Any, ...]) -> None:
        """All launches of a pass: of directions together where they fit, of as many sequences as a launch takes."""
        xp, w, B, N = self._xp, self._weights, int(batch_sizes[0]), int(batch_sizes.sum())
        configurations = forward_configurations if name == "forward" else backward_configurations
        found = self._variant.kernel(self._shape, configurations(self._row, B))
        assert found is not None  # or the call would have been refused
        c, kernel = found
        blocks, reverse = c.blocks(w.H), name == "backward"  # against the forward pass
        table = np.stack([walk(batch_sizes, reverse=(d == 1) != reverse) for d in range(w.D)], axis=1)
        together = w.D if blocks * w.D <= kernel.resident else 1
        failed = xp.zeros(1, np.int32)
        for b_0 in range(0, B, c.rows):
            steps = xp.asarray(of_sequences(table, b_0, c.rows))
            for d_0 in range(0, w.D, together):
                kernel(
                    (blocks, together, 1),
                    (steps, *map(np.int32, (len(table), w.D, d_0, B, b_0)), np.int64(N),
                     *map(np.int32, (w.H, w.layer.H)), fragments[d_0 : d_0 + together], *arrays,
                     np.int32(self._variant.tries), failed),
                )  # fmt: skip
        if failed.get()[0]:  # this waits for the device: what is wrong must not be passed on
            raise RuntimeError(
                f"the blocks of the kernel persistent_{name} must all run at once, but some waited for others in vain: "
                "nothing has changed; choose another tier by CYLSTM_CUPY_TIER"
            )


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
