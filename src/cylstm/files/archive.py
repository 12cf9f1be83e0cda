"""Zip archives as containers of arrays: opened, bounded and read; what ``.npz`` and PyTorch's checkpoints share."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

from ..words import quoted
from .container import TensorFileError, damaged, expansion_limit, regular_size, unreadable


@contextlib.contextmanager
def opened(path: Path, kind: str) -> Iterator[zipfile.ZipFile]:
    """The archive; the many kinds of error that a damaged one raises become one."""
    with open(path, "rb") as file:
        regular_size(file.fileno(), path)
        try:
            with zipfile.ZipFile(file) as archive:
                yield archive
        except TensorFileError:
            raise
        except Exception as error:  # BadZipFile, zlib.error, EOFError, OSError (seek), struct.error, RuntimeError …
            raise unreadable(path, kind, error) from error


def check_members(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse members that are there twice, or compressed in other ways, or that grow beyond the limit, all together."""
    size = path.stat().st_size
    names, grown = set(), 0
    for info in archive.infolist():
        if info.filename in names:
            raise damaged(path, f"each name must be there once, got {quoted(info.filename.removesuffix('.npy'))} twice")
        names.add(info.filename)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            method = f"compression method {info.compress_type}"
            raise damaged(path, f"{quoted(info.filename)} must be stored or deflated, got {method}")
        if info.compress_size > size:
            raise damaged(path, f"{quoted(info.filename)} must have at most {size} bytes, got {info.compress_size}")
        grown += info.file_size
    if grown > expansion_limit(size):
        raise damaged(path, f"the members must grow to at most {expansion_limit(size)} bytes together, got {grown}")
