"""The ``.npz`` format: a zip archive of ``.npy`` files. Nothing is unpickled.

The metadata stand in the archive's comment, so that ``numpy.load`` sees the tensors alone.
"""

from __future__ import annotations

import contextlib
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays.quantization import BFLOAT16
from ..words import quoted
from .archive import check_members, opened
from .container import (
    MAX_DIMENSIONS,
    Contents,
    Tensor,
    TensorFileError,
    damaged,
    is_size,
    is_text_to_text,
    parse_json,
    replacing,
)

_KIND = ".npz file"


def read(path: Path) -> Contents:
    """Read the headers of the arrays of an ``.npz``; the arrays are read when they are requested. Never unpickles."""
    with opened(path, _KIND) as archive:
        check_members(archive, path)
        tensors: dict[str, Tensor] = {}
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if info.filename != name:  # anything else in the archive is not an array
                tensors[name] = _npy_member(archive, info, name, path)
        comment = archive.comment
    metadata: dict[str, Any] = {}
    with contextlib.suppress(TensorFileError):  # others may write comments of their own
        metadata = parse_json(comment, path)
    return Contents(tensors, metadata if is_text_to_text(metadata) else {})


def write(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write names and arrays as an uncompressed ``.npz``, under a temporary name first (see :func:`replacing`)."""
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in tensors.items():
            if array.dtype.name == "bfloat16" or array.dtype == BFLOAT16:
                raise ValueError(
                    f"{quoted(name)} must be of a dtype that .npz has, got bfloat16: save as .safetensors instead"
                )
            # A ZipInfo of our own has a fixed date: the same module gives the same bytes.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
        if metadata:
            archive.comment = json.dumps(dict(metadata)).encode()


def _npy_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, path: Path) -> Tensor:
    with archive.open(info) as member:
        dtype, shape, order = _npy_header(member, name, path)
        begin = member.tell()
    if info.file_size - begin != math.prod(shape) * dtype.itemsize:
        raise damaged(path, f"{quoted(name)} must have the bytes of {shape} {dtype}, got {info.file_size - begin}")

    def array() -> np.ndarray:
        with opened(path, _KIND) as again, again.open(info) as member:
            return np.frombuffer(member.read(), dtype, math.prod(shape), begin).reshape(shape, order=order)

    return Tensor(dtype.name, shape, array)


def _npy_header(member: Any, name: str, path: Path) -> tuple[np.dtype, tuple[int, ...], Any]:
    """dtype, shape and order of an array in .npy format; objects, records and text are refused."""
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(member)
    else:
        raise damaged(path, f"{quoted(name)} must be in version 1.0 or 2.0 of the .npy format, got {version}")
    if dtype.hasobject:
        raise TensorFileError(
            f"{path}: {quoted(name)} must hold numbers, got Python objects, which are never unpickled: save numbers "
            "alone"
        )
    if len(shape) > MAX_DIMENSIONS or not all(map(is_size, shape)):
        raise damaged(path, f"{quoted(name)} must have a shape of at most {MAX_DIMENSIONS} sizes, got {quoted(shape)}")
    return dtype, shape, "F" if fortran else "C"
