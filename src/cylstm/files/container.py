"""Names and arrays in files: safetensors and ``.npz``, read and written directly on the format. Nothing is executed.

A safetensors file is 8 bytes (the length of the header, little-endian), the header (JSON: name → dtype, shape,
data_offsets, and optionally ``__metadata__``, text → text), and the raw little-endian bytes of the tensors, without
gaps. An ``.npz`` file is a zip archive of ``.npy`` files; the metadata stand in the archive's comment, so that
``numpy.load`` sees the tensors alone.

Every file is taken as hostile: what does not fit together is a ValueError that begins with the file's name, and no
more memory is asked for than the file has bytes to fill (compressed archives: see :data:`MAX_EXPANSION`).
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import secrets
import stat
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

#: Of the header of a safetensors file, in bytes: about 100,000 tensors.
MAX_HEADER = 10_000_000
#: A compressed member of an .npz that grows more than this many times, and beyond MAX_EXPANDED bytes, is refused.
MAX_EXPANSION = 100
MAX_EXPANDED = 64 << 20
MAX_DIMENSIONS = 32

#: Size in bits of each dtype that safetensors knows, and the NumPy dtype where there is one.
_SAFETENSORS_DTYPES: dict[str, tuple[int, str | None]] = {
    "BOOL": (8, "?"),
    "U8": (8, "u1"),
    "I8": (8, "i1"),
    "U16": (16, "<u2"),
    "I16": (16, "<i2"),
    "U32": (32, "<u4"),
    "I32": (32, "<i4"),
    "U64": (64, "<u8"),
    "I64": (64, "<i8"),
    "F16": (16, "<f2"),
    "F32": (32, "<f4"),
    "F64": (64, "<f8"),
    "C64": (64, "<c8"),
    "BF16": (16, None),  # read as float32
    "F4": (4, None),
    "F6_E2M3": (6, None),
    "F6_E3M2": (6, None),
    "F8_E5M2": (8, None),
    "F8_E4M3": (8, None),
    "F8_E5M2FNUZ": (8, None),
    "F8_E4M3FNUZ": (8, None),
    "F8_E8M0": (8, None),
}
_SAFETENSORS_NAMES = {np.dtype(dtype): name for name, (_, dtype) in _SAFETENSORS_DTYPES.items() if dtype is not None}


class TensorFileError(ValueError):
    """A file whose content does not fit together, or holds what cannot be read."""


class Tensor(NamedTuple):
    """One tensor of a file: what it is, and how to get it."""

    dtype: str  # name of the NumPy dtype that read() gives; of what NumPy does not have, the format's own name
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]  # possibly read-only and memory-mapped


class Contents(NamedTuple):
    """What a reader returns."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    refused: Mapping[str, str] = MappingProxyType({})  # prefix of an LSTM that cylstm does not compute → why
    others: Mapping[str, str] = MappingProxyType({})  # prefix of another layer → what it is, where the file says it


def read_safetensors(path: Path) -> Contents:
    """Read the header of a safetensors file; the tensors are memory-mapped when they are asked for."""
    with open(path, "rb") as file:
        size = _regular_size(file.fileno(), path)
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise _damaged(path, f"the header should have {length} bytes, and the file has {size}")
        if length > MAX_HEADER:
            raise _damaged(path, f"the header has {length} bytes, more than {MAX_HEADER}")
        header = _parse_json(file.read(length), path)
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    metadata = header.pop("__metadata__", {})
    if not _is_text_to_text(metadata):
        raise _damaged(path, "__metadata__ is not a table of text to text")
    tensors: dict[str, Tensor] = {}
    extents = []
    for name, entry in header.items():
        dtype, shape, begin, end = _checked_entry(entry, name, path)
        extents.append((begin, end, name))
        tensors[name] = Tensor(*_reading(dtype, shape, data, 8 + length + begin, name, path))
    position = 0
    for begin, end, name in sorted(extents):
        if begin != position:
            raise _damaged(path, f"{name!r} begins at byte {begin} of the data, where {position} was expected")
        position = end
    if position != size - 8 - length:
        raise _damaged(path, f"the tensors take {position} bytes, and {size - 8 - length} bytes of data are there")
    return Contents(tensors, metadata)


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write names and arrays as safetensors, under a temporary name first (see :func:`replacing`)."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    arrays, position = [], 0
    for name, array in sorted(tensors.items(), key=lambda item: -item[1].itemsize):  # so that each is aligned
        little = array.dtype.newbyteorder("<")
        of_format = "BF16" if array.dtype.name == "bfloat16" else _SAFETENSORS_NAMES.get(little)
        if of_format is None:
            raise ValueError(f"safetensors has no dtype for {array.dtype} ({name!r}): save as .npz instead")
        header[name] = {
            "dtype": of_format,
            "shape": list(array.shape),
            "data_offsets": [position, position + array.nbytes],
        }
        arrays.append(np.ascontiguousarray(array, little))
        position += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays:
            file.write(array.reshape(-1).view(np.uint8).data)


def read_npz(path: Path) -> Contents:
    """Read the headers of the arrays of an ``.npz``; the arrays are read when they are asked for. Never unpickles."""
    with _opened_npz(path) as archive:
        tensors: dict[str, Tensor] = {}
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name in tensors:
                raise _damaged(path, f"{name!r} is there twice")
            if info.filename != name:  # anything else in the archive is not an array
                tensors[name] = _npy_member(archive, info, name, path)
        comment = archive.comment
    metadata: dict[str, Any] = {}
    with contextlib.suppress(TensorFileError):  # others may write comments of their own
        metadata = _parse_json(comment, path)
    return Contents(tensors, metadata if _is_text_to_text(metadata) else {})


