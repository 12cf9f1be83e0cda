"""What README and docs say about names, files and variables is so. Their examples are run by conftest.py at the top."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import cylstm
from cylstm.backends import registry

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def tree_of_readme() -> set[str]:
    """Paths of the structure tree: two spaces of indentation per folder, names up to two spaces or the end."""
    block = re.search(r"## What is where.*?```text\n(.*?)```", read("README.md"), re.DOTALL)
    assert block, "README.md has no structure tree under '## What is where'"
    paths, folders = set(), []
    for line in block[1].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.split(r"\s{2,}", line.strip())[0].split()
        del folders[depth:]
        if names[0].endswith("/"):
            folders.append(names[0].rstrip("/"))
        paths.update("/".join(folders + ([] if name.endswith("/") else [name])) for name in names)
    return paths


def test_structure_tree_lists_what_exists():
    missing = [path for path in tree_of_readme() if not (ROOT / path).exists()]
    assert not missing


def test_structure_tree_lists_every_module():
    package = ROOT / "src" / "cylstm"
    modules = [*package.glob("*.py"), *package.glob("backends/*.py"), *package.glob("backends/*.pyx")]
    listed = [p for p in modules if p.suffix == ".pyx" or re.match(r"[a-z]|__\w+__\.py", p.name)]  # no _private.py
    unlisted = {p.relative_to(ROOT).as_posix() for p in listed} - tree_of_readme()
    assert not unlisted


def test_environment_variables_are_documented_and_exist():
    pattern = re.compile(r'"(CYLSTM_[A-Z_]+)"')  # read by name, so quoted
    sources = [*(ROOT / "src").rglob("*.py"), ROOT / "setup.py"]
    in_code = {name for path in sources for name in pattern.findall(path.read_text(encoding="utf-8"))}
    in_docs = set(re.findall(r"^\| `(CYLSTM_\w+)`", read("docs/environment.md"), re.MULTILINE))
    assert in_docs == in_code


def test_backend_table_says_the_dtypes():
    for name, dtypes in re.findall(r"^\| `(\w+)` \|.*?\| ([\w, ]+) \|", read("README.md"), re.MULTILINE):
        assert set(dtypes.split(", ")) == registry.load(name).capabilities.dtypes


def test_every_public_name_is_in_the_reference():
    reference = read("docs/api.md")
    missing = [name for name in cylstm.__all__ if not re.search(rf"\b{name}\b", reference)]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(page):
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", prose)
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_documented_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"(?m)^make ([a-z-]+)", "\n".join(code_of(page)))}
    assert named <= targets


def code_of(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(r"```sh\n(.*?)```", text, re.DOTALL) + re.findall(r"`([^`\n]+)`", text)
