"""Models in files: safetensors and .npz against the packages they come from, and files that mean harm."""

from __future__ import annotations

import io
import json
import os
import stat
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cylstm
from cylstm.files.container import replacing
from cylstm.files.formats import FORMATS

SAFETENSORS_DTYPES = ["float16", "float32", "float64", "complex64"]
NPZ_DTYPES = [*SAFETENSORS_DTYPES, "complex128"]
OPTIONS = [
    {},
    {"bias": False},
    {"num_layers": 3, "batch_first": True, "dropout": 0.25},
    {"bidirectional": True},
    {"proj_size": 2},
    {"num_layers": 2, "bidirectional": True, "proj_size": 3, "bias": False},
    {"num_layers": 2, "bidirectional": True, "proj_size": 1, "batch_first": True},
]


def raw_safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def lstm_tensors(I: int = 3, H: int = 2, dtype: str = "float32") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"weight_ih_l0": (4 * H, I), "weight_hh_l0": (4 * H, H), "bias_ih_l0": (4 * H,), "bias_hh_l0": (4 * H,)}
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def assert_same_module(actual: object, expected: object) -> None:
    assert (type(actual), repr(actual)) == (type(expected), repr(expected))
    assert actual.dtype == expected.dtype
    assert list(actual.state_dict()) == list(expected.state_dict())
    for name, array in expected.state_dict().items():
        np.testing.assert_array_equal(getattr(actual, name), array)


# Round trips --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("extension", ["safetensors", "npz"])
def test_options_and_sizes_come_back(tmp_path: Path, extension: str, options: dict) -> None:
    lstm = cylstm.LSTM(5, 4, **options)
    cylstm.save(lstm, tmp_path / f"m.{extension}")
    assert_same_module(cylstm.load(tmp_path / f"m.{extension}"), lstm)


@pytest.mark.parametrize(
    ("extension", "dtype"),
    [("safetensors", dtype) for dtype in SAFETENSORS_DTYPES] + [("npz", dtype) for dtype in NPZ_DTYPES],
)
def test_dtypes_come_back(tmp_path: Path, extension: str, dtype: str) -> None:
    lstm = cylstm.LSTM(3, 2, dtype=dtype)
    cylstm.save(lstm, tmp_path / f"m.{extension}")
    assert_same_module(cylstm.load(tmp_path / f"m.{extension}"), lstm)


@pytest.mark.parametrize("extension", ["safetensors", "npz"])
@pytest.mark.parametrize(
    "module",
    [
        lambda: cylstm.LSTMCell(3, 2),
        lambda: cylstm.LSTMCell(3, 2, bias=False),
        lambda: cylstm.Linear(3, 2),
        lambda: cylstm.Linear(3, 2, bias=False),
    ],
)
def test_cell_and_linear_come_back(tmp_path: Path, extension: str, module: object) -> None:
    one = module()
    cylstm.save(one, tmp_path / f"m.{extension}")
    assert_same_module(cylstm.load(tmp_path / f"m.{extension}"), one)