def write_npz(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write names and arrays as an uncompressed ``.npz``, under a temporary name first (see :func:`replacing`)."""
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in tensors.items():
            if array.dtype.name == "bfloat16":
                raise ValueError(f".npz has no dtype for bfloat16 ({name!r}): save as .safetensors instead")
            # A ZipInfo of our own has a fixed date: the same module gives the same bytes.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
        if metadata:
            archive.comment = json.dumps(dict(metadata)).encode()


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
        raise ValueError(f"{path} is not a file that could be replaced: give the name of a file")
    return target


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name in the folder of ``path``, moved to ``path`` when the block ends well, removed when it does not.

    So ``path`` holds its old content or the new one, never half of it.
    """
    target = replaceable(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
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


def _damaged(path: Path, reason: str) -> TensorFileError:
    return TensorFileError(f"{path}: {reason}; the file is damaged, not complete, or of another kind")


def _regular_size(descriptor: int, path: Path) -> int:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is not a regular file: copy it to one first")
    return status.st_size


def _parse_json(text: bytes, path: Path) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            raise ValueError("a name is there twice")
        return table

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise _damaged(path, f"the header is not readable ({error})") from error
    if not isinstance(header, dict):
        raise _damaged(path, f"the header is a {type(header).__name__}, not a table")
    return header


def _is_text_to_text(table: Any) -> bool:
    return isinstance(table, dict) and all(isinstance(value, str) for value in table.values())


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _checked_entry(entry: Any, name: str, path: Path) -> tuple[str, tuple[int, ...], int, int]:
    """dtype, shape, begin and end of one entry of the header of a safetensors file."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _damaged(path, f"{name!r} does not have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _SAFETENSORS_DTYPES:
        raise _damaged(path, f"{name!r} has the unknown dtype {dtype!r:.50}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(map(_is_size, shape)):
        raise _damaged(path, f"{name!r} has the shape {shape!r:.100}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise _damaged(path, f"{name!r} has the data_offsets {offsets!r:.100}")
    begin, end = offsets
    bits = math.prod(shape) * _SAFETENSORS_DTYPES[dtype][0]
    if bits % 8 or end - begin != bits // 8:
        raise _damaged(path, f"{name!r} of {shape} {dtype} needs {-(-bits // 8)} bytes, and has {end - begin}")
    return dtype, tuple(shape), begin, end


def _reading(
    dtype: str, shape: tuple[int, ...], data: mmap.mmap, offset: int, name: str, path: Path
) -> tuple[str, tuple[int, ...], Callable[[], np.ndarray]]:
    """The fields of a Tensor in a safetensors file."""

    def raw(of: str) -> np.ndarray:
        return np.frombuffer(data, of, math.prod(shape), offset).reshape(shape)

    def bfloat16() -> np.ndarray:  # the upper half of a float32: every value is exact
        return (raw("<u2").astype("<u4") << 16).view("<f4")

    def refused() -> np.ndarray:
        raise TensorFileError(f"{path}: {name!r} is {dtype}, which cylstm does not read: convert it to F32 first")

    numpy_dtype = _SAFETENSORS_DTYPES[dtype][1]
    if dtype == "BF16":
        return "float32", shape, bfloat16
    if numpy_dtype is None:
        return dtype, shape, refused
    return np.dtype(numpy_dtype).name, shape, lambda: raw(numpy_dtype)


@contextlib.contextmanager
def _opened_npz(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive; the many kinds of error that a damaged one raises become one."""
    with open(path, "rb") as file:
        _regular_size(file.fileno(), path)
        try:
            with zipfile.ZipFile(file) as archive:
                yield archive
        except TensorFileError:
            raise
        except Exception as error:  # BadZipFile, zlib.error, EOFError, OSError (seek), struct.error, RuntimeError …
            raise _damaged(path, f"not a readable .npz ({type(error).__name__}: {error})") from error


def _npy_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, path: Path) -> Tensor:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _damaged(path, f"{name!r} is compressed with a method that numpy.savez does not use")
    if info.compress_size > path.stat().st_size:
        raise _damaged(path, f"{name!r} has {info.compress_size} bytes, more than the file")
    if info.file_size > max(MAX_EXPANDED, MAX_EXPANSION * info.compress_size):
        raise _damaged(path, f"{name!r} would grow from {info.compress_size} to {info.file_size} bytes")
    with archive.open(info) as member:
        dtype, shape, order = _npy_header(member, name, path)
        begin = member.tell()
    if info.file_size - begin != math.prod(shape) * dtype.itemsize:
        raise _damaged(path, f"{name!r} of {shape} {dtype} does not fit into {info.file_size - begin} bytes")

    def read() -> np.ndarray:
        with _opened_npz(path) as again, again.open(info) as member:
            return np.frombuffer(member.read(), dtype, math.prod(shape), begin).reshape(shape, order=order)

    return Tensor(dtype.name, shape, read)


def _npy_header(member: Any, name: str, path: Path) -> tuple[np.dtype, tuple[int, ...], Any]:
    """dtype, shape and order of an array in .npy format; objects, records and text are refused."""
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(member)
    else:
        raise _damaged(path, f"{name!r} is in version {version} of the .npy format")
    if dtype.hasobject:
        raise TensorFileError(f"{path}: {name!r} holds Python objects, which are never unpickled: save numbers alone")
    if len(shape) > MAX_DIMENSIONS or not all(map(_is_size, shape)):
        raise _damaged(path, f"{name!r} has the shape {shape!r:.100}")
    return dtype, shape, "F" if fortran else "C"
