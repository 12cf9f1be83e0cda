"""The arrays of TensorProtos: those in the model, and those in files beside it."""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np

from ..files.container import TensorFileError, expansion_limit
from ..words import quoted
from .operators import Unknown

#: The values of a file may take this many times its bytes, beyond what any file may take.
_MULTIPLE = 16
#: All trials with one file.
_TRIALS = 512 << 20


class Budget:
    """The bytes that the values of one model may still take, all of them together."""

    def __init__(self, limit: int) -> None:
        self.limit = self._left = limit

    @classmethod
    def of_file(cls, size: int) -> Budget:
        """That of a file of so many bytes."""
        return cls(expansion_limit(0) + _MULTIPLE * size)

    @classmethod
    def of_trials(cls) -> Budget:
        """That of trials, whose values are not kept: it bounds the time that they take."""
        return cls(_TRIALS)

    def grow(self, size: int) -> None:
        """So many bytes more were in a file beside the model."""
        self.limit += _MULTIPLE * size
        self._left += _MULTIPLE * size

    def take(self, size: int, what: str) -> None:
        """Account for a value.

        Raises
        ------
        TensorFileError
            If all of them have become too large for the file.
        """
        self._left -= size
        if self._left < 0:
            raise TensorFileError(
                f"all values together must have at most {self.limit} bytes, got more with {quoted(what)}: "
                "compute them once and store them as initializers"
            )


def array_of(tensor: Any, folder: Path | None, budget: Budget) -> np.ndarray:
    """The array of a TensorProto, from a file beside the model if it is there; bfloat16 becomes float32."""
    from onnx import TensorProto, numpy_helper

    if not isinstance(tensor, TensorProto):
        raise Unknown("a sparse constant")
    if min(tensor.dims, default=0) < 0 or math.prod(tensor.dims) > 2**40:
        raise TensorFileError(
            f"{quoted(tensor.name)} must have sizes of 0 or more and at most 2**40 elements, got "
            f"{quoted(tuple(tensor.dims))}"
        )
    if tensor.data_location == TensorProto.EXTERNAL:
        tensor = _with_external_data(tensor, folder, budget)
    array = numpy_helper.to_array(tensor)
    budget.take(array.nbytes, tensor.name)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _with_external_data(tensor: Any, folder: Path | None, budget: Budget) -> Any:
    """The tensor with its bytes, of which the file has as many as dtype and dims say, where it says."""
    from onnx import TensorProto, helper

    name = tensor.name
    if folder is None:
        raise TensorFileError(
            f"{quoted(name)} must be in the model, got one that is in another file: give the path of the model"
        )
    entries = {entry.key: entry.value for entry in tensor.external_data}
    size = math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    if tensor.data_type in (TensorProto.INT4, TensorProto.UINT4, TensorProto.STRING):
        raise Unknown(f"{quoted(name)} has elements that are no numbers of whole bytes")
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
    except ValueError:
        raise TensorFileError(f"{quoted(name)} must have numbers as offset and length, got others") from None
    if length != size or offset < 0:
        raise TensorFileError(f"{quoted(name)} must have {size} bytes in its file, got {length} at {offset}")
    loaded = TensorProto()
    loaded.CopyFrom(tensor)
    loaded.data_location = TensorProto.DEFAULT
    del loaded.external_data[:]
    loaded.raw_data = _external_bytes(entries.get("location", ""), folder, name, offset, size)
    budget.grow(size)
    return loaded


def _external_bytes(location: str, folder: Path, name: str, offset: int, size: int) -> bytes:
    """Bytes of a regular file in the folder of the model: no link leads out of it."""
    parts = Path(location).parts
    if not location or Path(location).is_absolute() or ".." in parts or "\0" in location:
        raise TensorFileError(f"{quoted(name)} must be in a file in the folder of the model, got {quoted(location)}")
    path = folder / location
    if not os.path.lexists(path):
        raise TensorFileError(f"{quoted(name)} must be in the file {quoted(location)}, got no such file: copy it along")
    real, inside = os.path.realpath(path), os.path.realpath(folder)
    if os.path.commonpath([real, inside]) != inside:
        raise TensorFileError(
            f"{quoted(name)} must be in a file in the folder of the model, got a link {quoted(location)}"
        )
    try:
        with open(os.open(real, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                raise TensorFileError(f"{quoted(name)} must be in a regular file with one name, got {quoted(location)}")
            if offset + size > status.st_size:
                raise TensorFileError(
                    f"{quoted(name)} must end within {quoted(location)}, of {status.st_size} bytes, got one that "
                    f"ends at {offset + size}: copy the file anew"
                )
            file.seek(offset)
            return file.read(size)
    except OSError as error:
        raise TensorFileError(
            f"{quoted(name)} must be in a readable file, got {quoted(location)}: {error.strerror}"
        ) from None
