"""The parameters of a layer as the kernels of `steps` read them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...arrays.arithmetic import arithmetic_dtype
from ..base import LayerParameters


class StepWeights(NamedTuple):
    """The parameters of a layer, packed.

    Those ``by_unit`` have the axis first that a product sums over: neighbouring threads read neighbouring units.
    """

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

    @classmethod
    def packed(cls, layer_parameters: LayerParameters, xp: Any) -> StepWeights:
        """Pack parameters that are arrays of the library `xp`. The result shares nothing with them."""
        first = layer_parameters[0]
        dtype, D, (H4, I) = first.weight_ih.dtype, len(layer_parameters), first.weight_ih.shape
        H, R, P = H4 // 4, first.weight_hh.shape[1], 0 if first.weight_hr is None else first.weight_hr.shape[0]
        arithmetic = arithmetic_dtype(dtype)
        bias = weight_hr = None
        if first.bias_ih is not None:
            bias = xp.concatenate(
                [p.bias_ih.astype(arithmetic) + p.bias_hh.astype(arithmetic) for p in layer_parameters]
            )
        weight_hh = xp.stack([p.weight_hh for p in layer_parameters])
        if P:
            weight_hr = xp.stack([p.weight_hr for p in layer_parameters])
        return cls(
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
        )

    @property
    def R(self) -> int:
        """The size of the recurrent state."""
        return self.P or self.H

    @property
    def arithmetic(self) -> np.dtype:
        """The dtype computed in."""
        return arithmetic_dtype(self.dtype)
