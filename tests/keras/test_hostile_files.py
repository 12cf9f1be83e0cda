"""Files of Keras that are damaged or mean harm: errors that say what is wrong, and no code that runs."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras import layers as kl
from keras_layers import saved

import cylstm
from cylstm import keras as ck

# Keras hands its variables to NumPy so.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*the file has no configuration:UserWarning"),
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return saved(keras.Sequential([kl.Input((6, 3)), kl.LSTM(4), kl.Dense(2)]), tmp_path, ".keras")


def test_truncated_files(model: Path, tmp_path: Path) -> None:
    weights = tmp_path / "t.weights.h5"
    ck.load_model(model).save_weights(weights)
    for path in (model, weights):
        whole, damaged = path.read_bytes(), tmp_path / f"damaged{''.join(path.suffixes)}"
        for size in {*range(0, len(whole), len(whole) // 50), len(whole) - 1}:
            damaged.write_bytes(whole[:size])
            with pytest.raises(ValueError, match="damaged"):
                cylstm.load(damaged)


def test_no_file(tmp_path: Path) -> None:
    for name in ("m.keras", "m.weights.h5"):
        with pytest.raises(FileNotFoundError):
            cylstm.load(tmp_path / name)


def rewritten(model: Path, change: Callable[[dict], object]) -> Path:
    """The model with another config.json."""
    with zipfile.ZipFile(model) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    members["config.json"] = json.dumps(change(config)).encode()
    with zipfile.ZipFile(model, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return model


def code(config: dict) -> dict:
    """A Lambda layer, whose code Keras would run."""
    config["config"]["layers"].insert(
        1, {"module": "keras.layers", "class_name": "Lambda", "config": {"name": "evil", "function": {"code": "4wAA"}}}
    )
    return config


def deep(config: dict) -> dict:
    for _ in range(100):
        config["config"] = {"name": "n", "layers": [{"class_name": "Sequential", "config": config["config"]}]}
    return config


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (code, "Lambda"),
        (deep, "nested at most 50 deep"),
        (lambda config: [], "damaged|readable"),
        (lambda config: {**config, "config": {"name": "m"}}, "damaged"),
        (lambda config: {**config, "config": {"name": "m", "layers": [1]}}, "a layer must be a table"),
    ],
)
def test_hostile_configurations(model: Path, change: Callable, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        ck.load_model(rewritten(model, change))


def test_hostile_hdf5(tmp_path: Path) -> None:
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = np.ones((3, 16), np.float32)
    path = tmp_path / "m.weights.h5"

    def refused(word: str, write: Callable[[h5py.Group], object]) -> None:
        ck.Sequential([ck.Input((5, 3)), ck.LSTM(4)]).save_weights(path)
        with h5py.File(path, "a") as file:
            cell = file["layers/lstm/cell/vars"]
            del cell["0"]
            write(cell)
        with pytest.raises(ValueError, match=word):
            cylstm.load(path)

    def virtual(cell: h5py.Group) -> None:
        layout = h5py.VirtualLayout((3, 16), np.float32)
        layout[:] = h5py.VirtualSource(secret, "x", (3, 16))
        cell.create_virtual_dataset("0", layout)

    refused("got a link.*the file is damaged", lambda cell: cell.__setitem__("0", h5py.ExternalLink(str(secret), "x")))
    refused("got a link", lambda cell: cell.__setitem__("0", h5py.SoftLink("/layers/lstm/cell/vars/1")))
    refused("there once", lambda cell: cell.__setitem__("again", cell.file["layers"]))
    refused("must be an array in this file", virtual)
    refused(
        "must be an array in this file",
        lambda cell: cell.create_dataset("0", (3, 16), np.float32, external=[(str(tmp_path / "raw"), 0, 192)]),
    )
    refused("bytes in the file", lambda cell: cell.create_dataset("0", (2**40, 16), np.float32, chunks=(1, 16)))
    refused("bytes in the file", lambda cell: cell.create_dataset("0", (3, 16), np.float32))


@pytest.mark.parametrize("reserved", [b"\0\0\0", b"\0\0\xf6"], ids=repr)
def test_a_heap_without_end(reserved: bytes, tmp_path: Path) -> None:
    """HDF5 reads the texts of this file for ever, whatever the three bytes are that it does not look at."""
    path = tmp_path / "m.weights.h5"
    cylstm.save(cylstm.LSTM(3, 4), path)
    content = bytearray(path.read_bytes())
    begin = content.index(b"GCOL")
    at, end = begin + 16, begin + int.from_bytes(content[begin + 8 : begin + 16], "little")
    while index := int.from_bytes(content[at : at + 2], "little"):
        assert index < 100
        size = int.from_bytes(content[at + 8 : at + 16], "little")
        at += 16 + size + -size % 8
    assert at + 16 <= end
    content[at + 8 : at + 16] = bytes(8)  # the free rest has no size
    content[begin + 5 : begin + 8] = reserved
    path.write_bytes(content)
    with pytest.raises(ValueError, match="heap of texts"):
        cylstm.load(path)


def test_random_bytes(model: Path, tmp_path: Path) -> None:
    weights = tmp_path / "t.weights.h5"
    ck.load_model(model).save_weights(weights)
    whole, numbers = weights.read_bytes(), np.random.default_rng(0)
    for _ in range(200):
        content = bytearray(whole)
        for position in numbers.integers(0, len(whole), 3):
            content[position] = numbers.integers(0, 256)
        weights.write_bytes(content)
        with contextlib.suppress(ValueError):  # else only a weight was changed, or a name
            assert isinstance(cylstm.load(weights), cylstm.LSTM)


def test_hostile_zip(model: Path) -> None:
    with zipfile.ZipFile(model) as archive:
        config = archive.read("config.json")
    with zipfile.ZipFile(model, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", config)
        archive.writestr("model.weights.h5", bytes(200 << 20))
    with pytest.raises(ValueError, match="must grow to at most"):
        cylstm.load(model)


@pytest.mark.parametrize("member", ["config.json", "metadata.json"])
def test_what_is_parsed_does_not_grow(member: str, model: Path) -> None:
    """16 KB that were 15 MB of JSON, and 400 MB of objects."""
    with zipfile.ZipFile(model) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members[member] = members[member].rstrip()[:-1] + b',"x":[' + b"[]," * 5_000_000 + b"[]]}"
    with zipfile.ZipFile(model, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match=f"{member} must grow to at most"):
        cylstm.load(model)


def sizes(layer: int, name: str, value: Any) -> Callable[[dict], dict]:
    """A configuration with another size in a layer."""

    def change(config: dict) -> dict:
        config["config"]["layers"][layer]["config"][name] = value
        return config

    return change


@pytest.mark.parametrize("value", [4000, 2 * 10**8, 2**70, -1, 0, True, 1.5, "4", None, [4]], ids=repr)
def test_units_that_the_weights_do_not_have_draw_none(value: Any, model: Path) -> None:
    """What was once gigabytes of random numbers, before a look at the file."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"units must be|weights of the LSTM .* must be"):
            ck.load_model(rewritten(model, sizes(1, "units", value)))
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "value", [[None, 5, 10**9], [None, 5, 2**70], [None, -3, 3], [-1, 5, 3], [None, 5, True], [None, "5", 3], "ab", {}]
)
def test_shapes_of_the_input_that_are_none(value: Any, model: Path) -> None:
    with pytest.raises(ValueError, match=r"shape must be|must have the shape"):
        ck.load_model(rewritten(model, sizes(0, "batch_shape", value)))


