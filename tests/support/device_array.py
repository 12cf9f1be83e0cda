"""Arrays of another memory than NumPy's, without a GPU: as CuPy's, they follow NumPy's protocols and nothing else.

What computes with them never passes through the host unnoticed: NumPy cannot read them, and they cannot be mixed with
NumPy's arrays, as CuPy's cannot. `get` and `to_device` are the transfers, and they are counted. There are several
devices; an array belongs to the one that was current when it was made, and computes only where that one is current.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
from cupy_signatures import check_call
from numpy.lib.mixins import NDArrayOperatorsMixin

CUDA = 2  # DLPack's number of the device type


class Here(threading.local):
    """The current device and stream of this thread, and how often it has moved arrays."""

    device = 0
    stream = 0
    to_host = 0
    to_device = 0
    operations = 0  # that compute or copy: each would be a launch


here = Here()


@contextmanager
def on_device(number: int) -> Iterator[None]:
    """Makes a device the current one."""
    before, here.device = here.device, number
    try:
        yield
    finally:
        here.device = before


class DeviceArray(NDArrayOperatorsMixin):
    __array_priority__ = 100

    def __init__(self, array: np.ndarray) -> None:
        assert type(array) is np.ndarray
        self._array = allocated(array)
        self.device = SimpleNamespace(id=here.device)

    def get(self, *, out: np.ndarray | None = None) -> np.ndarray:
        # In another order CuPy copies inside `with stream:`, whose end makes another stream the current one.
        by_cylstm = sys._getframe(1).f_globals["__name__"].startswith("cylstm.")
        assert self._array.flags.c_contiguous or not by_cylstm, "only what lies in C's order goes to the host"
        check_call("ndarray.get", (), () if out is None else ("out",))
        here.to_host += 1
        if out is None:
            return self._array.copy()
        assert (out.shape, out.dtype, out.flags.c_contiguous) == (self.shape, self.dtype, True)
        out[...] = self._array
        return out

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise TypeError("implicit conversion to a NumPy array is not allowed; use .get()")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        assert method == "__call__", f"CuPy's {ufunc.__name__} is not to be called by {method}"
        check_call(ufunc.__name__, (), kwargs)
        here.operations += 1
        out = kwargs.get("out")
        result = _computed(ufunc, method, *map(_unwrapped, inputs), **_unwrapped(kwargs))
        return out[0] if out is not None else wrapped(result)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function is np.asarray:  # the one way in
            return to_device(*args, **kwargs)
        check_call(f"{function.__module__}.{function.__name__}".removeprefix("numpy."), args, kwargs)
        here.operations += function is not np.empty
        return wrapped(function(*_unwrapped(args), **_unwrapped(kwargs)))

    def __dlpack_device__(self) -> tuple[int, int]:
        return (CUDA, 0)

    def __dlpack__(self, **kwargs: Any) -> Any:
        raise BufferError("this memory is not the host's")

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, key: Any) -> Any:
        part = _unwrapped(self)[_indices(key)]
        here.operations += not np.may_share_memory(part, self._array)
        return wrapped(part)

    def __setitem__(self, key: Any, value: Any) -> None:
        array = _unwrapped(self)
        if isinstance(value, DeviceArray) and _is_same(value._array, array[_indices(key)]):
            return  # as CuPy does it: `a[k] += b` has added already
        here.operations += 1
        array[_indices(key)] = _unwrapped(value)

    def __getattr__(self, name: str) -> Any:
        if name in ("T", "reshape", "swapaxes", "transpose"):  # views stay where they are, whichever device is current
            with on_device(self.device.id):
                return self._attribute(name)
        attributes = ("dtype", "itemsize", "nbytes", "ndim", "shape", "size", "strides")
        if name in ("astype", "conj", "copy", "fill", "sum", "view", *attributes):
            return self._attribute(name)
        raise AttributeError(name)

    def _attribute(self, name: str) -> Any:
        attribute, device = getattr(self._array, name), here.device
        if not callable(attribute) or name == "dtype":
            return wrapped(attribute)

        def method(*args: Any, **kwargs: Any) -> Any:
            check_call(f"ndarray.{name}", args, kwargs)
            same = name == "astype" and kwargs.get("copy") is False and np.dtype(args[0]) == self._array.dtype
            here.operations += name in ("astype", "conj", "copy", "fill", "sum") and not same
            with on_device(device):
                return wrapped(attribute(*args, **kwargs))

        return method

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self._array.ctypes.data)

    @property
    def flags(self) -> Any:
        class Flags:
            c_contiguous = self._array.flags.c_contiguous

        return Flags


def allocated(array: np.ndarray) -> np.ndarray:
    """The memory of a new array: here a test can let it run out."""
    return array


def _computed(ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
    """What a ufunc gives, with the quotients of complex numbers that CuPy computes."""
    if ufunc in (np.true_divide, np.reciprocal) and any(np.iscomplexobj(one) for one in inputs):
        numerator, denominator = inputs if ufunc is np.true_divide else (1, *inputs)
        result = complex_quotient(numerator, denominator)
        if kwargs.get("out"):
            kwargs["out"][0][...] = result
        return result
    return getattr(ufunc, method)(*inputs, **kwargs)


def complex_quotient(a: Any, b: Any) -> Any:
    """a / b by CuPy's formula: both are divided by the sum of the sizes of the two parts of b, whatever that is.

    Where b is infinite this gives not a number, where NumPy gives 0.
    """
    dtype = np.result_type(a, b)
    a, b = np.asarray(a, dtype), np.asarray(b, dtype)
    with np.errstate(all="ignore"):
        size = np.abs(b.real) + np.abs(b.imag)
        one_over = 1 / size
        a_re, a_im, b_re, b_im = (part * one_over for part in (a.real, a.imag, b.real, b.imag))
        divisor = 1 / (b_re * b_re + b_im * b_im)
        quotient = np.empty(np.broadcast_shapes(a.shape, b.shape), dtype)
        quotient.real = (a_re * b_re + a_im * b_im) * divisor
        quotient.imag = (a_im * b_re - a_re * b_im) * divisor
    return quotient


def _is_same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.ctypes.data == b.ctypes.data and (a.shape, a.strides) == (b.shape, b.strides)


def to_device(array: Any, dtype: Any = None, like: Any = None) -> DeviceArray:
    """On the current device: an array of NumPy copied, one that is there itself."""
    if isinstance(array, DeviceArray):
        return array if dtype in (None, array.dtype) else array.astype(dtype)
    here.to_device += 1
    return DeviceArray(np.array(array, dtype))


def copied(array: Any, dtype: Any = None) -> DeviceArray:
    """A copy on the current device."""
    if isinstance(array, DeviceArray):
        here.operations += 1
        return DeviceArray(np.array(_unwrapped(array), dtype))
    return to_device(array, dtype)


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
    if isinstance(value, DeviceArray):
        assert value.device.id == here.device, f"of cuda:{value.device.id}, and cuda:{here.device} is the current one"
        return value._array
    return value


def _indices(key: Any) -> Any:  # those may be NumPy's
    if isinstance(key, tuple):
        return tuple(map(_indices, key))
    return key._array if isinstance(key, DeviceArray) else key


class Library:
    """NumPy's functions for arrays of a device, as the module ``cupy`` has them."""

    array = staticmethod(copied)
    asarray = staticmethod(to_device)

    def __getattr__(self, name: str) -> Any:
        function = getattr(np, name)
        if isinstance(function, np.ufunc):
            return function

        def called(*args: Any, **kwargs: Any) -> Any:
            check_call(name, args, kwargs)
            if name == "ascontiguousarray" and args[0].flags.c_contiguous:
                return args[0]
            here.operations += name not in ("empty", "empty_like")
            return wrapped(function(*_unwrapped(args), **_unwrapped(kwargs)))

        return called
