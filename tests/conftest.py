"""Fixtures that every test file may use: backends present, a registry as in a new process, threads."""

# ruff: noqa: E402  (the environment goes before the imports that read it)

from __future__ import annotations

import gc
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
        "--backend",
        metavar="NAME",
        help=f"select this backend, as {registry.VARIABLE} does, and leave out each test that names another: by its "
        "marker `names_backend`, or by its parameter `backend`",
    )
    parser.addoption(
        "--thread-decision",
        choices=["always", "users"],
        default="always",
        help="whether the threads that a test allows work always (the default), or where they pay, as users have it",
    )
    parser.addoption(
        "--thorough", action="store_true", help="run the tests with the marker `thorough` too, which take minutes"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "names_backend(name): the test is about this backend, whichever is selected")
    config.addinivalue_line("markers", "thorough: slow; it runs with --thorough alone")
    config.addinivalue_line("markers", "forks: the test forks, which CUDA does not survive")
    if "cython" not in BACKENDS:  # a checkout that was not built: the header below says so once
        config.addinivalue_line("filterwarnings", "ignore:backend 'cython' is not available:RuntimeWarning")
    if (name := config.getoption("backend")) is None:
        return
    if name not in BACKENDS and ":" not in name:  # `module:Class` is looked up when it is first used
        raise pytest.UsageError(f"--backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    os.environ[registry.VARIABLE] = name


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    selected, thorough = config.getoption("backend"), config.getoption("thorough")

    def runs(item: pytest.Item) -> bool:
        of_backend = selected is None or _named_backend(item) in (None, selected)
        return of_backend and (thorough or item.get_closest_marker("thorough") is None)

    config.hook.pytest_deselected(items=[item for item in items if not runs(item)])
    items[:] = filter(runs, items)


def pytest_collection_finish() -> None:
    """No collection of garbage goes through what PyTorch and others have brought so far: half a second each."""
    gc.freeze()


def _named_backend(item: pytest.Item) -> str | None:
    """The backend that a test names: it runs on that one, whichever is selected."""
    if (marker := item.get_closest_marker("names_backend")) is not None:
        return marker.args[0]
    return item.callspec.params.get("backend") if hasattr(item, "callspec") else None


def pytest_report_header() -> str:
    return f"cylstm: {Path(cylstm.__file__).parent}, backends {', '.join(BACKENDS)}"


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
def _thread_decision(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where a test asks for threads, they work, though they might not pay: unless the run is about that decision."""
    always = request.config.getoption("thread_decision") == "always"
    try:
        from cylstm.backends.cython_backend import _lstm
    except ImportError:  # not built
        yield
        return
    before = _lstm.open_regions(always)
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
