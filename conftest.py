"""Runs the examples of README, docs and docstrings (``pytest README.md docs src``) and compares what they print.

A ``python`` block is code, or a session with ``>>>``; all blocks of a page share their names. A ``console`` block is a
shell session with ``$``. Each page runs in a temporary folder of its own. A ``text`` or ``sh`` block is not run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from pathlib import Path
from typing import Any

import pytest
from sybil import Example, Sybil
from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser

FLAGS = ELLIPSIS | NORMALIZE_WHITESPACE
#: Warnings that Keras and PyTorch's ONNX exporter give about themselves, where a page runs them.
WARNINGS = {
    "coming-from.md": [
        "ignore:.*the file has no configuration:UserWarning",
        "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning",
        "ignore:Do not pass an `input_shape`:UserWarning",
        "ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning",
    ],
    "keras.md": ["ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"],
    "other-weights.md": ["ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning"],
}
BIN = str(Path(sys.executable).parent)


def run_console(example: Example) -> str | None:
    """Run the lines ``$ command``; the lines below each are what it must print."""
    env = os.environ | {"PATH": BIN + os.pathsep + os.environ["PATH"], "COLUMNS": "100"}
    for session in example.parsed.strip().removeprefix("$ ").split("\n$ "):
        command, _, expected = session.partition("\n")
        done = subprocess.run(command, shell=True, capture_output=True, text=True, env=env)
        got = done.stdout + done.stderr
        if not OutputChecker().check_output(expected.rstrip() + "\n", got.rstrip() + "\n", FLAGS):
            return f"$ {command}\nExpected:\n{expected}\nGot, with status {done.returncode}:\n{got}"
    return None


def enter_folder(namespace: dict[str, Any]) -> None:
    namespace["installed"] = lambda package: importlib.util.find_spec(package) is not None  # for `% skip: next if(...)`
    stack = namespace["_leave"] = contextlib.ExitStack()
    stack.enter_context(contextlib.chdir(stack.enter_context(tempfile.TemporaryDirectory())))


def leave_folder(namespace: dict[str, Any]) -> None:
    namespace["_leave"].close()


pages = Sybil(
    parsers=[
        PythonCodeBlockParser(doctest_optionflags=FLAGS),
        CodeBlockParser(language="console", evaluator=run_console),
        SkipParser(),
    ],
    patterns=["README.md", "docs/*.md", "docs/design/*.md"],
    setup=enter_folder,
    teardown=leave_folder,
)
docstrings = Sybil(
    parsers=[DocTestParser(FLAGS)],
    patterns=["src/cylstm/*.py", "src/cylstm/*/*.py", "src/cylstm/*/*/*.py"],
    setup=enter_folder,
    teardown=leave_folder,
)
pytest_collect_file = (pages + docstrings).pytest()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for warning in WARNINGS.get(item.path.name, []):
            item.add_marker(pytest.mark.filterwarnings(warning))
