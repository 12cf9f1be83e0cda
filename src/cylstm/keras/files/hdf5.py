"""HDF5 as Keras uses it: groups, arrays and texts. Links, and data in other files, are refused."""

from __future__ import annotations

import contextlib
import io
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...files.container import MAX_EXPANDED, TensorFileError, widened
from ...words import needs, with_article

#: Nested groups.
MAX_DEPTH = 50

_HEAP = b"GCOL\x01\0\0\0"


class Group(NamedTuple):
    """The arrays of a group, without those of groups inside it."""

    path: str
    name: str | None  # what Keras 3 says that the object is called
    arrays: dict[str, np.ndarray]


def groups(h5py: Any, file: Any, limit: int) -> Iterator[Group]:
    """All groups of a file with their arrays; each once, whatever links lead to it."""
    todo, seen, total = [("", file, 0)], set(), 0
    while todo:
        path, group, depth = todo.pop(0)
        address = h5py.h5o.get_info(group.id).addr
        if address in seen or depth > MAX_DEPTH:
            raise TensorFileError(
                f"the group {path!r} must be there once, at most {MAX_DEPTH} deep, got it again or deeper"
            )
        seen.add(address)
        arrays: dict[str, np.ndarray] = {}
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise TensorFileError(f"{path}/{name} must be in its place, got a link, which is not followed")
            item = group[name]
            if isinstance(item, h5py.Group):
                todo.append((f"{path}/{name}".lstrip("/"), item, depth + 1))
                continue
            if not isinstance(item, h5py.Dataset) or item.is_virtual or item.external:
                raise TensorFileError(f"{path}/{name} must be an array in this file, got something else")
            bfloat16 = item.dtype == "V2" and attribute(item, "dtype") == "bfloat16"
            if not bfloat16 and item.dtype.kind not in "biuf":  # text and the like: no weights
                continue
            total += item.size * item.dtype.itemsize
            if total > limit:
                raise TensorFileError(f"the arrays must have at most {limit} bytes, got {total} or more")
            array = item[()]
            arrays[name.partition(":")[0]] = widened(array) if bfloat16 else array
        yield Group(path, attribute(group, "name"), arrays)


def attribute(item: Any, name: str) -> str | None:
    """An attribute that is one text."""
    if name not in item.attrs:
        return None
    identifier = item.attrs.get_id(name)
    if identifier.shape != () or identifier.get_storage_size() > MAX_EXPANDED:
        raise TensorFileError(f"the attribute {name!r} of {item.name} must be one text, got something else")
    value = item.attrs[name]
    if not isinstance(value, bytes | str):
        kind = with_article(type(value).__name__)
        raise TensorFileError(f"the attribute {name!r} of {item.name} must be text, got {kind}")
    return value.decode() if isinstance(value, bytes) else value


def import_h5py() -> Any:
    """The package ``h5py``, if it is installed."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError(needs("Keras's files", "h5py")) from error
    return h5py


def check_heaps(source: Path | io.BytesIO) -> None:
    """Refuse damage in the heaps of texts, which HDF5 itself (1.14) reads without end.

    A heap begins with GCOL, its version and its size; its objects have an index and a size; the free rest has index 0.
    """
    with contextlib.ExitStack() as stack:
        data: Any
        if isinstance(source, Path):
            file = stack.enter_context(open(source, "rb"))
            data = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        else:
            data = source.getvalue()
        begin = data.find(_HEAP)
        while begin >= 0:
            end, at = begin + int.from_bytes(data[begin + 8 : begin + 16], "little"), begin + 16
            while at + 16 <= min(end, len(data)):
                index, size = (
                    int.from_bytes(data[at : at + 2], "little"),
                    int.from_bytes(data[at + 8 : at + 16], "little"),
                )
                if index == 0 and at + size != end:
                    raise TensorFileError(f"a heap of texts must end at byte {end}, got {at + size}")
                at += size if index == 0 else 16 + size + -size % 8
            if at > end or end - at >= 16:
                raise TensorFileError(f"a heap of texts must end at byte {end}, got {at}")
            begin = data.find(_HEAP, begin + 1)
