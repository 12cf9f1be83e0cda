"""The maps agree with the folders: README's tree, CONTRIBUTING's paths, and the docstring of each package."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "cylstm"
PACKAGES = sorted(path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("__init__.py"))
#: Folders of tests that mirror no folder of the package.
OTHER_TESTS = {"docs", "examples", "package", "published", "support"}


def folders(root: Path) -> set[str]:
    """All folders below one that hold sources, relative to it."""
    sources = [path for path in root.rglob("*") if path.suffix in {".py", ".h", ".c", ".toml"}]
    return {parent.as_posix() for path in sources for parent in path.relative_to(root).parents} - {"."}


def tree_of_readme() -> set[str]:
    """Paths of the structure tree: two spaces of indentation per folder, names up to two spaces or the end."""
    block = re.search(r"## What is where.*?```text\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert block, "README.md has no structure tree under '## What is where'"
    paths: set[str] = set()
    above: list[str] = []
    for line in block[1].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.split(r"\s{2,}", line.strip())[0].split()
        del above[depth:]
        if names[0].endswith("/"):
            above.append(names[0].rstrip("/"))
        paths.update("/".join(above + ([] if name.endswith("/") else [name])) for name in names)
    return paths


def test_readme_names_what_exists() -> None:
    assert [path for path in sorted(tree_of_readme()) if not (ROOT / path).exists()] == []


def test_readme_names_every_folder_of_the_package() -> None:
    assert {f"src/cylstm/{folder}" for folder in folders(PACKAGE)} <= tree_of_readme()


def test_readme_names_every_file_beside_these_folders() -> None:
    assert {f"src/cylstm/{name}" for name in contents(PACKAGE) if not name.endswith("/")} <= tree_of_readme()


def test_contributing_names_what_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    named = set(re.findall(r"(?:src|tests|tools|docs|benchmarks|examples)/[\w./-]*\w", text))
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
    floors = set(re.findall(r"^\| (`[^|]*) \| (?:all below|`arrays`|NumPy)", text, re.MULTILINE))
    modules = {name.replace(".", "/") for floor in floors for name in re.findall(r"`([\w.]+)`", floor)}
    assert [name for name in sorted(modules) if not any(PACKAGE.rglob(f"{name}*"))] == []


@pytest.mark.parametrize("package", [package for package in PACKAGES if package != "."])
def test_docstring_of_a_package_names_each_of_its_files_once(package: str) -> None:
    folder = PACKAGE / package
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text("utf-8"))) or ""
    _, title, text = docstring.partition("A map of this folder")
    assert title, f"{folder}/__init__.py has no map of its folder"
    lines = re.findall(r"^ *((?:\w+(?:\.\w+|/) )+) +\S", text, re.MULTILINE)
    named = [name for line in lines for name in line.split()]
    assert sorted(named) == sorted(contents(folder))


def contents(folder: Path) -> set[str]:
    """What a map has to name: the sources and folders. A file beside the .pyx of its name is named with that one."""
    sources = {".py", ".pyx", ".pxd", ".pxi", ".c", ".h", ".cu", ".def"}
    generated = {path.with_suffix(".c").name for path in folder.glob("*.pyx")}
    files = {path.name for path in folder.iterdir() if path.suffix in sources} - {"__init__.py"} - generated
    companions = {name for name in files if name.endswith(".pxd") and name.replace(".pxd", ".pyx") in files}
    return (files - companions) | {f"{name}/" for name in folders(folder) if "/" not in name}


def test_tests_are_in_the_folders_of_what_they_test() -> None:
    found = {path.parent.relative_to(ROOT / "tests").as_posix() for path in (ROOT / "tests").rglob("test_*.py")}
    assert found - {"."} - OTHER_TESTS <= folders(PACKAGE)
