"""``tools/run_on_gpu`` without a GPU: what it says where there is none, and its parts with a stand-in for Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import LIMIT

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "run_on_gpu"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it is for Linux")


def run(tmp_path: Path, *parts: str, python: str = sys.executable, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(SCRIPT), *parts],
        env=os.environ | {"OUT": str(tmp_path / "logs"), "PYTHON": python, **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def stand_in(tmp_path: Path, script: str) -> str:
    """A program in the place of Python."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
    path.chmod(0o755)
    return str(path)


def test_without_a_gpu_it_says_what_is_missing(tmp_path: Path) -> None:
    from cylstm.backends.cupy_backend import CupyBackend

    available, reason = CupyBackend.is_available()
    if available:
        pytest.skip("there is a GPU")
    done = run(tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"nothing can be run here: {reason}\n"
    assert not (tmp_path / "logs").exists()


def test_parts_run_in_order_and_leave_logs(tmp_path: Path) -> None:
    python = stand_in(tmp_path, 'echo "called $*"; [ "$CYLSTM_CUPY_TIER" = "" ]')
    done = run(
        tmp_path, "first-minute", "conformance", "bench", "kernels", "backend", python=python, CYLSTM_CUPY_TIER="x"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    names = [line.split()[1].rstrip(":") for line in done.stdout.splitlines() if line.startswith("== ")]
    assert names == ["first-minute", "conformance", "bench", "kernels", "backend", "done"]
    for name in names[:-1]:
        called = (tmp_path / "logs" / f"{name}.log").read_text("utf-8")
        paths = [word for word in called.split() if "/" in word]
        assert all((ROOT / path).exists() for path in paths), called


def test_a_part_that_fails_or_hangs_does_not_end_the_run(tmp_path: Path) -> None:
    python = stand_in(tmp_path, 'case "$*" in *first_minute*) exit 3;; *conformance*) exec sleep 100;; esac')
    done = run(tmp_path, "first-minute", "conformance", "bench", python=python, SECONDS_LEFT="9")
    assert done.returncode == 1
    assert "== first-minute: status 3" in done.stdout
    assert "== conformance: status 124" in done.stdout
    assert "== bench: left out, no time is left" in done.stdout
