"""No file is over 400 lines, no function over 80. What is longer today is named here and may only become shorter."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("src", "tests", "tools", "benchmarks", "examples")
LINES_OF_FILE, LINES_OF_FUNCTION = 400, 80
LONGER_FILES: dict[str, int] = {}
LONGER_FUNCTIONS: dict[str, int] = {}


def files(*suffixes: str) -> list[Path]:
    """The sources with these endings; a .c beside the .pyx of its name is generated from that one."""
    found = [path for folder in FOLDERS for suffix in suffixes for path in (ROOT / folder).rglob(f"*{suffix}")]
    return [path for path in found if path.suffix != ".c" or not path.with_suffix(".pyx").exists()]


def lines_of_files() -> Iterator[tuple[str, int]]:
    for path in files(".py", ".pyx", ".pxd", ".pxi", ".c", ".h", ".cu", ".def"):
        yield path.relative_to(ROOT).as_posix(), len(path.read_text("utf-8").splitlines())


def lines_of_functions() -> Iterator[tuple[str, int]]:
    """The lines of each function of Python, its decorators and docstring among them."""
    for path in files(".py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                yield f"{path.relative_to(ROOT).as_posix()}::{node.name}", (node.end_lineno or first) - first + 1


def test_files_are_short() -> None:
    assert {name: lines for name, lines in lines_of_files() if lines > LONGER_FILES.get(name, LINES_OF_FILE)} == {}


def test_functions_are_short() -> None:
    long = {name: n for name, n in lines_of_functions() if n > LONGER_FUNCTIONS.get(name, LINES_OF_FUNCTION)}
    assert long == {}
