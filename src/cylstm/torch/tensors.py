"""Tensors as arrays on the same memory, and back: NumPy's on the CPU, CuPy's on an NVIDIA GPU.

On a GPU everything is queued in PyTorch's current stream, on the device of the tensors, and nothing comes to the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arrays.arguments import as_array
from ..arrays.homes import in_stream_of_torch

_ON_THE_CPU = nullcontext()

__all__ = ["array_of", "device_of", "on_gpu", "tensor_of", "where_it_lies"]


class _Exported:
    """A tensor for ``numpy.from_dlpack``, without the checks for devices that take longer than the export."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __dlpack__(self, **_: Any) -> Any:
        return torch._C._to_dlpack(self.tensor)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # the CPU


def on_gpu(tensor: Tensor) -> bool:
    """Whether a tensor lies on a GPU that CuPy computes on."""
    return tensor.is_cuda


def device_of(tensor: Tensor) -> str:
    """Its device as cylstm names it: ``"cpu"`` for all but GPUs."""
    return f"cuda:{tensor.device.index}" if on_gpu(tensor) else "cpu"


def array_of(tensor: Tensor, name: str) -> Any:
    """A tensor as an array on the same memory. After ``Tensor.numpy`` it could not be resized, which FSDP does."""
    if on_gpu(tensor):
        return _array_on_gpu(tensor, name)
    if not tensor.is_cpu or tensor._is_zerotensor():
        return as_array(tensor, name)
    return np.from_dlpack(_Exported(tensor.detach().resolve_conj().resolve_neg()))


def _array_on_gpu(tensor: Tensor, name: str) -> Any:
    if tensor._is_zerotensor():  # it has no memory
        tensor = torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    return as_array(tensor, name, cuda=True)


def tensor_of(array: Any) -> Tensor:
    """A tensor on the memory of an array."""
    return torch.from_numpy(array) if isinstance(array, np.ndarray) else _tensor_on_gpu(array)


def _tensor_on_gpu(array: Any) -> Tensor:
    return torch.from_dlpack(array)


def where_it_lies(tensor: Tensor) -> AbstractContextManager[None]:
    """A context for work with a tensor: on its device, in PyTorch's current stream there."""
    return _on_its_device(tensor) if on_gpu(tensor) else _ON_THE_CPU


@contextmanager
def _on_its_device(tensor: Tensor) -> Iterator[None]:
    with torch.cuda.device(tensor.device), in_stream_of_torch():
        yield
