"""PyTorch's checkpoints (``.pt``, ``.pth``, ``.ckpt``, ``.bin`` …) without PyTorch. Nothing in them is executed.

Since PyTorch 1.6 a file is a zip archive: a pickle of the object, in which a persistent id stands for each storage, and
one member of raw bytes per storage. Before, it was a row of pickles, the third the object, with the storages behind.
TorchScript's archives are laid out like the first.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from ..words import listed, quoted
from .archive import check_members, opened
from .container import Contents, TensorFileError, damaged, is_size, mapped, parsing_limit, regular_size
from .nested import contents_of
from .pickles import Name, Table, read_pickle
from .script import options_of
from .stored import KNOWN, Extents, Storage, dtype_of_storage, itemsize

_ZIP = b"PK\3\4"
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_LONGEST = 512  # bytes that are looked at to tell what a file is
_KIND = "checkpoint of PyTorch"


def is_checkpoint(path: Path) -> bool:
    """Whether a file without a known extension begins as those of `torch.save`."""
    with open(path, "rb") as file:
        begin = file.read(_LONGEST)
    return _is_legacy(begin) or (begin.startswith(_ZIP) and zipfile.is_zipfile(path))


def _is_legacy(begin: bytes) -> bool:
    """Whether the first pickle is that of the magic number."""
    try:
        value, _ = read_pickle(begin, 0, {}, lambda pid: None)
    except ValueError:
        return False
    return isinstance(value, int) and value == _MAGIC


def read(path: Path) -> Contents:
    """Read the tensors that `torch.save` or `torch.jit.save` has written; their data are read when requested."""
    with open(path, "rb") as file:
        size = regular_size(file.fileno(), path)
        begin = file.read(_LONGEST)
    if begin.startswith(_ZIP):
        return _read_zip(path, size)
    if _is_legacy(begin):
        return _read_legacy(path, size)
    target = str(path.with_suffix(".pt" if path.suffix != ".pt" else ".converted.pt"))
    if b"ustar" in begin:
        load = f'torch.load({str(path)!r}, map_location="cpu", weights_only=False)'
        raise TensorFileError(
            f"{path} must be written by PyTorch 0.1.10 or newer, got an older file, a tar archive: convert it once, "
            f"where PyTorch is: import torch; torch.save({load}, {target!r})"
        )
    if begin[:1] == b"\x80":
        raise TensorFileError(
            f"{path} must be a {_KIND}, got a pickle of another kind, which can run any code when it is read: convert "
            f"it once, where you trust it; for a dict of arrays: import numpy, pathlib, "
            f"pickle; numpy.savez({str(path.with_suffix('.npz'))!r}, "
            f"**pickle.loads(pathlib.Path({str(path)!r}).read_bytes()))"
        )
    raise damaged(path, f"the file must begin as a {_KIND} does, got {quoted(begin[:8])}")


def _made(path: Path, run: Callable[[], Any]) -> Any:
    """What a step of the reader gives; the ValueError of what does not fit together names the file."""
    try:
        return run()
    except TensorFileError:
        raise
    except ValueError as error:
        raise damaged(path, str(error)) from error


def _read_zip(path: Path, size: int) -> Contents:
    with opened(path, _KIND) as archive:
        check_members(archive, path)
        members = {info.filename: info for info in archive.infolist()}
        roots = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
        if len(roots) != 1 or roots[0].count("/") != 1:
            raise _other_archive(path, members, len(roots))
        [root] = roots
        order = _member(archive, f"{root}byteorder") if f"{root}byteorder" in members else b"little"
        if order != b"little":
            raise _big_endian(path)
        parsed = [name for name in members if name == f"{root}data.pkl" or name.startswith(f"{root}code/")]
        for name in parsed:
            if members[name].file_size > parsing_limit(size):
                got = f"at most {parsing_limit(size)} bytes, got {members[name].file_size}"
                raise damaged(path, f"{quoted(name)} must grow to {got}")
        pickle = _member(archive, f"{root}data.pkl")
        script = len(parsed) > 1

    @lru_cache(maxsize=1)  # tensors next to each other are often views of one storage
    def data(key: str) -> bytes:
        with opened(path, _KIND) as again:
            return _member(again, f"{root}data/{key}")

    folder = f"{root}data/"
    extents = {name.removeprefix(folder): m.file_size for name, m in members.items() if name.startswith(folder)}
    known: dict[str, Storage] = {}
    value, _ = _made(path, lambda: read_pickle(pickle, 0, KNOWN, partial(_storage, known)))
    source = Extents(extents, data)
    if not script:
        return _made(path, lambda: contents_of(value, source, path, size))
    classes: dict[str, str] = {}
    contents = _made(path, lambda: contents_of(value, source, path, size, classes))
    with opened(path, _KIND) as archive:
        return contents._replace(metadata=options_of(classes, lambda name: _member(archive, f"{root}code/{name}")))


def _other_archive(path: Path, members: Iterable[str], roots: int) -> TensorFileError:
    """The error for a zip archive that `torch.save` has not written."""
    inside = [name for name in members if name.endswith((".pt", ".pth", ".bin", ".ckpt"))]
    if any(name.endswith("/archive_format") for name in members):
        target = str(path.with_name(f"{path.stem}.state_dict.pt"))
        return TensorFileError(
            f"{path} must be a {_KIND}, got a program of torch.export: convert it once, where PyTorch is: import "
            f"torch; torch.save(dict(torch.export.load({str(path)!r}).state_dict), {target!r})"
        )
    if inside:
        return TensorFileError(f"{path} must be a {_KIND}, got an archive around {listed(inside)}: unpack it first")
    return damaged(path, f"an archive of PyTorch must have one FOLDER/data.pkl, got {roots}")


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    info = archive.getinfo(name)
    if not info.CRC:  # PyTorch can leave it out (torch.serialization.set_crc32_options)
        del info.CRC
    return archive.read(info)


def _read_legacy(path: Path, size: int) -> Contents:
    with open(path, "rb") as file:
        data = mapped(file)

    def take(begin: int, storages: dict[str, Storage]) -> tuple[Any, int]:
        return _made(path, lambda: read_pickle(data, begin, KNOWN, partial(_storage, storages)))

    known: dict[str, Storage] = {}
    magic, position = take(0, known)
    version, position = take(position, known)
    if magic != _MAGIC or version != _VERSION:
        raise damaged(path, f"the version must be {_VERSION}, got another one")
    system, position = take(position, known)
    little = dict(p for p in system.pairs if isinstance(p[0], str)).get("little_endian") if _is_table(system) else None
    if little is not True:
        raise _big_endian(path)
    value, position = take(position, known)
    keys, position = take(position, known)
    places: dict[str, tuple[int, int]] = {}
    for key in keys if isinstance(keys, list) else [None]:
        if not isinstance(key, str) or key not in known or key in places:
            raise damaged(path, "the keys of the data must be those of the tensors, got others")
        count = int.from_bytes(data[position : position + 8], "little")
        length = count * itemsize(known[key].dtype)
        if position + 8 + length > size:
            raise damaged(path, f"the file must have {position + 8 + length} bytes or more, got {size}")
        places[key] = position + 8, length
        position += 8 + length
    if position != size:
        raise damaged(path, f"the file must end after its data, at byte {position}, got {size} bytes")

    def read_data(key: str) -> memoryview:
        begin, length = places[key]
        return memoryview(data)[begin : begin + length]

    source = Extents({key: length for key, (_, length) in places.items()}, read_data)
    return _made(path, lambda: contents_of(value, source, path, size))


def _is_table(value: Any) -> bool:
    return type(value) is Table


def _big_endian(path: Path) -> TensorFileError:
    load = f'torch.load({str(path)!r}, map_location="cpu")'
    return TensorFileError(
        f"{path} must be written in the byte order of this machine, little-endian, got a big-endian file: convert it "
        f"once, where PyTorch is: import torch; torch.save({load}, {str(path.with_suffix('.little.pt'))!r})"
    )


def _storage(known: dict[str, Storage], pid: Any) -> Any:
    """The storage, or the class of a module, that a persistent id stands for. The device does not matter."""
    if isinstance(pid, tuple) and len(pid) == 4 and _is_text(pid[0], "module"):
        return pid[1]  # a class, with its source
    if not isinstance(pid, tuple) or len(pid) not in (5, 6) or not _is_text(pid[0], "storage"):
        raise ValueError("a persistent id must be that of a storage, got another one")
    _, kind, key, _, count, *view = pid
    if not isinstance(kind, Name) or not isinstance(key, str) or not is_size(count):
        raise ValueError("a storage must have a type, a key and a size, got others")
    dtype = dtype_of_storage(kind.text)
    if known.setdefault(key, storage := Storage(key, dtype, 0, count)) != storage:
        raise ValueError(f"storage {quoted(key)} must have one type and size, got several")
    if view and view[0] is not None:
        if not isinstance(view[0], tuple) or len(view[0]) != 3 or not all(map(is_size, view[0][1:])):
            raise ValueError("the view of a storage must have an offset and a size, got others")
        _, begin, length = view[0]
        if begin + length > count:
            raise ValueError(f"a view must end within its storage of {count} elements, got one to {begin + length}")
        return Storage(key, dtype, begin, length)
    return storage


def _is_text(value: Any, text: str) -> bool:
    return isinstance(value, str) and value == text
