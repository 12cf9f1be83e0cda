"""Packing and padding of ragged batches, as in ``torch.nn.utils.rnn``."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from numbers import Number
from typing import Any

import numpy as np

from .arguments import as_array, check_place
from .homes import lending
from .packed import PackedSequence, as_packed, inverse

__all__ = [
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "unpack_sequence",
    "unpad_sequence",
]


@lending
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
        raise ValueError(f"input must have shape (T, B, *), or (B, T, *) with batch_first, got {x.shape}")
    if x.size == 0:
        raise RuntimeError(f"input must not be empty, got shape {x.shape}")
    x = x.swapaxes(0, 1) if batch_first else x
    T, B = x.shape[:2]
    lengths = _lengths(lengths)
    if lengths.shape != (B,):
        raise RuntimeError(f"lengths must have shape ({B},), one per sequence of the batch, got {lengths.shape}")
    if lengths.min() < 1:
        raise RuntimeError(f"lengths must be at least 1, got {lengths.min()}: leave empty sequences out")
    if lengths.max() > T:
        raise RuntimeError(f"lengths must be at most T = {T}, the steps of the input, got {lengths.max()}")
    sorted_indices = None
    if not enforce_sorted:
        sorted_indices = np.argsort(-lengths, kind="stable")
        lengths = lengths[sorted_indices]
    elif np.any(lengths[1:] > lengths[:-1]):
        raise RuntimeError(
            f"lengths must be in decreasing order, got {lengths}: sort the sequences, or pass enforce_sorted=False"
        )
    # Ascending lengths, those not longer than t found by bisection.
    batch_sizes = B - np.searchsorted(lengths[::-1], np.arange(lengths[0]), side="right")
    step, sequence = np.nonzero(np.arange(B) < batch_sizes[:, None])
    data = x[step, sequence if sorted_indices is None else sorted_indices[sequence]]
    return PackedSequence(data, batch_sizes, sorted_indices)


@lending
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
        raise ValueError(f"total_length must be at least {len(batch_sizes)}, the longest sequence, got {total_length}")
    B = int(batch_sizes[0])
    padded = _filled((B, T) if batch_first else (T, B), data.shape[1:], padding_value, data)
    time_major = padded.swapaxes(0, 1) if batch_first else padded
    lengths = len(batch_sizes) - np.searchsorted(batch_sizes[::-1], np.arange(B), side="right")
    step, row = np.nonzero(np.arange(B) < batch_sizes[:, None])
    if unsorted_indices is None:
        time_major[step, row] = data
        return padded, lengths
    time_major[step, inverse(unsorted_indices)[row]] = data
    return padded, lengths[unsorted_indices]


@lending
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
        raise RuntimeError(f"sequences must be an iterable of arrays, got {type(sequences).__name__}")
    arrays = [as_array(sequence, f"sequences[{b}]", cuda=True) for b, sequence in enumerate(sequences)]
    if not arrays:
        raise RuntimeError("sequences must hold at least one array, got none")
    if padding_side not in ("right", "left"):
        raise RuntimeError(f"padding_side must be 'right' or 'left', got {padding_side!r}")
    trailing = arrays[0].shape[1:]
    for b, array in enumerate(arrays):
        check_place(array, f"sequences[{b}]", not isinstance(arrays[0], np.ndarray))
        if array.ndim == 0 or array.shape[1:] != trailing:
            expected = ", ".join(["L", *map(str, trailing)])
            raise RuntimeError(f"sequences[{b}] must have shape ({expected}), got {array.shape}")
    lengths = np.array([len(array) for array in arrays])
    B, T = len(arrays), int(lengths.max())
    padded = _filled((B, T) if batch_first else (T, B), trailing, padding_value, arrays[0])
    steps = np.arange(T) if padding_side == "right" else np.arange(T)[::-1]
    batch_major = padded if batch_first else padded.swapaxes(0, 1)
    batch_major[np.nonzero(steps < lengths[:, None])] = np.concatenate(arrays, dtype=padded.dtype, casting="unsafe")
    return padded


@lending
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


@lending
def unpack_sequence(packed_sequences: Any) -> list[np.ndarray]:
    """The sequences (L, ...) in their original order: the inverse of :func:`pack_sequence`.

    Raises
    ------
    TypeError, RuntimeError
        If it is no packed sequence, or an inconsistent one.
    """
    padded, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return [sequence[:length].copy() for sequence, length in zip(padded, lengths, strict=True)]


@lending
def unpad_sequence(padded_sequences: Any, lengths: Any, batch_first: bool = False) -> list[np.ndarray]:
    """The sequences of a padded batch, without their padding: the inverse of :func:`pad_sequence`.

    Parameters
    ----------
    padded_sequences : array (T, B, ...), or (B, T, ...) with ``batch_first``
    lengths : sequence, array or tensor of B integers
        Of each sequence, from 0 to T.
    batch_first : bool

    Returns
    -------
    list of B arrays (L, ...)
        As copies.

    Raises
    ------
    TypeError
        If ``padded_sequences`` is no array or ``lengths`` are no numbers.
    ValueError
        If ``padded_sequences`` has fewer than two dimensions (PyTorch: IndexError), or ``lengths`` are not B numbers
        from 0 to T. (PyTorch takes a length beyond T for T, and a negative one for 0.)
    """
    x = as_array(padded_sequences, "padded_sequences", cuda=True)
    if x.ndim < 2:
        raise ValueError(f"padded_sequences must have shape (T, B, *), or (B, T, *) with batch_first, got {x.shape}")
    x = x if batch_first else x.swapaxes(0, 1)
    B, T = x.shape[:2]
    lengths = _lengths(lengths)
    if lengths.shape != (B,):
        raise ValueError(f"lengths must have shape ({B},), one per sequence of the batch, got {lengths.shape}")
    if B and not 0 <= lengths.min() <= lengths.max() <= T:
        raise ValueError(f"lengths must be from 0 to T = {T}, the steps of padded_sequences, got {lengths}")
    return [sequence[:length].copy() for sequence, length in zip(x, lengths.tolist(), strict=True)]


def _lengths(lengths: Any) -> np.ndarray:
    """As int64; numbers with a fraction are cut off, as in PyTorch."""
    array = np.array(as_array(lengths, "lengths") if hasattr(lengths, "dtype") else lengths)
    if array.dtype.kind not in "biuf" or not np.all(np.isfinite(array)):
        raise TypeError(f"lengths must be a sequence or array of integers, got {lengths!r}")
    return array.astype(np.int64)


def _filled(leading: tuple[int, int], trailing: tuple[int, ...], value: Any, like: np.ndarray) -> np.ndarray:
    dtype = like.dtype
    if not isinstance(value, (Number, np.bool_)):
        raise TypeError(f"padding_value must be a number, got {type(value).__name__}")
    number = np.asarray(value)
    limits: Any = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype) if dtype.kind in "fc" else None
    beyond = limits is not None and np.isfinite(number) and abs(number) > limits.max
    if dtype.kind in "iu":
        beyond = beyond or not np.isfinite(number) or number.real < limits.min
    if beyond or (number.dtype.kind == "c" and dtype.kind != "c"):
        raise RuntimeError(f"padding_value must be a number that {dtype} can hold, got {value!r}")
    # Not by np.full, which hands keywords on to the library of `like` that it may not have.
    filled = np.empty(leading + trailing, dtype, like=like)
    filled.fill(number.astype(dtype).item())
    return filled
