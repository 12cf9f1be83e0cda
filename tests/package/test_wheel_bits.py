"""The digests to which wheels of every system are held are those of the sources: ``check_wheel.py bits``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import LIMIT

import cylstm

CHECK = Path(__file__).parent / "check_wheel.py"
_layer = pytest.importorskip("cylstm.backends.cython_backend._layer", reason="the compiled backend is not built")
pytestmark = pytest.mark.names_backend("cython")


def check(script: Path) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CYLSTM_")}
    path = os.pathsep.join([str(Path(cylstm.__file__).parents[1]), str(CHECK.parent)])
    return subprocess.run(
        [sys.executable, str(script), "bits"],
        env={**kept, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


def test_every_instruction_set_of_this_machine_gives_the_digests() -> None:
    done = check(CHECK)
    assert done.returncode == 0, done.stdout + done.stderr
    sets = list(dict.fromkeys(isa for isa, _, here in _layer.kernel_table() if here))
    assert f"the wheel holds on {', '.join(sets)}\n" in done.stdout
    seen = [line.partition(": bits ")[0] for line in done.stdout.splitlines() if ": bits " in line]
    assert sorted(seen) == sorted(f"{isa}, {precision}" for isa in sets for precision in ("state", "int8", "bfloat16"))


def test_another_digest_is_a_failure(tmp_path: Path) -> None:
    text = CHECK.read_text("utf-8")
    other = tmp_path / "check_wheel.py"
    other.write_text(text.replace('"int8": "', '"int8": "f'), "utf-8")
    done = check(other)
    assert done.returncode == 1
    assert "the wheel fails on" in done.stdout