@pytest.mark.parametrize("extension", ["safetensors", "npz"])
def test_several_modules_in_one_file(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"m.{extension}"
    lstm, head = cylstm.LSTM(3, 2, batch_first=True), cylstm.Linear(2, 5)
    cylstm.save({"encoder.lstm": lstm, "head": head}, path)
    assert_same_module(cylstm.load(path), lstm)
    assert_same_module(cylstm.load(path, "encoder"), lstm)
    assert_same_module(cylstm.load(path, prefix="encoder.lstm."), lstm)
    assert_same_module(cylstm.load(path, prefix="head"), head)


def test_the_same_module_gives_the_same_bytes(tmp_path: Path) -> None:
    lstm = cylstm.LSTM(3, 2)
    for name in ("a.safetensors", "b.safetensors", "a.npz", "b.npz"):
        cylstm.save(lstm, tmp_path / name)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_load_leaves_the_generator_alone(tmp_path: Path) -> None:
    cylstm.save(cylstm.LSTM(3, 2), tmp_path / "m.npz")
    cylstm.manual_seed(1)
    expected = cylstm.rand(4)
    cylstm.manual_seed(1)
    cylstm.load(tmp_path / "m.npz")
    np.testing.assert_array_equal(cylstm.rand(4), expected)


def test_options_that_the_file_does_not_tell_can_be_given(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    safetensors.torch.save_file(torch.nn.LSTM(3, 2, 2, batch_first=True).state_dict(), path)
    assert cylstm.load(path).batch_first is False
    lstm = cylstm.load(path, batch_first=True, dropout=0.5, backend="numpy")
    assert (lstm.batch_first, lstm.dropout, lstm.backend) == (True, 0.5, "numpy")
    cylstm.save(cylstm.Linear(3, 2), path)
    with pytest.raises(TypeError, match=r"for an LSTM, and .* holds a Linear"):
        cylstm.load(path, batch_first=True)
    with pytest.raises(TypeError, match="backend is for an LSTM or LSTMCell"):
        cylstm.load(path, backend="numpy")


# With the real packages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", SAFETENSORS_DTYPES)
def test_safetensors_reads_what_is_saved(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "m.safetensors"
    lstm = cylstm.LSTM(5, 3, 2, bidirectional=True, proj_size=2, dtype=dtype)
    cylstm.save(lstm, path)
    by_numpy, by_torch = safetensors.numpy.load_file(path), safetensors.torch.load_file(path)
    assert by_numpy.keys() == by_torch.keys() == lstm.state_dict().keys()
    for name, array in lstm.state_dict().items():
        assert by_numpy[name].dtype == array.dtype
        np.testing.assert_array_equal(by_numpy[name], array)
        np.testing.assert_array_equal(by_torch[name].numpy(), array)
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"batch_first": "false", "dropout": "0.0"}


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_state_dict_of_torch_is_read(tmp_path: Path, dtype: str, options: dict) -> None:
    module = torch.nn.LSTM(5, 4, **options, dtype=getattr(torch, dtype)).eval()
    path = tmp_path / "m.safetensors"
    safetensors.torch.save_file(module.state_dict(), path, metadata={"format": "pt"})
    lstm = cylstm.load(path, batch_first=module.batch_first).eval()
    assert lstm.dtype == dtype
    x = torch.randn(6, 2, 5, dtype=module.weight_ih_l0.dtype)
    with torch.no_grad():
        expected = module(x)[0]
    tolerance = 1e-6 if dtype == "float32" else 1e-14
    np.testing.assert_allclose(lstm(x.numpy())[0], expected.numpy(), atol=tolerance, rtol=0)


def test_numpy_reads_what_is_saved_and_the_other_way(tmp_path: Path) -> None:
    lstm = cylstm.LSTM(5, 3, 2)
    cylstm.save(lstm, tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz", allow_pickle=False) as arrays:
        assert {name: arrays[name].tobytes() for name in arrays} == {
            name: array.tobytes() for name, array in lstm.state_dict().items()
        }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "n.npz", **{name: np.asfortranarray(a) for name, a in lstm.state_dict().items()})
        assert_same_module(cylstm.load(tmp_path / "n.npz"), lstm)


def test_big_endian_npz(tmp_path: Path) -> None:
    tensors = lstm_tensors()
    np.savez(tmp_path / "m.npz", **{name: array.astype(">f4") for name, array in tensors.items()})
    lstm = cylstm.load(tmp_path / "m.npz")
    assert lstm.weight_ih_l0.dtype.isnative
    np.testing.assert_array_equal(lstm.weight_ih_l0, tensors["weight_ih_l0"])


def test_bfloat16_becomes_float32_exactly(tmp_path: Path) -> None:
    module = torch.nn.LSTM(3, 2).bfloat16()
    safetensors.torch.save_file(module.state_dict(), tmp_path / "m.safetensors")
    lstm = cylstm.load(tmp_path / "m.safetensors")
    assert lstm.dtype == np.float32
    for name, tensor in module.state_dict().items():
        np.testing.assert_array_equal(getattr(lstm, name), tensor.float().numpy())


def test_other_layers_in_the_file_are_no_error(tmp_path: Path) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(7, 3)
            self.encoder = torch.nn.ModuleDict({"lstm": torch.nn.LSTM(3, 2), "norm": torch.nn.BatchNorm1d(2)})
            self.gru = torch.nn.GRU(2, 2)
            self.rnn = torch.nn.RNN(2, 2)
            self.cell = torch.nn.LSTMCell(2, 2)
            self.convolution = torch.nn.Conv1d(2, 2, 3)
            self.head = torch.nn.Linear(2, 4)
            self.register_buffer("small", torch.zeros(3, dtype=torch.float8_e4m3fn))

    model, path = Model(), tmp_path / "m.safetensors"
    safetensors.torch.save_file(model.state_dict(), path)
    np.testing.assert_array_equal(cylstm.load(path).weight_ih_l0, model.encoder["lstm"].weight_ih_l0.detach())
    assert isinstance(cylstm.load(path, "cell."), cylstm.LSTMCell)
    assert isinstance(cylstm.load(path, "head."), cylstm.Linear)
    with pytest.raises(ValueError, match=r"'gru'.*LSTM under the prefix 'encoder\.lstm\.'.*RNN or GRU, not"):
        cylstm.load(path, "gru")


# What is meant, and what is wrong -----------------------------------------------------------------------------------


def test_several_lstms_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    one, two = cylstm.LSTM(3, 2), cylstm.LSTM(4, 2)
    cylstm.save({"lstm1": one, "lstm10": two}, path)
    with pytest.raises(ValueError, match=r"holds 2 LSTMs: give the prefix of one of them: 'lstm1\.', 'lstm10\.'"):
        cylstm.load(path)
    assert_same_module(cylstm.load(path, "lstm1"), one)
    assert_same_module(cylstm.load(path, "lstm10"), two)
    with pytest.raises(ValueError, match="no LSTM, LSTMCell or Linear under the prefix 'lstm'"):
        cylstm.load(path, "lstm")


def test_a_prefix_is_text(tmp_path: Path) -> None:
    cylstm.save(cylstm.LSTM(3, 4), tmp_path / "m.npz")
    with pytest.raises(TypeError, match="prefix to be a str, got None of type NoneType"):
        cylstm.load(tmp_path / "m.npz", None)


def test_no_lstm_says_what_is_there(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", kernel=np.zeros((3, 8)), recurrent_kernel=np.zeros((2, 8)))
    with pytest.raises(ValueError, match=r"holds no LSTM.*kernel \(3, 8\), recurrent_kernel \(2, 8\)"):
        cylstm.load(tmp_path / "m.npz")
    np.savez(tmp_path / "empty.npz")
    with pytest.raises(ValueError, match=r"What is there: nothing"):
        cylstm.load(tmp_path / "empty.npz")


@pytest.mark.parametrize("extension", [".pt", ".PTH", ".bin", ".ckpt", ".pkl"])
def test_pickles_are_not_read(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"m{extension}"
    torch.save(torch.nn.LSTM(3, 2).state_dict(), path)
    with pytest.raises(ValueError, match=r"is a pickle.*save_file\(torch\.load\(.*'m\.safetensors'\)"):
        cylstm.load(path)


def test_missing_files_and_unknown_extensions(tmp_path: Path) -> None:
    for name in ("m.safetensors", "m.npz", "m.pt", "m"):
        with pytest.raises(FileNotFoundError, match="no such file"):
            cylstm.load(tmp_path / name)
    (tmp_path / "m.txt").write_text("")
    with pytest.raises(ValueError, match=r"ends in \.safetensors, \.npz"):
        cylstm.load(tmp_path / "m.txt")
    with pytest.raises(ValueError, match=r"ends in \.safetensors, \.npz"):
        cylstm.save(cylstm.LSTM(3, 2), tmp_path / "n.txt")
    assert not (tmp_path / "n.txt").exists()


@pytest.mark.parametrize("extension", FORMATS)
def test_a_folder_is_no_file(tmp_path: Path, extension: str) -> None:
    (tmp_path / f"m{extension}").mkdir()
    with pytest.raises((OSError, ValueError)):
        cylstm.load(tmp_path / f"m{extension}")


def wrong(**changes: tuple[int, ...] | None) -> dict[str, np.ndarray]:
    tensors = lstm_tensors()
    for name, shape in changes.items():
        tensors.pop(name, None)
        if shape is not None:
            tensors[name] = np.zeros(shape, np.float32)
    return tensors


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            wrong(weight_ih_l0=(7, 3)),
            r"does not fit together.*expected weight_ih_l0 \(8, 3\); got .* \(7, 3\)",
        ),
        (wrong(weight_hh_l0=(8, 3)), r"expected weight_hh_l0 \(8, 2\)"),
        (wrong(weight_hh_l0=(10, 2)), r"expected weight_hh_l0 \(8, 2\)"),
        (wrong(bias_hh_l0=None), r"expected bias_hh_l0 \(8,\); got none of them"),
        (wrong(bias_hh_l0=(8, 1)), r"got bias_hh_l0 \(8, 1\)"),
        (wrong(weight_ih_l0=None), "'weight_ih_l0' is missing"),
        (wrong(weight_hh_l0=None), "'weight_hh_l0' is missing"),
        (wrong(weight_hh_l0=(8,)), "must have two dimensions"),
        (wrong(weight_ih_l2=(8, 2)), r"expected weight_hh_l1 \(8, 2\)|expected weight_ih_l1 \(8, 2\)"),
        (wrong(weight_ih_l999999=(8, 2)), r"got weight_ih_l999999"),
        (wrong(weight_ih_l0_reverse=(8, 3)), "weight_hh_l0_reverse"),
        (wrong(weight_hr_l0=(1, 2)), r"expected weight_hr_l0 \(2, 2\)"),
        (wrong(weight_hr_l0=(2, 2)), "proj_size"),
        (wrong(weight_ih_l0=(8, 0)), "is empty"),
        (wrong(weight_ih_l0=(0, 3), weight_hh_l0=(0, 0), bias_ih_l0=(0,), bias_hh_l0=(0,)), "is empty"),
    ],
)
def test_shapes_that_make_no_lstm(tmp_path: Path, tensors: dict, message: str) -> None:
    np.savez(tmp_path / "m.npz", **tensors)
    with pytest.raises(ValueError, match=message):
        cylstm.load(tmp_path / "m.npz")


def test_dtypes_that_make_no_lstm(tmp_path: Path) -> None:
    tensors = lstm_tensors()
    np.savez(tmp_path / "m.npz", **{**tensors, "bias_ih_l0": tensors["bias_ih_l0"].astype("f8")})
    with pytest.raises(ValueError, match="parameters of one dtype, got float32, float64"):
        cylstm.load(tmp_path / "m.npz")
    np.savez(tmp_path / "m.npz", **{name: array.astype("i4") for name, array in tensors.items()})
    with pytest.raises(ValueError, match=r"expected parameters of float16.*got int32"):
        cylstm.load(tmp_path / "m.npz")
    small = {name: torch.from_numpy(array).to(torch.float8_e5m2) for name, array in tensors.items()}
    safetensors.torch.save_file(small, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="got F8_E5M2"):
        cylstm.load(tmp_path / "m.safetensors")


def test_complex128_does_not_go_into_safetensors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no dtype for complex128.*\.npz"):
        cylstm.save(cylstm.LSTM(3, 2, dtype="complex128"), tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "text"), [("batch_first", "perhaps"), ("dropout", "much"), ("dropout", "2")])
