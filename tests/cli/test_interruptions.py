"""Errors of the command line are one line, and interruptions leave no half file."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from command_line import fails, popen, prepare
from processes import LIMIT

import cylstm
from cylstm.cli import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.safetensors", "input.npy"], "no such file: 'none.safetensors'"),
        (["model.safetensors", "none.npy"], "no such file: 'none.npy'"),
        (["model.safetensors", "model.safetensors"], "must end in .npy or .npz"),
        (["input.npy", "input.npy"], "must end in .safetensors"),
        (["model.safetensors", "input.npy", "-o", "output.txt"], "must end in .npy or .npz, got 'output.txt'"),
        (["model.safetensors", "input.npy", "-o", "none/output.npy"], "no such folder"),
        (["model.safetensors", "input.npy", "-o", "folder.npy"], "must be a regular file or a new one"),
        (["model.safetensors", "input.npy", "--prefix", "encoder"], "'encoder'"),
        (["model.safetensors", "input.npy", "--head", "head"], "'head'"),
        (["linear.npz", "input.npy"], "linear.npz must hold an LSTM, got a Linear"),
        (["both.npz", "input.npy", "--head", "lstm"], "the head 'lstm' must be a Linear, got an LSTM"),
        (["both.npz", "input.npy", "--head", "head"], "must take the 4 features of the LSTM, got 9"),
        (["model.safetensors", "input.npy", "--backend", "fastest"], "'fastest'"),
        (["model.safetensors", "wide.npy"], "input must have shape (T, B, I) or (T, I) with I = 3, got (7, 5, 9)"),
        (["model.safetensors", "wide.npy", "--batch-first"], "(B, T, I)"),
        (["model.safetensors", "no_steps.npy"], "one step or more"),
        (["model.safetensors", "objects.npy"], "objects.npy must be a readable .npy file, got"),
        (["model.safetensors", "broken.npy"], "broken.npy must be a readable .npy file, got"),
        (["model.safetensors", "half.npy"], "half.npy must be a readable .npy file, got"),
        (["model.safetensors", "open.npy"], "open.npy must be a readable .npy file, got"),
        (["model.safetensors", "negative.npy"], "negative.npy must be a readable .npy file, got"),
        (["model.safetensors", "no_input.npz"], "must hold the array input"),
        (["model.safetensors", "no_c_0.npz"], "h_0 with c_0 or neither"),
        (["model.safetensors", "wrong_states.npz"], "h_0 must have shape (1, 5, 4) and c_0 (1, 5, 4), got (1, 5, 3)"),
    ],
)
def test_errors_are_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    prepare()
    x = np.load("input.npy")
    cylstm.save(cylstm.Linear(3, 2), "linear.npz")
    cylstm.save({"lstm": cylstm.LSTM(3, 4), "head": cylstm.Linear(9, 2)}, "both.npz")
    np.save("wide.npy", np.zeros((7, 5, 9), np.float32))
    np.save("no_steps.npy", np.zeros((0, 5, 3), np.float32))
    np.save("objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    Path("broken.npy").write_bytes(b"hello")
    Path("half.npy").write_bytes(Path("input.npy").read_bytes()[:-4])
    for name, text in (("open", b"("), ("negative", Path("input.npy").read_bytes()[10:128].replace(b"(7", b"(-7"))):
        Path(f"{name}.npy").write_bytes(b"\x93NUMPY\x01\x00\x76\x00" + text[:118].ljust(118) + bytes(500))
    np.savez("no_input.npz", x=x)
    np.savez("no_c_0.npz", input=x, h_0=np.zeros((1, 5, 4), np.float32))
    np.savez("wrong_states.npz", input=x, h_0=np.zeros((1, 5, 3), np.float32), c_0=np.zeros((1, 5, 4), np.float32))
    Path("folder.npy").mkdir()
    before = sorted(folder.iterdir())
    assert message in fails(capsys, "run", *arguments)
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    "arguments", ["", "dance", "run", "run m i --chunk 0", "run m i --batch-chunk x", "bench --seconds nan"]
)
def test_wrong_usage(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(arguments.split())
    assert error.value.code == 2
    assert "usage: cylstm" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("name", ["output.npy", "output.npz"])
def test_a_file_that_is_replaced_keeps_its_permissions(folder: Path, name: str) -> None:
    prepare()
    Path(name).touch(mode=0o600)
    assert main(["run", "model.safetensors", "input.npy", "-o", name, "--force"]) == 0
    assert Path(name).stat().st_size
    assert Path(name).stat().st_mode & 0o777 == 0o600


def test_input_in_another_byte_order(folder: Path) -> None:
    lstm = prepare()
    x = np.load("input.npy")
    np.save("input.npy", x.astype(x.dtype.newbyteorder()))
    assert main(["run", "model.safetensors", "input.npy", "-o", "output.npy"]) == 0
    np.testing.assert_array_equal(np.load("output.npy"), lstm(x)[0])


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("output", ["output.npy", "output.npz"])
def test_an_interrupted_run_leaves_no_half_file(folder: Path, output: str, number: signal.Signals) -> None:
    prepare((1_000_000, 1, 3))
    Path(output).write_bytes(b"old")
    before = sorted(folder.iterdir())
    run = ["run", "model.safetensors", "input.npy", "-o", output, "--chunk", "1", "--backend", "numpy", "--progress"]
    run.append("--force")
    # a test run in the background ignores some of them, and its children would too
    with popen(*run, preexec_fn=lambda: signal.signal(number, signal.SIG_DFL)) as process:
        assert "0/1,000,000 steps" in process.stderr.readline()
        process.send_signal(number)
        rest = process.communicate(timeout=LIMIT)[1]
    assert process.returncode == 128 + number
    assert rest.splitlines()[-1] == f"cylstm: {'interrupted' if number == signal.SIGINT else 'terminated'}"
    assert "Traceback" not in rest
    assert sorted(folder.iterdir()) == before
    assert Path(output).read_bytes() == b"old"
