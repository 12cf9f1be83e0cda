"""HDF5 as Keras uses it: groups, arrays and texts. Links, data in other files, and filters are refused."""

from __future__ import annotations

import io
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...files.container import TensorFileError, expansion_limit, widened
from ...words import counted, named, needs, quoted
from .headers import Headers, opened
from .heaps import check_heaps

#: Nested groups, and the letters of all their names together.
MAX_DEPTH, MAX_PATH = 50, 4_000
#: The attribute of the file in which cylstm keeps what Keras has no place for: text to text, as JSON.
METADATA = "cylstm"
#: The groups of training, which are not read: of Keras 3 and 2.12 to 2.15, and of older whole models.
TRAINING = re.compile(r"/?(optimizer|metrics|optimizer_weights|loss_tracker)")

#: Bytes that HDF5 takes for a file, and more.
ROOM = 16 << 20


class Group(NamedTuple):
    """The arrays of a group, without those of groups inside it."""

    path: str
    name: str | None  # what Keras 3 says that the object is called
    order: list[str] | None  # the names of the layers or weights in it, which older versions of Keras list
    arrays: dict[str, np.ndarray]


class Hdf5(NamedTuple):
    """What a file of HDF5 holds."""

    groups: dict[str, Group]  # by path
    attributes: dict[str, str | None]  # of the file, those that were asked for


def read_hdf5(source: Path | io.BytesIO, attributes: tuple[str, ...]) -> Hdf5:
    """All groups of a file but those of training, and texts of the file."""
    size = source.stat().st_size if isinstance(source, Path) else source.getbuffer().nbytes
    with opened(source) as data:
        headers, texts = Headers(data), Texts(expansion_limit(size))
        check_heaps(data)
        with open_hdf5(source, "r") as file:
            found = {name: texts.one(file, name) for name in attributes}
            return Hdf5({group.path: group for group in _groups(file, headers, texts, size)}, found)


def _groups(file: Any, headers: Headers, texts: Texts, size: int) -> Iterator[Group]:
    """The groups with their arrays, of a file of this size; each once, whatever links lead to it."""
    h5py = import_h5py()
    todo, seen, total = [("", file, 0)], set(), 0
    while todo:
        path, group, depth = todo.pop(0)
        address = h5py.h5o.get_info(group.id).addr
        if address in seen or depth > MAX_DEPTH:
            raise TensorFileError(
                f"the group {quoted(path)} must be there once, at most {MAX_DEPTH} deep, got it again or deeper"
            )
        seen.add(address)
        arrays: dict[str, np.ndarray] = {}
        for name in group:
            inside = f"{path}/{name}".lstrip("/")
            if TRAINING.fullmatch(inside):
                continue
            if len(inside) > MAX_PATH:  # each member would have it again
                raise TensorFileError(f"{named(inside)} must have at most {MAX_PATH} letters, got {len(inside)}")
            link = group.id.links.get_info(name.encode("utf-8", "surrogateescape"))
            if link.type != h5py.h5l.TYPE_HARD:
                raise TensorFileError(f"{named(inside)} must be in its place, got a link, which is not followed")
            headers.check(link.u)  # its address
            item = group[name]
            if isinstance(item, h5py.Group):
                todo.append((inside, item, depth + 1))
                continue
            bfloat16 = _check_array(h5py, item, inside, texts)
            if not bfloat16 and item.dtype.kind not in "biuf":  # text and the like: no weights
                continue
            if item.shape is None:
                raise TensorFileError(f"{named(inside)} must be an array, got nothing")
            total += item.nbytes
            if total > size or item.id.get_storage_size() < item.nbytes:
                raise TensorFileError(f"{named(inside)} must have all its {item.nbytes} bytes in the file, got fewer")
            array = item[()]
            arrays[name] = widened(array) if bfloat16 else array
        order = texts.several(group, "layer_names")
        if order is None:
            order = texts.several(group, "weight_names")
        yield Group(path, texts.one(group, "name"), order, arrays)


def _check_array(h5py: Any, item: Any, path: str, texts: Texts) -> bool:
    """Refuse what is no plain array in this file. Whether it is of bfloat16, which HDF5 does not have."""
    if not isinstance(item, h5py.Dataset) or item.is_virtual or item.external:
        raise TensorFileError(f"{named(path)} must be an array in this file, got something else")
    if filters := item.id.get_create_plist().get_nfilters():
        # What is unpacked has any size, and some filters crash on damaged bytes.
        raise TensorFileError(
            f"{named(path)} must be stored as it is, as Keras stores it, got {counted(filters, 'filter')} "
            "(compression or checksums): copy it without them"
        )
    return item.dtype == "V2" and texts.one(item, "dtype") == "bfloat16"


class Texts:
    """Attributes that are texts, within limits.

    Parameters
    ----------
    limit : int
        The number of bytes that an attribute may have. (Texts of variable length are as long as `Headers` has found.)
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def one(self, item: Any, name: str) -> str | None:
        """The attribute, which is one text, if it is there."""
        if name not in item.attrs:
            return None
        if self._identifier(item, name).shape != ():
            raise TensorFileError(f"the attribute {quoted(name)} of {named(item.name)} must be one text, got several")
        return _text(item.attrs[name])

    def several(self, item: Any, name: str) -> list[str] | None:
        """The attribute, which is a list of texts, if it is there; a long one is in pieces, name0, name1 …"""
        names = [name] if name in item.attrs else []
        while not names or names[-1] != name:
            following = f"{name}{len(names)}"
            if following not in item.attrs:
                break
            names.append(following)
        found: list[str] = []
        for one in names:
            shape = self._identifier(item, one).shape
            if len(shape) != 1:
                raise TensorFileError(
                    f"the attribute {quoted(one)} of {named(item.name)} must be a list of texts, got {shape}"
                )
            found += map(_text, item.attrs[one]) if shape[0] else []
        return found if names else None

    def _identifier(self, item: Any, name: str) -> Any:
        """The attribute, whose kind and size are checked."""
        identifier = item.attrs.get_id(name)
        if identifier.shape is None:
            raise TensorFileError(f"the attribute {quoted(name)} of {named(item.name)} must be text, got nothing")
        kind, number = identifier.get_type(), int(np.prod(identifier.shape, dtype=object))
        if number == 0:  # an empty list is one of numbers
            return identifier
        if kind.get_class() != import_h5py().h5t.STRING:  # some other kinds crash h5py
            raise TensorFileError(
                f"the attribute {quoted(name)} of {named(item.name)} must be text, got something else"
            )
        if number * kind.get_size() > self.limit:
            raise TensorFileError(
                f"the attribute {quoted(name)} of {named(item.name)} must have at most {self.limit} bytes, got more"
            )
        return identifier


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def import_h5py() -> Any:
    """The package ``h5py``, if it is installed."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError(needs("Keras's files", "h5py")) from error
    return h5py


def open_hdf5(source: Path | io.BytesIO, mode: str) -> Any:
    """The file, as h5py has it.

    Raises
    ------
    MemoryError
        If there is not the memory that HDF5 takes for a file: in some of its places it would end the process.
    """
    try:
        mmap.mmap(-1, ROOM).close()
    except OSError as error:
        raise MemoryError(f"a file of HDF5 must have {ROOM} bytes of memory to be opened, got less") from error
    return import_h5py().File(source, mode)
