"""The examples: the trained file is what the script gives, and the demo does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import cylstm

EXAMPLES = Path(__file__).parents[1] / "examples"
MODEL = EXAMPLES / "digits.safetensors"


@pytest.fixture(autouse=True)
def _examples_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)


def test_the_split_is_what_it_says() -> None:
    from digits import split

    training, held_out = split()
    assert (training.images.shape, held_out.images.shape) == ((1198, 8, 8), (599, 8, 8))
    assert held_out.images.dtype == np.float32
    assert (held_out.images.min(), held_out.images.max()) == (0, 1)
    both = np.concatenate([training.images, held_out.images]).reshape(1797, -1)
    assert len(np.unique(both, axis=0)) == 1797  # no image on both sides
    shares = np.bincount(held_out.digits) / (np.bincount(training.digits) + np.bincount(held_out.digits))
    np.testing.assert_allclose(shares, 1 / 3, atol=0.01)
    np.testing.assert_array_equal(split()[1].images, held_out.images)


def test_the_trained_file_reads_held_out_digits_as_torch_does(backend: str) -> None:
    from digits import split
    from train_digits import DigitReader, accuracy

    assert MODEL.stat().st_size < 300_000
    _, held_out = split()
    model = DigitReader()
    model.load_state_dict(safetensors.torch.load_file(MODEL))
    assert accuracy(model, held_out) >= 0.97
    lstm, head = cylstm.load(MODEL, "lstm", backend=backend), cylstm.load(MODEL, "head")
    _, (h_n, _) = lstm(held_out.images)
    with torch.no_grad():
        expected = model(torch.from_numpy(held_out.images)).numpy()
    np.testing.assert_allclose(head(h_n[-1]), expected, atol=1e-4, rtol=0)


def test_training_gives_such_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import train_digits

    threads = torch.get_num_threads()
    try:
        monkeypatch.setattr(
            sys, "argv", ["train_digits.py", "--output", str(tmp_path / "few.safetensors"), "--epochs", "1"]
        )
        with pytest.raises(SystemExit, match="not written"):
            train_digits.main()
        monkeypatch.setattr(sys, "argv", ["train_digits.py", "--output", str(tmp_path / "m.safetensors")])
        train_digits.main()
    finally:
        torch.set_num_threads(threads)
    assert repr(cylstm.load(tmp_path / "m.safetensors")) == repr(cylstm.load(MODEL))
    assert (tmp_path / "m.safetensors").stat().st_size == MODEL.stat().st_size


def test_demo(tmp_path: Path) -> None:
    command = [sys.executable, EXAMPLES / "demo.py", "--output", tmp_path / "demo-output"]
    process = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, encoding="utf-8")
    assert process.returncode == 0, process.stderr
    summary = dict(re.findall(r"^(\S+(?: \S+)*)  +(.+)$", process.stdout, re.MULTILINE))
    assert list(summary) == [
        "held-out accuracy",
        "sequences per second",
        "backend",
        "instruction set",
        "threads",
        "picture",
    ]
    assert float(summary["held-out accuracy"].split()[0]) >= 0.97
    assert float(summary["sequences per second"].replace(",", "")) > 0
    assert summary["backend"] in ("cython", "numpy")
    assert "599/599 sequences" in process.stderr
    assert Path(summary["picture"]).read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (tmp_path / "demo-output").iterdir()} == {"images.npy", "scores.npz", "digits.png"}


def test_demo_fails_where_the_model_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import demo

    cylstm.manual_seed(0)
    lstm, head = cylstm.LSTM(8, 64, batch_first=True), cylstm.Linear(64, 10)
    cylstm.save({"lstm": lstm, "head": head}, tmp_path / "untrained.safetensors")
    monkeypatch.setattr(demo, "MODEL", tmp_path / "untrained.safetensors")
    monkeypatch.setattr(sys, "argv", ["demo.py", "--output", str(tmp_path / "demo-output")])
    assert demo.main() == 1
    monkeypatch.setattr(demo, "MODEL", tmp_path / "none.safetensors")
    with pytest.raises(SystemExit) as error:
        demo.main()
    assert error.value.code == 2
