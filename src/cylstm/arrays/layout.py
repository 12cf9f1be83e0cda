"""How the caller's arrays lie, and the packed rows they become.

An LSTM takes four forms of input, and backends take one: packed, time-major rows (see `cylstm.backends.base`). A layout
turns the caller's form into rows and rows back into that form; gradients go through the same two functions.

======================  =====================  =========================
input                   output                 h_0, c_0, h_n, c_n
======================  =====================  =========================
(T, B, I)               (T, B, D * R)          (L * D, B, R or H)
(B, T, I), batch_first  (B, T, D * R)          (L * D, B, R or H)
(T, I), unbatched       (T, D * R)             (L * D, R or H)
PackedSequence          PackedSequence         (L * D, B, R or H)
======================  =====================  =========================

The sequences of a `PackedSequence` are sorted by length; its states are in the order before sorting.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from .arguments import as_array
from .packed import PackedSequence, as_packed, is_packed


class Layout:
    """Equal sequences, time first: (T, B, ...)."""

    ndim: ClassVar[int] = 3
    state_ndim: ClassVar[int] = 3
    words: ClassVar[str] = "batched 3-D input"
    # The exception types are PyTorch's, which checks the parts of a PackedSequence at other places.
    dtype_error: ClassVar[type[Exception]] = ValueError
    dimension_error: ClassVar[type[Exception]] = RuntimeError

    def __init__(self, T: int, B: int, batch_sizes: np.ndarray | None = None) -> None:
        self.T = T
        self.B = B
        if batch_sizes is None:
            batch_sizes = np.full(T, B, np.int64)
            batch_sizes.flags.writeable = False
        self.batch_sizes = batch_sizes

    def shape(self, features: int) -> tuple[int, ...]:
        """The shape of an array of this layout."""
        return (self.T, self.B, features)

    def state_shape(self, layers: int, features: int) -> tuple[int, ...]:
        """The shape of a state of this layout; `layers` counts layers times directions."""
        return (layers, self.B, features)

    def unwrap(self, value: Any, name: str, cuda: bool = False) -> np.ndarray:
        """The array of a value in this form."""
        return as_array(value, name, cuda)

    def to_rows(self, array: np.ndarray) -> np.ndarray:
        """The packed rows (N, ...), with no copy where the array lies right."""
        return contiguous(array.reshape(self.T * self.B, array.shape[-1]))

    def from_rows(self, rows: np.ndarray) -> Any:
        """Packed rows in the caller's form."""
        return rows.reshape(self.T, self.B, rows.shape[1])

    def to_state(self, state: np.ndarray) -> np.ndarray:
        """A state of the caller as (L * D, B, ...), in the order of the rows."""
        return contiguous(state)

    def from_state(self, state: np.ndarray) -> np.ndarray:
        """A state (L * D, B, ...) in the caller's form and order."""
        return state


class BatchFirst(Layout):
    """Equal sequences, batch first: (B, T, ...)."""

    def shape(self, features: int) -> tuple[int, ...]:
        return (self.B, self.T, features)

    def to_rows(self, array: np.ndarray) -> np.ndarray:
        return contiguous(array.transpose(1, 0, 2).reshape(self.T * self.B, array.shape[-1]))

    def from_rows(self, rows: np.ndarray) -> np.ndarray:
        return rows.reshape(self.T, self.B, rows.shape[1]).transpose(1, 0, 2)


class Unbatched(Layout):
    """One sequence: (T, ...)."""

    ndim = 2
    state_ndim = 2
    words = "unbatched 2-D input"

    def shape(self, features: int) -> tuple[int, ...]:
        return (self.T, features)

    def state_shape(self, layers: int, features: int) -> tuple[int, ...]:
        return (layers, features)

    def to_rows(self, array: np.ndarray) -> np.ndarray:
        return contiguous(array)

    def from_rows(self, rows: np.ndarray) -> np.ndarray:
        return rows

    def to_state(self, state: np.ndarray) -> np.ndarray:
        return contiguous(state[:, np.newaxis])

    def from_state(self, state: np.ndarray) -> np.ndarray:
        return state[:, 0]


