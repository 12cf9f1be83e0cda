"""What a file of tensors is to its readers and writers: contents, errors, limits, and a file replaced as a whole.

Every file is taken as hostile: what does not fit together is a ValueError that begins with the file's name, and no
more memory is requested than the file has bytes to fill (compressed content: see :func:`expansion_limit`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ..arrays.quantization import BFLOAT16, from_bfloat16_bits
from ..words import error_text, quoted, with_article

#: Content may grow to MAX_EXPANDED bytes, or to MAX_EXPANSION times the bytes that it has in the file.
MAX_EXPANSION = 100
MAX_EXPANDED = 64 << 20
MAX_PARSED = 1 << 20
MAX_DIMENSIONS = 32

#: Errors of reading that say nothing about the content.
_OF_SYSTEM = (errno.EACCES, errno.EIO, errno.EMFILE, errno.ENFILE)
_DAMAGED = "is damaged, not complete, or of another kind: copy or write it anew"


class TensorFileError(ValueError):
    """A file whose content does not fit together, or holds what cannot be read."""


class Tensor(NamedTuple):
    """One tensor of a file: what it is, and how to get it."""

    dtype: str  # name of the NumPy dtype that read() gives; of what NumPy does not have, the format's own name
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]  # possibly read-only and memory-mapped
    bits: Callable[[], np.ndarray] | None = None  # of a bfloat16 that read() widens: as it is, of dtype `BFLOAT16`
    refused: str = ""  # why no module can be made of it: what it is instead of a plain tensor


class Contents(NamedTuple):
    """What a reader returns."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    refused: Mapping[str, str] = MappingProxyType({})  # prefix of an LSTM that cylstm does not compute → why
    others: Mapping[str, str] = MappingProxyType({})  # prefix of another layer → what it is, where the file says it
    #: Prefix of a layer → how many parameters the file's own convention counts there; in the order of the model, where
    #: that of the tensors is another.
    parameters: Mapping[str, int] = MappingProxyType({})
    parts: Mapping[str, str] = MappingProxyType({})  # prefix of a layer that is part of a module → what it is there
    options: Mapping[str, str] = MappingProxyType({})  # prefix → what the file says of the layer, in the file's order
    assumed: str = ""  # what is taken for granted because the file does not tell it


def as_tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Arrays as tensors of a file."""
    return {name: _as_tensor(array) for name, array in arrays.items()}


def _as_tensor(array: np.ndarray) -> Tensor:
    if array.dtype == BFLOAT16:
        return Tensor("float32", array.shape, partial(from_bfloat16_bits, array), partial(np.asarray, array))
    return Tensor(array.dtype.name, array.shape, partial(np.asarray, array))


def expansion_limit(size: int) -> int:
    """The number of bytes to which so many bytes of a file may grow."""
    return max(MAX_EXPANDED, MAX_EXPANSION * size)


def parsing_limit(size: int) -> int:
    """The number of bytes to which JSON or a pickle in so many bytes of a file may grow: objects take far more."""
    return max(MAX_PARSED, MAX_EXPANSION * size)


def existing(path: Path) -> Path:
    """The path of a regular file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is something else.
    """
    try:
        is_there = path.exists()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        is_there = False
    if not is_there:
        raise FileNotFoundError(f"no such file: {quoted(str(path))}")
    if not path.is_file():
        raise ValueError(f"{path} must be a regular file, got a folder, pipe or device: copy it to a file first")
    return path


def widened(bits: np.ndarray) -> np.ndarray:
    """bfloat16 as float32, of which it is the upper half: every value is exact."""
    return (bits.view("<u2").astype("<u4") << 16).view("<f4")


def replaceable(path: Path) -> Path:
    """What :func:`replacing` will write: the path itself, or what it links to.

    Raises
    ------
    FileNotFoundError
        If its folder is missing.
    ValueError
        If it is there and not a regular file.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"no such folder: {str(target.parent)!r}")
    if target.exists() and not target.is_file():
        raise ValueError(f"{path} must be a regular file or a new one, got a folder, pipe or device: give another name")
    return target


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name in the folder of ``path``, moved to ``path`` when the block ends well, removed when it does not.

    So ``path`` holds its old content or the new one, never half of it.
    """
    target = replaceable(path)
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")  # short: any name that path may have will do
    try:
        temporary.touch(mode=0o666, exist_ok=False)  # less the umask
        if target.exists():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":  # the new name reaches the disk too
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def damaged(path: Path, reason: str) -> TensorFileError:
    """The error for content that does not fit together; the reason says what must be there, and what is."""
    return TensorFileError(f"{path}: {reason}; the file {_DAMAGED}")


def unreadable(what: Path | str, kind: str, error: Exception) -> Exception:
    """The error for content in which the reader of this kind fails; where the system fails, that is the error."""
    number = error.errno if isinstance(error, OSError) else None
    of_protobuf = type(error).__name__ == "DecodeError" and "alloc failed" in str(error)
    if number == errno.ENOMEM or of_protobuf or isinstance(error, MemoryError):
        return MemoryError(f"{what} cannot be read without more memory, got {error_text(error)}")
    if number in _OF_SYSTEM:
        return OSError(number, os.strerror(number), str(what))
    return TensorFileError(f"{what} must be a readable {kind}, got {error_text(error)}; it {_DAMAGED}")


def mapped(file: BinaryIO) -> mmap.mmap:
    """The content of an open file, which is read when it is looked at."""
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        raise MemoryError(f"{file.name} cannot be read without more memory") from error


def regular_size(descriptor: int, path: Path) -> int:
    """The size of an open file, which must be a regular one."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} must be a regular file, got a folder, pipe or device: copy it to a file first")
    return status.st_size


def parse_json(text: bytes, path: Path) -> dict[str, Any]:
    """A table in JSON in which no name is there twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            raise ValueError("each name must be there once, got one twice")
        return table

    def refuse(constant: str) -> None:
        raise ValueError(f"numbers must be those of JSON, got {constant}")

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise damaged(path, f"the header must be JSON, got {error_text(error)}") from error
    if not isinstance(header, dict):
        raise damaged(path, f"the header must be a table, got {with_article(type(header).__name__)}")
    return header


def is_text_to_text(table: Any) -> bool:
    """Whether it is a table as metadata are."""
    return isinstance(table, dict) and all(isinstance(value, str) for value in table.values())


def is_size(value: Any) -> bool:
    """Whether it can be a dimension or an offset."""
    return type(value) is int and 0 <= value < 2**63
