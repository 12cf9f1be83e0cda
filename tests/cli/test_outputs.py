"""Nothing is lost: an output is never an input, and a file that is there is replaced with ``--force`` alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from command_line import fails, prepare

import cylstm
from cylstm.cli import main


def run(*more: str) -> list[str]:
    return ["run", "model.safetensors", "input.npy", "-o", *more]


def alias(kind: str, of: str) -> str:
    """Another name of a file."""
    name = f"other{Path(of).suffix}"
    if kind == "path":
        return f".{os.sep}{of}"
    if kind == "absolute":
        return str(Path(of).resolve())
    (os.symlink if kind == "symlink" else os.link)(of, name)
    return name


ALIASES = ["path", "absolute", "symlink", "hard link"]


@pytest.mark.skipif(os.name != "posix", reason="links of POSIX")
@pytest.mark.parametrize("force", [[], ["--force"]], ids=str)
@pytest.mark.parametrize("kind", ALIASES)
@pytest.mark.parametrize("which", ["input.npy", "lengths.npy"])
def test_run_never_replaces_an_input(
    folder: Path, capsys: pytest.CaptureFixture[str], which: str, kind: str, force: list[str]
) -> None:
    prepare()
    np.save("lengths.npy", np.full(5, 7))
    before = Path(which).read_bytes()
    error = fails(capsys, *run(alias(kind, which), "--lengths", "lengths.npy", *force))
    assert f"output must be another file than the input '{which}'" in error
    assert Path(which).read_bytes() == before


@pytest.mark.skipif(os.name != "posix", reason="links of POSIX")
@pytest.mark.parametrize("force", [[], ["--force"]], ids=str)
@pytest.mark.parametrize("kind", ALIASES)
@pytest.mark.parametrize("source", ["two.safetensors", "two.npz"])
def test_convert_never_replaces_its_input(
    folder: Path, capsys: pytest.CaptureFixture[str], source: str, kind: str, force: list[str]
) -> None:
    cylstm.save({"encoder": cylstm.LSTM(3, 4), "decoder": cylstm.LSTM(4, 2)}, source)
    before = Path(source).read_bytes()
    error = fails(capsys, "convert", source, alias(kind, source), "--prefix", "decoder.", *force)
    assert "output must be another file" in error
    assert Path(source).read_bytes() == before


def test_files_that_an_index_names_are_inputs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cylstm.save({"lstm": cylstm.LSTM(3, 4)}, "one.safetensors")
    cylstm.save({"head": cylstm.Linear(4, 2)}, "two.npz")
    files = {"lstm.weight_ih_l0": "one.safetensors", "lstm.weight_hh_l0": "one.safetensors", "head.weight": "two.npz"}
    Path("model.index.json").write_text(json.dumps({"weight_map": files}))
    np.save("input.npy", cylstm.randn(5, 3))
    before = [Path(name).read_bytes() for name in ("one.safetensors", "two.npz")]
    for command in (
        ["convert", "model.index.json", "one.safetensors"],
        ["convert", "model.index.json", "two.npz"],
        ["run", "model.index.json", "input.npy", "-o", "two.npz"],
    ):
        assert "output must be another file than the input" in fails(capsys, *command, "--force")
    assert [Path(name).read_bytes() for name in ("one.safetensors", "two.npz")] == before
    assert main(["convert", "model.index.json", "three.safetensors"]) == 0


def test_run_never_replaces_the_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lstm = prepare()
    cylstm.save(lstm, "model.npz")
    assert "another file" in fails(capsys, "run", "model.npz", "input.npy", "-o", "model.npz", "--force")
    assert repr(cylstm.load("model.npz")) == repr(lstm)


def test_what_is_there_is_replaced_by_force(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lstm = prepare()
    for command, output in ((run("output.npy"), "output.npy"), (["convert", "model.safetensors", "m.npz"], "m.npz")):
        Path(output).write_bytes(b"old")
        assert f"output must be a new file, got '{output}', which is there" in fails(capsys, *command)
        assert Path(output).read_bytes() == b"old"
        assert main([*command, "--force"]) == 0
    np.testing.assert_array_equal(np.load("output.npy"), lstm(np.load("input.npy"))[0])
    assert repr(cylstm.load("m.npz")) == repr(lstm)


def test_convert_names_what_it_leaves_behind(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {"encoder": cylstm.LSTM(3, 4), "head": cylstm.Linear(4, 2)}
    cylstm.save(names, "plain.safetensors")
    arrays = {f"{name}.{key}": array for name, one in names.items() for key, array in one.state_dict().items()}
    np.savez("m.npz", **arrays, **{"norm.weight": np.ones(4, "f4"), "norm.bias": np.zeros(4, "f4")})
    assert main(["convert", "m.npz", "encoder.safetensors"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "encoder.safetensors: LSTM(3, 4), float32"
    assert second == "not converted, and only in m.npz: 'head.', 2 other arrays"
    assert main(["convert", "encoder.safetensors", "again.npz"]) == 0
    assert capsys.readouterr().out == "again.npz: LSTM(3, 4), float32\n"


def test_convert_knows_the_layout(folder: Path) -> None:
    """A state_dict of PyTorch does not say ``batch_first``."""
    lstm = prepare()
    assert main(["convert", "model.safetensors", "b.onnx", "--batch-first"]) == 0
    assert cylstm.load("b.onnx").batch_first
    x = cylstm.randn(2, 7, 3)
    np.testing.assert_array_equal(cylstm.load("b.onnx")(x)[0], lstm(x.swapaxes(0, 1))[0].swapaxes(0, 1))
    assert main(["convert", "b.onnx", "t.onnx", "--no-batch-first"]) == 0
    assert not cylstm.load("t.onnx").batch_first
