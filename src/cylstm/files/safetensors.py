"""The safetensors format, read and written directly. Nothing is executed.

A file is 8 bytes (the length of the header, little-endian), the header (JSON: name → dtype, shape, data_offsets, and
optionally ``__metadata__``, text → text), and the raw little-endian bytes of the tensors, without gaps.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays.quantization import BFLOAT16
from ..words import listed, quoted, with_article
from .container import (
    MAX_DIMENSIONS,
    Contents,
    Tensor,
    TensorFileError,
    damaged,
    is_size,
    is_text_to_text,
    mapped,
    parse_json,
    regular_size,
    replacing,
    widened,
)

#: Of the header, in bytes: about 100,000 tensors.
MAX_HEADER = 10_000_000

#: Size in bits of each dtype of the format, and the NumPy dtype where there is one.
_DTYPES: dict[str, tuple[int, str | None]] = {
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
_NAMES = {np.dtype(dtype): name for name, (_, dtype) in _DTYPES.items() if dtype is not None}


def read(path: Path) -> Contents:
    """Read the header of a file; the tensors are memory-mapped when they are requested."""
    with open(path, "rb") as file:
        size = regular_size(file.fileno(), path)
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise damaged(path, f"the file must have {8 + length} bytes or more for its header, got {size}")
        if length > MAX_HEADER:
            raise damaged(path, f"the header must have at most {MAX_HEADER} bytes, got {length}")
        header = parse_json(file.read(length), path)
        data = mapped(file)

    metadata = header.pop("__metadata__", {})
    if not is_text_to_text(metadata):
        raise damaged(path, "__metadata__ must be a table of text to text, got something else")
    tensors: dict[str, Tensor] = {}
    extents = []
    for name, entry in header.items():
        dtype, shape, begin, end = _checked_entry(entry, name, path)
        extents.append((begin, end, name))
        tensors[name] = _reading(dtype, shape, data, 8 + length + begin, name, path)
    position = 0
    for begin, end, name in sorted(extents):
        if begin != position:
            raise damaged(path, f"{quoted(name)} must begin at byte {position} of the data, got {begin}")
        position = end
    if position != size - 8 - length:
        raise damaged(path, f"the data must have the {position} bytes of the tensors, got {size - 8 - length}")
    return Contents(tensors, metadata)


def write(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write names and arrays as safetensors, under a temporary name first (see :func:`replacing`)."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    arrays, position = [], 0
    for name, array in sorted(tensors.items(), key=lambda item: -item[1].itemsize):  # so that each is aligned
        little = array.dtype.newbyteorder("<")
        is_bfloat16 = array.dtype.name == "bfloat16" or array.dtype == BFLOAT16
        of_format = "BF16" if is_bfloat16 else _NAMES.get(little)
        if of_format is None:
            raise ValueError(
                f"{quoted(name)} must be of a dtype that safetensors has, got {array.dtype}: save as .npz instead"
            )
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


def _checked_entry(entry: Any, name: str, path: Path) -> tuple[str, tuple[int, ...], int, int]:
    """dtype, shape, begin and end of one entry of the header of a safetensors file."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        fields = listed(entry, 5) if isinstance(entry, dict) else with_article(type(entry).__name__)
        raise damaged(path, f"{quoted(name)} must have exactly dtype, shape and data_offsets, got {fields}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise damaged(path, f"{quoted(name)} must have a dtype of the format, got {quoted(dtype)}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(map(is_size, shape)):
        raise damaged(path, f"{quoted(name)} must have a shape of at most {MAX_DIMENSIONS} sizes, got {quoted(shape)}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(is_size, offsets)):
        raise damaged(path, f"{quoted(name)} must have two sizes as data_offsets, got {quoted(offsets)}")
    begin, end = offsets
    bits = math.prod(shape) * _DTYPES[dtype][0]
    if bits % 8 or end - begin != bits // 8:
        raise damaged(path, f"{quoted(name)} of {shape} {dtype} must have {-(-bits // 8)} bytes, got {end - begin}")
    return dtype, tuple(shape), begin, end


def _reading(dtype: str, shape: tuple[int, ...], data: mmap.mmap, offset: int, name: str, path: Path) -> Tensor:
    """A tensor in a safetensors file."""

    def raw(of: Any) -> np.ndarray:
        return np.frombuffer(data, of, math.prod(shape), offset).reshape(shape)

    def refused() -> np.ndarray:
        raise TensorFileError(
            f"{path}: {quoted(name)} must be of a dtype that NumPy has, got {dtype}: convert it to F32 first"
        )

    numpy_dtype = _DTYPES[dtype][1]
    if dtype == "BF16":
        return Tensor("float32", shape, lambda: widened(raw("<u2")), lambda: raw(BFLOAT16.newbyteorder("<")))
    if numpy_dtype is None:
        return Tensor(dtype, shape, refused)
    return Tensor(np.dtype(numpy_dtype).name, shape, lambda: raw(numpy_dtype))
