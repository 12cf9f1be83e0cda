"""No file is over 400 lines, no function over 80. What is longer today is named here and may only become shorter."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("src", "tests", "tools", "benchmarks", "examples")
LINES_OF_FILE, LINES_OF_FUNCTION, PARAMETERS = 400, 80, 8
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


def functions_of_the_kernels() -> Iterator[tuple[str, int, int]]:
    """Name, parameters and lines of each function in the sources of the compiled backend, Cython and C."""
    for path in files(".pyx", ".pxd", ".c", ".h"):
        text = path.read_text("utf-8")
        cython = path.suffix in (".pyx", ".pxd")
        head = r"^ *(?:cdef|def|cpdef) [^=\n(]*?(\w+)\(" if cython else r"^(?:static|INLINE)[^=\n;(]*?(\w+)\("
        end_of_line = r"#.*" if cython else r"/\*.*?\*/"
        for found in re.finditer(head, text, re.MULTILINE):
            rest = re.sub(end_of_line, "", text[found.end() :])
            inside, depth = [], 1
            for character in rest:
                depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(character, 0)
                if depth == 0:
                    break
                inside.append(character if depth == 1 else " ")
            parameters = [one for one in "".join(inside).split(",") if one.strip() not in ("", "self", "void")]
            indent = len(found[0]) - len(found[0].lstrip())
            stop = rf"^ {{0,{indent}}}\S.*" if cython else r"^}"
            body = text[found.start() :].splitlines()[1:]
            opened = next((n for n, line in enumerate(body) if re.search(r"[:{]\s*$", line)), 0)
            lines = next((n for n, line in enumerate(body) if n > opened and re.match(stop, line)), len(body)) + 1
            yield f"{path.relative_to(ROOT).as_posix()}::{found[1]}", len(parameters), lines


def test_functions_of_the_kernels_are_short_and_take_few_parameters() -> None:
    functions = list(functions_of_the_kernels())
    assert len(functions) > 60  # they are found
    assert [name for name, parameters, _ in functions if parameters > PARAMETERS] == []
    assert [name for name, _, lines in functions if lines > LINES_OF_FUNCTION] == []
