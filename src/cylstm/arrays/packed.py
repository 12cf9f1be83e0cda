"""`PackedSequence`: ragged batches as packed, time-major rows, as in ``torch.nn.utils.rnn``.

The rows of step 0 come first, then those of step 1, and so on; step t has ``batch_sizes[t]`` rows, those of the
sequences longer than t, the longest first. Sequences of lengths 3 and 1, ``abc`` and ``x``, are ``axbc`` with
``batch_sizes = [2, 1, 1]``.

Wherever an array is expected, PyTorch CPU tensors are fine too; NumPy arrays come back.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np

from .arguments import as_array, check_device, on_host

__all__ = ["PackedSequence", "as_packed", "inverse", "is_packed"]


class _PackedSequence(NamedTuple):
    data: Any  # a NumPy array, or a CuPy array
    batch_sizes: np.ndarray
    sorted_indices: np.ndarray | None
    unsorted_indices: np.ndarray | None


class PackedSequence(_PackedSequence):
    """A ragged batch as packed rows. Made by :func:`pack_padded_sequence` or :func:`pack_sequence`.

    Parameters
    ----------
    data : array (N, ...)
        The rows; or, where ``batch_sizes`` is not given, the pair (data, batch_sizes).
    batch_sizes : array of int64 (T,)
        How many sequences are longer than t, for each step t. Never grows.
    sorted_indices : array of int64 (B,), optional
        Which of the original sequences is the longest, the second, and so on. None: they came sorted.
    unsorted_indices : array of int64 (B,), optional
        The inverse permutation; computed from ``sorted_indices`` if not given.

    Raises
    ------
    TypeError
        If an argument is no array, or sizes and indices are no integers.
    ValueError
        If ``batch_sizes`` is missing.
    RuntimeError
        If ``sorted_indices`` is no permutation.
    """

    __slots__ = ()

    def __new__(
        cls, data: Any, batch_sizes: Any = None, sorted_indices: Any = None, unsorted_indices: Any = None
    ) -> Self:
        if batch_sizes is None:
            if not isinstance(data, (list, tuple)) or len(data) != 2:
                raise ValueError(
                    "batch_sizes must be given, or data be the pair (data, batch_sizes), "
                    f"got {type(data).__name__} alone: use pack_padded_sequence"
                )
            data, batch_sizes = data
        if sorted_indices is not None:
            sorted_indices = _integers(sorted_indices, "sorted_indices")
        if unsorted_indices is not None:
            unsorted_indices = _integers(unsorted_indices, "unsorted_indices")
        elif sorted_indices is not None:
            unsorted_indices = inverse(sorted_indices)
        sizes = _integers(batch_sizes, "batch_sizes")
        return super().__new__(cls, as_array(data, "data", cuda=True), sizes, sorted_indices, unsorted_indices)

    def to(self, *args: Any, device: Any = None, dtype: Any = None) -> Self:
        """With the data in another dtype: ``to(dtype)``, ``to(device)``, ``to(device, dtype)`` or ``to(array)``.

        Itself where nothing changes. The device is the CPU.
        """
        for value in args:
            if hasattr(value, "dtype") and not isinstance(value, type):  # NumPy's scalar types have the attribute too
                dtype = value.dtype
            elif (name := _dtype_or_none(value)) is not None:
                dtype = name
            else:
                device = value
        check_device(device)
        new = self.data.dtype if dtype is None else _dtype_or_none(dtype)
        if new is None:
            raise TypeError(f"dtype must be a NumPy or PyTorch dtype, got {dtype!r}")
        return self if new == self.data.dtype else self._replace(data=self.data.astype(new))

    def cpu(self) -> Self:
        """With the data on the CPU: itself where it is there."""
        return self._replace(data=on_host(self.data)) if self.is_cuda else self

    def double(self) -> Self:
        """The data in float64."""
        return self.to(np.float64)

    def float(self) -> Self:
        """The data in float32."""
        return self.to(np.float32)

    def half(self) -> Self:
        """The data in float16."""
        return self.to(np.float16)

    def long(self) -> Self:
        """The data in int64."""
        return self.to(np.int64)

    def int(self) -> Self:
        """The data in int32."""
        return self.to(np.int32)

    def short(self) -> Self:
        """The data in int16."""
        return self.to(np.int16)

    def char(self) -> Self:
        """The data in int8."""
        return self.to(np.int8)

    def byte(self) -> Self:
        """The data in uint8."""
        return self.to(np.uint8)

    @property
    def is_cuda(self) -> bool:
        """Whether the data is on a GPU; sizes and indices are on the CPU always."""
        return not isinstance(self.data, np.ndarray)


def is_packed(value: Any) -> bool:
    """Whether the value is a packed sequence: ours, PyTorch's, or one with the same attributes."""
    return hasattr(value, "batch_sizes") and hasattr(value, "data")


