"""The tools for long runs work: a few cases of each kind, and a failure that names its seed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import LIMIT

import cylstm

ROOT = Path(__file__).parents[2]
pytest.importorskip("cylstm.backends.cython_backend._lstm", reason="the compiled backend is not built")
pytestmark = pytest.mark.names_backend("cython")


def tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("CYLSTM_")}
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / name), *arguments],
        env={**kept, "PYTHONPATH": str(Path(cylstm.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


def test_fuzz() -> None:
    done = tool("fuzz.py", "--isa", "generic", "--count", "3", "--seed", "77")
    assert done.returncode == 0, done.stdout + done.stderr
    for kind in ("forward cython", "gradients cython", "pieces", "batches", "threads"):
        assert f"{kind:18} 3 cases from seed 77" in done.stdout


def test_a_failure_of_fuzz_names_its_seed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    import fuzz
    import fuzz_cases

    def fails(seed: int) -> None:
        assert seed != 6, "differs"

    monkeypatch.setattr(fuzz_cases, "INVARIANCES", {"pieces": fails})
    monkeypatch.setattr(sys, "argv", ["fuzz.py", "pieces", "--seed", "5", "--count", "3", "--isa", "generic"])
    before = cylstm.get_num_threads(), os.environ.get("CYLSTM_MAX_ISA")
    try:
        assert fuzz.main() == 1
    finally:
        cylstm.set_num_threads(before[0])
        os.environ.pop("CYLSTM_MAX_ISA") if before[1] is None else os.environ.update(CYLSTM_MAX_ISA=before[1])
    assert "tools/fuzz.py pieces --isa generic --seed 6 --count 1\n    pieces: AssertionError: differs" in (
        capsys.readouterr().out
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is measured as Linux shows it")
def test_soak() -> None:
    done = tool("soak.py", "--scale", "0.002")
    assert "200 calls: " in done.stdout
    assert "gave other bits" not in done.stdout
