"""Commands that are run, and the files that they take."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import cylstm
from cylstm.cli import main


def prepare(shape: tuple[int, ...] = (7, 5, 3), dtype: str = "float32", **options: object) -> cylstm.LSTM:
    """Write model.safetensors and input.npy into the working folder."""
    cylstm.manual_seed(0)
    lstm = cylstm.LSTM(3, 4, **options)
    cylstm.save(lstm, "model.safetensors")
    np.save("input.npy", cylstm.randn(*shape).astype(dtype))
    return lstm.eval()


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that is to fail; its one line on stderr."""
    capsys.readouterr()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("cylstm: ")
    assert captured.err.count("\n") == 1
    return captured.err


def popen(*arguments: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cylstm", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        **options,
    )
