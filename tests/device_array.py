"""Arrays of another memory than NumPy's, without a GPU: as CuPy's, they follow NumPy's protocols and nothing else.

What computes with them never passes through the host unnoticed: NumPy cannot read them, and they cannot be mixed with
NumPy's arrays, as CuPy's cannot. `get` and `to_device` are the transfers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from cylstm.backends.base import Backend, Capabilities, DirectionParameters, LayerGradients, LayerOutput
from cylstm.backends.numpy_backend import NumpyBackend

CUDA = 2  # DLPack's number of the device type


class DeviceArray(NDArrayOperatorsMixin):
    __array_priority__ = 100

    def __init__(self, array: np.ndarray) -> None:
        assert type(array) is np.ndarray
        self._array = array

    def get(self) -> np.ndarray:
        return self._array.copy()

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise TypeError("implicit conversion to a NumPy array is not allowed; use .get()")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return wrapped(getattr(ufunc, method)(*map(_unwrapped, inputs), **_unwrapped(kwargs)))

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function in (np.asarray, np.array):  # the one way in
            return to_device(*args, **kwargs)
        return wrapped(function(*_unwrapped(args), **_unwrapped(kwargs)))

    def __dlpack_device__(self) -> tuple[int, int]:
        return (CUDA, 0)

    def __dlpack__(self, **kwargs: Any) -> Any:
        raise BufferError("this memory is not the host's")

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, key: Any) -> Any:
        return wrapped(self._array[_indices(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self._array[_indices(key)] = _unwrapped(value)

    def __getattr__(self, name: str) -> Any:
        if name not in ("T", "astype", "conj", "copy", "dtype", "ndim", "reshape", "shape", "size", "sum", "transpose"):
            raise AttributeError(name)
        attribute = getattr(self._array, name)
        if not callable(attribute) or name in ("dtype",):
            return wrapped(attribute)
        return lambda *args, **kwargs: wrapped(attribute(*args, **kwargs))

    @property
    def flags(self) -> Any:
        class Flags:
            c_contiguous = self._array.flags.c_contiguous

        return Flags


def to_device(array: np.ndarray) -> DeviceArray:
    return DeviceArray(array.copy())


def wrapped(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(map(wrapped, value))
    return DeviceArray(value) if isinstance(value, np.ndarray) else value


def _unwrapped(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(map(_unwrapped, value))
    if isinstance(value, dict):
        return {name: _unwrapped(item) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        raise TypeError("a NumPy array cannot be mixed with arrays of a device")
    return value._array if isinstance(value, DeviceArray) else value


def _indices(key: Any) -> Any:  # those may be NumPy's
    if isinstance(key, tuple):
        return tuple(map(_indices, key))
    return key._array if isinstance(key, DeviceArray) else key


class ElsewhereBackend(Backend):
    """The array loop on arrays of a device: moves what is NumPy's there and back, as the cupy backend does."""

    name = "elsewhere"
    capabilities = Capabilities(NumpyBackend.capabilities.dtypes, training=True, devices=("cpu", "cuda"))
    loop = NumpyBackend()

    def prepare(self, layer_parameters):
        return self.loop.prepare(
            tuple(DirectionParameters(*(None if p is None else to_device(p) for p in d)) for d in layer_parameters)
        )

    def forward(self, prepared, *, input, batch_sizes, h_0, c_0, keep="nothing"):
        here = isinstance(input, np.ndarray)
        result = self.loop.forward(
            prepared, input=_in(input), batch_sizes=batch_sizes, h_0=_in(h_0), c_0=_in(c_0), keep=keep
        )
        workspace = None if keep == "nothing" else (here, result.workspace)
        return LayerOutput(*(_out(a, here) for a in result[:3]), workspace)

    def backward(self, prepared, workspace, *, grad_output, grad_h_n, grad_c_n):
        here, kept = workspace
        grads = self.loop.backward(
            prepared, kept, grad_output=_in(grad_output), grad_h_n=_in(grad_h_n), grad_c_n=_in(grad_c_n)
        )
        parameters = tuple(DirectionParameters(*(_out(p, here) for p in d)) for d in grads.parameters)
        return LayerGradients(*(_out(a, here) for a in grads[:3]), parameters)


def _in(array: Any) -> Any:
    return to_device(array) if isinstance(array, np.ndarray) else array


def _out(array: Any, to_host: bool) -> Any:
    return array.get() if to_host and array is not None else array
