"""Files that are damaged or mean harm: a ValueError, and no memory for what a header promises."""

from __future__ import annotations

import io
import json
import os
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_files import lstm_tensors, raw_safetensors

import cylstm

F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
HOSTILE_SAFETENSORS = {
    "empty": b"",
    "short": b"\x00" * 7,
    "no header": b"\x00" * 8,
    "length beyond the file": raw_safetensors({}, length=1000),
    "length of 2**64 - 1": raw_safetensors({}, length=2**64 - 1),
    "giant header": raw_safetensors(b" " * 10_000_001),
    "not UTF-8": raw_safetensors(b'{"\xff": 1}'),
    "not JSON": raw_safetensors(b"{'a': 1}"),
    "NaN": raw_safetensors(b'{"a": NaN}'),
    "a list": raw_safetensors([]),
    "nested": raw_safetensors(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "a giant number": raw_safetensors(b'{"a":' + b"9" * 10_000 + b"}"),
    "a name twice": raw_safetensors(
        b'{"a":' + json.dumps(F32).encode() + b',"a":' + json.dumps(F32).encode() + b"}", b"0" * 4
    ),
    "metadata not text": raw_safetensors({"__metadata__": {"a": 1}}),
    "metadata a list": raw_safetensors({"__metadata__": []}),
    "an entry not a table": raw_safetensors({"a": 1}),
    "an entry lacks the shape": raw_safetensors({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, b"0" * 4),
    "an entry has more": raw_safetensors({"a": {**F32, "more": 1}}, b"0" * 4),
    "unknown dtype": raw_safetensors({"a": {**F32, "dtype": "F33"}}, b"0" * 4),
    "dtype not text": raw_safetensors({"a": {**F32, "dtype": ["F32"]}}, b"0" * 4),
    "negative shape": raw_safetensors({"a": {**F32, "shape": [-1, -1]}}, b"0" * 4),
    "shape of floats": raw_safetensors({"a": {**F32, "shape": [1.0]}}, b"0" * 4),
    "shape of booleans": raw_safetensors({"a": {**F32, "shape": [True]}}, b"0" * 4),
    "shape of too many": raw_safetensors({"a": {**F32, "shape": [1] * 1000}}, b"0" * 4),
    "shape that overflows 64 bits to 1": raw_safetensors({"a": {**F32, "shape": [2**62, 4, 2**62, 4]}}, b"0" * 4),
    "shape beyond 64 bits": raw_safetensors({"a": {**F32, "shape": [2**64 + 1]}}, b"0" * 4),
    "offsets beyond the file": raw_safetensors({"a": {**F32, "data_offsets": [4, 8]}}, b"0" * 4),
    "offsets backwards": raw_safetensors({"a": {**F32, "data_offsets": [4, 0]}}, b"0" * 4),
    "offsets negative": raw_safetensors({"a": {**F32, "data_offsets": [-4, 0]}}, b"0" * 4),
    "three offsets": raw_safetensors({"a": {**F32, "data_offsets": [0, 2, 4]}}, b"0" * 4),
    "offsets overlap": raw_safetensors({"a": F32, "b": F32}, b"0" * 4),
    "a gap": raw_safetensors({"a": F32, "b": {**F32, "data_offsets": [8, 12]}}, b"0" * 12),
    "data too long": raw_safetensors({"a": F32}, b"0" * 5),
    "data too short": raw_safetensors({"a": F32}, b"0" * 3),
    "size that is not that of the shape": raw_safetensors({"a": {**F32, "shape": [2]}}, b"0" * 4),
    "half a byte": raw_safetensors({"a": {"dtype": "F4", "shape": [1], "data_offsets": [0, 0]}}),
}


@pytest.mark.parametrize("content", HOSTILE_SAFETENSORS.values(), ids=HOSTILE_SAFETENSORS)
def test_hostile_safetensors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged") as error:
        cylstm.load(path)
    assert str(error.value).startswith(str(path))


def test_the_real_package_also_refuses_them(tmp_path: Path) -> None:
    """So that none of the cases above is a file that others take."""
    ours_alone = {"a name twice", "an entry has more"}
    for name, content in HOSTILE_SAFETENSORS.items():
        if name not in ours_alone:
            with pytest.raises((safetensors.SafetensorError, ValueError)):
                safetensors.numpy.load(content)


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def npy(header: str, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + bytes(version) + len(text).to_bytes(2 if version == (1, 0) else 4, "little") + text + data


def hostile_npz() -> dict[str, bytes]:
    plain = io.BytesIO()
    np.savez(plain, **lstm_tensors())
    objects = io.BytesIO()
    np.savez(objects, weight_ih_l0=np.array([{}, []], dtype=object), allow_pickle=True)
    lzma = io.BytesIO()
    with zipfile.ZipFile(lzma, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.npy", b"0" * 100)
    return {
        "empty": b"",
        "no zip": b"PK" * 100,
        "truncated": plain.getvalue()[:-30],
        "without its directory": plain.getvalue()[:400],
        "objects": objects.getvalue(),
        "not .npy": zipped(a=b"hello, world"),
        "version 9": zipped(a=npy("{}", version=(9, 0))),
        "header that is code": zipped(a=npy("__import__('os').abort()")),
        "nested header": zipped(a=npy("(" * 9000)),
        "negative shape": zipped(a=npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", b"0" * 4)),
        "giant shape": zipped(a=npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4)}")),
        "overflowing shape": zipped(
            a=npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**62}, 4, {2**62}, 4)}}", b"0" * 4)
        ),
        "data too short": zipped(a=npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", b"0" * 7)),
        "data too long": zipped(a=npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", b"0" * 9)),
        "bomb": zipped(a=npy("{'descr': '|u1', 'fortran_order': False, 'shape': (90000000,)}", bytes(90_000_000))),
        "other compression": lzma.getvalue(),
    }


@pytest.mark.parametrize("content", (cases := hostile_npz()).values(), ids=cases)
def test_hostile_npz(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged|never unpickled") as error:
        cylstm.load(path)
    assert str(error.value).startswith(str(path))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_in_an_npz(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
        for _ in range(2):
            archive.writestr("a.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", b"0" * 4))
    with pytest.raises(ValueError, match="each name must be there once, got 'a' twice"):
        cylstm.load(tmp_path / "m.npz")


@pytest.mark.parametrize("extension", ["npz", "pt"])
def test_many_members_that_grow_together(tmp_path: Path, extension: str) -> None:
    """Each is under the limit; together they would take 100 MB."""
    path = tmp_path / f"m.{extension}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for k in range(20):
            data = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (5000000,)}", bytes(5_000_000))
            archive.writestr(f"m/{k}.npy", data)
    with pytest.raises(ValueError, match="the members must grow to at most 67108864 bytes together, got 100001"):
        cylstm.load(path)


def test_a_foreign_comment_in_an_npz_is_no_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", **lstm_tensors())
    with zipfile.ZipFile(tmp_path / "m.npz", "a") as archive:
        archive.comment = b"{from the laboratory"
    assert cylstm.load(tmp_path / "m.npz").hidden_size == 2


def test_sizes_in_a_header_allocate_nothing(tmp_path: Path) -> None:
    """An LSTM of these sizes would take 1.6 TB; the file has 1.6 GB (sparse, so nothing on the disk)."""
    header = {
        "weight_ih_l0": {"dtype": "F32", "shape": [1, 10**7], "data_offsets": [0, 4 * 10**7]},
        "weight_hh_l0": {"dtype": "F32", "shape": [40000, 10000], "data_offsets": [4 * 10**7, 164 * 10**7]},
    }
    path = tmp_path / "m.safetensors"
    path.write_bytes(raw_safetensors(header))
    os.truncate(path, path.stat().st_size + 164 * 10**7)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="must have weight_ih_l0"):
            cylstm.load(path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder, lstm = tmp_path_factory.mktemp("intact"), cylstm.LSTM(2, 1)
    for extension in (".safetensors", ".npz"):
        cylstm.save(lstm, folder / f"m{extension}")
    np.savez_compressed(folder / "m.deflated.npz", **lstm.state_dict())
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["m.safetensors", "m.npz", "m.deflated.npz"])
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_files_load_or_raise_value_error(
    tmp_path_factory: pytest.TempPathFactory, intact: dict[str, bytes], name: str, data: st.DataObject
) -> None:
    content = bytearray(intact[name])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    begin = data.draw(st.sampled_from([0, 0, 0, 1, 8]))
    end = data.draw(st.sampled_from([len(content), len(content), len(content) - 1, len(content) // 2]))
    path = tmp_path_factory.getbasetemp() / f"damaged.{name}"
    path.write_bytes(content[begin:end])
    try:
        module = cylstm.load(path)
    except ValueError:
        return
    assert isinstance(module, (cylstm.LSTM, cylstm.LSTMCell, cylstm.Linear))


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
NAMES = st.sampled_from(["weight_ih_l0", "weight", "dtype", "shape", "data_offsets", "__metadata__"])


@settings(max_examples=300, deadline=None)
@given(
    header=st.recursive(LEAVES, lambda x: st.lists(x, max_size=4) | st.dictionaries(NAMES, x, max_size=4)),
    data=st.binary(max_size=32),
)
def test_strange_headers(tmp_path_factory: pytest.TempPathFactory, header: object, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "strange.safetensors"
    path.write_bytes(raw_safetensors(header, data))
    with pytest.raises(ValueError, match=r"strange\.safetensors"):
        cylstm.load(path)
