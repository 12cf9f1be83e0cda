"""The parameters of a layer as the variant ``steps`` reads them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...arrays.arithmetic import arithmetic_dtype
from ..base import LayerParameters


class StepWeights(NamedTuple):
    """The parameters of a layer, packed.

    Those ``_in_fours`` are what the kernels multiply with: (D, K / 4, units, columns, 4), rounded up, where K is the
    axis that a product sums over. So what a thread reads for four k lies side by side, and so do neighbouring units.
    """

    dtype: np.dtype  # of what is stored
    D: int
    I: int
    H: int
    P: int
    weight_ih: Any  # (D * 4 H, I)
    weight_hh: Any  # (D, 4 H, R)
    bias: Any  # (D, 4 H), the sum of both in the dtype of the arithmetic, or None
    forward_in_fours: Any  # of weight_hh: K = R, units H, columns 4, the gates
    backward_in_fours: Any  # of weight_hh: K = 4 H, units R, columns 1
    project_in_fours: Any  # of weight_hr: K = H, units P, columns 1; None without projection
    unproject_in_fours: Any  # of weight_hr: K = P, units H, columns 1; None without projection

    @classmethod
    def packed(cls, layer_parameters: LayerParameters, xp: Any) -> StepWeights:
        """Pack parameters that are arrays of the library `xp`. The result shares nothing with them."""
        first = layer_parameters[0]
        dtype, D, (H4, I) = first.weight_ih.dtype, len(layer_parameters), first.weight_ih.shape
        H, R, P = H4 // 4, first.weight_hh.shape[1], 0 if first.weight_hr is None else first.weight_hr.shape[0]
        bias = None
        if first.bias_ih is not None:
            arithmetic = arithmetic_dtype(dtype)
            bias = xp.stack([p.bias_ih.astype(arithmetic) + p.bias_hh.astype(arithmetic) for p in layer_parameters])
        weight_hh = xp.stack([p.weight_hh for p in layer_parameters])
        by_gate = weight_hh.reshape(D, 4, H, R).transpose(0, 3, 2, 1)  # (D, R, H, 4)
        project = unproject = None
        if P:
            weight_hr = xp.stack([p.weight_hr for p in layer_parameters])  # (D, P, H)
            project = in_fours(xp, weight_hr.transpose(0, 2, 1)[..., np.newaxis])
            unproject = in_fours(xp, weight_hr[..., np.newaxis])
        return cls(
            dtype=dtype,
            D=D,
            I=I,
            H=H,
            P=P,
            weight_ih=xp.concatenate([p.weight_ih for p in layer_parameters]),
            weight_hh=weight_hh,
            bias=bias,
            forward_in_fours=in_fours(xp, by_gate),
            backward_in_fours=in_fours(xp, weight_hh[..., np.newaxis]),
            project_in_fours=project,
            unproject_in_fours=unproject,
        )

    @property
    def R(self) -> int:
        """The size of the recurrent state."""
        return self.P or self.H

    @property
    def arithmetic(self) -> np.dtype:
        """The dtype computed in."""
        return arithmetic_dtype(self.dtype)


def in_fours(xp: Any, matrix: Any) -> Any:
    """(D, K, units, columns) as (D, K / 4, units, columns, 4), with zeros beyond K."""
    D, K, units, columns = matrix.shape
    padded = xp.zeros((D, -(-K // 4) * 4, units, columns), matrix.dtype)
    padded[:, :K] = matrix
    return xp.ascontiguousarray(padded.reshape(D, -1, 4, units, columns).transpose(0, 1, 3, 4, 2))
