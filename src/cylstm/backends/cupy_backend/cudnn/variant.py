"""The kernel variant ``cudnn``: which calls it computes, handles, memory for their work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import byref, c_size_t, c_void_p
from functools import partial
from typing import Any, ClassVar

import numpy as np

from ...base import Keep, LayerParameters
from ..device import Device
from ..variants import LayerShape
from .algorithms import refusal
from .descriptors import Descriptors, descriptors
from .directions import PreparedBoth
from .layer import PreparedCudnn
from .library import CudnnError, Library, find
from .weight_space import layout


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

    def prepare(self, layer_parameters: LayerParameters) -> PreparedCudnn | PreparedBoth:
        """Take parameters that are arrays of the device. The result shares nothing with them."""
        shape, itemsize = LayerShape.of(layer_parameters), layer_parameters[0].weight_ih.dtype.itemsize
        with self.handle() as handle:
            places = layout(self.library, handle, shape, itemsize=itemsize, algorithm="standard")
        prepared = PreparedCudnn(self, places, places.packed(layer_parameters, self.device.xp))
        return prepared if shape.D == 1 else PreparedBoth(prepared, partial(self._apart, prepared))

    def _apart(self, together: PreparedCudnn) -> tuple[PreparedCudnn, PreparedCudnn]:
        """The two directions of a layer, each by itself."""
        forth, back = together.layout.parameters(together.weights, self.device.xp)
        first, second = self.prepare((forth,)), self.prepare((back,))
        assert isinstance(first, PreparedCudnn)
        assert isinstance(second, PreparedCudnn)
        return first, second

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
