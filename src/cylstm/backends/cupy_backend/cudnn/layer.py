"""A layer by cuDNN: its parameters, forward and backward.

Symbols and shapes are those of `cylstm.backends.base`. float16 and bfloat16 are computed in float32 and rounded as
cuDNN does it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import numpy as np

from ...base import Keep, LayerGradients, LayerOutput
from ..device import Device, copied, part
from ..variants import LayerShape
from .algorithms import Conditions, algorithms
from .handle import Handle
from .library import CudnnError, Library
from .weight_space import Layout

INFERENCE, TRAINING = 0, 1  # cudnnForwardMode_t
ADD = 0  # cudnnWgradMode_t: the only one there is for recurrent layers


class Calls(Protocol):
    """What a layer needs of the variant."""

    device: Device
    tf32: bool

    @property
    def library(self) -> Library: ...

    def conditions(self, batch_sizes: np.ndarray, *, training: bool) -> Conditions:
        """What the choice of an algorithm for a call depends on."""

    def handle(self) -> AbstractContextManager[Handle]:
        """A handle for the current stream, for this thread alone."""


class Space(NamedTuple):
    """Memory for a call."""

    words: Any  # of 8 bytes
    nbytes: int  # of it, as cuDNN is told

    @classmethod
    def of(cls, nbytes: int, xp: Any) -> Space:
        """New memory."""
        return cls(xp.empty(-(-nbytes // 8), np.uint64), nbytes)

    def copied(self, device: Device) -> Space:
        """A copy."""
        return Space(copied(device, self.words), self.nbytes)

    @property
    def arguments(self) -> tuple[int, int | None]:
        """The bytes, and the address."""
        return self.nbytes, _address(self.words) if self.nbytes else None


class Kept(NamedTuple):
    """What a forward pass for training leaves."""

    algorithm: str
    output: Any  # (N, D * R)
    reserve: Space


class CudnnWorkspace(NamedTuple):
    """What forward keeps for backward."""

    input: Any  # (N, I)
    batch_sizes: np.ndarray  # (T,)
    h_0: Any  # (D, B, R), or None
    c_0: Any  # (D, B, H), or None
    kept: Kept | None  # None: computed again


class PreparedCudnn:
    """The parameters of a layer, and the two passes."""

    def __init__(self, variant: Calls, places: Layout, weights: Any) -> None:
        self.variant = variant
        self.layout = places
        self.weights = weights  # the weight space

    @property
    def _weights(self) -> tuple[int, int | None]:
        """The bytes of the weight space, and its address."""
        return self.weights.nbytes, _address(self.weights)

    @property
    def shape(self) -> LayerShape:
        """That of the layer."""
        return self.layout.layer

    def forward(
        self,
        *,
        input: Any,
        batch_sizes: np.ndarray,
        h_0: Any,
        c_0: Any,
        keep: Keep,
        algorithms: tuple[str, ...] | None = None,
    ) -> LayerOutput:
        """As `Prepared.forward`; with `algorithms`, by these alone."""
        output, h_n, c_n, kept = self._forward(input, batch_sizes, h_0, c_0, keep == "gates", algorithms)
        if keep == "nothing":
            return LayerOutput(output, h_n, c_n, None)
        device = self.variant.device
        h_0, c_0 = copied(device, h_0), copied(device, c_0)
        if kept is not None:
            kept = kept._replace(output=copied(device, output))  # the caller may change the output
        return LayerOutput(output, h_n, c_n, CudnnWorkspace(input, batch_sizes, h_0, c_0, kept))

    def _forward(
        self,
        x: Any,
        batch_sizes: np.ndarray,
        h_0: Any,
        c_0: Any,
        training: bool,
        candidates: tuple[str, ...] | None = None,
    ) -> tuple[Any, Any, Any, Kept | None]:
        """The output, the states, and what a backward pass needs: by the first algorithm that cuDNN has for it."""
        xp, shape, library = self.variant.device.xp, self.shape, self.variant.library
        B, D = int(batch_sizes[0]), shape.D
        x, h_0, c_0 = map(self._aligned, (x, h_0, c_0))
        output = xp.empty((len(x), D * shape.R), x.dtype)
        h_n, c_n = xp.empty((D, B, shape.R), x.dtype), xp.empty((D, B, shape.H), x.dtype)
        mode = TRAINING if training else INFERENCE
        if candidates is None:
            candidates = algorithms(shape, self.variant.conditions(batch_sizes, training=training))
        for algorithm in candidates:
            try:
                with self.variant.handle() as handle:
                    call = handle.call(shape, batch_sizes, algorithm, tf32=self.variant.tf32)
                    d = call.descriptors
                    work, reserve = (Space.of(nbytes, xp) for nbytes in handle.sizes(call, mode))
                    library.call(
                        "cudnnRNNForward",
                        handle.pointer, d.rnn, mode, None, d.x, _address(x), d.y, _address(output),
                        d.h, _address(h_0), _address(h_n), d.c, _address(c_0), _address(c_n),
                        *self._weights, *work.arguments, *reserve.arguments,
                    )  # fmt: skip
            except CudnnError as error:
                if not error.not_supported or algorithm == candidates[-1]:
                    raise
            else:
                break
        return output, h_n, c_n, Kept(algorithm, output, reserve) if training else None

    def backward(self, workspace: CudnnWorkspace, *, grad_output: Any, grad_h_n: Any, grad_c_n: Any) -> LayerGradients:
        xp, shape, library = self.variant.device.xp, self.shape, self.variant.library
        x, batch_sizes, h_0, c_0, kept = workspace
        x, grad_output, grad_h_n, grad_c_n = map(self._aligned, (x, grad_output, grad_h_n, grad_c_n))
        if kept is None:
            kept = self._forward(x, batch_sizes, h_0, c_0, True)[3]
            assert kept is not None
            reserve = kept.reserve
        else:
            reserve = kept.reserve.copied(self.variant.device)  # cuDNN changes it, and the workspace may be used again
        B, D, y = int(batch_sizes[0]), shape.D, kept.output
        dy = xp.zeros_like(y) if grad_output is None else grad_output
        dx, dw = xp.empty_like(x), xp.zeros_like(self.weights)  # to dw it is added
        dh_0, dc_0 = xp.empty((D, B, shape.R), x.dtype), xp.empty((D, B, shape.H), x.dtype)
        with self.variant.handle() as handle:
            call = handle.call(shape, batch_sizes, kept.algorithm, tf32=self.variant.tf32)
            d, work = call.descriptors, Space.of(handle.sizes(call, TRAINING)[0], xp)
            library.call(
                "cudnnRNNBackwardData_v8",
                handle.pointer, d.rnn, None, d.y, _address(y), _address(dy), d.x, _address(dx),
                d.h, _address(h_0), _address(grad_h_n), _address(dh_0),
                d.c, _address(c_0), _address(grad_c_n), _address(dc_0),
                *self._weights, *work.arguments, *reserve.arguments,
            )  # fmt: skip
            library.call(
                "cudnnRNNBackwardWeights_v8",
                handle.pointer, d.rnn, ADD, None, d.x, _address(x), d.h, _address(h_0), d.y, _address(y),
                dw.nbytes, _address(dw), *work.arguments, *reserve.arguments,
            )  # fmt: skip
        return LayerGradients(dx, dh_0, dc_0, self.layout.parameters(dw, self.variant.device))

    def _aligned(self, array: Any) -> Any:
        """An array, or a copy where its address is one that cuDNN may not expect; None for None."""
        return None if array is None else part(self.variant.device, array)


def _address(array: Any) -> int | None:
    return None if array is None else array.data.ptr
