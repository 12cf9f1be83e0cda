"""``.ci/run``: it fails where a step fails, and where there is none to run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from processes import LIMIT

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    os.name != "posix" or not (shutil.which("make") and shutil.which("bash")), reason="there is no make or no bash"
)


@pytest.mark.parametrize(
    ("makefile", "arguments", "status", "said"),
    [
        ("steps:\n\t@echo good other\ngood other:\n\t@true\n", [], 0, "make other: ok"),
        ("steps:\n\t@echo bad good\nbad:\n\t@false\ngood:\n\t@true\n", [], 1, "make good: ok"),
        ("good:\n\t@true\n", ["good"], 0, "all steps: ok"),
        ("steps:\n\t@true\n", [], 1, "make steps names no step"),
        ("steps:\n\t@false\n", [], 1, "make steps names no step"),
        ("steps:\n        @echo good\n", [], 1, "make steps names no step"),
        (None, [], 1, "make steps names no step"),
    ],
)
def test_ci_run(tmp_path: Path, makefile: str | None, arguments: list[str], status: int, said: str) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    if makefile is not None:
        (tmp_path / "Makefile").write_text(makefile, "utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        [tmp_path / ".ci" / "run", *arguments], env=kept, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == status
    assert said in done.stdout + done.stderr
    assert ("all steps: ok" in done.stdout) is (status == 0)
