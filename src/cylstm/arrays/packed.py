"""`PackedSequence` and its functions: ragged batches as packed, time-major rows, as in ``torch.nn.utils.rnn``.

The rows of step 0 come first, then those of step 1, and so on; step t has ``batch_sizes[t]`` rows, those of the
sequences longer than t, the longest first. Sequences of lengths 3 and 1, ``abc`` and ``x``, are ``axbc`` with
``batch_sizes = [2, 1, 1]``.

Wherever an array is expected, PyTorch CPU tensors are fine too; NumPy arrays come back.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from numbers import Number
from typing import Any, NamedTuple, Self

import numpy as np

from .arguments import as_array, check_device, check_place

__all__ = [
    "PackedSequence",
    "as_packed",
    "is_packed",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "unpack_sequence",
]


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
                raise ValueError("expected data and batch_sizes, or a pair of them; make one with pack_padded_sequence")
            data, batch_sizes = data
        if sorted_indices is not None:
            sorted_indices = _integers(sorted_indices, "sorted_indices")
        if unsorted_indices is not None:
            unsorted_indices = _integers(unsorted_indices, "unsorted_indices")
        elif sorted_indices is not None:
            unsorted_indices = _inverse(sorted_indices)
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
            raise TypeError(f"expected a dtype, got {dtype!r}")
        return self if new == self.data.dtype else self._replace(data=self.data.astype(new))

    def cpu(self) -> Self:
        """With the data on the CPU: itself where it is there."""
        return self._replace(data=self.data.get()) if self.is_cuda else self

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

    Raises
    ------
    TypeError
        If it is no packed sequence.
    RuntimeError
        If data, sizes and indices do not belong together.
    """
    if not is_packed(sequence):
        raise TypeError(f"expected a PackedSequence, as pack_padded_sequence gives, got {type(sequence).__name__}")
    if type(sequence) is not PackedSequence:
        indices = getattr(sequence, "sorted_indices", None), getattr(sequence, "unsorted_indices", None)
        sequence = PackedSequence(sequence.data, sequence.batch_sizes, *indices)
    data, batch_sizes, sorted_indices, unsorted_indices = sequence
    if not isinstance(data, np.ndarray):
        as_array(data, "data", cuda)
    if batch_sizes.ndim != 1 or len(batch_sizes) == 0:
        raise RuntimeError(f"expected batch_sizes of shape (T,) with T >= 1, got shape {batch_sizes.shape}")
    if batch_sizes[-1] < 1 or np.any(batch_sizes[1:] > batch_sizes[:-1]):
        raise RuntimeError("expected batch_sizes that are positive and never grow; pack with pack_padded_sequence")
    if data.ndim == 0 or len(data) != batch_sizes.sum():
        raise RuntimeError(f"expected data of {batch_sizes.sum()} rows, the sum of batch_sizes, got shape {data.shape}")
    for name, indices in (("sorted_indices", sorted_indices), ("unsorted_indices", unsorted_indices)):
        if indices is not None and not np.array_equal(np.sort(indices), np.arange(batch_sizes[0])):
            raise RuntimeError(f"expected {name} to be a permutation of 0 ... {batch_sizes[0] - 1}, got {indices}")
    return sequence