class PackedLayout(Layout):
    """A PackedSequence: rows already; states in the caller's order of sequences."""

    ndim = 2
    words = "a PackedSequence"
    dtype_error = RuntimeError
    dimension_error = ValueError

    def __init__(self, packed: PackedSequence) -> None:
        # Those of `as_packed`: a layout may live on in a pullback, so that it shares nothing that others can write to.
        super().__init__(len(packed.batch_sizes), int(packed.batch_sizes[0]), packed.batch_sizes)
        self.N = len(packed.data)
        self.sorted_indices, self.unsorted_indices = packed.sorted_indices, packed.unsorted_indices

    def shape(self, features: int) -> tuple[int, ...]:
        return (self.N, features)

    def unwrap(self, value: Any, name: str, cuda: bool = False) -> np.ndarray:
        if not is_packed(value):
            raise TypeError(f"{name} must be a PackedSequence as the input was, got {type(value).__name__}")
        packed = as_packed(value, cuda)
        if not np.array_equal(packed.batch_sizes, self.batch_sizes):
            raise RuntimeError(
                f"{name} must have the batch_sizes of the input, {self.batch_sizes}, got {packed.batch_sizes}"
            )
        return packed.data

    def to_rows(self, array: np.ndarray) -> np.ndarray:
        return contiguous(array)

    def from_rows(self, rows: np.ndarray) -> PackedSequence:
        return PackedSequence(rows, self.batch_sizes, self.sorted_indices, self.unsorted_indices)

    def to_state(self, state: np.ndarray) -> np.ndarray:
        return contiguous(state if self.sorted_indices is None else state[:, self.sorted_indices])

    def from_state(self, state: np.ndarray) -> np.ndarray:
        return state if self.unsorted_indices is None else contiguous(state[:, self.unsorted_indices])


def layout_of(value: Any, batch_first: bool, cuda: bool = False) -> tuple[Layout, np.ndarray]:
    """The layout of an input, and its array; with `cuda` it may be one on a GPU.

    Raises
    ------
    TypeError
        If it is no array.
    ValueError
        If it has neither two nor three dimensions.
    RuntimeError
        If it has no time steps, or is a PackedSequence whose parts do not fit together.
    """
    if type(value) is not np.ndarray:
        if is_packed(value):
            packed = as_packed(value, cuda)
            return PackedLayout(packed), packed.data
        value = as_array(value, "input", cuda)
    shape = value.shape
    if len(shape) == 3:
        if batch_first:
            return _equal_sequences(BatchFirst, shape[1], shape[0]), value
        return _equal_sequences(Layout, shape[0], shape[1]), value
    if len(shape) == 2:
        return _equal_sequences(Unbatched, shape[0], 1), value
    raise ValueError(
        "input must be 2-D (T, input_size) or 3-D (T, B, input_size; with batch_first (B, T, input_size)), "
        f"got {len(shape)}-D of shape {shape}"
    )


def contiguous(array: np.ndarray) -> np.ndarray:
    """The array as kernels want it; a copy where it is strided or not aligned."""
    flags = array.flags
    return array if flags.c_contiguous and getattr(flags, "aligned", True) else array.copy()  # CuPy's always are


@lru_cache(maxsize=256)
def _short_sequences(kind: Callable[[int, int], Layout], T: int, B: int) -> Layout:
    return kind(T, B)


def _equal_sequences(kind: Callable[[int, int], Layout], T: int, B: int) -> Layout:
    """A layout, from a small cache where it is small itself."""
    if 0 < T <= 4096:
        return _short_sequences(kind, T, B)
    if T == 0:
        raise RuntimeError("input must have at least one time step (sequence length greater than 0), got 0")
    return kind(T, B)
