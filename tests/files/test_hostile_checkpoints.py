"""Checkpoints that are meant to hurt: a ValueError at once, and little memory."""

from __future__ import annotations

import itertools
import pickle
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch
from damaged_files import check, mutants, seeds

import cylstm
from cylstm.files.formats import read

MUTANTS = 300


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return (
        b"\x8a\x08" + struct.pack("<q", value)
        if -(2**63) <= value < 2**63
        else b"\x8a\x09" + value.to_bytes(9, "little")
    )


def name(module: str, function: str) -> bytes:
    return f"c{module}\n{function}\n".encode()


def sizes(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(
    shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0, count: int = 4, kind: str = "FloatStorage"
) -> bytes:
    """The pickle of a tensor on storage 0."""
    pid = b"(" + text("storage") + name("torch", kind) + text("0") + text("cpu") + number(count) + b"t"
    fields = pid + b"Q" + number(offset) + sizes(shape) + sizes(strides) + b"\x89" + b"N"
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + fields + b"tR"


def entry(key: str, value: bytes) -> bytes:
    return text(key) + value + b"s"


def checkpoint(path: Path, stream: bytes, storage: bytes = bytes(16), **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02" + stream + b".")
        archive.writestr("m/data/0", storage)
        for member, content in members.items():
            archive.writestr(f"m/{member}", content)
    return path


def doubled(times: int, what: bytes, join: bytes) -> bytes:
    """An object that holds the one before twice, again and again: 2**times paths to the first."""
    again = b"".join(
        b"r" + struct.pack("<I", k) + b"0" + join.replace(b"?", b"j" + struct.pack("<I", k)) for k in range(times)
    )
    return what + again


COLLIDING = b"".join(number((k + 1) * (2**61 - 1) % 2**63) + b"N" for k in range(200_000))
SELF_LIST = b"]q\x00" + b"(h\x00h\x00e"

#: What is in the pickle, and what the message has.
HOSTILE = {
    "empty": (b"", "on the stack"),
    "no opcode": (b"\xff", "opcodes must be those of pickle protocols 2 to 5, got 0xff"),
    "an opcode of protocol 0": (b"I1\n", "got 0x49"),
    "an extension": (b"\x82\x01", "got 0x82"),
    "the stack runs out": (b"}s", "on the stack"),
    "a mark that is not there": (b"t", "on the stack"),
    "a text of 4 GB": (b"X\xff\xff\xff\xff", "must go on for 4294967295 bytes"),
    "bytes of 2**64": (b"\x8e" + b"\xff" * 8, "must go on for 18446744073709551615 bytes"),
    "a memo of 4 billion": (b"Nr\xff\xff\xff\xff", "must hold an LSTM"),
    "a memo that is not there": (b"h\x07", "got a request for object 7"),
    "a name without end": (b"c" + b"a" * 2000, "at most 1000 bytes"),
    "a name that is a number": (b"K\x01K\x02\x93", "a name must be text, got a int"),
    "too many steps": (b"N0" * 2_100_000 + b"N", "at most 4000000 steps"),
    "deep lists": (b"]" * 100_000 + b"a" * 99_999, "nested at most 100 deep"),
    "deep tuples as a key": (b"}" + b")" + b"\x85" * 500_000 + b"Ns", "must hold an LSTM"),
    "keys that collide": (b"}(" + COLLIDING + b"u", "must hold an LSTM"),
    "a list in itself": (SELF_LIST, "entries|nested at most 100 deep"),
    "2**60 lists": (doubled(60, b"]", b"](??e"), "entries"),
    "2**60 dicts": (doubled(60, b"}", b"}(" + text("a") + b"?" + text("b") + b"?u"), "entries"),
    "2**60 objects": (
        doubled(60, name("a", "B") + b")R", name("a", "B") + b"(??tR"),
        "got a.B, an object that is not read",
    ),
    "elements of a number": (b"K\x01K\x02a", "must be those of a list"),
    "items of a list": (b"]K\x01K\x02s", "must be pairs of a dict"),
    "one item": (b"}(Nu", "must be pairs of a dict"),
    "state of a number": (b"K\x01}b", "a state must be that of an object"),
    "arguments that are none": (name("a", "b") + b"NR", "arguments must be a tuple"),
    "too few arguments": (name("torch._utils", "_rebuild_tensor_v2") + b")R", "must have other arguments"),
    "a persistent id of text": (text("0") + b"Q", "a persistent id must be that of a storage"),
    "another type of storage": (tensor((1,), (1,), kind="EvilStorage"), "got torch.EvilStorage"),
    "a storage that is not there": (
        tensor((1,), (1,)).replace(text("0"), text("1")),
        "must have 16 bytes or more, got None",
    ),
    "a storage that is too long": (tensor((1,), (1,), count=5), "must have 20 bytes or more, got 16"),
    "a storage of two types": (
        b"(" + tensor((1,), (1,)) + tensor((1,), (1,), count=2, kind="DoubleStorage") + b"l",
        "must have one type and size",
    ),
    "a tensor beyond its storage": (tensor((5,), (1,)), "must end within its storage of 4, got element 4"),
    "an offset beyond": (tensor((1,), (1,), offset=4), "must end within its storage"),
    "strides beyond": (tensor((2, 2), (3, 1)), "must end within its storage"),
    "strides that overflow": (tensor((2, 2), (2**62, 2**62)), "must end within its storage"),
    "a negative stride": (tensor((2,), (-1,)), "strides of at most 32 sizes"),
    "a negative size": (tensor((-2,), (1,)), "strides of at most 32 sizes"),
    "sizes of 2**64": (tensor((2**64,), (0,)), "strides of at most 32 sizes"),
    "one stride too few": (tensor((2, 2), (1,)), "must have as many strides, got 1"),
    "33 dimensions": (tensor((1,) * 33, (1,) * 33), "strides of at most 32 sizes"),
    "one number as 16 TB": (tensor((2**21, 2**21), (0, 0)), "must have at most 67108864 bytes together"),
    "one number as 40 times 4 MB": (
        b"}" + b"".join(entry(f"l{k}.weight_ih_l0", tensor((1000, 1000), (0, 0))) for k in range(40)),
        "must have at most 67108864 bytes together",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickles(tmp_path: Path, case: str) -> None:
    stream, message = HOSTILE[case]
    path = checkpoint(tmp_path / "m.pt", stream)
    begin = time.process_time()
    with pytest.raises(ValueError, match=message) as error:
        cylstm.load(path)
    assert str(error.value).startswith(str(path))
    assert len(str(error.value)) < 1000
    assert time.process_time() - begin < 30  # not for ever; far less where the machine is idle


def test_names_of_a_file_stay_text(tmp_path: Path) -> None:
    """No name of a class steers the terminal, and none makes a message of megabytes."""
    path = checkpoint(tmp_path / "m.pt", name("a\x1b]0;owned\x07", "B") + b")R")
    with pytest.raises(ValueError, match=r"got a\\x1b\]0;owned\\x07\.B, an object"):
        cylstm.load(path)
    path = checkpoint(tmp_path / "m.pt", b"}" + entry("k" * 9_000_000, tensor((1,), (1,))))
    with pytest.raises(ValueError, match="must hold an LSTM") as error:
        cylstm.load(path)
    assert len(str(error.value)) < 1000


def view_of_a_storage(path: Path) -> bytes:
    """The older format, in which a persistent id may name a part of a storage: elements 1 to 3 of 4."""
    whole = tensor((2, 1), (1, 1), count=4)
    view = whole.replace(text("cpu") + number(4) + b"t", text("cpu") + number(4) + text("v") + b"K\x01K\x03\x87t")
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    pickles = [pickle.dumps(one, 2) for one in (0x1950A86A20F9469CFC6C, 1001, system)]
    body = b"\x80\x02}" + entry("part", view) + b"." + pickle.dumps(["0"], 2)
    return b"".join(pickles) + body + struct.pack("<q4f", 4, 10, 11, 12, 13)


def test_a_view_of_a_storage(tmp_path: Path) -> None:
    content = view_of_a_storage(tmp_path)
    (tmp_path / "m.pt").write_bytes(content)
    expected = torch.load(tmp_path / "m.pt", weights_only=True)["part"]
    assert expected.flatten().tolist() == [11, 12]
    found = read(tmp_path / "m.pt").tensors["part"].read()
    assert found.tolist() == expected.tolist()
    (tmp_path / "m.pt").write_bytes(content.replace(b"K\x01K\x03\x87", b"K\x02K\x03\x87"))
    with pytest.raises(ValueError, match="a view must end within its storage of 4 elements, got one to 5"):
        cylstm.load(tmp_path / "m.pt")
    (tmp_path / "m.pt").write_bytes(content.replace(number(0) + sizes((2, 1)), number(2) + sizes((2, 1))))
    with pytest.raises(ValueError, match="must end within its storage of 3, got element 3"):
        cylstm.load(tmp_path / "m.pt")


def test_a_small_file_takes_little_memory(tmp_path: Path) -> None:
    in_a_tuple = b"(" + b"]" * 60_000 + b"t"
    for stream in (b"}" * 60_000, b"]" * 60_000, in_a_tuple, name("a", "B") + b"q\x00" + b"h\x00)\x81" * 20_000):
        path = checkpoint(tmp_path / "m.pt", stream)
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match="must hold"):
                cylstm.load(path)
            assert tracemalloc.get_traced_memory()[1] < 120 * len(stream)
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("member", ["data.pkl", "code/__torch__.py"])
def test_what_is_parsed_does_not_grow(member: str, tmp_path: Path) -> None:
    """5 KB that were 4 MB of pickle, and 1.5 GB of objects; lines of code likewise."""
    content = {"m/data.pkl": b"\x80\x02N.", f"m/{member}": b"\x80\x02(" + b"]" * 3_900_000 + b"t."}
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in content.items():
            archive.writestr(name, text)
    with pytest.raises(ValueError, match=rf"'m/{member}' must grow to at most 1048576 bytes, got 3900005"):
        cylstm.load(path)


def test_archives_that_are_none_of_pytorch(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    for content, message in (
        (b"", "must begin as a checkpoint of PyTorch does"),
        (b"PK\3\4", "must be a readable checkpoint of PyTorch, got BadZipFile"),
        (b"hello, world", r"must begin as a checkpoint of PyTorch does, got b'hello, w'"),
        (b"\x80\x04N.", "got a pickle of another kind"),
        (b"storages" + bytes(249) + b"ustar" + bytes(250), "must be written by PyTorch 0.1.10 or newer"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            cylstm.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/b", b"")
    with pytest.raises(ValueError, match=r"must have one FOLDER/data\.pkl, got 0"):
        cylstm.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"N.")
        archive.writestr("b/data.pkl", b"N.")
    with pytest.raises(ValueError, match=r"must have one FOLDER/data\.pkl, got 2"):
        cylstm.load(path)


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
def test_truncated(tmp_path: Path, options: dict) -> None:
    torch.save(torch.nn.LSTM(3, 2).state_dict(), tmp_path / "m.pt", **options)
    content = (tmp_path / "m.pt").read_bytes()
    for length in {0, 1, 100, len(content) // 2, len(content) - 40, len(content) - 1, len(content) + 1}:
        (tmp_path / "n.pt").write_bytes((content + b"\0")[:length])
        if options or length < len(content):
            with pytest.raises(ValueError, match=r"n\.pt"):
                cylstm.load(tmp_path / "n.pt")


def test_a_wrong_crc_is_damage(tmp_path: Path) -> None:
    torch.save(torch.nn.LSTM(3, 2).state_dict(), tmp_path / "m.pt")
    with zipfile.ZipFile(tmp_path / "m.pt") as archive:
        info = archive.getinfo("m/data/0")
        data = archive.read(info)
    content = (tmp_path / "m.pt").read_bytes()
    (tmp_path / "m.pt").write_bytes(content.replace(data, bytes(len(data))))
    with pytest.raises(ValueError, match="Bad CRC-32"):
        cylstm.load(tmp_path / "m.pt")


def test_the_way_out_of_the_archive(tmp_path: Path) -> None:
    """A key is the name of a member; it leads to no file of the disk."""
    (tmp_path / "secret").write_bytes(bytes(16))
    path = checkpoint(tmp_path / "m.pt", tensor((1,), (1,)).replace(text("0"), text("../../secret")))
    with pytest.raises(ValueError, match="must have 16 bytes or more, got None"):
        cylstm.load(path)


def test_damaged_files(tmp_path: Path) -> None:
    contents = {path: path.read_bytes() for path in seeds(tmp_path)}
    loaded = 0
    for intact, content in itertools.islice(mutants(contents, 0), MUTANTS):
        path = tmp_path / f"mutant.{intact.name}"
        path.write_bytes(content)
        loaded += check(path) is not None
    assert 0.02 * MUTANTS < loaded < 0.9 * MUTANTS  # both happen
