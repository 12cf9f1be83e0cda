"""libcudnn, version 9: where it is found, its calls, its errors in words.

The signatures are those of cudnn_ops.h and cudnn_adv.h; a test holds them to the headers of NVIDIA's wheel.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Callable, Iterator
from ctypes import POINTER, c_char_p, c_int, c_int32, c_size_t, c_uint32, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

SONAME = "libcudnn.so.9"
_OUT = POINTER(c_void_p)

#: Arguments of the calls that return a status. Handles, descriptors, memory: ``c_void_p``; enumerations: ``c_int``.
SIGNATURES: dict[str, list[Any]] = {
    "cudnnCreate": [_OUT],
    "cudnnDestroy": [c_void_p],
    "cudnnSetStream": [c_void_p, c_void_p],
    "cudnnCreateRNNDescriptor": [_OUT],
    "cudnnDestroyRNNDescriptor": [c_void_p],
    "cudnnSetRNNDescriptor_v8": [c_void_p, *[c_int] * 8, *[c_int32] * 4, c_void_p, c_uint32],
    "cudnnCreateRNNDataDescriptor": [_OUT],
    "cudnnDestroyRNNDataDescriptor": [c_void_p],
    "cudnnSetRNNDataDescriptor": [c_void_p, *[c_int] * 5, c_void_p, c_void_p],
    "cudnnCreateTensorDescriptor": [_OUT],
    "cudnnDestroyTensorDescriptor": [c_void_p],
    "cudnnSetTensorNdDescriptor": [c_void_p, c_int, c_int, c_void_p, c_void_p],
    "cudnnGetRNNWeightSpaceSize": [c_void_p, c_void_p, c_void_p],
    "cudnnGetRNNWeightParams": [
        c_void_p, c_void_p, c_int32, c_size_t, c_void_p, c_int32, c_void_p, _OUT, c_void_p, _OUT
    ],
    "cudnnGetRNNTempSpaceSizes": [c_void_p, c_void_p, c_int, c_void_p, c_void_p, c_void_p],
    "cudnnRNNForward": [
        c_void_p, c_void_p, c_int, *[c_void_p] * 11, *[c_size_t, c_void_p] * 3
    ],
    "cudnnRNNBackwardData_v8": [*[c_void_p] * 16, *[c_size_t, c_void_p] * 3],
    "cudnnRNNBackwardWeights_v8": [c_void_p, c_void_p, c_int, *[c_void_p] * 7, *[c_size_t, c_void_p] * 3],
}  # fmt: skip

NOT_SUPPORTED, OUT_OF_HOST_MEMORY, OUT_OF_DEVICE_MEMORY = 3000, 4003, 4004
#: What a status means by its thousands, and what to do.
MEANINGS = {
    1000: "cuDNN or its driver could not start: check that the driver is as new as the cuDNN, and that all of cuDNN's "
    "libraries are of one version",
    2000: "an argument was not accepted: this is a mistake of cylstm's, report it",
    3000: "cuDNN does not compute this on this device: choose another tier by CYLSTM_CUPY_TIER",
    4000: "cuDNN failed inside: choose another tier by CYLSTM_CUPY_TIER",
    5000: "the device failed, perhaps in work that was queued before: start the process again, and choose another tier "
    "by CYLSTM_CUPY_TIER",
}


class CudnnError(RuntimeError):
    """cuDNN gave another status than success.

    Attributes
    ----------
    status : int
        The number of the status.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status

    @property
    def not_supported(self) -> bool:
        """Whether nothing was computed because cuDNN has no kernel for it."""
        return NOT_SUPPORTED <= self.status < NOT_SUPPORTED + 1000


class Library:
    """The calls of libcudnn by name, each checked.

    Parameters
    ----------
    functions : ctypes.CDLL
        The library, or what has functions of the same names.
    """

    def __init__(self, functions: Any) -> None:
        functions.cudnnGetVersion.restype = c_size_t
        functions.cudnnGetErrorString.restype = c_char_p
        self._functions = functions
        self.pools: dict[int, Any] = {}  # by device; see `handle.handles_of`
        self.version: int = functions.cudnnGetVersion()
        self._calls = {name: self._checked(name, arguments) for name, arguments in SIGNATURES.items()}

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function.

        Raises
        ------
        CudnnError
            If its status is not success; nothing has changed where it is "not supported".
        MemoryError
            If the status says that memory is lacking.
        """
        self._calls[name](*arguments)

    def _checked(self, name: str, arguments: list[Any]) -> Callable[..., None]:
        function = getattr(self._functions, name)
        function.argtypes, function.restype = arguments, c_int

        def call(*values: Any) -> None:
            if status := function(*values):
                raise self._error(name, status)

        return call

    def _error(self, name: str, status: int) -> Exception:
        status_name = self._functions.cudnnGetErrorString(status).decode()
        if status in (OUT_OF_HOST_MEMORY, OUT_OF_DEVICE_MEMORY):
            return MemoryError(f"{name} must have memory for its work, got {status_name}: use smaller batches")
        meaning = MEANINGS.get(status // 1000 * 1000, "a status that cylstm does not know")
        return CudnnError(f"{name} must succeed, got {status_name} ({status}): {meaning}", status)


def _places() -> Iterator[str]:
    """Where wheels have the library: NVIDIA's, then PyTorch's own. Nothing is imported."""
    for package, folder in (("nvidia", "cudnn/lib"), ("torch", "lib")):
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):  # what stands in sys.modules may have no spec
            continue
        for root in (spec and spec.submodule_search_locations) or ():
            path = Path(root) / folder / SONAME
            if path.is_file():
                yield str(path)


@cache
def find() -> Library | str:
    """cuDNN as it is found: in this process, in a wheel, by the loader; or why it cannot be used."""
    candidates = [(SONAME, os.RTLD_NOW | getattr(os, "RTLD_NOLOAD", 0)), *((path, os.RTLD_NOW) for path in _places())]
    reason = ""
    for name, mode in [*candidates, (SONAME, os.RTLD_NOW)]:
        try:
            return Library(ctypes.CDLL(name, mode=mode))
        except (OSError, AttributeError) as error:  # not there, or without one of the calls
            reason = str(error)
    return (
        f"cuDNN 9 is not found ({reason}): pip install nvidia-cudnn-cu13 (for a driver of CUDA 12, nvidia-cudnn-cu12)"
    )
