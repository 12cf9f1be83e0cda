"""The headers of an HDF5 file's objects, looked at before HDF5 reads them.

HDF5 (to 2.0) takes the memory for a text before it looks whether the file has that much, and other messages lead it to
other headers. After the HDF5 File Format Specification 3.0: II.A, the superblock; IV.A, object headers.
"""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ...files.container import TensorFileError, mapped

_BEGIN = b"\x89HDF\r\n\x1a\n"
#: By version of the superblock, where are: the sizes of addresses and lengths, that from which all addresses count, the
#: address of the first group's header, and that of the file's own, if it may have one.
_PLACES = {0: (13, 24, 64, None), 1: (13, 28, 68, None), 2: (9, 12, 36, 20), 3: (9, 12, 36, 20)}
_NOWHERE = 2**64 - 1
#: Types of messages.
_ATTRIBUTE, _CONTINUATION, _ATTRIBUTE_INFO = 0x0C, 0x10, 0x15
_SHARED = 2  # the flag of a message that lies in another object
_LISTS = 9  # the class of texts of variable length


@contextlib.contextmanager
def opened(source: Path | io.BytesIO) -> Iterator[Any]:
    """The bytes of a file, without a copy of one on disk."""
    if isinstance(source, io.BytesIO):
        yield source.getvalue()
        return
    with open(source, "rb") as file, mapped(file) as data:
        yield data


class _Form(NamedTuple):
    """How a header is written."""

    head: int  # bytes before each message
    layout: str  # of type, size and flags in them
    around: int  # bytes before and after the messages of a piece: a signature, a sum


class Headers:
    """The headers of a file's objects, checked one by one.

    Parameters
    ----------
    data : bytes or mmap
        The file.

    Raises
    ------
    TensorFileError
        If the file does not begin as those of Keras do, or the header of its first group is refused.
    """

    def __init__(self, data: Any) -> None:
        self._data, self._left = data, len(data)
        places = _PLACES.get(data[8] if len(data) >= 96 and data[:8] == _BEGIN else -1)
        if places is None or data[places[0] : places[0] + 2] != b"\x08\x08" or self._number(places[1]):
            raise TensorFileError("it must begin as Keras's HDF5 files do, with addresses of 8 bytes from byte 0 on")
        self.check(self._number(places[2]))
        if places[3] is not None and (own := self._number(places[3])) != _NOWHERE:
            self.check(own)

    def check(self, address: int) -> None:
        """Refuse an object whose header is not whole, leads to others, or has texts that the file has no room for.

        Raises
        ------
        TensorFileError
            What must be where.
        """
        form, *first = self._first_piece(address)
        todo, seen = [tuple(first)], {first[0]}
        while todo:
            begin, end = todo.pop()
            self._left -= end - begin
            if not 0 <= begin <= end <= len(self._data) or self._left < 0:
                raise TensorFileError(f"the header at byte {address} must lie in the file, and no part of it twice")
            for kind, at, end_of_message in self._messages(form, begin, end):
                if kind == _ATTRIBUTE:
                    self._check_attribute(at, end_of_message)
                if kind == _CONTINUATION:
                    piece, length = self._number(at), self._number(at + 8)
                    if piece in seen:
                        raise TensorFileError(f"the header at byte {address} must not go round in circles")
                    seen.add(piece)
                    todo.append((piece + form.around, piece + length - form.around))

    def _first_piece(self, address: int) -> tuple[_Form, int, int]:
        """How the header is written, and where the messages of its first piece begin and end."""
        if self._data[address : address + 4] != b"OHDR":
            at = address + 16
            return _Form(8, "<HHB", 0), at, at + self._number(address + 8, 4)
        flags = self._number(address + 5, 1)
        width = 1 << (flags & 3)
        at = address + 6 + (16 if flags & 32 else 0) + (4 if flags & 16 else 0)
        return _Form(6 if flags & 4 else 4, "<BHB", 4), at + width, at + width + self._number(at, width)

    def _messages(self, form: _Form, at: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Type, begin and end of each message of a piece."""
        while at + form.head <= end:
            kind, size, flags = struct.unpack_from(form.layout, self._data, at)
            at += form.head
            if at + size > end:
                raise TensorFileError(f"a message of a header must end by byte {end}, got {at + size}")
            if flags & _SHARED:
                raise TensorFileError(f"the message at byte {at} must lie in its header, got one of another object")
            if kind == _ATTRIBUTE_INFO:
                heap = self._number(at + (4 if self._number(at + 1, 1) & 1 else 2))
                if heap != _NOWHERE:
                    raise TensorFileError(f"attributes must lie in the header of their object, got a heap at {heap}")
            yield kind, at, at + size
            at += size

    def _check_attribute(self, at: int, end: int) -> None:
        """Refuse one whose type or shape is that of another object, and texts longer than the file.

        A text of variable length is its length, and where it is.
        """
        version, flags = self._number(at, 1), self._number(at + 1, 1)
        sizes = [self._number(at + place, 2) for place in (2, 4, 6)]  # of name, type and shape
        if version > 1 and flags & 3:
            raise TensorFileError(f"the attribute at byte {at} must have its own type, got that of another object")
        if version == 1:
            sizes = [size + -size % 8 for size in sizes]
        kind = at + (9 if version > 2 else 8) + sizes[0]
        if self._number(kind, 1) % 16 == _LISTS:
            texts = range(kind + sizes[1] + sizes[2], end - 15, 16)
            if sum(self._number(text, 4) for text in texts) > len(self._data):
                raise TensorFileError(f"the texts of the attribute at byte {at} must lie in the file, got longer ones")

    def _number(self, at: int, width: int = 8) -> int:
        number = self._data[at : at + width]
        if len(number) < width:
            raise TensorFileError(f"a header must lie in the file, got byte {at} of {len(self._data)}")
        return int.from_bytes(number, "little")
