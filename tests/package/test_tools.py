"""The tools for long runs work: a few cases of each kind, and a failure that names its seed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fuzz_cases
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
    for kind in (*(f"{name} cython" for name in fuzz_cases.COMPARISONS), *fuzz_cases.INVARIANCES):
        assert f"{f'{kind} generic':34} 3 cases from seed 77: 0 failed" in done.stdout


def test_a_failure_of_fuzz_names_its_seed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    import fuzz

    def fails(seed: int, backend: Any) -> None:
        assert seed != 6, "differs"

    monkeypatch.setattr(fuzz_cases, "INVARIANCES", {"pieces": fails})
    monkeypatch.setattr(sys, "argv", ["fuzz.py", "pieces", "--seed", "5", "--count", "3", "--isa", "generic"])
    before = cylstm.get_num_threads()
    try:
        assert fuzz.main() == 1
    finally:
        cylstm.set_num_threads(before)
    assert "tools/fuzz.py pieces --isa generic --seed 6 --count 1\n    pieces generic: AssertionError: differs" in (
        capsys.readouterr().out
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is measured as Linux shows it")
def test_soak() -> None:
    done = tool("soak.py", "--scale", "0.002")
    assert "200 calls: " in done.stdout
    assert "gave other bits" not in done.stdout
