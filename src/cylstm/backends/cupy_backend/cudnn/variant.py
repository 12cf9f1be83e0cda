"""The kernel variant ``cudnn``: a layer by cuDNN, forward and backward.

Symbols and shapes are those of `cylstm.backends.base`. float16 and bfloat16 are computed in float32 and rounded as
cuDNN does it. cuDNN's computations have not been called on a GPU yet.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import byref, c_size_t, c_void_p
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ...base import Keep, LayerGradients, LayerOutput, LayerParameters
from ..device import Device
from ..variants import LayerShape
from .algorithms import algorithms, refusal
from .descriptors import Descriptors, descriptors, sequence_lengths
from .library import CudnnError, Library, find
from .weight_space import Layout, layout

INFERENCE, TRAINING = 0, 1  # cudnnForwardMode_t
ADD = 0  # cudnnWgradMode_t: the only one there is for recurrent layers


class Cudnn:
    """Layers by cuDNN, on one device; see `cylstm.backends.cupy_backend.variants.Variant`."""

    name: ClassVar[str] = "cudnn"
    by_default: ClassVar[bool] = True
    find = staticmethod(find)

    def __init__(self, device: Device, *, tf32: bool = False) -> None:
        self.device = device
        self.tf32 = tf32
        self._found = self.find()
        self._idle: list[c_void_p] = []  # handles; they are lent, for one serves one thread at a time
        self._lock = threading.Lock()

    @property
    def library(self) -> Library:
        """cuDNN, where it has been found."""
        assert isinstance(self._found, Library), self._found
        return self._found

    def unavailable(self) -> str:
        """Why it cannot run here, "" if it can: cuDNN is there, and gives a handle on this device."""
        if isinstance(self._found, str):
            return self._found
        try:
            with self.device.current(), self.handle():  # a handle belongs to the device that is current
                return ""
        except CudnnError as error:
            return str(error)

    def refusal(self, shape: LayerShape, batch_sizes: np.ndarray, keep: Keep) -> str:
        """Why it does not compute such a call, "" if it does."""
        return refusal(shape, int(batch_sizes[0]), self.library.version)

    def forget(self) -> None:
        """Nothing is kept for calls to come but handles, which others may be using."""

    def prepare(self, layer_parameters: LayerParameters) -> PreparedCudnn:
        """Take parameters that are arrays of the device. The result shares nothing with them."""
        shape, itemsize = LayerShape.of(layer_parameters), layer_parameters[0].weight_ih.dtype.itemsize
        with self.handle() as handle:
            places = layout(self.library, handle, shape, itemsize=itemsize, algorithm="standard")
        return PreparedCudnn(self, places, places.packed(layer_parameters, self.device.xp))

    @contextmanager
    def handle(self) -> Iterator[c_void_p]:
        """A handle for the current stream, for this thread alone."""
        with self._lock:
            handle = self._idle.pop() if self._idle else None
        if handle is None:
            handle = c_void_p()
            self.library.call("cudnnCreate", byref(handle))
        try:
            self.library.call("cudnnSetStream", handle, getattr(self.device.stream(), "ptr", None))
            yield handle
        finally:
            with self._lock:
                self._idle.append(handle)

    @contextmanager
    def call(self, shape: LayerShape, lengths: np.ndarray, algorithm: str) -> Iterator[tuple[c_void_p, Descriptors]]:
        """A handle and the descriptors of a call."""
        with (
            descriptors(self.library, shape, lengths, algorithm=algorithm, tf32=self.tf32) as described,
            self.handle() as handle,
        ):
            yield handle, described

    def memory(self, handle: c_void_p, d: Descriptors, mode: int) -> tuple[Any, Any]:
        """Memory for the work of a call, and for what it leaves to the backward pass."""
        work, reserve, empty = c_size_t(), c_size_t(), self.device.xp.empty
        self.library.call("cudnnGetRNNTempSpaceSizes", handle, d.rnn, mode, d.x, byref(work), byref(reserve))
        return empty(work.value, np.uint8), empty(reserve.value, np.uint8)


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

    def __init__(self, variant: Cudnn, places: Layout, weights: Any) -> None:
        self._variant = variant
        self._layout = places
        self._weights = weights  # the weight space

    def forward(self, *, input: Any, batch_sizes: np.ndarray, h_0: Any, c_0: Any, keep: Keep) -> LayerOutput:
        output, h_n, c_n, kept = self._forward(input, batch_sizes, h_0, c_0, training=keep == "gates")
        if keep == "nothing":
            return LayerOutput(output, h_n, c_n, None)
        h_0, c_0 = (None if state is None else state.copy() for state in (h_0, c_0))
        if kept is not None:
            kept = kept._replace(output=output.copy())  # the caller may change the output
        return LayerOutput(output, h_n, c_n, CudnnWorkspace(input, batch_sizes, h_0, c_0, kept))

    def _forward(
        self, x: Any, batch_sizes: np.ndarray, h_0: Any, c_0: Any, *, training: bool
    ) -> tuple[Any, Any, Any, Kept | None]:
        """The output, the states, and what a backward pass needs: by the first algorithm that cuDNN has for it."""
        xp, shape, lengths = self._variant.device.xp, self._layout.layer, sequence_lengths(batch_sizes)
        B, D, library = len(lengths), shape.D, self._variant.library
        output = xp.empty((len(x), D * shape.R), x.dtype)
        h_n, c_n = xp.empty((D, B, shape.R), x.dtype), xp.empty((D, B, shape.H), x.dtype)
        mode = TRAINING if training else INFERENCE
        multiprocessors = self._variant.device.facts.multiprocessors
        ragged = bool(lengths[0] != lengths[-1])
        candidates = algorithms(shape, B=B, ragged=ragged, training=training, multiprocessors=multiprocessors)
        for algorithm in candidates:
            try:
                with self._variant.call(shape, lengths, algorithm) as (handle, d):
                    work, reserve = self._variant.memory(handle, d, mode)
                    library.call(
                        "cudnnRNNForward",
                        handle, d.rnn, mode, None, d.x, _address(x), d.y, _address(output),
                        d.h, _address(h_0), _address(h_n), d.c, _address(c_0), _address(c_n),
                        *_sized(self._weights), *_sized(work), *_sized(reserve),
                    )  # fmt: skip
            except CudnnError as error:
                if not error.not_supported or algorithm == candidates[-1]:
                    raise
            else:
                break
        return output, h_n, c_n, Kept(algorithm, output, reserve) if training else None

    def backward(self, workspace: CudnnWorkspace, *, grad_output: Any, grad_h_n: Any, grad_c_n: Any) -> LayerGradients:
        xp, shape, library = self._variant.device.xp, self._layout.layer, self._variant.library
        x, batch_sizes, h_0, c_0, kept = workspace
        if kept is None:
            kept = self._forward(x, batch_sizes, h_0, c_0, training=True)[3]
            assert kept is not None
            reserve = kept.reserve
        else:
            reserve = kept.reserve.copy()  # cuDNN changes it, and the workspace may be used again
        lengths, y = sequence_lengths(batch_sizes), kept.output
        B, D = len(lengths), shape.D
        dy = xp.zeros_like(y) if grad_output is None else grad_output
        dx, dw = xp.empty_like(x), xp.zeros_like(self._weights)  # to dw it is added
        dh_0, dc_0 = xp.empty((D, B, shape.R), x.dtype), xp.empty((D, B, shape.H), x.dtype)
        with self._variant.call(shape, lengths, kept.algorithm) as (handle, d):
            work, _ = self._variant.memory(handle, d, TRAINING)
            library.call(
                "cudnnRNNBackwardData_v8",
                handle, d.rnn, None, d.y, _address(y), _address(dy), d.x, _address(dx),
                d.h, _address(h_0), _address(grad_h_n), _address(dh_0),
                d.c, _address(c_0), _address(grad_c_n), _address(dc_0),
                *_sized(self._weights), *_sized(work), *_sized(reserve),
            )  # fmt: skip
            library.call(
                "cudnnRNNBackwardWeights_v8",
                handle, d.rnn, ADD, None, d.x, _address(x), d.h, _address(h_0), d.y, _address(y),
                *_sized(dw), *_sized(work), *_sized(reserve),
            )  # fmt: skip
        return LayerGradients(dx, dh_0, dc_0, self._layout.parameters(dw, xp))


def _address(array: Any) -> c_void_p | None:
    return None if array is None else c_void_p(array.data.ptr)


def _sized(array: Any) -> tuple[int, c_void_p | None]:
    """The bytes of an array, and its address."""
    return array.nbytes, _address(array if array.nbytes else None)
