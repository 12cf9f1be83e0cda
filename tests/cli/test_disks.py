"""Full disks, files that are cut short, kill -9: an error or the old file, never a signal or half a file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import fails, popen, prepare
from processes import LIMIT

import cylstm
from cylstm.cli.sequences import FileArray


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("name", ["out.npy", "out.npz"])
def test_a_full_disk_is_an_error(name: str, folder: Path, small_disk: Path) -> None:
    prepare((3000, 9, 3))
    Path(small_disk, name).write_bytes(b"old")
    command = popen("run", "model.safetensors", "input.npy", "-o", str(small_disk / name), "--force")
    _, errors = command.communicate(timeout=LIMIT)
    assert command.returncode == 2
    assert "No space left on device" in errors
    assert errors.count("\n") == 1
    assert [path.name for path in small_disk.iterdir()] == [name]
    assert Path(small_disk, name).read_bytes() == b"old"


@pytest.mark.parametrize("name", ["new.safetensors", "new.npz", "new.onnx", "new.weights.h5"])
def test_convert_to_a_full_disk_keeps_the_old_file(name: str, folder: Path, small_disk: Path) -> None:
    cylstm.save(cylstm.LSTM(100, 300), "large.safetensors")
    Path(small_disk, name).write_bytes(b"old")
    command = popen("convert", "large.safetensors", str(small_disk / name), "--force")
    _, errors = command.communicate(timeout=LIMIT)
    assert (command.returncode, "No space left on device" in errors) == (2, True)
    assert [path.read_bytes() for path in small_disk.iterdir()] == [b"old"]


def test_all_blocks_of_an_output_are_there_before_it_is_written(folder: Path) -> None:
    from cylstm.cli.sequences import mapped_output

    array = mapped_output(Path("output.npy"), np.dtype(np.float32), (1000, 1000))
    assert os.stat("output.npy").st_blocks * 512 >= array.nbytes
    assert not np.load("output.npy").any()


@pytest.mark.parametrize("order", ["C", "F"])
def test_input_is_read_part_by_part(order: str, folder: Path) -> None:
    array = np.asarray(np.arange(7 * 5 * 3.0).reshape(7, 5, 3), order=order)
    np.save("input.npy", array)
    read = FileArray(Path("input.npy"))
    assert (read.shape, read.dtype, read.ndim) == (array.shape, array.dtype, 3)
    for first in (slice(0, 7), slice(2, 5), slice(6, 7), slice(3, 3)):
        np.testing.assert_array_equal(read.read(first), array[first])
        for second in (slice(0, 5), slice(1, 4), slice(4, 5)):
            np.testing.assert_array_equal(read.read(first, second), array[first, second])


@pytest.mark.parametrize("second", [None, slice(1, 4)])
def test_an_input_that_becomes_shorter_is_an_error(second: slice | None, folder: Path) -> None:
    np.save("input.npy", np.zeros((7, 5, 3)))
    array = FileArray(Path("input.npy"))
    os.truncate("input.npy", 500)
    with pytest.raises(ValueError, match=r"input.npy: the file must stay as it is while it is read"):
        array.read(slice(0, 7), second)


def test_an_input_that_becomes_shorter_while_it_is_run(folder: Path) -> None:
    prepare((200_000, 2, 3))
    command = popen("run", "model.safetensors", "input.npy", "-o", "out.npy", "--chunk", "50")
    while command.poll() is None and not list(folder.glob(".*.tmp")):
        time.sleep(0.01)
    os.truncate("input.npy", 10_000)
    _, errors = command.communicate(timeout=LIMIT)
    assert command.returncode == 2
    assert "must stay as it is while it is read" in errors
    assert sorted(path.name for path in folder.iterdir()) == ["input.npy", "model.safetensors"]


def test_a_pipe_is_not_waited_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare()
    os.mkfifo("pipe.npy")
    assert "pipe.npy must be a regular file" in fails(capsys, "run", "model.safetensors", "pipe.npy")


@pytest.mark.parametrize("command", ["run", "convert"])
def test_kill_9_leaves_the_old_file_whole(command: str, folder: Path) -> None:
    """Whenever it comes: killed after each of several delays."""
    prepare((20_000, 2, 3))
    cylstm.save(cylstm.LSTM(300, 900), "large.safetensors")
    arguments, target = {
        "run": (
            ["run", "model.safetensors", "input.npy", "-o", "out.npy", "--chunk", "50", "--force"],
            Path("out.npy"),
        ),
        "convert": (["convert", "large.safetensors", "out.npz", "--force"], Path("out.npz")),
    }[command]
    np.save("old.npy", np.arange(5)) if command == "run" else np.savez("old.npz", x=np.arange(5))
    old = Path(f"old{target.suffix}").read_bytes()
    target.write_bytes(old)
    for _ in range(3):
        process = popen(*arguments, "--force")
        while process.poll() is None and not list(folder.glob(".*.tmp")):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=LIMIT)
        if target.read_bytes() != old:  # it was faster
            assert len(cylstm.load(target).state_dict() if command == "convert" else np.load(target)) > 1
            target.write_bytes(old)


def test_a_save_that_is_killed_leaves_the_old_file(folder: Path) -> None:
    """In the middle of the write, between the temporary file and its new name."""
    code = """
import os, signal, sys
import cylstm
from cylstm.files import container
replace = os.replace
os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
cylstm.save(cylstm.LSTM(30, 90), sys.argv[1])
"""
    for name in ("old.safetensors", "old.npz", "old.onnx"):
        lstm = cylstm.LSTM(3, 5)
        cylstm.save(lstm, name)
        before = Path(name).read_bytes()
        environment = {**os.environ, "PYTHONPATH": str(Path(cylstm.__file__).parents[1])}
        done = subprocess.run([sys.executable, "-c", code, name], env=environment)
        assert done.returncode == -signal.SIGKILL
        assert Path(name).read_bytes() == before
        np.testing.assert_array_equal(cylstm.load(name).weight_ih_l0, lstm.weight_ih_l0)
