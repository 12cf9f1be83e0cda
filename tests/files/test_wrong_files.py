"""What a file does not say or says wrongly: errors by name; and files that are written whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from model_files import assert_same_module, lstm_tensors

import cylstm
from cylstm.cli import main
from cylstm.files.container import replacing
from cylstm.files.formats import FORMATS


def test_several_lstms_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    one, two = cylstm.LSTM(3, 2), cylstm.LSTM(4, 2)
    cylstm.save({"lstm1": one, "lstm10": two}, path)
    with pytest.raises(
        ValueError, match=r"must hold one LSTM, got 2: give the prefix of one of them: 'lstm1\.', 'lstm10\.'"
    ):
        cylstm.load(path)
    assert_same_module(cylstm.load(path, "lstm1"), one)
    assert_same_module(cylstm.load(path, "lstm10"), two)
    with pytest.raises(ValueError, match="must hold an LSTM, LSTMCell or Linear under the prefix 'lstm'"):
        cylstm.load(path, "lstm")


def test_a_prefix_is_text(tmp_path: Path) -> None:
    cylstm.save(cylstm.LSTM(3, 4), tmp_path / "m.npz")
    with pytest.raises(TypeError, match="prefix must be a str, got None of type NoneType"):
        cylstm.load(tmp_path / "m.npz", None)


def test_no_lstm_says_what_is_there(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", kernel=np.zeros((3, 8)), recurrent_kernel=np.zeros((2, 8)))
    with pytest.raises(ValueError, match=r"must hold an LSTM.*got kernel \(3, 8\), recurrent_kernel \(2, 8\)"):
        cylstm.load(tmp_path / "m.npz")
    np.savez(tmp_path / "empty.npz")
    with pytest.raises(ValueError, match=r"got nothing"):
        cylstm.load(tmp_path / "empty.npz")


def test_names_of_a_file_do_not_steer_the_terminal(tmp_path: Path) -> None:
    name = "\x1b]0;owned\x07\n\u202e"
    safetensors.numpy.save_file({name: np.zeros(2)}, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"got .*\\x1b\]0;owned\\x07\\n\\u202e") as caught:
        cylstm.load(tmp_path / "m.safetensors")
    assert str(caught.value).replace(str(tmp_path), "").isprintable()


def test_missing_files_and_unknown_extensions(tmp_path: Path) -> None:
    for name in ("m.safetensors", "m.npz", "m.pt", "m"):
        with pytest.raises(FileNotFoundError, match="no such file"):
            cylstm.load(tmp_path / name)
    (tmp_path / "m.txt").write_text("")
    with pytest.raises(ValueError, match=r"must end in \.safetensors, \.npz"):
        cylstm.load(tmp_path / "m.txt")
    with pytest.raises(ValueError, match=r"must end in \.safetensors, \.npz"):
        cylstm.save(cylstm.LSTM(3, 2), tmp_path / "n.txt")
    assert not (tmp_path / "n.txt").exists()


@pytest.mark.parametrize("extension", [*FORMATS, ".pt", ".index.json", ".txt", ""])
def test_folders_and_pipes_are_no_files(tmp_path: Path, extension: str) -> None:
    (tmp_path / f"m{extension}").mkdir()
    os.mkfifo(tmp_path / f"n{extension}")  # nobody writes to it: to open it would wait for ever
    for path in (tmp_path / f"m{extension}", tmp_path / f"n{extension}"):
        with pytest.raises(ValueError, match="must be a regular file, got a folder, pipe or device"):
            cylstm.load(path)


@pytest.mark.parametrize("extension", [".safetensors", ".npz", ".onnx", ".weights.h5"])
def test_any_name_that_the_system_takes(tmp_path: Path, extension: str) -> None:
    longest = 255 - len(".data" if extension == ".onnx" else "")  # which can stand behind it
    path = tmp_path / f"{'n' * (longest - len(extension))}{extension}"
    lstm = cylstm.LSTM(3, 2)
    cylstm.save(lstm, path)
    assert cylstm.load(path).hidden_size == 2
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("extension", [".npy", ".npz"])
def test_any_name_for_a_result(tmp_path: Path, extension: str) -> None:
    target = tmp_path / f"{'n' * (255 - len(extension))}{extension}"
    cylstm.save(cylstm.LSTM(3, 2), tmp_path / "m.npz")
    np.save(tmp_path / "x.npy", np.zeros((4, 1, 3), np.float32))
    assert main(["run", str(tmp_path / "m.npz"), str(tmp_path / "x.npy"), "-o", str(target)]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.npz", target.name, "x.npy"]


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
            r"must have weight_ih_l0 \(8, 3\) for .*hidden_size=2.*, got .* \(7, 3\)",
        ),
        (wrong(weight_hh_l0=(8, 3)), r"must have weight_hh_l0 \(8, 2\)"),
        (wrong(weight_hh_l0=(10, 2)), r"must have weight_hh_l0 \(8, 2\)"),
        (wrong(bias_hh_l0=None), r"must have bias_hh_l0 \(8,\) for .*, got none of them"),
        (wrong(bias_hh_l0=(8, 1)), r"got bias_hh_l0 \(8, 1\)"),
        (wrong(weight_ih_l0=None), "must have 'weight_ih_l0', got"),
        (wrong(weight_hh_l0=None), "must have 'weight_hh_l0', got"),
        (wrong(weight_hh_l0=(8,)), "must have weights of two dimensions"),
        (wrong(weight_ih_l2=(8, 2)), r"must have weight_ih_l1 \(8, 2\), weight_hh_l1 \(8, 2\)"),
        (wrong(weight_ih_l999999=(8, 2)), r"got weight_ih_l999999"),
        (wrong(weight_ih_l0_reverse=(8, 3)), "weight_hh_l0_reverse"),
        (wrong(weight_hr_l0=(1, 2)), r"must have weight_hr_l0 \(2, 2\)"),
        (wrong(weight_hr_l0=(2, 2)), "proj_size"),
        (wrong(weight_ih_l0=(8, 0)), "sizes of 1 or more"),
        (wrong(weight_ih_l0=(0, 3), weight_hh_l0=(0, 0), bias_ih_l0=(0,), bias_hh_l0=(0,)), "sizes of 1 or more"),
    ],
)
def test_shapes_that_make_no_lstm(tmp_path: Path, tensors: dict, message: str) -> None:
    np.savez(tmp_path / "m.npz", **tensors)
    with pytest.raises(ValueError, match=message):
        cylstm.load(tmp_path / "m.npz")


def test_dtypes_that_make_no_lstm(tmp_path: Path) -> None:
    tensors = lstm_tensors()
    np.savez(tmp_path / "m.npz", **{**tensors, "bias_ih_l0": tensors["bias_ih_l0"].astype("f8")})
    with pytest.raises(ValueError, match="parameters must have one dtype, got float32, float64"):
        cylstm.load(tmp_path / "m.npz")
    np.savez(tmp_path / "m.npz", **{name: array.astype("i4") for name, array in tensors.items()})
    with pytest.raises(ValueError, match=r"parameters must be float16.*got int32"):
        cylstm.load(tmp_path / "m.npz")
    small = {name: torch.from_numpy(array).to(torch.float8_e5m2) for name, array in tensors.items()}
    safetensors.torch.save_file(small, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="got F8_E5M2"):
        cylstm.load(tmp_path / "m.safetensors")


def test_complex128_does_not_go_into_safetensors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be of a dtype that safetensors has, got complex128.*\.npz"):
        cylstm.save(cylstm.LSTM(3, 2, dtype="complex128"), tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "text"), [("batch_first", "perhaps"), ("dropout", "much"), ("dropout", "2")])
def test_wrong_metadata(tmp_path: Path, name: str, text: str) -> None:
    safetensors.numpy.save_file(lstm_tensors(), tmp_path / "m.safetensors", metadata={name: text})
    with pytest.raises(ValueError, match=f"{name}.*{text}|dropout must be a number"):
        cylstm.load(tmp_path / "m.safetensors")


def test_save_takes_modules_alone(tmp_path: Path) -> None:
    for not_a_module in (None, torch.nn.LSTM(3, 2), {"lstm": 1}):
        with pytest.raises(TypeError, match="module must be an LSTM, LSTMCell or Linear"):
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
    with pytest.raises(ValueError, match="must be a regular file or a new one"), replacing(Path(os.devnull)):
        pass
