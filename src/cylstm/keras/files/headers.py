"""The headers of an HDF5 file's objects, and the trees of groups and chunks, looked at before HDF5 reads them.

HDF5 (to 2.0) takes the memory for a text before it looks whether the file has that much, follows trees that go round in
circles until its stack is full, and messages lead it to other headers. After the HDF5 File Format Specification 3.0:
II.A, the superblock; III.A and III.C, trees and their ends; IV.A, object headers.
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
_LINK_INFO, _TYPE, _LAYOUT, _ATTRIBUTE, _CONTINUATION = 0x02, 0x03, 0x08, 0x0C, 0x10
_SYMBOLS, _ATTRIBUTE_INFO, _CACHE = 0x11, 0x15, 0x18
_CHUNKED = 2  # a layout
_SHARED = 2  # the flag of a message that lies in another object
#: Classes of types that are made of others, and those of which enumerations (bool) and lists (texts) may be.
_COMPOUND, _ENUMERATION, _LISTS, _ARRAY, _PLAIN = 6, 8, 9, 10, (0, 1, 3, 7)


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
        self._checked: set[int] = set()  # headers
        self._nodes: set[int] = set()  # of trees, and heaps of names
        places = _PLACES.get(data[8] if len(data) >= 96 and data[:8] == _BEGIN else -1)
        if places is None or data[places[0] : places[0] + 2] != b"\x08\x08" or self._number(places[1]):
            raise TensorFileError(
                "it must begin as Keras's HDF5 files do, with addresses of 8 bytes from byte 0 on: copy it with h5py's "
                "defaults"
            )
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
        if address in self._checked:  # an array may have several names
            return
        self._checked.add(address)
        form, *first = self._first_piece(address)
        todo, seen = [tuple(first)], {first[0]}
        while todo:
            begin, end = todo.pop()
            self._left -= end - begin
            if not 0 <= begin <= end <= len(self._data) or self._left < 0:
                raise TensorFileError(f"the header at byte {address} must lie in the file, and no part of it twice")
            for kind, at, end_of_message in self._messages(form, begin, end):
                self._check_message(kind, at, end_of_message)
                if kind == _CONTINUATION:
                    piece, length = self._number(at), self._number(at + 8)
                    if piece in seen:
                        raise TensorFileError(f"the header at byte {address} must not go round in circles")
                    seen.add(piece)
                    todo.append((piece + form.around, piece + length - form.around))

    def _check_message(self, kind: int, at: int, end: int) -> None:
        if kind == _ATTRIBUTE:
            self._check_attribute(at, end)
        elif kind == _TYPE:
            self._check_type(at)
        elif kind == _SYMBOLS:
            self._check_symbols(self._number(at), self._number(at + 8))
        elif kind == _LAYOUT:
            self._check_layout(at)
        elif kind == _CACHE:
            raise TensorFileError("the file must not have an image of HDF5's cache, got one: copy it without")

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
            if kind in (_ATTRIBUTE_INFO, _LINK_INFO):
                what = "attributes" if kind == _ATTRIBUTE_INFO else "the names of a group"
                counted = self._number(at + 1, 1) & 1
                heap = self._number(at + 2 + counted * (2 if kind == _ATTRIBUTE_INFO else 8))
                if heap != _NOWHERE:
                    raise TensorFileError(
                        f"{what} must lie in the header of their object, got a heap at byte {heap}: copy the file with "
                        "h5py's defaults"
                    )
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

    def _check_type(self, at: int) -> None:
        """Refuse types in types in types, for which HDF5 takes the square of their depth in memory and time."""
        kind = self._number(at, 1) % 16
        if kind in (_COMPOUND, _ARRAY) or (
            kind in (_ENUMERATION, _LISTS) and self._number(at + 8, 1) % 16 not in _PLAIN
        ):
            raise TensorFileError(f"the type at byte {at} must be one of numbers or texts, got one made of others")

    def _check_layout(self, at: int) -> None:
        """Refuse chunks that HDF5 finds in other ways than by a tree of the first version, and trees with circles."""
        version = self._number(at, 1)
        kind, dimensions = (self._number(at + n, 1) for n in ((2, 1) if version < 3 else (1, 2)))
        if kind != _CHUNKED:
            return
        if version > 3:
            raise TensorFileError(f"the array at byte {at} must be in one piece, got chunks: copy it without them")
        tree = self._number(at + (8 if version < 3 else 3))
        if tree != _NOWHERE:
            self._check_tree(tree, 1, 8 + 8 * dimensions)

    def _check_symbols(self, tree: int, heap: int) -> None:
        """Refuse a group whose names, of which a heap may hold one for many, are together longer than its own heap."""
        size, place = self._number(heap + 8), self._number(heap + 24)
        if place + size > len(self._data) or heap in self._nodes:
            raise TensorFileError(f"the heap of names at byte {heap} must lie in the file, and serve one group")
        self._nodes.add(heap)
        left = size
        for part in self._check_tree(tree, 0, 8):
            for n in range(self._number(part + 6, 2)):
                begin = place + self._number(part + 8 + 40 * n)
                end = self._data.find(b"\0", begin, place + size)
                left -= end + 1 - begin
                if begin < place or end < 0 or left < 0:
                    raise TensorFileError(f"the names of a group must lie beside one another in the heap at {heap}")

    def _check_tree(self, address: int, kind: int, key: int) -> list[int]:
        """The parts of a group. Refuse a tree in which a node is there twice: HDF5 goes round until its stack is full.

        A node tells its kind, its level (0 at the end) and the number of its children, and has keys between these.
        """
        todo: list[tuple[int, int | None]] = [(address, None)]
        parts: list[int] = []
        while todo:
            node, level = todo.pop()
            own, number = self._number(node + 5, 1), self._number(node + 6, 2)
            if node in self._nodes or level not in (None, own) or self._data[node : node + 5] != b"TREE%c" % kind:
                raise TensorFileError(f"the node at byte {node} of a tree must be there once, in its level")
            self._nodes.add(node)
            below = [self._number(node + 24 + key + n * (8 + key)) for n in range(number)]
            if own:
                todo += [(one, own - 1) for one in below]
            elif kind == 0:  # the names of a group
                if len({*below}) < number or not self._nodes.isdisjoint(below):
                    raise TensorFileError(f"each part of the group at byte {node} must be there once")
                self._nodes.update(below)
                parts += below
        return parts

    def _number(self, at: int, width: int = 8) -> int:
        number = self._data[at : at + width]
        if len(number) < width:
            raise TensorFileError(f"a header must lie in the file, got byte {at} of {len(self._data)}")
        return int.from_bytes(number, "little")
