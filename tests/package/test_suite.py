"""Which tests a run on one backend takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import available
import pytest

FOLDER = Path(__file__).parent


def collected(in_force: str | None, *arguments: str) -> subprocess.CompletedProcess:
    """pytest's list of the tests of two files."""
    environment = {name: value for name, value in os.environ.items() if name != "CYLSTM_BACKEND"}
    if in_force is not None:
        environment["CYLSTM_BACKEND"] = in_force
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(
        [*command, "test_seed_documents.py", "test_conformance.py", "test_threads.py"],
        cwd=FOLDER, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("backend", available.names())
def test_a_run_on_one_backend_leaves_out_those_that_name_another_and_no_more(backend: str) -> None:
    every, taken = (
        {line.removeprefix("tests/") for line in collected(backend, *option).stdout.splitlines() if "::" in line}
        for option in ((), ("--only-in-force",))
    )
    assert taken <= every
    for other in available.names():
        names_it = {
            f"test_seed_documents.py::Test_lstm_in_pytorch::test_zero_elements[{other}]",
            f"test_conformance.py::test_built_in[{other}-contract]",
        }
        assert names_it <= every
        assert names_it <= taken if other == backend else names_it.isdisjoint(taken)
    assert "test_conformance.py::test_needs_numpy_only" in taken  # though the name of another backend is in its own
    of_threads = {test for test in every if test.startswith("test_threads.py")}  # marked as a whole
    assert of_threads <= taken if backend == "cython" else of_threads.isdisjoint(taken)


def test_a_run_on_one_backend_needs_its_name() -> None:
    refused = collected(None, "--only-in-force")
    assert refused.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--only-in-force needs CYLSTM_BACKEND to be one of" in refused.stderr
