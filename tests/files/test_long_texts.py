"""Texts of any length in a file: what a message quotes of them is short, and steers no terminal."""

from __future__ import annotations

import contextlib
import io
import json
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from itertools import cycle, product
from pathlib import Path
from typing import Any

import damaged_files
import pytest

from cylstm.cli.inspect import inspect_file
from cylstm.words import printable

#: As long as a name in a zip archive may be; and one that would steer a terminal where it is quoted as it is.
LONG, STEERS = "a" + "n" * 50_000 + "\nz", "a\x1b]0;owned\x07\u202e\nz"
#: What stands in the place of a text.
WAYS: list[Callable[[Any], Any]] = [
    lambda old: LONG,
    lambda old: STEERS,
    lambda old: f"{LONG}.{old}",
    lambda old: f"{old}{STEERS}",
    lambda old: [LONG],
    lambda old: f"{old}{LONG}",
    lambda old: {LONG: LONG},
    lambda old: f"{STEERS}.{old}",
    lambda old: 10**4000,
]
TEXTS = WAYS[:4] + WAYS[5:8:2]


def _strings(value: Any) -> Iterator[tuple[Callable[[Any], None], str, bool]]:
    """Each text in JSON, keys too: what replaces it, what it is, and whether it is a key."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in list(entries):
        if isinstance(value, dict):

            def rename(new: str, key: str = key) -> None:
                pairs = [(new if name == key else name, inside) for name, inside in value.items()]
                value.clear()
                value.update(pairs)

            yield rename, key, True
        if not isinstance(one, (dict, list)):

            def replace(new: Any, key: Any = key) -> None:
                value[key] = new

            yield replace, one, False
        yield from _strings(one)


def _of_json(text: bytes) -> Iterator[bytes]:
    """The JSON with one of its texts, names and numbers after the other replaced."""
    ways = cycle(WAYS)
    for n in range(len(list(_strings(json.loads(text))))):
        table = json.loads(text)
        change, old, is_key = list(_strings(table))[n]
        new = next(ways)(old)
        change(str(new) if is_key else new)
        yield json.dumps(table).encode()


def _safetensors(content: bytes) -> Iterator[bytes]:
    length = int.from_bytes(content[:8], "little")
    for header in _of_json(content[8 : 8 + length]):
        yield len(header).to_bytes(8, "little") + header + content[8 + length :]
        yield len(header).to_bytes(8, "little") + header + content[8 + length : -1]


def _packed(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return packed.getvalue()


def _members(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _archive(content: bytes) -> Iterator[bytes]:
    """An archive with one of its names longer, in the directory alone too, or with a text of a member longer."""
    members = _members(content)
    for chosen in members:
        for name in (LONG, f"{LONG}.{chosen}", f"{chosen}{STEERS}", chosen.replace(".npy", f"{LONG}.npy")):
            yield (longer := _packed({name if one == chosen else one: inside for one, inside in members.items()}))
            encoded = name.encode()
            yield longer.replace(encoded, b"x" + encoded[1:], 1)  # as its header has it
        changed = {"json": _of_json, "pkl": _of_pickle, "h5": _hdf5, "npy": _npy}.get(chosen.rpartition(".")[2])
        yield from (_packed({**members, chosen: one}) for one in (changed(members[chosen]) if changed else ()))


def _npy(content: bytes) -> Iterator[bytes]:
    """An array with a long header: what is no dtype, a name that is none, the name of a field."""
    length, dtype = int.from_bytes(content[8:10], "little"), b"'<f4'"
    for old, new in ((dtype, b"'V'" * 3_000), (b"descr", b"descr" * 1_500), (dtype, b"[('%s', 'f')]" % (b"n" * 9_000))):
        header = content[10 : 10 + length].replace(old, new)
        yield b"\x93NUMPY\2\0" + len(header).to_bytes(4, "little") + header + content[10 + length :]


def _of_pickle(content: bytes) -> Iterator[bytes]:
    """A pickle with one of its texts replaced, or one of the names of classes and functions."""
    ways = cycle(TEXTS)
    ops = list(pickletools.genops(content))
    ends = [op[2] for op in ops[1:]] + [len(content)]
    for (opcode, argument, begin), end in zip(ops, ends, strict=True):
        if opcode.name in ("BINUNICODE", "SHORT_BINUNICODE"):
            text = next(ways)(argument).encode()
            yield content[:begin] + b"X" + len(text).to_bytes(4, "little") + text + content[end:]
        elif opcode.name == "GLOBAL":
            yield content[:begin] + b"c" + b"n" * 900 + b"\n" + b"\x1b]0;owned\x07" * 80 + b"\n" + content[end:]
            yield content[:begin] + b"c" + argument.replace(" ", "\n").encode() + b"n" * 900 + b"\n" + content[end:]


def _onnx(content: bytes) -> Iterator[bytes]:
    onnx = pytest.importorskip("onnx")

    def places(message: Any) -> Iterator[tuple[Any, Any, int | None]]:
        for field in message.DESCRIPTOR.fields:
            value = getattr(message, field.name)
            several = field.is_repeated
            if field.type in (field.TYPE_STRING, field.TYPE_BYTES):
                yield from ((message, field, n) for n in range(len(value) if several else 0))
                yield from [] if several or field.containing_oneof else [(message, field, None)]
            elif field.type == field.TYPE_MESSAGE:
                for one in value if several else [value] if message.HasField(field.name) else []:
                    yield from places(one)

    count = len(list(places(onnx.load_from_string(content))))
    for n, way in product(range(count), TEXTS):
        model = onnx.load_from_string(content)
        message, field, index = list(places(model))[n]
        new = way(getattr(message, field.name) if index is None else getattr(message, field.name)[index])
        new = new if field.type == field.TYPE_STRING else new.encode()
        if index is None:
            setattr(message, field.name, new)
        else:
            getattr(message, field.name)[index] = new
        yield model.SerializeToString()


def _hdf5(content: bytes) -> Iterator[bytes]:
    """An HDF5 file with one of its names, or one of the texts of its attributes, longer."""
    h5py = pytest.importorskip("h5py")
    name = "n" * 20_000 + "\x1b]0;owned\x07"
    with h5py.File(io.BytesIO(content)) as file:
        paths = list[str]()
        file.visit(paths.append)
        attributes = [(path, key) for path in ["/", *paths] for key in file[path].attrs]

    def changed(change: Callable[[Any], None]) -> bytes:
        copy = io.BytesIO(content)
        with h5py.File(copy, "r+", libver="latest") as file:
            change(file)
        return copy.getvalue()

    for path in paths:
        for new in (f"{path}{name}", f"{path.rpartition('/')[0]}/{name}", f"{name}/{path}"):
            yield changed(lambda file, path=path, new=new: file.move(path, new))
    for path, key in attributes:
        for value in (name, [name], f"{name}{key}"):
            yield changed(lambda file, path=path, key=key, value=value: file[path].attrs.create(key, value))
        yield changed(lambda file, path=path, key=key: file[path].attrs.create(name, file[path].attrs[key]))


KINDS = {
    "m.safetensors": _safetensors,
    "m.npz": _archive,
    "norm.npz": _archive,
    "zip.pt": _archive,
    "whole.pt": _archive,
    "script.pt": _archive,
    "m.onnx": _onnx,
    "m.keras": _archive,
    "m.weights.h5": _hdf5,
    "m.safetensors.index.json": _of_json,
}


@pytest.mark.filterwarnings("ignore")  # of attributes that PyTorch, h5py and Keras warn about
@pytest.mark.parametrize("name", KINDS)
def test_messages_are_short_and_steer_nothing(tmp_path: Path, name: str) -> None:
    import cylstm.keras

    damaged_files.seeds(tmp_path)
    damaged_files.seeds_of_packages(tmp_path)
    path = tmp_path / f"changed.{name.partition('.')[2]}"
    reads = [cylstm.load, inspect_file, *([cylstm.keras.load_model] if name.endswith(".keras") else [])]
    messages = []
    for content in KINDS[name]((tmp_path / name).read_bytes()):
        path.write_bytes(content)
        for read in reads:
            with contextlib.suppress(FileNotFoundError if "index" in name else ()):
                try:
                    read(path)
                except ValueError as error:
                    messages.append(str(error))
    assert messages
    assert max(map(len, messages)) < damaged_files.LONGEST_MESSAGE
    assert [message for message in messages if message != printable(message)] == []
