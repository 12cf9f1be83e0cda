"""``tools/all_wheels``: what cannot be made here is said, and is a failure only where it is asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from processes import LIMIT

TOOL = Path(__file__).parents[2] / "tools" / "all_wheels"
pytestmark = pytest.mark.skipif(os.name != "posix" or not shutil.which("bash"), reason="there is no bash")

#: Instead of the tool that makes one wheel: this one is made, another one lacks a tool, any other fails if so told.
MAKES_ONE = """#!/usr/bin/env bash
case $1 in
musl) echo "wheel-musl needs musl-gcc" >&2; exit 3 ;;
windows) echo "windows: cylstm.whl, BUILT, NOT TRIED"; exit 3 ;;
macos) [ -z "${BREAKS:-}" ] || exit 1 ;;
esac
echo "$1: cylstm-0.1.0-$1.whl, 1 kB, held"
"""


@pytest.fixture
def tool(tmp_path: Path) -> Path:
    (tmp_path / "tools").mkdir()
    shutil.copy(TOOL, tmp_path / "tools")
    one = tmp_path / "tools" / "cross_wheel"
    one.write_text(MAKES_ONE)
    one.chmod(0o755)
    return tmp_path / "tools" / "all_wheels"


@pytest.mark.parametrize(
    ("environment", "status"),
    [
        ({}, 0),
        ({"CYLSTM_REQUIRE": "linux aarch64"}, 0),
        ({"CYLSTM_REQUIRE": "linux musl"}, 1),
        ({"CYLSTM_REQUIRE": "windows"}, 1),
        ({"CYLSTM_REQUIRE": "all"}, 1),
        ({"BREAKS": "1"}, 1),
    ],
)
def test_every_platform_has_its_line(tool: Path, environment: dict[str, str], status: int) -> None:
    kept = {name: value for name, value in os.environ.items() if name != "CYLSTM_REQUIRE"}
    done = subprocess.run([tool, "out"], env={**kept, **environment}, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == status
    lines = done.stdout.partition("== wheels\n")[2].splitlines()
    assert "musl: LEFT OUT: wheel-musl needs musl-gcc" in lines
    assert "windows: cylstm.whl, BUILT, NOT TRIED" in lines
    assert [line for line in lines if line.startswith("linux: cylstm-0.1.0-linux.whl, 1 kB, held; ")]
    assert len([line for line in lines if line.startswith("macos: FAILED")]) == ("BREAKS" in environment)
    assert len(lines) == 6


def test_a_platform_that_is_required_must_be_one(tool: Path) -> None:
    environment = {**os.environ, "CYLSTM_REQUIRE": "linux solaris"}
    done = subprocess.run([tool, "out"], env=environment, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 2
    assert "CYLSTM_REQUIRE must name platforms of linux windows" in done.stderr
    assert "got solaris: correct it" in done.stderr
