"""A layer by cuDNN: its parameters, forward and backward.

Symbols and shapes are those of `cylstm.backends.base`. float16 and bfloat16 are computed in float32 and rounded as
cuDNN does it. cuDNN's computations have not been called on a GPU yet.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from ctypes import c_void_p
from typing import Any, NamedTuple, Protocol

import numpy as np

from ...base import Keep, LayerGradients, LayerOutput
from ..device import Device
from ..variants import LayerShape
from .algorithms import algorithms
from .descriptors import Descriptors, sequence_lengths
from .library import CudnnError, Library
from .weight_space import Layout

INFERENCE, TRAINING = 0, 1  # cudnnForwardMode_t
ADD = 0  # cudnnWgradMode_t: the only one there is for recurrent layers


class Calls(Protocol):
    """What a layer needs of the variant."""

    device: Device

    @property
    def library(self) -> Library: ...

    def call(
        self, shape: LayerShape, lengths: np.ndarray, algorithm: str
    ) -> AbstractContextManager[tuple[c_void_p, Descriptors]]:
        """A handle and the descriptors of a call."""

    def memory(self, handle: c_void_p, d: Descriptors, mode: int) -> tuple[Any, Any]:
        """Memory for the work of a call, and for what it leaves to the backward pass."""


class Kept(NamedTuple):
    """What a forward pass for training leaves."""

    algorithm: str
    output: Any  # (N, D * R)
    reserve: Any  # bytes


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
        h_0, c_0 = (None if state is None else state.copy() for state in (h_0, c_0))
        if kept is not None:
            kept = kept._replace(output=output.copy())  # the caller may change the output
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
        xp, shape, lengths = self.variant.device.xp, self.shape, sequence_lengths(batch_sizes)
        B, D, library = len(lengths), shape.D, self.variant.library
        output = xp.empty((len(x), D * shape.R), x.dtype)
        h_n, c_n = xp.empty((D, B, shape.R), x.dtype), xp.empty((D, B, shape.H), x.dtype)
        mode = TRAINING if training else INFERENCE
        multiprocessors = self.variant.device.facts.multiprocessors
        ragged = bool(lengths[0] != lengths[-1])
        if candidates is None:
            candidates = algorithms(shape, B=B, ragged=ragged, training=training, multiprocessors=multiprocessors)
        for algorithm in candidates:
            try:
                with self.variant.call(shape, lengths, algorithm) as (handle, d):
                    work, reserve = self.variant.memory(handle, d, mode)
                    library.call(
                        "cudnnRNNForward",
                        handle, d.rnn, mode, None, d.x, _address(x), d.y, _address(output),
                        d.h, _address(h_0), _address(h_n), d.c, _address(c_0), _address(c_n),
                        *_sized(self.weights), *_sized(work), *_sized(reserve),
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
        if kept is None:
            kept = self._forward(x, batch_sizes, h_0, c_0, True)[3]
            assert kept is not None
            reserve = kept.reserve
        else:
            reserve = kept.reserve.copy()  # cuDNN changes it, and the workspace may be used again
        lengths, y = sequence_lengths(batch_sizes), kept.output
        B, D = len(lengths), shape.D
        dy = xp.zeros_like(y) if grad_output is None else grad_output
        dx, dw = xp.empty_like(x), xp.zeros_like(self.weights)  # to dw it is added
        dh_0, dc_0 = xp.empty((D, B, shape.R), x.dtype), xp.empty((D, B, shape.H), x.dtype)
        with self.variant.call(shape, lengths, kept.algorithm) as (handle, d):
            work, _ = self.variant.memory(handle, d, TRAINING)
            library.call(
                "cudnnRNNBackwardData_v8",
                handle, d.rnn, None, d.y, _address(y), _address(dy), d.x, _address(dx),
                d.h, _address(h_0), _address(grad_h_n), _address(dh_0),
                d.c, _address(c_0), _address(grad_c_n), _address(dc_0),
                *_sized(self.weights), *_sized(work), *_sized(reserve),
            )  # fmt: skip
            library.call(
                "cudnnRNNBackwardWeights_v8",
                handle, d.rnn, ADD, None, d.x, _address(x), d.h, _address(h_0), d.y, _address(y),
                *_sized(dw), *_sized(work), *_sized(reserve),
            )  # fmt: skip
        return LayerGradients(dx, dh_0, dc_0, self.layout.parameters(dw, xp))


def _address(array: Any) -> c_void_p | None:
    return None if array is None else c_void_p(array.data.ptr)


def _sized(array: Any) -> tuple[int, c_void_p | None]:
    """The bytes of an array, and its address."""
    return array.nbytes, _address(array if array.nbytes else None)