@pytest.mark.parametrize("filters", [{"fletcher32": True}, {"compression": "gzip"}, {"shuffle": True}])
def test_filters_are_refused(filters: dict, tmp_path: Path) -> None:
    """A short chunk crashes some versions of HDF5, and a packed one has any size."""
    path = tmp_path / "m.weights.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("layers/lstm/cell/vars/0", (16,), "f4", chunks=(16,), **filters)
        data.id.write_direct_chunk((0,), b"\0")
    with pytest.raises(ValueError, match="as Keras stores it, got 1 filter"):
        cylstm.load(path)


@pytest.mark.parametrize("read", [cylstm.load, ck.load_model])
def test_a_text_that_claims_600_mb(read: Callable[[Path], Any], tmp_path: Path) -> None:
    """HDF5 takes the memory when the attribute is read, and finds then that the file has 10 KB. It is not asked."""
    path, length = tmp_path / "text.weights.h5", 97
    with h5py.File(path, "w") as file:
        for number, shape in enumerate([(3, 16), (4, 16), (16,)]):
            file[f"layers/lstm/cell/vars/{number}"] = np.ones(shape, np.float32)
        file["layers/lstm"].attrs["name"] = "A" * length
    data = path.read_bytes()
    assert cylstm.load(path).hidden_size == 4
    path.write_bytes(data.replace(length.to_bytes(4, "little"), (600_000_000).to_bytes(4, "little")))
    with pytest.raises(ValueError, match="a heap of texts must end at byte"):
        read(path)


