"""The parameters of a layer as the variant ``persistent`` reads them, and the products over all rows.

H is padded to a multiple of eight. The kernels do not compute the units that are added: their state is 0, and so are
the gradients of their gates.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ....arrays.arithmetic import sigmoid
from ...base import DirectionParameters, LayerParameters
from ..device import Device
from ..variants import LayerShape
from .configurations import Configuration, padded
from .fragments import backward_fragments, forward_fragments


class PersistentWeights(NamedTuple):
    """The parameters of a layer, with H padded."""

    layer: LayerShape
    H: int
    weight_ih: Any  # (D * 4 H, I)
    weight_hh: Any  # (D, 4 H, H)
    bias: Any  # (D * 4 H,) float32, the sum of both, or None
    forward_fragments: Any  # (D, ...) words
    backward_fragments: Any

    @property
    def D(self) -> int:
        """The number of directions."""
        return self.layer.D

    @classmethod
    def packed(
        cls, layer_parameters: LayerParameters, forward: Configuration, backward: Configuration, xp: Any
    ) -> PersistentWeights:
        """Pack parameters that are arrays of the library `xp`. The result shares nothing with them."""
        layer = LayerShape.of(layer_parameters)
        H, Hp, I, D = layer.H, padded(layer.H), layer.I, layer.D
        dtype = layer_parameters[0].weight_ih.dtype
        weight_ih, weight_hh = xp.zeros((D, 4, Hp, I), dtype), xp.zeros((D, 4, Hp, Hp), dtype)
        bias = xp.zeros((D, 4, Hp), np.float32) if layer.bias else None
        for d, p in enumerate(layer_parameters):
            weight_ih[d, :, :H] = p.weight_ih.reshape(4, H, I)
            weight_hh[d, :, :H, :H] = p.weight_hh.reshape(4, H, H)
            if bias is not None:
                bias[d, :, :H] = (p.bias_ih.astype(np.float32) + p.bias_hh.astype(np.float32)).reshape(4, H)
        weight_hh = weight_hh.reshape(D, 4 * Hp, Hp)
        return cls(
            layer=layer,
            H=Hp,
            weight_ih=weight_ih.reshape(D * 4 * Hp, I),
            weight_hh=weight_hh,
            bias=None if bias is None else bias.reshape(D * 4 * Hp),
            forward_fragments=xp.stack([forward_fragments(weight_hh[d], forward, xp) for d in range(D)]),
            backward_fragments=xp.stack([backward_fragments(weight_hh[d], backward, xp) for d in range(D)]),
        )

    def padded(self, array: Any, xp: Any) -> Any:
        """An array (..., H of the layer) with zeros behind; None stays None."""
        if array is None or self.H == self.layer.H:
            return array
        wide = xp.zeros((*array.shape[:-1], self.H), array.dtype)
        wide[..., : self.layer.H] = array
        return wide

    def cut(self, array: Any, xp: Any) -> Any:
        """An array (..., H) without what was added."""
        return array if self.H == self.layer.H else xp.ascontiguousarray(array[..., : self.layer.H])

    def input_product(self, x: Any, device: Device) -> Any:
        """The input's share of the sums of all gates, with the biases: (N, D, 4, H) float32."""
        sums = device.xp.empty((len(x), self.D * 4 * self.H), np.float32)
        device.product(x, self.weight_ih.T, sums)
        if self.bias is not None:
            sums += self.bias
        return sums.reshape(len(x), self.D, 4, self.H)

    def gates(self, x: Any, h_prev: Any, device: Device) -> Any:
        """The activated gates (N, D, 4, H) of all rows, whose states before them are known."""
        gates, width = self.input_product(x, device), 4 * self.H
        sums = gates.reshape(len(x), self.D * width)
        for d in range(self.D):
            of_direction = sums[:, d * width : (d + 1) * width]
            device.product(h_prev[:, d], self.weight_hh[d].T, of_direction, add=True)
        gates[:, :, :2] = sigmoid(gates[:, :, :2])
        gates[:, :, 2] = device.xp.tanh(gates[:, :, 2])
        gates[:, :, 3] = sigmoid(gates[:, :, 3])
        return gates

    def gradients(self, da: Any, x: Any, h_prev: Any, device: Device) -> LayerParameters:
        """The gradients of the parameters, from those of the gates (N, D * 4 H)."""
        xp, dtype, width = device.xp, x.dtype, 4 * self.H
        dW_ih = xp.empty((self.D * width, self.layer.I), dtype)
        device.product(da.T, x, dW_ih)
        directions = []
        for d in range(self.D):
            rows = slice(d * width, (d + 1) * width)
            dW_hh = xp.empty((width, self.H), dtype)
            device.product(da[:, rows].T, h_prev[:, d], dW_hh)
            grads = [self._rows(dW_ih[rows], xp), self.cut(self._rows(dW_hh, xp), xp)]
            if self.layer.bias:
                db = self._rows(da[:, rows].sum(axis=0, dtype=np.float32).astype(dtype), xp)
                grads += [db, db.copy()]
            directions.append(DirectionParameters(*grads))
        return tuple(directions)

    def _rows(self, array: Any, xp: Any) -> Any:
        """A copy of an array (4 H, ...) without the rows of units that were added."""
        H, rest = self.layer.H, array.shape[1:]
        gates = array.reshape(4, self.H, *rest)
        return xp.array(gates[:, :H]).reshape(4 * H, *rest)
