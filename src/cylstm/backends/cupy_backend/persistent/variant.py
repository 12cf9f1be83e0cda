"""The kernel variant ``persistent``: the steps of a layer in one launch, forward and backward.

The recurrent weights stay in registers for the whole sequence, and products are those of tensor cores, with float32
sums: of 16-bit numbers, or of float32 in three products of TF32, which keep 22 of its 24 bits. States and outputs are
rounded after each step, as everywhere; the gradients of the gates are, too, when they go from step to step. Symbols and
shapes are those of `cylstm.backends.base`.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ...base import Keep, LayerGradients, LayerOutput, LayerParameters
from ..device import Device, GridKernel
from ..schedule import MOST_TABLE_BYTES, Recent, key_of
from ..variants import LayerShape
from .configurations import TABLE, Configuration, Row, configurations, padded
from .kernels import TYPES, definitions, source
from .walks import Walks
from .weights import PersistentWeights

#: How often a thread polls before it gives up: some seconds, where a step takes a microsecond.
TRIES = 1 << 22
#: Launches one after the other up to which it is faster than cuDNN: with four, both took the same time on an H200.
MOST_LAUNCHES = 3
#: The first compute capability with the instruction mma for bfloat16 and TF32.
CAPABILITY = (8, 0)
#: The calls of different sizes whose kernels are remembered.
MOST_KERNELS = 1024

Found = tuple[Configuration, GridKernel]


class Persistent:
    """One launch for all steps, on one device; see `cylstm.backends.cupy_backend.variants.Variant`."""

    name: ClassVar[str] = "persistent"
    table: ClassVar[dict[int, tuple[Row, ...]]] = TABLE
    tries: ClassVar[int] = TRIES

    def __init__(self, device: Device, *, tf32: bool = False) -> None:
        self.device = device
        self.tf32 = tf32
        self._kernels: Recent[Found | None] = Recent(MOST_KERNELS)
        self._walks: Recent[Walks] = Recent(MOST_TABLE_BYTES, lambda walks: walks.nbytes)

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
        if self.row(shape) is None:
            return f"hidden_size is above {self._rows_of(shape)[-1].H} in {shape.dtype}"
        B = int(batch_sizes[0])
        if any(
            self.kernel(name, shape, B) is None for name in ("forward", "backward")[: 1 if keep == "nothing" else 2]
        ):
            return "the blocks of one direction do not fit on this device at once"
        return ""

    def slower_than(self, shape: LayerShape, B: int) -> str:
        """The variant that is faster for such sizes, "" for none."""
        found = self.kernel("forward", shape, B)
        return "cudnn" if found and len(_launches(*found, padded(shape.H), B, shape.D)) > MOST_LAUNCHES else ""

    def row(self, shape: LayerShape) -> Row | None:
        """The row of the table for a layer of this size."""
        return next((row for row in self._rows_of(shape) if row.H >= shape.H), None)

    def _rows_of(self, shape: LayerShape) -> tuple[Row, ...]:
        return self.table[_itemsize(shape)]

    def kernel(self, name: str, shape: LayerShape, B: int) -> Found | None:
        """The best configuration for B sequences whose blocks of one direction run at once, and its kernel."""
        return self._kernels.get((name, shape, B), partial(self._kernel, name, shape, B))

    def _kernel(self, name: str, shape: LayerShape, B: int) -> Found | None:
        row, H = self.row(shape), padded(shape.H)
        assert row is not None
        for c in configurations(
            name, row, H=H, B=B, D=shape.D, itemsize=_itemsize(shape), multiprocessors=self.device.facts.multiprocessors
        ):
            kernel = self.device.grid_kernel(
                f"persistent_{name}", source(name), definitions(shape.dtype, c),
                threads=c.threads, shared_memory=c.shared_memory,
            )  # fmt: skip
            if kernel.resident >= c.blocks(H):
                return c, kernel
        return None

    def walks(self, batch_sizes: np.ndarray, D: int, *, against: bool) -> Walks:
        """The steps of a pass. They are kept, for the stream that has put them there."""
        key = (self.device.stream(), key_of(batch_sizes), D, against)
        return self._walks.get(key, partial(Walks.of, batch_sizes, D, against=against, xp=self.device.xp))

    def forget(self) -> None:
        """Give up what is kept for calls to come."""
        self._walks.clear()

    def prepare(self, layer_parameters: LayerParameters) -> PreparedPersistent:
        """Take parameters that are arrays of the device. The result shares nothing with them."""
        return PreparedPersistent(self, PersistentWeights.packed(layer_parameters, self.device.xp))


class PersistentWorkspace(NamedTuple):
    """What forward keeps for backward. H is padded."""

    input: Any  # (N, I)
    batch_sizes: np.ndarray  # (T,)
    h_prev: Any  # (D, N, H)
    c_prev: Any  # (D, N, H)
    gates: Any  # (N, D, 4, H), or None: computed again


class PreparedPersistent:
    """The parameters of a layer, and the two passes."""

    def __init__(self, variant: Persistent, weights: PersistentWeights) -> None:
        self._variant = variant
        self._weights = weights
        self._xp = variant.device.xp
        self._product = partial(variant.device.product, tf32=variant.tf32)

    def forward(self, *, input: Any, batch_sizes: np.ndarray, h_0: Any, c_0: Any, keep: Keep) -> LayerOutput:
        xp, w, dtype, device = self._xp, self._weights, input.dtype, self._variant.device
        N, B, D, H = len(input), int(batch_sizes[0]), w.D, w.H
        gates = w.input_product(input, self._product, xp)
        h_0, c_n = w.copied(h_0, xp), w.copied(c_0, xp)  # the kernel's loads want them aligned
        c_n = xp.zeros((D, B, H), dtype) if c_n is None else c_n
        h_n, output = xp.empty((D, B, H), dtype), device.all_ones((N, D, H), dtype)
        c_prev, h_prev = (None if keep == "nothing" else xp.empty((D, N, H), dtype) for _ in range(2))
        arrays = (w.weight_hh, w.bias, h_0, gates, c_n, h_n, c_prev, h_prev, output)
        self._launch("forward", batch_sizes, arrays)
        workspace = None
        if keep != "nothing":
            workspace = PersistentWorkspace(input, batch_sizes, h_prev, c_prev, gates if keep == "gates" else None)
        output = w.cut(output, xp).reshape(N, D * w.layer.H)
        return LayerOutput(output, w.cut(h_n, xp), w.cut(c_n, xp), workspace)

    def backward(
        self, workspace: PersistentWorkspace, *, grad_output: Any, grad_h_n: Any, grad_c_n: Any
    ) -> LayerGradients:
        xp, w, (x, batch_sizes, h_prev, c_prev, gates) = self._xp, self._weights, workspace
        N, B, D, H, dtype = len(x), int(batch_sizes[0]), w.D, w.H, x.dtype
        if gates is None:
            gates = w.gates(x, h_prev, self._product, xp)
        if grad_output is not None:
            grad_output = w.padded(grad_output.reshape(N, D, w.layer.H), xp)
        dc = w.padded(grad_c_n, xp)
        dc = xp.zeros((D, B, H), np.float32) if dc is None else dc.astype(np.float32)
        da = self._variant.device.all_ones((N, D, 4, H), dtype)
        arrays = (w.columns, grad_output, w.padded(grad_h_n, xp), gates, c_prev, dc, da)
        ends = self._launch("backward", batch_sizes, arrays)
        rows, dh_0, dx = da.reshape(N, D * 4 * H), xp.empty((D, B, H), dtype), xp.empty((N, w.layer.I), dtype)
        self._product(rows, w.weight_ih, dx)
        for d in range(D):
            of_direction = rows[:, d * 4 * H : (d + 1) * 4 * H]
            self._product(of_direction[ends[d]], w.weight_hh[d], dh_0[d])
        parameters = w.gradients(rows, x, h_prev, self._product, xp)
        return LayerGradients(dx, w.cut(dh_0, xp), w.cut(dc, xp).astype(dtype, copy=False), parameters)

    def _launch(self, name: str, batch_sizes: np.ndarray, arrays: tuple[Any, ...]) -> list[Any]:
        """All launches of a pass: of directions together where they fit, and of as many groups of sequences.

        Returns the rows that the walk of each direction ends in.
        """
        variant, w, B, N, T = self._variant, self._weights, int(batch_sizes[0]), len(arrays[-1]), len(batch_sizes)
        found = variant.kernel(name, w.layer, B)
        assert found is not None  # or the call would have been refused
        c, kernel = found
        walks = variant.walks(batch_sizes, w.D, against=name == "backward")
        for grid, d_0, group_0 in _launches(c, kernel, w.H, B, w.D):
            kernel(
                grid,
                (walks.steps, *map(np.int32, (T, w.D, d_0, B, group_0)), np.int64(N),
                 *map(np.int32, (w.H, w.layer.H)), *arrays, np.int32(variant.tries)),
            )  # fmt: skip
        return walks.ends


def _launches(
    c: Configuration, kernel: GridKernel, H: int, B: int, D: int
) -> list[tuple[tuple[int, int, int], int, int]]:
    """The launches of a pass: their grid, their first direction, their first group of sequences."""
    blocks, groups = c.blocks(H), -(-B // c.rows)
    directions = D if blocks * D <= kernel.resident else 1
    together = kernel.resident // (blocks * directions)
    return [
        ((blocks, directions, min(together, groups - group_0)), d_0, group_0)
        for d_0 in range(0, D, directions)
        for group_0 in range(0, groups, together)
    ]


def _itemsize(shape: LayerShape) -> int:
    return 4 if shape.dtype == "float32" else 2


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