@pytest.mark.parametrize("read", [cylstm.load, ck.load_model])
def test_free_blocks_in_a_circle(read: Callable[[Path], Any], tmp_path: Path) -> None:
    """HDF5 takes memory for each free block of a heap of names, until there is no more."""
    path = tmp_path / "m.weights.h5"
    cylstm.save(cylstm.LSTM(3, 4), path)
    content = bytearray(path.read_bytes())
    begin = content.index(b"HEAP")
    free, place = (int.from_bytes(content[begin + at : begin + at + 8], "little") for at in (16, 24))
    assert content[place + free] == 1  # the last one
    content[place + free] = free
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"free blocks of heaps of names.*got a circle"):
        read(path)


@pytest.mark.parametrize("kind", [0, 5])
def test_a_text_that_is_a_list_of_some_kind(kind: int, tmp_path: Path) -> None:
    """Texts of variable length are such lists, of kind 1, and h5py crashes where it does not know the kind."""
    path = tmp_path / "m.weights.h5"
    cylstm.save(cylstm.LSTM(3, 4), path)
    content = path.read_bytes()
    begin = content.index(b"\x19\x01")  # a list, a text
    path.write_bytes(content[: begin + 1] + bytes([kind]) + content[begin + 2 :])
    with pytest.raises(ValueError, match=r"the attribute .* must be text, got something else"):
        cylstm.load(path)


def weights_with_names(path: Path, libver: str) -> bytearray:
    """Weights whose group of layers has a header in two pieces, and a text of 97 letters."""
    with h5py.File(path, "w", libver=libver) as file:
        for number, shape in enumerate([(3, 16), (4, 16), (16,)]):
            file[f"layers/lstm/cell/vars/{number}"] = np.ones(shape, np.float32)
        for number in range(6):  # they do not fit in the first piece
            file["layers"].attrs[f"a{number}"] = np.bytes_(b"x" * 100)
        file["layers/lstm"].attrs["name"] = "A" * 97
    assert cylstm.load(path).hidden_size == 4
    return bytearray(path.read_bytes())


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("read", [cylstm.load, ck.load_model])
def test_a_text_longer_than_the_file(read: Callable[[Path], Any], libver: str, tmp_path: Path) -> None:
    """HDF5 takes the memory for it, up to 4 GB, and finds then that it is not there."""
    path = tmp_path / "m.weights.h5"
    content = weights_with_names(path, libver)
    heap = content.index(b"GCOL").to_bytes(8, "little")
    at = content.index((97).to_bytes(4, "little") + heap)
    content[at : at + 4] = (3_000_000_000).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"the texts of the attribute .* must lie in the file, got longer ones"):
        read(path)


