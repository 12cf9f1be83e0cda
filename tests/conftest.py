"""Fixtures that every test file may use: backends present, a registry as in a new process, threads."""

# ruff: noqa: E402  (the environment goes before the imports that read it)

from __future__ import annotations

import os

# Tests share a small machine. Before anything loads a BLAS or PyTorch; what the caller has set stays.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cylstm
from cylstm.backends import registry

#: The built-in backends that work here.
BACKENDS = [b.name for b in cylstm.available_backends() if b.distribution == "cylstm" and b.status == "available"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--only-in-force",
        action="store_true",
        help=f"leave out each test that {registry.VARIABLE} does not concern: its parameter `backend` or `check`, or "
        "its marker `names_backend`, is another backend",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("only_in_force"):
        return
    in_force = os.environ.get(registry.VARIABLE)
    if in_force not in BACKENDS:
        raise pytest.UsageError(f"--only-in-force needs {registry.VARIABLE} to be one of {BACKENDS}, got {in_force!r}")
    config.hook.pytest_deselected(items=[item for item in items if _named_backend(item) not in (None, in_force)])
    items[:] = [item for item in items if _named_backend(item) in (None, in_force)]


def _named_backend(item: pytest.Item) -> str | None:
    """The built-in backend that a test names: it runs on that one whatever is in force."""
    if (marker := item.get_closest_marker("names_backend")) is not None:
        return marker.args[0]
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    named = parameters.get("backend", getattr(parameters.get("check"), "backend", None))
    name = getattr(named, "name", named)
    return name if name in BACKENDS else None


def pytest_report_header() -> str:
    return f"cylstm: {Path(cylstm.__file__).parent}, backends {', '.join(BACKENDS)}"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "names_backend(name): the test runs on this backend, whatever is in force")
    if "cython" not in BACKENDS:  # a checkout that was not built: the header above says so once
        config.addinivalue_line("filterwarnings", "ignore:backend 'cython' is not available:RuntimeWarning")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """The name of a built-in backend, each that works here in turn."""
    return request.param


@pytest.fixture(autouse=True)
def _selection_restored() -> Iterator[None]:
    """What a test selects ends with it."""
    before = registry._state.selected
    yield
    registry._state.selected = before


@pytest.fixture(autouse=True)
def _threads_open() -> Iterator[None]:
    """Where a test asks for threads, they run, though they might not pay."""
    try:
        from cylstm.backends.cython_backend import _lstm
    except ImportError:  # not built
        yield
        return
    before = _lstm.open_regions(True)
    yield
    _lstm.open_regions(before)


@pytest.fixture
def new_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry as in a new process without CYLSTM_BACKEND."""
    monkeypatch.delenv(registry.VARIABLE, raising=False)
    monkeypatch.setattr(registry, "_state", registry._State())


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """``install("some-dist", "name = module:Class", module="source")``: an installed distribution with plugins."""

    def install(distribution: str, entry_points: str, **modules: str) -> Path:
        site = tmp_path / distribution
        info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n", "utf-8")
        (info / "entry_points.txt").write_text(f"[cylstm.backends]\n{entry_points}\n", "utf-8")
        for module, source in modules.items():
            (site / f"{module}.py").write_text(source, "utf-8")
        monkeypatch.syspath_prepend(site)
        return site

    return install
