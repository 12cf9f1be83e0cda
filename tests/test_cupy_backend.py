"""The cupy backend as far as it can be tested without a GPU: the array loop, and what it says where it cannot run.

The array loop runs on arrays that follow NumPy's protocols and cannot be read by NumPy, as CuPy's. With a GPU at hand,
the conformance kit runs on the backend itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from device_array import DeviceArray, ElsewhereBackend, to_device

import cylstm
from cylstm import testing
from cylstm.backends import cupy_backend, registry
from cylstm.backends.cupy_backend import CupyBackend

PATH = "cylstm.backends.cupy_backend:CupyBackend"
AVAILABLE, WHY_NOT = CupyBackend.is_available()
needs_gpu = pytest.mark.skipif(not AVAILABLE, reason=f"no GPU: {WHY_NOT}")
without_gpu = pytest.mark.skipif(AVAILABLE, reason="there is a GPU")


def named(check: testing.Check) -> str:
    return check.id


@pytest.mark.parametrize("check", list(testing.checks(ElsewhereBackend())), ids=named)
def test_array_loop_computes_where_its_arrays_lie(check: testing.Check) -> None:
    check()


def test_device_arrays_are_as_strict_as_those_of_cupy() -> None:
    array = to_device(np.ones(3))
    with pytest.raises(TypeError, match="implicit conversion"):
        np.asarray(array)
    with pytest.raises(TypeError, match="cannot be mixed"):
        array + np.ones(3)
    assert isinstance(np.zeros(3, like=array), DeviceArray)


@needs_gpu
@pytest.mark.parametrize("tier", ["array", "steps"])
def test_conformance(tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cupy_backend.VARIABLE, tier)
    testing.check_backend(CupyBackend())


# Where it cannot run -------------------------------------------------------------------------------------------------


@without_gpu
def test_refusal_says_what_is_missing(new_registry: None) -> None:
    with pytest.raises(cylstm.BackendNotAvailableError, match="is not available: ") as caught:
        cylstm.LSTM(3, 4, backend=PATH)
    assert WHY_NOT.rstrip(".") in str(caught.value)
    assert "cylstm[cuda13]" in WHY_NOT or "needs an NVIDIA GPU and a driver" in WHY_NOT


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
    assert "is not available: it needs CuPy (No module named cupy): install the extra cylstm[cuda13]" in done.stdout


def test_importing_the_module_imports_no_cupy() -> None:
    script = "import sys, cylstm.backends.cupy_backend; print('cupy' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(Path(cylstm.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_child_is_told_what_to_do() -> None:
    backend = CupyBackend()
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            backend.prepare(())
        except RuntimeError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        message = pipe.read()
    assert f"forked (pid {child}) from one that has used it (pid {os.getpid()})" in message
    assert "'spawn'" in message


def test_capabilities_are_those_of_the_definition() -> None:
    assert CupyBackend.capabilities.dtypes == registry.load("numpy").capabilities.dtypes
    assert CupyBackend.capabilities.devices == ("cpu", "cuda")
