"""The kernel variant ``cudnn``: which calls it computes."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from typing import ClassVar

import numpy as np

from ...base import Keep, LayerParameters
from ..device import Device
from ..schedule import Recent
from ..variants import LayerShape
from .algorithms import Conditions, refusal, slower_than
from .directions import PreparedBoth
from .handle import Handle, handles_of
from .layer import PreparedCudnn
from .library import CudnnError, Library, find
from .weight_space import Layout, layout

#: The layers of different sizes whose layouts of the weight space are kept.
MOST_LAYOUTS = 64


class Cudnn:
    """Layers by cuDNN, on one device; see `cylstm.backends.cupy_backend.variants.Variant`."""

    name: ClassVar[str] = "cudnn"
    find = staticmethod(find)

    def __init__(self, device: Device, *, tf32: bool = False) -> None:
        self.device = device
        self.tf32 = tf32
        self._found = self.find()
        self._layouts: Recent[Layout] = Recent(MOST_LAYOUTS)

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

    def slower_than(self, shape: LayerShape, B: int) -> str:
        """The variant that is faster for such sizes, "" for none."""
        return slower_than(shape, B)

    def forget(self) -> None:
        """Give up the handles that nobody uses, with their descriptors."""
        if isinstance(self._found, Library):
            handles_of(self._found, self.device.number).forget()

    def prepare(self, layer_parameters: LayerParameters) -> PreparedCudnn | PreparedBoth:
        """Take parameters that are arrays of the device. The result shares nothing with them."""
        shape, itemsize = LayerShape.of(layer_parameters), layer_parameters[0].weight_ih.dtype.itemsize

        def make() -> Layout:
            with self.handle() as handle:
                return layout(self.library, handle.pointer, shape, itemsize=itemsize, algorithm="standard")

        places = self._layouts.get(shape, make)
        prepared = PreparedCudnn(self, places, places.packed(layer_parameters, self.device))
        return prepared if shape.D == 1 else PreparedBoth(prepared, partial(self._apart, prepared))

    def _apart(self, together: PreparedCudnn) -> tuple[PreparedCudnn, PreparedCudnn]:
        """The two directions of a layer, each by itself."""
        forth, back = together.layout.parameters(together.weights, self.device)
        first, second = self.prepare((forth,)), self.prepare((back,))
        assert isinstance(first, PreparedCudnn)
        assert isinstance(second, PreparedCudnn)
        return first, second

    def conditions(self, batch_sizes: np.ndarray, *, training: bool) -> Conditions:
        """What the choice of an algorithm for a call depends on."""
        B, ragged = int(batch_sizes[0]), bool(batch_sizes[0] != batch_sizes[-1])
        return Conditions(B, ragged, training, self.tf32, self.device.facts.multiprocessors)

    def handle(self) -> AbstractContextManager[Handle]:
        """A handle for the current stream, for this thread alone."""
        return handles_of(self.library, self.device.number).lent(self.device.stream())
