"""Arrays in ``.npy`` files, larger than memory: input read part by part, output mapped on space that is there.

A memory map ends the process (SIGBUS) where its file is cut short, or where the disk is full when a page is first
written. So input is read, and the blocks of an output are requested from the file system before it is mapped.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from ..files.container import damaged, existing, regular_size

_BLOCK = 1 << 20


class FileArray:
    """The array (A0, A1, ..., features) of a ``.npy`` file, of which parts are read."""

    def __init__(self, path: Path) -> None:
        if path.exists():
            existing(path)  # a pipe would be waited for
        mapped: Any = np.load(path, mmap_mode="r", allow_pickle=False)
        self.path, self.shape, self.dtype, self.ndim = path, mapped.shape, mapped.dtype, mapped.ndim
        self._mapped = mapped if not mapped.flags.c_contiguous else None  # columns first: not read row by row
        self._begin, self._size = mapped.offset, mapped.nbytes

    def read(self, first: slice, second: slice | None = None) -> np.ndarray:
        """A new array with a part of the first axis, and of the second where it is given.

        Raises
        ------
        TensorFileError
            If the file has become shorter since it was opened.
        """
        with open(self.path, "rb", buffering=0) as file:
            if regular_size(file.fileno(), self.path) < self._begin + self._size:
                raise self._cut_short()
            if self._mapped is not None:
                return np.array(self._mapped[first] if second is None else self._mapped[first, second])
            rows = range(*first.indices(self.shape[0]))
            if second is None or second == slice(0, self.shape[1]):
                part = np.empty((len(rows), *self.shape[1:]), self.dtype)
                self._fill(file, part, rows.start * (self._size // max(self.shape[0], 1)))
                return part
            inner = range(*second.indices(self.shape[1]))
            part = np.empty((len(rows), len(inner), *self.shape[2:]), self.dtype)
            row = self._size // max(self.shape[0] * self.shape[1], 1)
            for n, k in enumerate(rows):
                self._fill(file, part[n], (k * self.shape[1] + inner.start) * row)
            return part

    def _fill(self, file: Any, part: np.ndarray, begin: int) -> None:
        """Read the bytes of a contiguous part from where it begins in the array."""
        left = part.reshape(-1).view(np.uint8).data
        file.seek(self._begin + begin)
        while left:
            count = file.readinto(left)
            if not count:
                raise self._cut_short()
            left = left[count:]

    def _cut_short(self) -> ValueError:
        return damaged(self.path, "the file must stay as it is while it is read, and has become shorter")


def mapped_output(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """A new ``.npy`` file, memory-mapped for writing, all of its blocks on the disk.

    Raises
    ------
    OSError
        If there is no space for it.
    """
    array: np.ndarray = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    try:
        _reserve(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path.parent.parent)) from None
    return array


def _reserve(path: Path) -> None:
    """Let the file system give blocks to all bytes of a file, which are zeros so far behind the first block."""
    with open(path, "rb+", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
            return
        file.seek(_BLOCK)  # the header, and some more, was written
        for begin in range(_BLOCK, size, _BLOCK):
            file.write(bytes(min(_BLOCK, size - begin)))
