"""The heaps of an HDF5 file, looked at before HDF5 itself does, which follows some damage without end.

After the HDF5 File Format Specification 3.0: III.D, local heaps; III.E, global heaps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...files.container import TensorFileError

_TEXTS = b"GCOL\x01"  # three bytes follow that HDF5 does not look at
_NAMES = b"HEAP\x00"  # likewise
_LAST = 1  # the place after the last free block


def check_heaps(data: Any) -> None:
    """Refuse damage in heaps of names and of texts, which HDF5 (to 2.0) follows without end.

    Parameters
    ----------
    data : bytes or mmap
        The file.

    Raises
    ------
    TensorFileError
        What must be where.
    """
    _check_names(data)
    _check_texts(data)


def _places(data: Any, signature: bytes) -> Iterator[int]:
    """Where a signature is."""
    begin = data.find(signature)
    while begin >= 0:
        yield begin
        begin = data.find(signature, begin + 1)


def _number(data: Any, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")


def _check_names(data: Any) -> None:
    """Of heaps of names: their free blocks, of at least 16 bytes, are a list with an end.

    A heap begins with HEAP and its version, and tells its size, its first free block, and where it is; a free block
    tells the next one.
    """
    steps = len(data) // 16  # that heaps beside one another can have
    for begin in _places(data, _NAMES):
        size, free, place = (_number(data, begin + at) for at in (8, 16, 24))
        while free != _LAST and free + 16 <= size and place + free + 16 <= len(data):  # what HDF5 follows
            free = _number(data, place + free)
            steps -= 1
            if steps < 0:
                raise TensorFileError("the free blocks of heaps of names must lie beside one another, got a circle")


def _check_texts(data: Any) -> None:
    """Of heaps of texts: their objects fill them.

    A heap begins with GCOL, its version and its size; its objects have an index and a size; the free rest has index 0.
    """
    steps = len(data) // 16  # that heaps beside one another can have
    for begin in _places(data, _TEXTS):
        end, at = begin + _number(data, begin + 8), begin + 16
        if end > len(data):
            raise TensorFileError(f"a heap of texts must end within {len(data)} bytes, got {end}")
        while at + 16 <= end:
            index, size = int.from_bytes(data[at : at + 2], "little"), _number(data, at + 8)
            if index == 0 and at + size != end:
                raise TensorFileError(f"a heap of texts must end at byte {end}, got {at + size}")
            at += size if index == 0 else 16 + size + -size % 8
            steps -= 1
        if at > end or end - at >= 16:
            raise TensorFileError(f"a heap of texts must end at byte {end}, got {at}")
        if steps < 0:
            raise TensorFileError("heaps of texts must lie beside one another, got some that overlap")