def pack_padded_sequence(
    input: Any, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Pack a padded batch.

    Parameters
    ----------
    input : array (T, B, ...), or (B, T, ...) with ``batch_first``
        Where it lies on a GPU, so does the data of the result; sizes and indices are on the CPU.
    lengths : sequence, array or tensor of B integers
        Of each sequence, from 1 to T.
    batch_first : bool
    enforce_sorted : bool
        Whether the longest sequence must come first, and so on. With False they are sorted here, and come back in
        their own order. Equal lengths keep their order (in PyTorch that depends on the CPU).

    Raises
    ------
    TypeError
        If ``input`` is no array or ``lengths`` are no numbers.
    ValueError
        If ``input`` has fewer than two dimensions (PyTorch: IndexError).
    RuntimeError
        If ``input`` is empty, or ``lengths`` are not B numbers from 1 to T, or not sorted. (PyTorch 2.13 lets a
        length beyond T pass, and returns rows that do not fit the sizes.)
    """
    x = as_array(input, "input", cuda=True)
    if x.ndim < 2:
        raise ValueError(f"expected input of shape (T, B, *), or (B, T, *) with batch_first, got shape {x.shape}")
    if x.size == 0:
        raise RuntimeError(f"cannot pack an empty array: input has shape {x.shape}")
    x = x.swapaxes(0, 1) if batch_first else x
    T, B = x.shape[:2]
    lengths = _lengths(lengths)
    if lengths.shape != (B,):
        raise RuntimeError(
            f"expected {B} lengths, one per sequence of the batch, got an array of shape {lengths.shape}"
        )
    if lengths.min() < 1:
        raise RuntimeError(f"expected lengths of at least 1, got {lengths.min()}: leave empty sequences out")
    if lengths.max() > T:
        raise RuntimeError(f"expected lengths of at most T = {T}, the steps of the input, got {lengths.max()}")
    sorted_indices = None
    if not enforce_sorted:
        sorted_indices = np.argsort(-lengths, kind="stable")
        lengths = lengths[sorted_indices]
    elif np.any(lengths[1:] > lengths[:-1]):
        raise RuntimeError("expected lengths in decreasing order: sort the sequences, or pass enforce_sorted=False")
    # Ascending lengths, those not longer than t found by bisection.
    batch_sizes = B - np.searchsorted(lengths[::-1], np.arange(lengths[0]), side="right")
    step, sequence = np.nonzero(np.arange(B) < batch_sizes[:, None])
    data = x[step, sequence if sorted_indices is None else sorted_indices[sequence]]
    return PackedSequence(data, batch_sizes, sorted_indices)


def pad_packed_sequence(
    sequence: Any, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The padded batch and the lengths: the inverse of :func:`pack_padded_sequence`.

    Parameters
    ----------
    sequence : PackedSequence
    batch_first : bool
    padding_value : number
        What stands behind the end of each sequence, converted to the dtype of the data.
    total_length : int, optional
        The number of steps T of the result; by default that of the longest sequence.

    Returns
    -------
    padded : numpy.ndarray (T, B, ...), or (B, T, ...) with ``batch_first``
    lengths : numpy.ndarray of int64 (B,)

    Raises
    ------
    TypeError
        If ``sequence`` is not packed, ``padding_value`` no number or ``total_length`` no integer.
    ValueError
        If ``total_length`` is less than the longest sequence.
    RuntimeError
        If data, sizes and indices of the sequence do not belong together, or the dtype of the data cannot hold
        ``padding_value``.
    """
    data, batch_sizes, _, unsorted_indices = as_packed(sequence, cuda=True)
    T = len(batch_sizes) if total_length is None else operator.index(total_length)
    if len(batch_sizes) > T:
        raise ValueError(f"expected total_length >= {len(batch_sizes)}, the longest sequence, got {total_length}")
    B = int(batch_sizes[0])
    padded = _filled((B, T) if batch_first else (T, B), data.shape[1:], padding_value, data)
    time_major = padded.swapaxes(0, 1) if batch_first else padded
    lengths = len(batch_sizes) - np.searchsorted(batch_sizes[::-1], np.arange(B), side="right")
    step, row = np.nonzero(np.arange(B) < batch_sizes[:, None])
    if unsorted_indices is None:
        time_major[step, row] = data
        return padded, lengths
    time_major[step, _inverse(unsorted_indices)[row]] = data
    return padded, lengths[unsorted_indices]


def pad_sequence(
    sequences: Iterable[Any], batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right"
) -> np.ndarray:
    """One padded batch of many sequences.

    Parameters
    ----------
    sequences : iterable of B arrays (L, ...)
        Each with its own L. The first one's dtype is the result's.
    batch_first : bool
    padding_value : number
    padding_side : {"right", "left"}
        Whether the padding stands behind the end or before the beginning.

    Returns
    -------
    numpy.ndarray (T, B, ...), or (B, T, ...) with ``batch_first``
        T is the longest L.

    Raises
    ------
    TypeError
        If a sequence is no array, or ``padding_value`` no number.
    RuntimeError
        If there is no sequence, one has no dimension, their trailing dimensions differ (PyTorch repeats those that it
        can broadcast), or ``padding_side`` is neither "right" nor "left".
    """
    if not isinstance(sequences, Iterable):
        raise RuntimeError(f"expected an iterable of arrays, got {type(sequences).__name__}")
    arrays = [as_array(sequence, f"sequences[{b}]", cuda=True) for b, sequence in enumerate(sequences)]
    if not arrays:
        raise RuntimeError("expected at least one sequence, got none")
    if padding_side not in ("right", "left"):
        raise RuntimeError(f'expected padding_side "right" or "left", got {padding_side!r}')
    trailing = arrays[0].shape[1:]
    for b, array in enumerate(arrays):
        check_place(array, f"sequences[{b}]", not isinstance(arrays[0], np.ndarray))
        if array.ndim == 0 or array.shape[1:] != trailing:
            expected = ", ".join(["L", *map(str, trailing)])
            raise RuntimeError(f"expected sequences of shape ({expected}), got shape {array.shape} at index {b}")
    lengths = np.array([len(array) for array in arrays])
    B, T = len(arrays), int(lengths.max())
    padded = _filled((B, T) if batch_first else (T, B), trailing, padding_value, arrays[0])
    steps = np.arange(T) if padding_side == "right" else np.arange(T)[::-1]
    batch_major = padded if batch_first else padded.swapaxes(0, 1)
    batch_major[np.nonzero(steps < lengths[:, None])] = np.concatenate(arrays, dtype=padded.dtype, casting="unsafe")
    return padded


def pack_sequence(sequences: Iterable[Any], enforce_sorted: bool = True) -> PackedSequence:
    """Pack many sequences: :func:`pad_sequence`, then :func:`pack_padded_sequence`.

    Parameters
    ----------
    sequences : iterable of arrays (L, ...)
        Each with its own L >= 1; the longest first, unless ``enforce_sorted`` is False.
    enforce_sorted : bool

    Raises
    ------
    TypeError, RuntimeError
        As these functions do.
    """
    arrays = list(sequences)
    padded = pad_sequence(arrays)
    return pack_padded_sequence(padded, [len(array) for array in arrays], enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: Any) -> list[np.ndarray]:
    """The sequences (L, ...) in their original order: the inverse of :func:`pack_sequence`.

    Raises
    ------
    TypeError, RuntimeError
        If it is no packed sequence, or an inconsistent one.
    """
    padded, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return [sequence[:length].copy() for sequence, length in zip(padded, lengths, strict=True)]


def _inverse(permutation: np.ndarray) -> np.ndarray:
    inverse = np.empty_like(permutation)
    try:
        inverse[permutation] = np.arange(len(permutation))
    except IndexError:
        raise RuntimeError(f"expected a permutation of 0 ... {len(permutation) - 1}, got {permutation}") from None
    return inverse


def _integers(value: Any, name: str) -> np.ndarray:
    array = as_array(value, name)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be an array of int64, got dtype {array.dtype}")
    return array.astype(np.int64, copy=False)


def _lengths(lengths: Any) -> np.ndarray:
    """As int64; numbers with a fraction are cut off, as in PyTorch."""
    array = np.asarray(as_array(lengths, "lengths") if hasattr(lengths, "dtype") else lengths)
    if array.dtype.kind not in "biuf" or not np.all(np.isfinite(array)):
        raise TypeError(f"expected lengths to be a sequence or array of integers, got {lengths!r}")
    return array.astype(np.int64)


def _filled(leading: tuple[int, int], trailing: tuple[int, ...], value: Any, like: np.ndarray) -> np.ndarray:
    dtype = like.dtype
    if not isinstance(value, (Number, np.bool_)):
        raise TypeError(f"expected padding_value to be a number, got {type(value).__name__}")
    number = np.asarray(value)
    limits: Any = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype) if dtype.kind in "fc" else None
    beyond = limits is not None and np.isfinite(number) and abs(number) > limits.max
    if dtype.kind in "iu":
        beyond = beyond or not np.isfinite(number) or number.real < limits.min
    if beyond or (number.dtype.kind == "c" and dtype.kind != "c"):
        raise RuntimeError(f"expected a padding_value that {dtype} can hold, got {value!r}")
    return np.full(leading + trailing, value, dtype, like=like)


def _dtype_or_none(value: Any) -> np.dtype | None:
    """The dtype meant by a NumPy or PyTorch dtype, its name or type; None if it means none."""
    if value is None:
        return None
    try:
        return np.dtype(str(value).removeprefix("torch.") if type(value).__module__ == "torch" else value)
    except TypeError:
        return None
