"""``tools/run_on_gpu`` without a GPU: what it says where there is none, and its parts with a stand-in for Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from processes import LIMIT

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "run_on_gpu"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it is for Linux")


#: Runs a command where there is no network.
CUT_OFF = ("unshare", "--map-root-user", "--net")
needs_unshare = pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run([*CUT_OFF, "true"], capture_output=True, check=False).returncode != 0,
    reason="the network cannot be cut off here",
)


def run(
    tmp_path: Path, *parts: str, python: str = sys.executable, before: Sequence[str] = (), **environment: str
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*before, "bash", str(SCRIPT), *parts],
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


def why_no_gpu() -> str:
    """What is missing for the backend; the test is skipped where nothing is, and where a package is."""
    for package in ("cupy", "torch", "hypothesis", "ml_dtypes"):
        pytest.importorskip(package)
    from cylstm.backends.cupy_backend import CupyBackend

    available, reason = CupyBackend.is_available()
    if available:
        pytest.skip("there is a GPU")
    return reason


@pytest.mark.parametrize("before", [(), pytest.param(CUT_OFF, marks=needs_unshare)], ids=["", "no network"])
def test_without_a_gpu_it_says_what_is_missing(before: tuple[str, ...], tmp_path: Path) -> None:
    reason = why_no_gpu()
    done = run(tmp_path, before=before)
    assert done.returncode == 2
    assert done.stderr == f"nothing can be run here: {reason}\n"
    assert not (tmp_path / "logs").exists()


def test_a_package_that_is_missing_and_a_part_that_is_not_there_are_named(tmp_path: Path) -> None:
    bare = stand_in(tmp_path, f'exec "{sys.executable}" -S -I "$@"')
    done = run(tmp_path, python=bare)
    assert done.returncode == 2
    assert done.stderr.startswith(f"nothing can be run here: {sys.executable} lacks cupy,torch,numpy,pytest")
    done = run(tmp_path, "kernels", "kernel")
    assert done.returncode == 2
    assert done.stderr.startswith("a part must be one of machine first-minute ")
    assert done.stderr.endswith(", got kernel\n")


#: Python on a machine with a GPU, as far as it is told so: with what run_on_gpu asks for, and not with what tests of
#: other things want.
BARE = f"""case "$*" in -c*is_available*) exit 0;; esac
[ "$1" != -m ] || {{ shift 2; set -- -c '
import sys
from importlib.machinery import PathFinder
find, others = PathFinder.find_spec, "sybil keras tensorflow jax onnx onnxruntime sklearn safetensors h5py".split()
class Find:  # no function, which would be a method elsewhere
    def __call__(self, name, *rest):
        return None if name.partition(".")[0] in others else find(name, *rest)
PathFinder.find_spec = Find()
import pytest
sys.exit(pytest.main(sys.argv[1:]))' "$@"; }}
exec "{sys.executable}" "$@"
"""


@needs_unshare
def test_with_the_network_cut_off_each_part_goes_up_to_the_point_where_a_gpu_is_needed(tmp_path: Path) -> None:
    """Also where the packages are missing that it does not need."""
    why_no_gpu()
    python = stand_in(tmp_path, BARE)
    parts = ("machine", "first-minute", "bench", "values")
    done = run(tmp_path, *parts, python=python, before=CUT_OFF, SHOW="30", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert done.returncode == 1
    status = {line.split()[1]: line.split()[3] for line in done.stdout.splitlines() if ": status" in line}
    assert status == {"machine:": "1", "first-minute:": "1", "bench:": "2", "values:": "0"}
    assert "== values: no test has passed" in done.stdout
    logs = {name: (tmp_path / "logs" / f"{name}.log").read_text("utf-8") for name in parts}
    assert "nothing can be measured here: CuPy" in logs["bench"]
    assert "no GPU: CuPy" in logs["values"]
    assert "error" not in logs["values"].lower()  # of collection, say
    checks = [line for line in logs["first-minute"].splitlines() if line.endswith(" s)")]
    assert len(checks) > 12
    assert all(" FAILED " in line for line in checks)  # none passes where nothing can have run


def test_parts_run_in_order_and_leave_logs(tmp_path: Path) -> None:
    python = stand_in(tmp_path, 'echo "called $*"; echo "7 passed in 1 s"; [ "$CYLSTM_CUPY_TIER" = "" ]')
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


def test_tests_that_are_all_skipped_have_not_succeeded(tmp_path: Path) -> None:
    for said, expected in (
        ("3 passed, 2 skipped in 1 s", ""),
        ("21 skipped in 3 s", "no test has passed"),
        ("0 passed", "no test has passed"),
        ("SKIPPED [4] test.py:1: no GPU: CuPy ...; 3 passed", "tests were skipped, for want of a GPU"),
    ):
        done = run(tmp_path, "kernels", python=stand_in(tmp_path, f"echo '{said}'"))
        assert done.returncode == bool(expected)
        said_of_it = [line for line in done.stdout.splitlines() if line.startswith("== kernels: ")][1:]
        assert said_of_it == [f"== kernels: {expected}"] * bool(expected)


def test_results_of_the_benchmark_lie_beside_the_logs(tmp_path: Path) -> None:
    python = stand_in(tmp_path, 'case "$*" in *gpu.py*) echo "$*";; esac')
    assert run(tmp_path, "bench", "bench-all", python=python, SECONDS_LEFT="300").returncode == 0
    for name, seconds in (("bench", (80, 90)), ("bench-all", (260, 270))):
        words = (tmp_path / "logs" / f"{name}.log").read_text("utf-8").split()
        assert seconds[0] <= int(words[words.index("--seconds") + 1]) <= seconds[1]
    there = {path.name for path in (ROOT / "benchmarks" / "results" / "gpu").iterdir()}
    assert there <= {path.name for path in (tmp_path / "logs").iterdir()}


def test_a_part_that_fails_or_hangs_does_not_end_the_run(tmp_path: Path) -> None:
    python = stand_in(tmp_path, 'case "$*" in *first_minute*) exit 3;; *conformance*) exec sleep 100;; esac')
    done = run(tmp_path, "first-minute", "conformance", "bench", python=python, SECONDS_LEFT="9")
    assert done.returncode == 1
    assert "== first-minute: status 3" in done.stdout
    assert "== conformance: status 124" in done.stdout
    assert "== bench: left out, no time is left" in done.stdout