def test_wrong_metadata(tmp_path: Path, name: str, text: str) -> None:
    safetensors.numpy.save_file(lstm_tensors(), tmp_path / "m.safetensors", metadata={name: text})
    with pytest.raises(ValueError, match=f"{name}.*{text}|dropout should be a number"):
        cylstm.load(tmp_path / "m.safetensors")


def test_save_takes_modules_alone(tmp_path: Path) -> None:
    for not_a_module in (None, torch.nn.LSTM(3, 2), {"lstm": 1}):
        with pytest.raises(TypeError, match="expected an LSTM, LSTMCell or Linear"):
            cylstm.save(not_a_module, tmp_path / "m.npz")


# Written whole or not at all ----------------------------------------------------------------------------------------


def test_replacing_keeps_the_old_file_on_an_error(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    path.write_bytes(b"old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


@pytest.mark.skipif(os.name != "posix", reason="permissions and links of POSIX")
def test_replacing_keeps_permissions_and_links(tmp_path: Path) -> None:
    path, link = tmp_path / "m.safetensors", tmp_path / "link.safetensors"
    path.touch(mode=0o600)
    link.symlink_to(path)
    cylstm.save(cylstm.LSTM(3, 2), link)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert_same_module(cylstm.load(path), cylstm.load(link))
    with pytest.raises(ValueError, match="not a file that could be replaced"), replacing(Path(os.devnull)):
        pass


# Files that mean harm -----------------------------------------------------------------------------------------------

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
    with pytest.raises(ValueError, match="'a' is there twice"):
        cylstm.load(tmp_path / "m.npz")


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
        with pytest.raises(ValueError, match="does not fit together"):
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
