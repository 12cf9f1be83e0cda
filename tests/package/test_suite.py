"""Which tests a run on one backend takes."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import available
import pytest
from processes import LIMIT

ROOT = Path(__file__).parents[2]
TUTORIALS, CONFORMANCE, THREADS = (
    "tests/published/test_published_tutorials.py",
    "tests/testing/test_conformance.py",
    "tests/backends/cython_backend/test_threads.py",
)
MUTANTS = "tests/backends/cupy_backend/persistent/test_mutants.py"


@functools.cache
def collected(*options: str, files: tuple[str, ...] = (TUTORIALS, CONFORMANCE, THREADS)) -> subprocess.CompletedProcess:
    """pytest's list of the tests of some files."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *options]
    return subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)


@pytest.mark.parametrize("name", available.names())
def test_a_run_on_one_backend_leaves_out_those_that_name_another_and_no_more(name: str) -> None:
    every, taken = (
        {line for line in collected(*option).stdout.splitlines() if "::" in line}
        for option in ((), ("--backend", name))
    )
    assert taken <= every
    for other in available.names():
        names_it = {
            f"{TUTORIALS}::Test_lstm_in_pytorch::test_zero_elements[{other}]",
            f"{CONFORMANCE}::test_built_in[{other}-contract]",
        }
        assert names_it <= every
        assert names_it <= taken if other == name else names_it.isdisjoint(taken)
    assert f"{CONFORMANCE}::test_needs_numpy_only" in taken  # though the name of another backend is in its own
    of_threads = {test for test in every if test.startswith(THREADS)}  # marked as a whole
    assert of_threads <= taken if name == "cython" else of_threads.isdisjoint(taken)


def test_a_run_on_one_backend_needs_one_that_is_here() -> None:
    refused = collected("--backend", "cythno")
    assert refused.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--backend must be one of" in refused.stderr


def test_what_takes_long_runs_where_it_is_asked_for() -> None:
    """A part of the mutants is in the ordinary suite, and all of them are in ``make test-cuda``."""
    some, every = (
        {line for line in collected(*option, files=(MUTANTS,)).stdout.splitlines() if "::" in line}
        for option in ((), ("--thorough",))
    )
    assert 2 <= len(some) < len(every)
    assert some < every
    assert "tests/backends/cupy_backend --thorough" in (ROOT / "Makefile").read_text("utf-8")
