"""Files of HDF5 whose trees, types and names end the process, or take its memory or its time, where HDF5 reads them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import cylstm

#: Weights alone say nothing of the defaults that are taken.
pytestmark = pytest.mark.filterwarnings("ignore:.*the file has no configuration")


def places(content: bytes | bytearray, word: bytes) -> list[int]:
    """Where a word is."""
    found = [content.find(word)]
    while found[-1] >= 0:
        found.append(content.find(word, found[-1] + 1))
    return found[:-1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Weights of an LSTM, and a group of four members."""
    path = tmp_path / "m.weights.h5"
    with h5py.File(path, "w") as file:
        for number, shape in enumerate([(3, 16), (4, 16), (16,)]):
            file[f"layers/lstm/cell/vars/{number}"] = np.ones(shape, np.float32)
        for name in "abc":
            file.create_group(f"more/{name}")
        file["more"].create_group("z" * 500)
    assert cylstm.load(path).hidden_size == 4
    return path


def changed(path: Path, change: Callable[[bytearray], None]) -> None:
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


def root_tree(content: bytearray) -> int:
    """Of the root group, as the superblock of version 0 tells."""
    return struct.unpack_from("<Q", content, 80)[0]


def test_a_tree_that_is_its_own_child(path: Path) -> None:
    def change(content: bytearray) -> None:
        tree = root_tree(content)
        content[tree + 5] = 1
        struct.pack_into("<Q", content, tree + 32, tree)

    changed(path, change)
    with pytest.raises(ValueError, match="of a tree must be there once, in its level"):
        cylstm.load(path)


def test_a_tree_whose_children_are_all_the_same(path: Path) -> None:
    """Six levels of 32 are 10⁹ ways through 200 bytes each."""

    def change(content: bytearray) -> None:
        tree, levels = root_tree(content), 6
        leaf = bytes(content[tree : tree + 48])
        nodes = [tree, *(len(content) + 600 * n for n in range(levels))]
        content += bytes(600 * levels)
        content[nodes[-1] : nodes[-1] + 48] = leaf
        for n, node in enumerate(nodes[:-1]):
            head = b"TREE" + struct.pack("<BBH", 0, levels - n, 32) + b"\xff" * 16 + leaf[24:32]
            body = (struct.pack("<Q", nodes[n + 1]) + leaf[40:48]) * 32
            content[node : node + len(head + body)] = head + body

    changed(path, change)
    with pytest.raises(ValueError, match="must be there once"):
        cylstm.load(path)


def test_a_part_of_a_group_that_is_there_twice(path: Path) -> None:
    def change(content: bytearray) -> None:
        tree = root_tree(content)
        struct.pack_into("<H", content, tree + 6, 2)
        content[tree + 48 : tree + 64] = content[tree + 32 : tree + 48]

    changed(path, change)
    with pytest.raises(ValueError, match=r"each part of the group at byte .* must be there once"):
        cylstm.load(path)


def test_many_members_with_one_long_name(path: Path) -> None:
    """All of them are listed: of 4,000 with one name of 60,000 letters, in 444 KB, a gigabyte."""

    def change(content: bytearray) -> None:
        long = content.index(b"z" * 500)
        heap = next(
            at
            for at in places(content, b"HEAP\0")
            if 0 <= long - int.from_bytes(content[at + 24 : at + 32], "little") < 900
        )
        offset = long - int.from_bytes(content[heap + 24 : heap + 32], "little")
        (part,) = (at for at in places(content, b"SNOD") if content[at + 6] == 4)
        for n in range(4):
            struct.pack_into("<Q", content, part + 8 + 40 * n, offset)

    changed(path, change)
    with pytest.raises(ValueError, match="the names of a group must lie beside one another"):
        cylstm.load(path)


def test_a_heap_of_names_that_is_larger_than_the_file_or_serves_two_groups(path: Path) -> None:
    intact = path.read_bytes()

    def larger(content: bytearray) -> None:
        heap = struct.unpack_from("<Q", content, 88)[0]
        struct.pack_into("<Q", content, heap + 8, 3_000_000_000)

    def shared(content: bytearray) -> None:
        """The group of all gets the heap of another: in messages of type 0x11 the heap follows the tree."""
        first, second, *_ = (at for at in places(content, b"\x11\0\x10\0") if at % 8 == 0)
        content[second + 16 : second + 24] = content[first + 16 : first + 24]

    for change in (larger, shared):
        path.write_bytes(intact)
        changed(path, change)
        with pytest.raises(ValueError, match="must lie in the file, and serve one group"):
            cylstm.load(path)


def test_names_that_all_members_of_a_group_have_again(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file.create_group("z" * 5_000 + "/a")
    with pytest.raises(ValueError, match="must have at most 4000 letters, got 5000"):
        cylstm.load(path)


def vlen(of: h5py.h5t.TypeID) -> h5py.h5t.TypeID:
    return h5py.h5t.vlen_create(of)


def array(of: h5py.h5t.TypeID) -> h5py.h5t.TypeID:
    return h5py.h5t.array_create(of, (1,))


def compound(of: h5py.h5t.TypeID) -> h5py.h5t.TypeID:
    made = h5py.h5t.create(h5py.h5t.COMPOUND, of.get_size())
    made.insert(b"a", 0, of)
    return made


@pytest.mark.parametrize("made_of", [vlen, array, compound])
def test_types_of_types(made_of: Callable, path: Path) -> None:
    """2,000 lists of lists, in 16 KB, take a gigabyte."""
    with h5py.File(path, "a", libver="latest") as file:
        kind = h5py.h5t.NATIVE_INT8.copy()
        for _ in range(50):
            kind = made_of(kind)
        h5py.h5d.create(file.id, b"x", kind, h5py.h5s.create_simple((1,)))
    with pytest.raises(ValueError, match=r"the type at byte .* must be one of numbers or texts"):
        cylstm.load(path)


def test_names_in_heaps_and_chunks_without_trees(tmp_path: Path) -> None:
    """Where sizes of blocks have a sum of their own that HDF5 checks, and then believes them."""
    path = tmp_path / "m.weights.h5"
    with h5py.File(path, "w", libver="latest") as file:
        for n in range(12):
            file.create_group(f"layers/g{n}")
    with pytest.raises(
        ValueError, match=r"the names of a group must lie in the header of their object.*h5py's defaults"
    ):
        cylstm.load(path)
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("layers/lstm/cell/vars/0", data=np.ones((3, 16), np.float32), chunks=(1, 16))
    with pytest.raises(ValueError, match="must be in one piece, got chunks"):
        cylstm.load(path)


def test_what_is_no_attack(path: Path) -> None:
    """Chunks in a tree, an array of many names, bool, texts, deletions."""
    with h5py.File(path, "a") as file:
        cell = file["layers/lstm/cell/vars"]
        del cell["0"]
        cell.create_dataset("0", data=np.ones((3, 16), np.float32), chunks=(1, 16))
        file["more/text"], file["more/bools"] = "text", np.ones(3, bool)
        for n in range(400):
            file[f"more/{n}"] = file["more/bools"]
        for n in range(0, 400, 3):
            del file[f"more/{n}"]
    assert cylstm.load(path).hidden_size == 4


def test_an_array_of_nothing(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["layers/lstm/cell/vars/2"]
        file["layers/lstm/cell/vars/2"] = h5py.Empty("f4")
    with pytest.raises(ValueError, match="vars/2 must be an array, got nothing"):
        cylstm.load(path)
