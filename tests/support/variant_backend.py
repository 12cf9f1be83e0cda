"""A backend of one kernel variant alone, on the CPU in the place of a GPU: what the variant refuses, NumPy computes."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
from device_array import to_device

from cylstm.backends.base import Backend, DirectionParameters, Keep, LayerGradients, LayerOutput, LayerParameters
from cylstm.backends.cupy_backend import CupyBackend
from cylstm.backends.cupy_backend.variants import LayerShape, Prepared, Variant
from cylstm.backends.numpy_backend import NumpyBackend


class PreparedBoth(NamedTuple):
    """The parameters as NumPy and as the variant have them."""

    shape: LayerShape
    numpy: Any
    variant: Prepared | None


class VariantBackend(Backend):
    """Arrays go to the device and come back. `taken` counts the forward passes of the variant."""

    name: ClassVar[str] = "cupy"
    capabilities = CupyBackend.capabilities

    def __init__(self, variant: Variant) -> None:
        assert not variant.unavailable()
        self.variant = variant
        self.taken = 0

    def prepare(self, layer_parameters: LayerParameters) -> PreparedBoth:  # type: ignore[override]
        shape = LayerShape.of(layer_parameters)
        there = tuple(DirectionParameters(*map(_there, direction)) for direction in layer_parameters)
        refused = self.variant.refusal(shape, np.array([1]), "nothing")
        prepared = None if refused else self.variant.prepare(there)
        return PreparedBoth(shape, NumpyBackend().prepare(layer_parameters), prepared)

    def forward(
        self, prepared: PreparedBoth, *, input: Any, batch_sizes: np.ndarray, h_0: Any, c_0: Any, keep: Keep = "nothing"
    ) -> LayerOutput:
        if prepared.variant is None or self.variant.refusal(prepared.shape, batch_sizes, keep):
            return NumpyBackend().forward(
                prepared.numpy, input=input, batch_sizes=batch_sizes, h_0=h_0, c_0=c_0, keep=keep
            )
        self.taken += 1
        result = prepared.variant.forward(
            input=_there(input), batch_sizes=batch_sizes, h_0=_there(h_0), c_0=_there(c_0), keep=keep
        )
        output, h_n, c_n = (array.get() for array in result[:3])
        self._verify()
        return LayerOutput(output, h_n, c_n, None if keep == "nothing" else (self.variant, result.workspace))

    def backward(
        self, prepared: PreparedBoth, workspace: Any, *, grad_output: Any, grad_h_n: Any, grad_c_n: Any
    ) -> LayerGradients:
        grads = {"grad_output": grad_output, "grad_h_n": grad_h_n, "grad_c_n": grad_c_n}
        if not isinstance(workspace, tuple) or workspace[0] is not self.variant:
            return NumpyBackend().backward(prepared.numpy, workspace, **grads)
        assert prepared.variant is not None
        result = prepared.variant.backward(workspace[1], **{name: _there(array) for name, array in grads.items()})
        dx, dh_0, dc_0 = (array.get() for array in result[:3])
        self._verify()
        parameters = tuple(
            DirectionParameters(*(None if array is None else array.get() for array in direction))
            for direction in result.parameters
        )
        return LayerGradients(dx, dh_0, dc_0, parameters)

    def _verify(self) -> None:
        self.variant.device.verify()  # type: ignore[attr-defined]  # each variant has its device


def _there(array: Any) -> Any:
    return None if array is None else to_device(array)
