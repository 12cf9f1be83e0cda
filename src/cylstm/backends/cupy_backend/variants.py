"""What a kernel variant is: one way to compute a layer on a GPU. Users know variants as tiers.

The variants stand in order, best first, in ``backend.VARIANTS``; `candidates` says which of them a tier allows, and
`chosen` which one a call takes: the first that does not refuse it, but for sizes where a later one is known to be
faster. Nothing is measured at run time; that order and sizes are right is checked by ``benchmarks/gpu.py``.

Symbols and shapes are those of `cylstm.backends.base`. All arrays are the device's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from ..base import Keep, LayerGradients, LayerOutput, LayerParameters
from .device import Device


class LayerShape(NamedTuple):
    """What a variant has to know of a layer."""

    dtype: str
    I: int
    H: int
    P: int
    D: int
    bias: bool

    @property
    def R(self) -> int:
        """The size of the recurrent state."""
        return self.P or self.H

    @classmethod
    def of(cls, layer_parameters: LayerParameters) -> LayerShape:
        """The shape of a layer with these parameters."""
        first = layer_parameters[0]
        H4, I = first.weight_ih.shape
        P = 0 if first.weight_hr is None else first.weight_hr.shape[0]
        dtype = first.weight_ih.dtype.name
        return cls(dtype, I, H4 // 4, P, len(layer_parameters), first.bias_ih is not None)


class Prepared(Protocol):
    """The parameters of a layer as a variant has prepared them, and the two passes with them.

    It may be called from several threads, each in a stream of its own. The device is the current one.
    """

    def forward(self, *, input: Any, batch_sizes: np.ndarray, h_0: Any, c_0: Any, keep: Keep) -> LayerOutput:
        """As `Backend.forward`, queued in the current stream."""

    def backward(self, workspace: Any, *, grad_output: Any, grad_h_n: Any, grad_c_n: Any) -> LayerGradients:
        """As `Backend.backward`, queued in the current stream. The workspace is left as it is."""


class Variant(Protocol):
    """One way to compute a layer on one device, made once per device and process."""

    name: ClassVar[str]

    def __init__(self, device: Device, *, tf32: bool = False) -> None:
        """With `tf32`, products of float32 may be rounded to TF32; else they are float32."""

    def unavailable(self) -> str:
        """Why it cannot run on this device, a library that is missing say; "" if it can. Nothing is launched."""

    def refusal(self, shape: LayerShape, batch_sizes: np.ndarray, keep: Keep) -> str:
        """Why it does not compute such a call, "" if it does. ``keep`` other than "nothing" means: with gradients."""

    def slower_than(self, shape: LayerShape, B: int) -> str:
        """The name of a later variant that has been measured to be faster for calls of such sizes, "" for none."""

    def prepare(self, layer_parameters: LayerParameters) -> Prepared:
        """Take parameters that are arrays of the device, in the current stream. The result shares nothing with them."""

    def forget(self) -> None:
        """Give up memory that is kept for calls to come, because there is not enough of it."""


def candidates(variants: Sequence[type[Variant]], tier: str) -> tuple[type[Variant], ...]:
    """Those that a tier allows: the one named and those after it; "" for all.

    Raises
    ------
    ValueError
        If no variant has this name.
    """
    names = [variant.name for variant in variants]
    if tier and tier not in names:
        raise ValueError(f"CYLSTM_CUPY_TIER must be one of {', '.join(names)}, got {tier!r}: correct it, or unset it")
    return tuple(variants[names.index(tier) if tier else 0 :])


def chosen(
    variants: Sequence[Variant], shape: LayerShape, batch_sizes: np.ndarray, keep: Keep, *, named: bool
) -> Variant:
    """The first variant that does not refuse a call, of which the last one refuses none.

    Where no tier has been `named`, one that is known to be slower than a later one leaves the call to that.
    """
    able = {variant.name: variant for variant in variants if not variant.refusal(shape, batch_sizes, keep)}
    name = next(iter(able))
    while not named and (faster := able[name].slower_than(shape, int(batch_sizes[0]))) in able:
        name = faster
    return able[name]
