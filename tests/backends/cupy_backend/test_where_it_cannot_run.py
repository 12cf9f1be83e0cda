"""The cupy backend where CuPy, a GPU or a CUDA that works is missing: what it says, and that it harms nobody."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from cuda_host import AVAILABLE, WHY_NOT, HostBackend, without_gpu

import cylstm
from cylstm.backends import registry
from cylstm.backends.cupy_backend import CupyBackend

pytestmark = pytest.mark.names_backend("cupy")
PATH = "cylstm.backends.cupy_backend:CupyBackend"


@without_gpu
def test_refusal_says_what_is_missing(new_registry: None) -> None:
    with pytest.raises(cylstm.BackendNotAvailableError, match="is not available: ") as caught:
        cylstm.LSTM(3, 4, backend=PATH)
    assert WHY_NOT.rstrip(".") in str(caught.value)
    assert "cupy-cuda13x[ctk]" in WHY_NOT or "needs an NVIDIA GPU and a driver" in WHY_NOT


def test_the_name_leads_to_it(
    new_registry: None, install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a checkout too, and no other distribution can take it. The automatic choice on the CPU leaves it out."""
    declared = tomllib.loads(Path(__file__).parents[3].joinpath("pyproject.toml").read_text("utf-8"))["project"]
    assert {"cuda12", "cuda13"} <= declared["optional-dependencies"].keys()
    install("some-distribution", "cupy = elsewhere:Backend")
    rows = [(info.distribution, info.status) for info in cylstm.available_backends() if info.name == "cupy"]
    assert rows == [("cylstm", "available" if AVAILABLE else "unavailable"), ("some-distribution", "refused")]
    assert registry.choose(dtype="complex64").name == "numpy"
    monkeypatch.setenv("CYLSTM_BACKEND", "cupy")
    cylstm.set_backend(None)
    if AVAILABLE:
        assert cylstm.get_backend() == "cupy"
    else:
        with pytest.raises(cylstm.BackendNotAvailableError, match=r"backend 'cupy', named by CYLSTM_BACKEND, is not"):
            cylstm.LSTM(3, 4)(cylstm.randn(2, 3))


def test_without_cupy_the_extra_is_named(tmp_path: Path) -> None:
    """In a process in which CuPy cannot be imported."""
    (tmp_path / "cupy.py").write_text("raise ImportError('No module named cupy')")
    script = f"""
        import cylstm
        try:
            cylstm.set_backend({PATH!r})
        except cylstm.BackendNotAvailableError as error:
            print(error)
    """
    paths = os.pathsep.join([str(tmp_path), str(Path(cylstm.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    needed = "it needs CuPy (No module named cupy): install it, pip install 'cupy-cuda13x"
    assert f"is not available: {needed}" in done.stdout


def test_importing_the_module_imports_no_cupy() -> None:
    script = "import sys, cylstm.backends.cupy_backend; print('cupy' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(Path(cylstm.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.forks
def test_forked_child_is_told_what_to_do() -> None:
    lstm, x = cylstm.LSTM(4, 5, backend=HostBackend()), cylstm.randn(3, 4)
    _, _, pullback = lstm.vjp(x)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            for use in (lambda: CupyBackend.prepare(lstm.backend, ()), lambda: lstm(x), lambda: pullback()):
                try:
                    use()
                except RuntimeError as error:
                    os.write(write, f"{error}\n".encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        messages = pipe.read().splitlines()
    assert len(messages) == 3
    for message in messages:
        assert f"forked (pid {child}) from one that has used it (pid {os.getpid()})" in message
        assert "'spawn'" in message


def test_capabilities_are_those_of_the_definition() -> None:
    assert CupyBackend.capabilities.dtypes == registry.load("numpy").capabilities.dtypes
    assert CupyBackend.capabilities.devices == ("cpu", "cuda")
