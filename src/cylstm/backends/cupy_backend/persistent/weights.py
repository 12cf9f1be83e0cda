"""The parameters of a layer as the variant ``persistent`` reads them, and the products over all rows.

H is padded to a multiple of eight. The kernels do not compute the units that are added: their state is 0, and so are
the gradients of their gates.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from ....arrays.arithmetic import sigmoid
from ...base import DirectionParameters, LayerParameters
from ..variants import LayerShape
from .configurations import padded


class Product(Protocol):
    """The product of two matrices into a third one, or added to it; see `Device.product`."""

    def __call__(self, a: Any, b: Any, out: Any, *, add: bool = False) -> None: ...


class PersistentWeights(NamedTuple):
    """The parameters of a layer, with H padded."""

    layer: LayerShape
    H: int
    weight_ih: Any  # (D * 4 H, I)
    weight_hh: Any  # (D, 4 H, H)
    columns: Any  # (D, H, 4 H): weight_hh by its columns
    bias: Any  # (D * 4 H,) float32, the sum of both, or None

    @property
    def D(self) -> int:
        """The number of directions."""
        return self.layer.D

    @classmethod
    def packed(cls, layer_parameters: LayerParameters, xp: Any) -> PersistentWeights:
        """Pack parameters that are arrays of the library `xp`. The result shares nothing with them."""
        layer = LayerShape.of(layer_parameters)
        H, Hp, I, D = layer.H, padded(layer.H), layer.I, layer.D
        dtype = layer_parameters[0].weight_ih.dtype
        bias = None
        if Hp == H:
            weight_ih = xp.stack([p.weight_ih for p in layer_parameters])
            weight_hh = xp.stack([p.weight_hh for p in layer_parameters])
            if layer.bias:
                bias = xp.stack([_bias(p) for p in layer_parameters])
        else:
            weight_ih, weight_hh = xp.zeros((D, 4, Hp, I), dtype), xp.zeros((D, 4, Hp, Hp), dtype)
            bias = xp.zeros((D, 4, Hp), np.float32) if layer.bias else None
            for d, p in enumerate(layer_parameters):
                weight_ih[d, :, :H] = p.weight_ih.reshape(4, H, I)
                weight_hh[d, :, :H, :H] = p.weight_hh.reshape(4, H, H)
                if bias is not None:
                    bias[d, :, :H] = _bias(p).reshape(4, H)
        weight_hh = weight_hh.reshape(D, 4 * Hp, Hp)
        return cls(
            layer=layer,
            H=Hp,
            weight_ih=weight_ih.reshape(D * 4 * Hp, I),
            weight_hh=weight_hh,
            columns=xp.ascontiguousarray(weight_hh.transpose(0, 2, 1)),
            bias=None if bias is None else bias.reshape(D * 4 * Hp),
        )

    def padded(self, array: Any, xp: Any) -> Any:
        """An array (..., H of the layer) with zeros behind; None stays None."""
        if array is None or self.H == self.layer.H:
            return array
        wide = xp.zeros((*array.shape[:-1], self.H), array.dtype)
        wide[..., : self.layer.H] = array
        return wide

    def copied(self, array: Any, xp: Any) -> Any:
        """A copy of an array (..., H of the layer), with zeros behind; None stays None."""
        return array.copy() if array is not None and self.H == self.layer.H else self.padded(array, xp)

    def cut(self, array: Any, xp: Any) -> Any:
        """An array (..., H) without what was added."""
        return array if self.H == self.layer.H else xp.ascontiguousarray(array[..., : self.layer.H])

    def input_product(self, x: Any, product: Product, xp: Any) -> Any:
        """The input's share of the sums of all gates: (N, D, 4, H) float32."""
        sums = xp.empty((len(x), self.D * 4 * self.H), np.float32)
        product(x, self.weight_ih.T, sums)
        return sums.reshape(len(x), self.D, 4, self.H)

    def gates(self, x: Any, h_prev: Any, product: Product, xp: Any) -> Any:
        """The activated gates (N, D, 4, H) of all rows, whose states before them are known."""
        gates, width = self.input_product(x, product, xp), 4 * self.H
        sums = gates.reshape(len(x), self.D * width)
        for d in range(self.D):
            product(h_prev[d], self.weight_hh[d].T, sums[:, d * width : (d + 1) * width], add=True)
        if self.bias is not None:
            sums += self.bias
        gates[:, :, :2] = sigmoid(gates[:, :, :2])
        gates[:, :, 2] = xp.tanh(gates[:, :, 2])
        gates[:, :, 3] = sigmoid(gates[:, :, 3])
        return gates

    def gradients(self, da: Any, x: Any, h_prev: Any, product: Product, xp: Any) -> LayerParameters:
        """The gradients of the parameters, from those of the gates (N, D * 4 H)."""
        dtype, width = x.dtype, 4 * self.H
        dW_ih = xp.empty((self.D * width, self.layer.I), dtype)
        product(da.T, x, dW_ih)
        db = None
        if self.layer.bias:
            sums = xp.empty((1, self.D * width), np.float32)
            product(xp.ones((1, len(da)), np.float32).astype(dtype), da, sums)
            db = sums[0].astype(dtype)
        directions = []
        for d in range(self.D):
            rows = slice(d * width, (d + 1) * width)
            dW_hh = xp.empty((width, self.H), dtype)
            product(da[:, rows].T, h_prev[d], dW_hh)
            grads = [self._rows(dW_ih[rows], xp), self.cut(self._rows(dW_hh, xp), xp)]
            if db is not None:
                grads += [self._rows(db[rows], xp), self._rows(db[rows].copy(), xp)]
            directions.append(DirectionParameters(*grads))
        return tuple(directions)

    def _rows(self, array: Any, xp: Any) -> Any:
        """An array (4 H, ...) without the rows of units that were added."""
        H, rest = self.layer.H, array.shape[1:]
        if self.H == H:
            return array
        return xp.ascontiguousarray(array.reshape(4, self.H, *rest)[:, :H]).reshape(4 * H, *rest)


def _bias(p: DirectionParameters) -> Any:
    """The sum of both biases of a direction: (4 H,) float32."""
    return p.bias_ih.astype(np.float32) + p.bias_hh.astype(np.float32)
