"""Plugins: entry points, classes that cannot be loaded, metadata that cannot be read. None of them harms another."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from plugin_sources import SUBCLASS

import cylstm
from cylstm.backends import plugins, registry
from cylstm.backends.numpy_backend import NumpyBackend

pytestmark = pytest.mark.usefixtures("new_registry")


def test_unknown_name(alpha_and_beta: None) -> None:
    for name, nearest in (("Numpy", "numpy"), ("alpa", "alpha"), ("cyton", "cython")):
        with pytest.raises(cylstm.UnknownBackendError, match=f"Did you mean '{nearest}'") as caught:
            registry.load(name)
        assert "Known: cython, numpy, cupy, alpha, beta" in str(caught.value)
    assert "alpha" not in sys.modules
    assert isinstance(caught.value, ValueError)


def test_known_but_missing(install: Callable[..., Path]) -> None:
    install("needy-dist", "needy = needy_backend:Plugin", needy_backend="import a_module_that_nobody_has")
    with pytest.raises(
        cylstm.BackendNotAvailableError, match="'a_module_that_nobody_has', which is not installed"
    ) as c:
        registry.load("needy")
    assert isinstance(c.value.__cause__, ModuleNotFoundError)
    assert "'needy-dist'" in str(c.value)
    info = next(info for info in cylstm.available_backends() if info.name == "needy")
    assert info.status == "unavailable"
    assert info.reason == "it needs the module 'a_module_that_nobody_has', which is not installed."


BROKEN = {
    "raises": ("raises = broken_raises:Plugin", "raise RuntimeError('half installed')", "RuntimeError: half installed"),
    "exits": ("exits = broken_exits:Plugin", "import sys; sys.exit(3)", "SystemExit: 3"),
    "interrupts": ("interrupts = broken_interrupts:Plugin", "raise KeyboardInterrupt", "KeyboardInterrupt"),
    "stops": (
        "stops = broken_stops:Plugin",
        "import asyncio\nasync def work(): raise KeyboardInterrupt\nasyncio.run(work())",
        "KeyboardInterrupt",
    ),
    "soon": ("soon = broken_soon:Plugin", "raise SystemExit", "SystemExit"),
    "mute": (
        "mute = broken_mute:Plugin",
        "class E(Exception):\n    def __str__(self): raise ValueError\nraise E",
        "failed to load from 'broken_mute:Plugin': E.",
    ),
    "syntax": ("syntax = broken_syntax:Plugin", "def (", "SyntaxError"),
    "absent": ("absent = broken_absent_module:Plugin", "", "No module named 'broken_absent_module'"),
    "attribute": ("attribute = broken_attribute:Plugin", "", "has no attribute 'Plugin'"),
    "function": (
        "function = broken_function:Plugin",
        "def Plugin(): pass",
        "is not a class but an object of type function",
    ),
    "duck": ("duck = broken_duck:Plugin", "class Plugin: name = 'duck'", "lacks api_version, capabilities"),
    "value": ("value = not a path", "", "not of the form 'package.module:Class'"),
    "old": ("old = broken_old:Plugin", SUBCLASS.format(name="old") + "    api_version = 99", "version 99"),
    "lies": (
        "lies = broken_lies:Plugin",
        SUBCLASS.format(name="lies") + "    is_available = classmethod(lambda cls: None)",
        "cannot tell whether it is available: TypeError",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_plugin_harms_nobody(name: str, install: Callable[..., Path], alpha_and_beta: None) -> None:
    entry_points, source, reason = BROKEN[name]
    install(f"broken-{name}", entry_points, **{f"broken_{name}": source})
    assert registry.load("alpha").name == "alpha"
    with pytest.raises(cylstm.BackendLoadError) as caught:
        registry.load(name)
    message = str(caught.value)
    assert message.startswith(f"backend '{name}' of distribution 'broken-{name}' (entry point {name} = ")
    assert reason in message
    assert "Backends available here:" in message
    table = {info.name: info for info in cylstm.available_backends()}
    assert table[name].status == "broken"
    assert reason in table[name].reason
    assert table["alpha"].status == table["numpy"].status == "available"


def test_error_is_chained(install: Callable[..., Path]) -> None:
    install("chained", "chained = chained_backend:Plugin", chained_backend="raise OSError('libcuda.so.1')")
    with pytest.raises(cylstm.BackendLoadError) as caught:
        registry.load("chained")
    assert isinstance(caught.value.__cause__, OSError)


def test_odd_entry_points(install: Callable[..., Path], alpha_and_beta: None) -> None:
    install("odd-names", "with space = m:C\nnaïve = m:C\n-dash = m:C\nextra = plugin_alpha:Plugin [gpu]")
    install("shadow", "numpy = shadow_module:Plugin", shadow_module="raise AssertionError('must not be imported')")
    install("rival", "alpha = plugin_beta:Plugin")
    install("malformed", "this line has no equals sign")
    table = {(info.name, info.distribution): info for info in cylstm.available_backends()}
    for name in ("with space", "naïve", "-dash"):
        assert table[name, "odd-names"].status == "refused"
        assert "not made of letters" in table[name, "odd-names"].reason
    assert table["extra", "odd-names"].status == "available"
    assert table["numpy", "cylstm"].status == "available"
    assert table["numpy", "shadow"].status == "refused"
    assert "built-in" in table["numpy", "shadow"].reason
    assert table["beta", "greek-letters"].status == "available"
    rivals = next(info for info in cylstm.available_backends() if info.name == "alpha")
    assert rivals.status == "refused"
    assert {"greek-letters", "rival"} == set(rivals.distribution.split(", "))
    assert type(registry.load("numpy")) is NumpyBackend
    with pytest.raises(cylstm.BackendLoadError, match="several claim the name") as caught:
        registry.load("alpha")
    assert "plugin_alpha:Plugin, plugin_beta:Plugin" in str(caught.value)
    assert registry.load("plugin_alpha:Plugin").name == "alpha"
    assert registry.load("beta").name == "beta"


def test_unreadable_metadata(install: Callable[..., Path]) -> None:
    site = install("bytes", "")
    (site / "bytes-1.0.dist-info" / "entry_points.txt").write_bytes(b"[cylstm.backends]\n\xff = m:C\n")
    site = install("nameless", "nameless = m:C")
    (site / "nameless-1.0.dist-info" / "METADATA").write_text("")
    assert [info.name for info in cylstm.available_backends() if info.status == "available"][-1] == "numpy"
    with pytest.raises(cylstm.UnknownBackendError):
        registry.load("nobody")


def test_only_the_first_copy_of_a_distribution_counts(install: Callable[..., Path], tmp_path: Path) -> None:
    install("twice", "old-name = m:C")
    (tmp_path / "twice").rename(tmp_path / "elsewhere")
    sys.path.insert(0, str(tmp_path / "elsewhere"))  # taken out again by monkeypatch's syspath_prepend
    install("twice", "new-name = m:C")
    names = [info.name for info in cylstm.available_backends()]
    assert "new-name" in names
    assert "old-name" not in names


def test_paths() -> None:
    path = "cylstm.backends.numpy_backend:NumpyBackend"
    assert registry.load(path) is registry.load("numpy")
    for path, problem in (
        ("os.path:join", "not a class but an object of type function|lacks"),
        ("nowhere_at_all:X", "No module named 'nowhere_at_all'"),
        ("json:", "not of the form"),
        (":X", "not of the form"),
        ("json:JSONDecoder", "lacks name, api_version"),
        ("json:decoder.JSONDecoder.decode", "not a class|lacks"),
    ):
        with pytest.raises(cylstm.BackendLoadError, match=problem):
            registry.load(path)


def test_table_is_aligned(alpha_and_beta: None) -> None:
    table = cylstm.available_backends()
    header, *rows = str(table).splitlines()
    assert header.split() == ["name", "distribution", "status", "reason"]
    assert len(rows) == len(table) >= 4
    for row, info in zip(rows, table, strict=True):
        assert row[header.index("distribution") :].startswith(info.distribution)
        assert row[header.index("status") :].startswith(info.status)
    assert [info for info in table if info.distribution == "greek-letters"] == [
        plugins.BackendInfo("alpha", "greek-letters", "available", ""),
        plugins.BackendInfo("beta", "greek-letters", "available", ""),
    ]
