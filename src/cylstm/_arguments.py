"""What callers may pass for an array, a dtype and a device, and the errors where it is none of these.

The exception types are those of PyTorch for the same mistake; where PyTorch leaks an AttributeError or IndexError, a
TypeError or ValueError.
"""

from __future__ import annotations

from typing import Any

import numpy as np

#: The names of the dtypes that parameters may have.
DTYPES = ("float16", "float32", "float64", "complex64", "complex128")

GPU_REMEDY = "for an NVIDIA GPU install the extra cylstm[cuda13] (or cylstm[cuda12]) and choose the backend 'cupy'"

_DLPACK_CPU = (1, 3)  # kDLCPU, kDLCUDAHost: the two device types that the CPU can read


def as_array(value: Any, name: str) -> np.ndarray:
    """The value as a NumPy array, without a copy where it can be had without.

    Takes NumPy arrays, PyTorch CPU tensors (also those that require gradients: what comes back is NumPy and has no
    graph), and anything else with ``__array__`` or with ``__dlpack__`` on the CPU.

    Raises
    ------
    TypeError
        If the value is no array (a list, a number, None), or lies in the memory of another device.
    """
    if not isinstance(value, np.ndarray):
        device = getattr(value, "__dlpack_device__", None)
        if device is not None and device()[0] not in _DLPACK_CPU:
            raise TypeError(
                f"{name} lies on another device than the CPU ({getattr(value, 'device', device())}), but the backend "
                f"computes on the CPU: bring it to the CPU first, or {GPU_REMEDY}"
            )
        if hasattr(value, "detach") and hasattr(value, "numpy"):
            value = value.detach().numpy(force=True)  # force: PyTorch's lazy conjugation and negation are carried out
        elif not hasattr(value, "__array__"):
            if device is None:
                raise TypeError(
                    f"{name} must be an array: a numpy.ndarray, or an object with __array__ or __dlpack__ such as a "
                    f"PyTorch tensor; got {type(value).__name__}"
                )
            value = np.from_dlpack(value)
    array = np.asarray(value)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def as_dtype(dtype: Any) -> np.dtype:
    """The NumPy dtype meant by a NumPy dtype, a string, a type, a ``torch.dtype`` or None (float32).

    Raises
    ------
    TypeError
        If it names no dtype.
    RuntimeError
        If parameters cannot have this dtype (the type that PyTorch raises for integers).
    """
    if dtype is None:
        return np.dtype(np.float32)
    name = str(dtype).removeprefix("torch.") if type(dtype).__module__ == "torch" else None
    if name is None:
        try:
            name = np.dtype(dtype).name
        except TypeError:
            raise TypeError(
                f"dtype must be one of {', '.join(DTYPES)}, as a NumPy or PyTorch dtype; got {dtype!r}"
            ) from None
    if name not in DTYPES:
        raise RuntimeError(f"parameters must be floating point or complex: one of {', '.join(DTYPES)}; got {name}")
    return np.dtype(name)


def check_device(device: Any) -> None:
    """Accept None, ``"cpu"`` and ``torch.device("cpu")``.

    Raises
    ------
    TypeError
        If it is no device.
    RuntimeError
        If it is another device than the CPU.
    """
    if not (device is None or isinstance(device, (str, int)) or type(device).__module__ == "torch"):
        raise TypeError(f"device must be None, a string or a torch.device, not {type(device).__name__}")
    if device is not None and str(device).partition(":")[0] != "cpu":
        raise RuntimeError(f"expected device None or 'cpu', got {str(device)!r}: {GPU_REMEDY}")
