"""A layer of two directions: each by itself where cuDNN has a persistent algorithm for one alone, else both together.

Symbols and shapes are those of `cylstm.backends.base`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ...base import Keep, LayerGradients, LayerOutput
from .algorithms import one_by_one
from .layer import CudnnWorkspace, PreparedCudnn
from .library import CudnnError

Pair = tuple[PreparedCudnn, PreparedCudnn]


class Apart(NamedTuple):
    """Each direction, and when they are there."""

    pair: Pair
    mark: Any


class BothWorkspaces(NamedTuple):
    """What forward keeps of each direction, for backward."""

    each: tuple[CudnnWorkspace, CudnnWorkspace]


class PreparedBoth:
    """The parameters of a layer of two directions, and the two passes.

    Parameters
    ----------
    together : PreparedCudnn
        Both directions.
    apart : callable
        Gives each of them; called once, when it is first needed.
    """

    def __init__(self, together: PreparedCudnn, apart: Callable[[], Pair]) -> None:
        self._together = together
        self._make_apart = apart
        self._apart: Apart | None = None
        self._device = together.variant.device
        self._xp = self._device.xp

    def forward(self, *, input: Any, batch_sizes: np.ndarray, h_0: Any, c_0: Any, keep: Keep) -> LayerOutput:
        conditions = self._together.variant.conditions(batch_sizes, training=keep == "gates")
        algorithms = one_by_one(self._together.shape, conditions)
        if algorithms:
            try:
                return self._one_by_one(input, batch_sizes, h_0, c_0, keep, algorithms)
            except CudnnError as error:
                if not error.not_supported:
                    raise
        return self._together.forward(input=input, batch_sizes=batch_sizes, h_0=h_0, c_0=c_0, keep=keep)

    def _one_by_one(
        self, x: Any, batch_sizes: np.ndarray, h_0: Any, c_0: Any, keep: Keep, algorithms: tuple[str, ...]
    ) -> LayerOutput:
        xp, B = self._xp, int(batch_sizes[0])
        if self._apart is None:
            self._apart = Apart(self._make_apart(), self._device.mark())
        self._device.wait(self._apart.mark)  # they may have been made in another stream
        results = [
            prepared.forward(
                input=self._reversed(x, B) if d else x,
                batch_sizes=batch_sizes,
                h_0=None if h_0 is None else h_0[d : d + 1],
                c_0=None if c_0 is None else c_0[d : d + 1],
                keep=keep,
                algorithms=algorithms,
            )
            for d, prepared in enumerate(self._apart.pair)
        ]
        forth, back = results
        output = xp.concatenate([forth.output, self._reversed(back.output, B)], axis=1)
        h_n, c_n = (xp.concatenate([getattr(each, name) for each in results]) for name in ("h_n", "c_n"))
        workspace = None if keep == "nothing" else BothWorkspaces((forth.workspace, back.workspace))
        return LayerOutput(output, h_n, c_n, workspace)

    def backward(self, workspace: Any, *, grad_output: Any, grad_h_n: Any, grad_c_n: Any) -> LayerGradients:
        if not isinstance(workspace, BothWorkspaces):
            return self._together.backward(workspace, grad_output=grad_output, grad_h_n=grad_h_n, grad_c_n=grad_c_n)
        assert self._apart is not None
        xp, R, B = self._xp, self._together.shape.R, int(workspace.each[0].batch_sizes[0])
        grads = []
        for d, (prepared, kept) in enumerate(zip(self._apart.pair, workspace.each, strict=True)):
            dy = None if grad_output is None else xp.ascontiguousarray(grad_output[:, d * R : (d + 1) * R])
            grads.append(
                prepared.backward(
                    kept,
                    grad_output=self._reversed(dy, B) if d and dy is not None else dy,
                    grad_h_n=None if grad_h_n is None else grad_h_n[d : d + 1],
                    grad_c_n=None if grad_c_n is None else grad_c_n[d : d + 1],
                )
            )
        forth, back = grads
        dx = forth.input + self._reversed(back.input, B)
        dh_0, dc_0 = (xp.concatenate([getattr(each, name) for each in grads]) for name in ("h_0", "c_0"))
        return LayerGradients(dx, dh_0, dc_0, forth.parameters + back.parameters)

    def _reversed(self, rows: Any, B: int) -> Any:
        """The rows of equal sequences, the last step first."""
        return self._xp.ascontiguousarray(rows.reshape(-1, B, rows.shape[1])[::-1]).reshape(rows.shape)
