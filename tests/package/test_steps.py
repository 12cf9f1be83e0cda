"""``.ci/run``: it fails where a step fails, and where there is none to run; two steps run at a time.

What the steps leave out they may leave out.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from processes import LIMIT

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
PASSED = MAKEFILE[MAKEFILE.index("passed-%:") :].partition("\n\n")[0] + "\n"
#: A step that does not bear another one beside it, and one that waits for the other.
ALONE = "one two:\n\t@mkdir here && sleep 0.2 && rmdir here\n"
MEET = """
SHELL := bash
one two:
\t@echo $@ waits; touch $@; for i in {1..600}; do [ -e one -a -e two ] && break; sleep 0.1; done
\t@[ -e one -a -e two ] && echo $@ ends
"""
pytestmark = pytest.mark.skipif(
    os.name != "posix" or not (shutil.which("make") and shutil.which("bash")), reason="there is no make or no bash"
)


def ci_run(folder: Path, makefile: str | None, *arguments: str, under: tuple[str, ...] = ()) -> tuple[int, str, str]:
    """The status of ``.ci/run`` in a folder with this Makefile, and what it prints."""
    for name in (".ci/run", "tools/run_steps", "tools/step"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    if makefile is not None:
        (folder / "Makefile").write_text(makefile + PASSED, "utf-8")
    command = [*under, str(folder / ".ci" / "run"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("makefile", "arguments", "status", "said"),
    [
        ("steps:\n\t@echo good other\ngood other:\n\t@true\n", [], 0, "make other: ok"),
        ("steps:\n\t@echo bad good\nbad:\n\t@false\ngood:\n\t@true\n", [], 1, "make good: ok"),
        ("steps:\n\t@echo bad good\nbad:\n\t@false\ngood:\n\t@true\n", [], 1, "FAILED: bad, with"),
        ("steps:\n\t@echo good bad\nbad: made\nmade:\n\t@false\ngood:\n\t@true\n", [], 1, "FAILED: bad, with"),
        ("good:\n\t@true\n", ["good"], 0, "all steps: ok"),
        ("good:\n\t@true\n", ["good", "nowhere"], 1, "FAILED: nowhere, with"),
        ("steps:\n\t@true\n", [], 1, "make steps names no step"),
        ("steps:\n\t@false\n", [], 1, "make steps names no step"),
        ("steps:\n        @echo good\n", [], 1, "make steps names no step"),
        (None, [], 1, "make steps names no step"),
    ],
)
def test_ci_run(tmp_path: Path, makefile: str | None, arguments: list[str], status: int, said: str) -> None:
    got, out, err = ci_run(tmp_path, makefile, *arguments)
    assert got == status
    assert said in out + err
    assert ("all steps: ok" in out) is (status == 0)


def test_two_steps_run_at_a_time(tmp_path: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one processor")
    status, out, _ = ci_run(tmp_path, MEET, "one", "two")
    assert status == 0, out
    for name in ("one", "two"):
        assert f"{name} waits\n{name} ends\n" in out  # whole, though they ran at the same time


@pytest.mark.skipif(shutil.which("taskset") is None, reason="there is no taskset")
def test_on_one_processor_they_run_one_after_the_other(tmp_path: Path) -> None:
    processor = str(min(os.sched_getaffinity(0)))
    assert ci_run(tmp_path, ALONE, "one", "two", under=("taskset", "--cpu-list", processor))[0] == 0


def test_the_summary_has_what_each_part_took_and_what_pytest_said(tmp_path: Path) -> None:
    makefile = "one:\n\t@tools/step title echo 3 passed in 1.20s\n"
    status, out, _ = ci_run(tmp_path, makefile, "one")
    assert status == 0
    assert out.startswith("-- begins: title\n== title\n3 passed in 1.20s\n== title: ok, ")
    summary = out.partition("==== summary\n")[2].splitlines()
    assert summary[0].startswith("title: ok, ") or summary[1].startswith("title: ok, ")
    assert {"3 passed in 1.20s", "make one: ok"} <= set(summary)


def of_makefile(variable: str) -> list[str]:
    """The words of a variable of the Makefile."""
    command = ["make", "-s", "--eval", f"shown: ; @echo $({variable})", "shown"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def test_what_passes_leave_out_is_there() -> None:
    ignored = [word.removeprefix("--ignore=") for name in ("FILES", "NAMED") for word in of_makefile(name)]
    names = of_makefile("OF_PROCESSES") + of_makefile("OF_EVERY_ISA")
    files = [f"tests/backends/cython_backend/test_{name}.py" for name in names]
    assert len(ignored) > 5
    assert [name for name in [*ignored, *files] if not (ROOT / name).exists()] == []


def test_what_is_left_out_for_its_own_processes_has_cylstm_in_these_alone() -> None:
    for name in of_makefile("OF_PROCESSES"):
        body = ast.parse((ROOT / f"tests/backends/cython_backend/test_{name}.py").read_text("utf-8")).body
        imported = {alias.name for node in body if isinstance(node, ast.Import) for alias in node.names}
        imported |= {str(node.module) for node in body if isinstance(node, ast.ImportFrom)}
        assert not [module for module in imported if module.startswith("cylstm")]
        assert {"processes", "subprocess"} & imported
