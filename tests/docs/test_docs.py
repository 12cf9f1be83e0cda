"""What README and docs say about names, files and variables is so. Their examples are run by conftest.py at the top."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import cylstm
from cylstm import words
from cylstm.backends import registry

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_environment_variables_are_documented_and_exist():
    pattern = re.compile(r'"(CYLSTM_[A-Z_]+)"')  # read by name, so quoted
    sources = [*(ROOT / "src").rglob("*.py"), ROOT / "setup.py"]
    in_code = {name for path in sources for name in pattern.findall(path.read_text(encoding="utf-8"))}
    in_docs = set(re.findall(r"^\| `(CYLSTM_\w+)`", read("docs/environment.md"), re.MULTILINE))
    assert in_docs == in_code


def test_the_page_of_the_gpu_is_short():
    """Its code and tables too; the measurements, which are put in, have a page's worth of their own."""
    assert sum(any(map(str.isalnum, word)) for word in read("docs/gpu.md").split()) <= 600


def test_backend_table_says_the_dtypes():
    for name, dtypes in re.findall(r"^\| `(\w+)` \|.*?\| ([\w, ]+) \|", read("README.md"), re.MULTILINE):
        assert set(dtypes.split(", ")) == registry.load(name).capabilities.dtypes


def test_every_public_name_is_in_the_reference():
    reference = read("docs/api.md")
    missing = [name for name in cylstm.__all__ if not re.search(rf"\b{name}\b", reference)]
    assert not missing


def test_install_lines_work_as_they_are_written():
    """No index has the package: nothing says otherwise. Extras exist, and are those that the page of them names."""
    project = tomllib.loads(read("pyproject.toml"))["project"]
    extras = project["optional-dependencies"]
    texts = {page: page.read_text("utf-8") for page in [*PAGES, *(ROOT / "examples").glob("*.py")]}
    texts |= {path: path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py")}
    for path, text in texts.items():
        assert not re.search(r"install [^\n`]*\bcylstm(\[|`|$)", text, re.MULTILINE), path
        for named in re.findall(r"pip install (?:-e )?'\.\[([\w,-]+)\]'", text):
            assert set(named.split(",")) <= extras.keys(), path
    table = re.findall(r"^\| (`[^|]*) \|", read("docs/install.md"), re.MULTILINE)
    assert {name for row in table for name in re.findall(r"`([\w-]+)`", row)} == extras.keys() - {"test-cuda"}


def test_messages_ask_for_what_the_extras_have():
    extras = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]
    known = {requirement.partition(";")[0].strip() for extra in extras.values() for requirement in extra}
    assert set(words.REQUIREMENTS.values()) - known == {"torch"}  # the tests need a version of it, users do not
    for requirement in re.findall(r"'(cupy[^']*)'", words.CUPY):
        assert requirement in known


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(page):
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", prose)
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_documented_make_targets_exist():
    rules = re.findall(r"^([a-z0-9 -]+):", read("Makefile"), re.MULTILINE)
    targets = {name for rule in rules for name in rule.split()}
    named = {name for page in PAGES for name in re.findall(r"(?m)^make ([a-z0-9-]+)", "\n".join(code_of(page)))}
    assert named <= targets


def code_of(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(r"```sh\n(.*?)```", text, re.DOTALL) + re.findall(r"`([^`\n]+)`", text)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md", ROOT / "Makefile"], ids=lambda path: path.name)
def test_lines_have_at_most_120_columns(page: Path) -> None:
    """But for what cannot be wrapped: tables, what a program printed, and links."""
    assert [line for line in wrappable(page) if len(line) > 120] == []


def wrappable(page: Path) -> list[str]:
    """Prose, and of blocks of code what somebody typed."""
    text = re.sub(r"^```(\w*)\n(.*?)^```", typed, page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    prose = re.sub(r"\]\([^)]*\)[.,;:]?$", "", text, flags=re.MULTILINE)
    return [line for line in prose.splitlines() if not line.startswith("|")]


def typed(block: re.Match[str]) -> str:
    prompts = {"text": "\n", "console": "$ ", "python": (">>> ", "... ") if ">>> " in block[2] else ""}
    return "\n".join(line for line in block[2].splitlines() if line.startswith(prompts.get(block[1], "")))
