"""What callers may pass for an array, a dtype and a device, and the errors where it is none of these.

The exception types are those of PyTorch for the same mistake; where PyTorch leaks an AttributeError or IndexError, a
TypeError or ValueError.
"""

from __future__ import annotations

import numbers
import sys
import warnings
from typing import Any

import numpy as np

from ..words import CUPY, needs

#: The names of the dtypes that parameters may have.
DTYPES = ("float16", "float32", "float64", "complex64", "complex128", "bfloat16")

GPU_REMEDY = f"for an NVIDIA GPU install CuPy, {CUPY}, and choose the backend 'cupy'"

_DLPACK_CPU = (1, 3)  # kDLCPU, kDLCUDAHost: the two device types that the CPU can read
_DLPACK_CUDA = 2


def as_array(value: Any, name: str, cuda: bool = False) -> Any:
    """The value as a NumPy array, without a copy where it can be had without.

    With `cuda`, arrays on an NVIDIA GPU are taken too: those that follow NumPy's protocols, as CuPy's do, as they are,
    and others (PyTorch's CUDA tensors) as CuPy arrays on the same memory.

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
            if cuda and device()[0] == _DLPACK_CUDA:
                return value if hasattr(value, "__array_function__") else _on_gpu(value)
            raise TypeError(
                f"{name} must lie on the CPU, got an array on {getattr(value, 'device', device())}: bring it there "
                f"first, or {GPU_REMEDY}"
            )
        if cuda and device is None and hasattr(value, "__cuda_array_interface__"):
            return _on_gpu(value)
        if hasattr(value, "detach") and hasattr(value, "numpy"):
            value = _from_tensor(value.detach())
        elif not hasattr(value, "__array__"):
            if device is None:
                raise TypeError(
                    f"{name} must be an array: a numpy.ndarray, or an object with __array__ or __dlpack__ such as a "
                    f"PyTorch tensor, got {type(value).__name__}"
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
            name = "bfloat16" if isinstance(dtype, str) and dtype == "bfloat16" else np.dtype(dtype).name
        except TypeError:
            raise TypeError(
                f"dtype must be one of {', '.join(DTYPES)}, as a NumPy or PyTorch dtype, got {dtype!r}"
            ) from None
    if name not in DTYPES:
        raise RuntimeError(f"dtype must be floating point or complex, one of {', '.join(DTYPES)}, got {name}")
    return _bfloat16() if name == "bfloat16" else np.dtype(name)


def _bfloat16() -> np.dtype:
    """The dtype that the package ml_dtypes adds to NumPy; it must be imported once for NumPy to know the name."""
    try:
        import ml_dtypes
    except ImportError as error:
        raise RuntimeError(needs("arrays of bfloat16", "ml_dtypes")) from error
    return np.dtype(ml_dtypes.bfloat16)


def _from_tensor(tensor: Any) -> np.ndarray:
    """A tensor of PyTorch, on the CPU and without a graph."""
    if str(tensor.dtype) == "torch.bfloat16":
        return _from_tensor(tensor.contiguous().view(dtype=sys.modules["torch"].int16)).view(_bfloat16())
    return tensor.numpy(force=True)  # force: PyTorch's lazy conjugation and negation are carried out


def _on_gpu(value: Any) -> Any:
    """An array on a GPU as a CuPy array on the same memory."""
    try:
        import cupy
    except ImportError as error:
        raise TypeError(f"CuPy must be installed for an array on a GPU: {GPU_REMEDY}") from error
    if hasattr(value, "detach"):
        value = value.detach().resolve_conj().resolve_neg()  # PyTorch's lazy conjugation and negation are carried out
    # DLPack first: it knows bfloat16, and makes CuPy's stream wait for what the other library has not done yet.
    return cupy.from_dlpack(value) if hasattr(value, "__dlpack__") else cupy.asarray(value)


def check_device(device: Any, allowed: tuple[str, ...] = ("cpu",)) -> str:
    """The name of a device: that of a string or a ``torch.device``, ``"cpu"`` for None.

    Raises
    ------
    TypeError
        If it is no device.
    RuntimeError
        If it is of no kind that is allowed.
    """
    if not (device is None or isinstance(device, (str, int)) or type(device).__module__ == "torch"):
        raise TypeError(f"device must be None, a string or a torch.device, got {type(device).__name__}")
    kind = "cpu" if device is None else str(device).partition(":")[0]
    if kind not in allowed:
        raise RuntimeError(
            f"device must be None or {' or '.join(map(repr, allowed))}, got {str(device)!r}: {GPU_REMEDY}"
        )
    return "cpu" if kind == "cpu" else str(device)


def on_host(array: Any) -> np.ndarray:
    """An array of either side as NumPy's.

    A strided one is copied on the GPU first: that CuPy before 14.3 does otherwise, in a way that forgets a stream which
    was made the current one by ``use``.
    """
    if isinstance(array, np.ndarray):
        return array
    return (array if array.flags.c_contiguous else array.copy()).get()


def check_place(array: Any, name: str, on_gpu: bool) -> None:
    """An array lies where the input does: on a GPU, or on the CPU.

    Raises
    ------
    RuntimeError
        If it does not (the type that PyTorch raises).
    """
    if isinstance(array, np.ndarray) == on_gpu:
        remedy = f"on the GPU: use cupy.asarray({name})" if on_gpu else f"on the CPU: use {name}.get()"
        raise RuntimeError(f"{name} must lie where the input does, {remedy}")


def check_lstm_arguments(
    *, input_size: Any, hidden_size: Any, num_layers: Any, bias: Any, batch_first: Any, dropout: Any, proj_size: Any
) -> None:
    """Check the sizes and options of an LSTM in the order in which ``torch.nn.LSTM`` of PyTorch 2.13 does.

    Raises
    ------
    TypeError, ValueError
        Where PyTorch raises them.
    """
    expected = f"dropout must be a number in the range [0, 1], the probability of a zero, got {dropout!r}"
    try:
        probability = float(dropout)
    except (TypeError, ValueError) as error:
        raise type(error)(expected) from None
    if not isinstance(dropout, numbers.Number) or isinstance(dropout, bool) or not 0 <= probability <= 1:
        raise ValueError(expected)
    if probability > 0 and num_layers == 1:
        warnings.warn(
            "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects num_layers "
            f"greater than 1, but got dropout={dropout} and num_layers={num_layers}",
            stacklevel=3,
        )
    for name, value in {"bias": bias, "batch_first": batch_first}.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r} of type {type(value).__name__}")
    for name, value in {"input_size": input_size, "hidden_size": hidden_size}.items():
        if not isinstance(value, int):
            raise TypeError(f"{name} must be an int, got {value!r} of type {type(value).__name__}")
        if value <= 0:
            raise ValueError(f"{name} must be greater than zero, got {value}")
    for name, value in {"num_layers": num_layers, "proj_size": proj_size}.items():
        if not hasattr(value, "__index__") or (name == "proj_size" and value is True):
            raise TypeError(f"{name} must be an int, got {value!r} of type {type(value).__name__}")
    if num_layers <= 0:
        raise ValueError(f"num_layers must be greater than zero, got {num_layers}")
    if not 0 <= proj_size < hidden_size:
        raise ValueError(
            f"proj_size must be 0 (no projection) or a positive number smaller than hidden_size ({hidden_size}), "
            f"got {proj_size}"
        )


def check_size(value: Any, name: str, *, least: int) -> Any:
    """The size of a layer, an integer of at least ``least``.

    Raises
    ------
    TypeError, RuntimeError
        Where PyTorch raises them, which learns of a wrong size when it makes the tensor.
    """
    if not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an int, got {value!r} of type {type(value).__name__}")
    if value < least:
        raise RuntimeError(f"{name} must be at least {least}, got {value}")
    return value