def as_packed(sequence: Any, cuda: bool = False) -> PackedSequence:
    """A packed sequence of ours or of PyTorch's as one of ours, found to be consistent; with `cuda` it may be on a GPU.

    Sizes and indices are locked copies: what is checked is what is used, whoever writes to the caller's arrays
    meanwhile. The fields of a named tuple may be anything, for `_replace` and `_make` pass by the constructor.

    Raises
    ------
    TypeError
        If it is no packed sequence.
    RuntimeError
        If data, sizes and indices do not belong together.
    """
    if not is_packed(sequence):
        raise TypeError(f"sequence must be a PackedSequence, got {type(sequence).__name__}: use pack_padded_sequence")
    data = as_array(sequence.data, "data", cuda)
    batch_sizes = _locked_integers(sequence.batch_sizes, "batch_sizes")
    sorted_indices = _locked_integers(getattr(sequence, "sorted_indices", None), "sorted_indices")
    unsorted_indices = _locked_integers(getattr(sequence, "unsorted_indices", None), "unsorted_indices")
    if batch_sizes is None or batch_sizes.ndim != 1 or len(batch_sizes) == 0:
        shape = "None" if batch_sizes is None else batch_sizes.shape
        raise RuntimeError(f"batch_sizes must have shape (T,) with T >= 1, got {shape}")
    if batch_sizes[-1] < 1 or np.any(batch_sizes[1:] > batch_sizes[:-1]):
        raise RuntimeError(f"batch_sizes must be positive and never grow, got {batch_sizes}: use pack_padded_sequence")
    rows = int(batch_sizes.sum(dtype=np.float64))  # does not wrap around, and is exact up to 2**53
    if data.ndim == 0 or len(data) != rows:
        raise RuntimeError(f"data must have {rows} rows, the sum of batch_sizes, got shape {data.shape}")
    for name, indices in (("sorted_indices", sorted_indices), ("unsorted_indices", unsorted_indices)):
        if indices is None:
            continue
        if indices.shape != (batch_sizes[0],) or not np.array_equal(np.sort(indices), np.arange(len(indices))):
            raise RuntimeError(f"{name} must be a permutation of 0 ... {batch_sizes[0] - 1}, got {indices}")
    return PackedSequence(data, batch_sizes, sorted_indices, unsorted_indices)


def inverse(permutation: np.ndarray) -> np.ndarray:
    """The permutation that undoes this one."""
    undoing = np.empty_like(permutation)
    try:
        undoing[permutation] = np.arange(len(permutation))
    except IndexError:
        raise RuntimeError(
            f"sorted_indices must be a permutation of 0 ... {len(permutation) - 1}, got {permutation}"
        ) from None
    return undoing


def _integers(value: Any, name: str) -> np.ndarray:
    array = as_array(value, name)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be an array of int64, got dtype {array.dtype}")
    return array.astype(np.int64, copy=False)


def _locked_integers(value: Any, name: str) -> Any:
    """A copy that nobody can write to; None of None."""
    if value is None:
        return None
    array = _integers(value, name).copy()
    array.flags.writeable = False
    return array


def _dtype_or_none(value: Any) -> np.dtype | None:
    """The dtype meant by a NumPy or PyTorch dtype, its name or type; None if it means none."""
    if value is None:
        return None
    try:
        return np.dtype(str(value).removeprefix("torch.") if type(value).__module__ == "torch" else value)
    except TypeError:
        return None