def test_headers_lead_nowhere_else(tmp_path: Path) -> None:
    path = tmp_path / "m.weights.h5"
    content = weights_with_names(path, "earliest")
    head = b"\x10\0\x10\0\0\0\0\0"  # type and size of the message that tells another piece
    link = next(
        at for at in range(0, len(content), 8) if content[at : at + 8] == head and content[at + 16 :].find(b"x" * 100)
    )
    piece = int.from_bytes(content[link + 8 : link + 16], "little")

    def refused(word: str, at: int, new: bytes) -> None:
        path.write_bytes(content[:at] + new + content[at + len(new) :])
        with pytest.raises(ValueError, match=word):
            cylstm.load(path)

    refused("must not go round in circles", piece, content[link : link + 24])
    refused("got one of another object", link + 4, b"\2")
    refused("must lie in the file, and no part of it twice", link + 16, (2**40).to_bytes(8, "little"))
    refused("must lie in the file, and no part of it twice", link + 16, (2**63).to_bytes(8, "little"))
    refused("must lie in the file, and no part of it twice", link + 8, (2**63).to_bytes(8, "little"))
    with h5py.File(path, "w", libver="latest") as file:
        file["layers/lstm/cell/vars/0"] = np.ones((3, 16), np.float32)
        for number in range(20):
            file["layers"].attrs[f"a{number}"] = number
    with pytest.raises(ValueError, match="attributes must lie in the header of their object"):
        cylstm.load(path)


def test_addresses_that_are_counted_otherwise(tmp_path: Path) -> None:
    """Then heaps would be looked for in the wrong places."""
    path = tmp_path / "m.weights.h5"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["layers/lstm/cell/vars/0"] = np.ones((3, 16), np.float32)
    with pytest.raises(ValueError, match="addresses of 8 bytes from byte 0 on"):
        cylstm.load(path)
    content = path.read_bytes()[512:]
    path.write_bytes(content)
    with pytest.raises(ValueError, match="addresses of 8 bytes from byte 0 on"):
        cylstm.load(path)


def test_heaps_of_texts_lie_in_the_file_and_apart(tmp_path: Path) -> None:
    path = tmp_path / "m.weights.h5"
    cylstm.save(cylstm.LSTM(3, 4), path)
    intact, size = path.read_bytes(), 600 << 20
    content = bytearray(intact)
    begin = content.index(b"GCOL")
    content[begin + 8 : begin + 16] = size.to_bytes(8, "little")
    content[begin + 24 : begin + 32] = (size - 48).to_bytes(8, "little")  # one text of that size
    path.write_bytes(content)
    with pytest.raises(ValueError, match="a heap of texts must end within"):
        cylstm.load(path)
    number = 20_000
    free = (1).to_bytes(8, "little") + bytes(8)  # objects without content, which each heap has
    heaps = bytearray()
    for n in range(number):
        rest = 32 * (number - n)
        heaps += b"GCOL\x01\0\0\0" + (rest + 16 * number).to_bytes(8, "little")
        heaps += (1).to_bytes(8, "little") + (rest - 32).to_bytes(8, "little")
    path.write_bytes(intact + heaps + free * number)
    with pytest.raises(ValueError, match="must lie beside one another"):
        cylstm.load(path)


@pytest.mark.parametrize("lacks", ["class_name", "layer", "config"])
def test_a_bidirectional_without_parts(lacks: str, tmp_path: Path) -> None:
    path = saved(keras.Sequential([kl.Input((6, 3)), kl.Bidirectional(kl.LSTM(4))]), tmp_path, ".keras")

    def without(config: dict) -> dict:
        layer = config["config"]["layers"][1]
        del (layer["config"] if lacks == "layer" else layer["config"]["layer"])[lacks]
        return config

    rewritten(path, without)
    for read in (cylstm.load, ck.load_model):
        with pytest.raises(ValueError, match=r"must be a (layer|table)"):
            read(path)
