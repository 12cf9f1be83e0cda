"""The backend registry: precedence, laziness, the automatic choice, explicit choices, threads and forks."""

from __future__ import annotations

import asyncio
import os
import textwrap
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from plugin_sources import SUBCLASS
from processes import run

import cylstm
from cylstm.backends import plugins, registry
from cylstm.backends.base import Capabilities
from cylstm.backends.numpy_backend import NumpyBackend

pytestmark = pytest.mark.usefixtures("new_registry")

FLOAT32_ONLY = """
from cylstm.backends.base import Backend, Capabilities
class Narrow(Backend):
    name = 'narrow'
    capabilities = Capabilities(dtypes=frozenset({'float32'}), projection=False)
    prepare = forward = lambda self, *_, **__: None
"""


def python(script: str, **environment: str) -> str:
    """The output of a script in a new interpreter."""
    source = str(Path(cylstm.__file__).parents[1])
    return run(textwrap.dedent(script), PYTHONPATH=source, **environment)


# Selection ----------------------------------------------------------------------------------------------------------


def test_a_selection_given_up_is_not_taken_for_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    lstm, x = cylstm.LSTM(2, 3), np.zeros((1, 2), np.float32)
    stream = lstm.stream()
    stream(x)
    monkeypatch.setenv("CYLSTM_BACKEND", "numpy")
    cylstm.set_backend(None)  # the environment is read again
    stream(x)
    assert stream._choice.backend.name == "numpy"
    assert lstm._choice(lstm._store.snapshot, training=False).backend.name == "numpy"


def test_precedence(alpha_and_beta: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CYLSTM_BACKEND", "alpha")
    assert cylstm.get_backend() == "alpha"
    cylstm.set_backend("beta")
    assert cylstm.get_backend() == "beta"
    with cylstm.use_backend("alpha"):
        assert cylstm.get_backend() == "alpha"
        with cylstm.use_backend("numpy"):
            assert registry.choose(dtype="float32").name == "numpy"
            assert registry.choose("beta", dtype="float32").name == "beta"
        assert registry.choose(dtype="float32").name == "alpha"
    assert cylstm.get_backend() == "beta"
    cylstm.set_backend(None)
    assert cylstm.get_backend() == "alpha"
    monkeypatch.setenv("CYLSTM_BACKEND", "")
    cylstm.set_backend(None)
    assert cylstm.get_backend() in ("cython", "numpy")


def test_a_module_follows_the_selection(alpha_and_beta: None) -> None:
    seen = []
    cls = type(registry.load("alpha"))
    cls.forward = lambda self, *args, **kwargs: seen.append("alpha") or NumpyBackend.forward(self, *args, **kwargs)
    lstm, x = cylstm.LSTM(2, 3), np.ones((4, 1, 2), np.float32)
    fixed = cylstm.LSTM(2, 3, backend="beta")
    lstm(x)
    assert seen == []
    with cylstm.use_backend("alpha"):
        lstm(x)
        fixed(x)
        assert seen == ["alpha"]
    cylstm.set_backend("alpha")
    lstm(x)
    assert seen == ["alpha"] * 2
    cylstm.set_backend(None)
    lstm(x)
    assert seen == ["alpha"] * 2


def test_use_backend_ends_with_an_exception(alpha_and_beta: None) -> None:
    before = cylstm.get_backend()
    with pytest.raises(ZeroDivisionError), cylstm.use_backend("alpha"):
        _ = 1 / 0
    assert cylstm.get_backend() == before


def test_use_backend_belongs_to_its_thread_and_task(alpha_and_beta: None) -> None:
    cylstm.set_backend("numpy")
    with cylstm.use_backend("alpha"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(cylstm.get_backend).result() == "numpy"

    async def task(name: str) -> list[str]:
        seen = []
        with cylstm.use_backend(name):
            for _ in range(3):
                await asyncio.sleep(0)
                seen.append(cylstm.get_backend())
        return seen

    async def both() -> list[list[str]]:
        return await asyncio.gather(task("alpha"), task("beta"))

    assert asyncio.run(both()) == [["alpha"] * 3, ["beta"] * 3]
    assert cylstm.get_backend() == "numpy"


def test_a_refused_selection_changes_nothing(alpha_and_beta: None) -> None:
    cylstm.set_backend("alpha")
    with pytest.raises(cylstm.UnknownBackendError):
        cylstm.set_backend("gamma")
    with pytest.raises(cylstm.UnknownBackendError), cylstm.use_backend("gamma"):
        pass
    with pytest.raises(TypeError, match="a backend object or None, got an object of type int"):
        cylstm.set_backend(3)
    assert cylstm.get_backend() == "alpha"


def test_environment_is_read_when_first_needed() -> None:
    script = """
        import os, cylstm
        os.environ["CYLSTM_BACKEND"] = {value!r}
        try:
            print(cylstm.get_backend())
        except ValueError as error:
            print(type(error).__name__, error)
        cylstm.set_backend("numpy")
        print(cylstm.get_backend())
    """
    first, second = python(script.format(value="numpy"), CYLSTM_BACKEND="nonsense").splitlines()
    assert (first, second) == ("numpy", "numpy")
    first, second = python(script.format(value="nunpy")).splitlines()
    assert first.startswith("UnknownBackendError backend 'nunpy', named by CYLSTM_BACKEND, is unknown.")
    assert "Did you mean 'numpy'?" in first
    assert second == "numpy"
    path = "cylstm.backends.numpy_backend:NumpyBackend"
    assert python(script.format(value=path)).splitlines()[0] == path


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", "  "):
        monkeypatch.setenv("CYLSTM_BACKEND", value)
        cylstm.set_backend(None)
        assert cylstm.get_backend() in ("cython", "numpy")
    monkeypatch.setenv("CYLSTM_BACKEND", " numpy ")
    cylstm.set_backend(None)
    assert cylstm.get_backend() == "numpy"


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    output = python("""
        import sys, cylstm, numpy as np
        from importlib.machinery import EXTENSION_SUFFIXES
        from cylstm.backends.base import Backend
        def compiled():
            ours = [m for name, m in sys.modules.items() if name.partition(".")[0] == "cylstm"]
            return [m.__name__ for m in ours if m.__file__.endswith(tuple(EXTENSION_SUFFIXES))]
        print(Backend.__subclasses__(), compiled())
        cylstm.set_backend("numpy")
        cylstm.LSTM(2, 3)(np.ones((4, 1, 2), np.float32))
        print([cls.__name__ for cls in Backend.__subclasses__()], compiled(), "importlib.metadata" in sys.modules)
    """)
    assert output.splitlines() == ["[] []", "['NumpyBackend'] [] False"]


def test_token(alpha_and_beta: None) -> None:
    cylstm.get_backend()
    selection = registry.selection()
    assert registry.selection() is selection
    with cylstm.use_backend("alpha"):
        inner = registry.selection()
        assert inner is not selection
        assert registry.selection() is inner
    assert registry.selection() is selection
    cylstm.set_backend("beta")
    assert registry.selection() is not selection


# The automatic choice -----------------------------------------------------------------------------------------------


def test_automatic_falls_back_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plugins.BUILT_IN, "cython", "cylstm.backends.not_built:CythonBackend")
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        assert registry.choose(dtype="float32").name == "numpy"
        assert registry.choose(dtype="float64").name == "numpy"
        cylstm.LSTM(2, 3)(np.ones((4, 1, 2), np.float32))
    assert len(record) == 1
    assert record[0].category is RuntimeWarning
    assert record[0].filename == __file__
    assert "lacks cylstm.backends.not_built" in str(record[0].message)
    assert "CYLSTM_BACKEND=numpy" in str(record[0].message)


@pytest.mark.parametrize(
    ("number", "body", "reason"),
    [
        (1, "is_available = classmethod(lambda cls: (False, 'no AVX'))", "is not available: no AVX."),
        (2, "is_available = classmethod(lambda cls: 1 / 0)", "cannot tell whether it is available: ZeroDivisionError"),
        (3, "__init__ = lambda self: 1 / 0", "failed in its constructor: ZeroDivisionError"),
        (4, "api_version = 0", "has version 0 of the backend interface"),
    ],
)
def test_automatic_passes_over_whatever_is_wrong(
    number: int, body: str, reason: str, install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"passed_over_{number}"
    install("compiled", "", **{module: SUBCLASS.format(name="cython") + f"    {body}\n"})
    monkeypatch.setitem(plugins.BUILT_IN, "cython", f"{module}:Plugin")
    with pytest.warns(RuntimeWarning, match=reason):
        assert registry.choose(dtype="float32").name == "numpy"
    with pytest.raises(ImportError, match=reason) as caught:
        registry.choose("cython", dtype="float32")
    assert "Backends available here:" in str(caught.value)


def test_automatic_goes_by_capability_without_a_warning(
    install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("compiled", "", narrow_backend=FLOAT32_ONLY)
    monkeypatch.setitem(plugins.BUILT_IN, "cython", "narrow_backend:Narrow")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert registry.choose(dtype="float32").name == "narrow"
        assert registry.choose(dtype="complex64").name == "numpy"
        assert registry.choose(dtype="float16").name == "numpy"
        assert registry.choose(dtype="float32", projection=True).name == "numpy"
        assert registry.choose(dtype="float32", training=True).name == "numpy"
    with pytest.raises(cylstm.UnsupportedError, match="no built-in backend computes dtype int8 on device 'cpu'"):
        registry.choose(dtype="int8")
    with pytest.raises(cylstm.BackendError, match=r"backend 'cupy'.*, named by the device 'cuda:1',"):
        registry.choose(dtype="int8", device="cuda:1")


# Explicit choices ---------------------------------------------------------------------------------------------------


def test_an_explicit_choice_never_falls_back(install: Callable[..., Path]) -> None:
    install("narrow-dist", "narrow = narrow_backend_2:Narrow", narrow_backend_2=FLOAT32_ONLY)
    assert registry.choose("narrow", dtype="float32").name == "narrow"
    for needs, problem in (
        ({"dtype": "complex64"}, "dtype complex64 (it computes float32)"),
        ({"dtype": "float32", "projection": True}, "projections (proj_size > 0)"),
        ({"dtype": "float32", "training": True}, "gradients"),
    ):
        with pytest.raises(cylstm.UnsupportedError) as caught:
            registry.choose("narrow", **needs)
        assert problem in str(caught.value)
        assert "numpy" in str(caught.value).rpartition("Backends that can:")[2]
    with pytest.raises(cylstm.UnsupportedError, match=r"device 'cuda:0' \(it computes on cpu\)"):
        registry.choose("numpy", dtype="float32", device="cuda:0")
    with pytest.raises(cylstm.UnsupportedError, match="named by use_backend"), cylstm.use_backend("narrow"):
        cylstm.LSTM(2, 3, dtype="float64")(np.ones((4, 1, 2)))
    with pytest.raises(ValueError, match="argument backend="):
        cylstm.LSTM(2, 3, proj_size=1, backend="narrow")


def test_objects_as_backend() -> None:
    subject = NumpyBackend()
    assert registry.choose(subject, dtype="float32") is subject
    with pytest.raises(TypeError, match="is a class: pass an instance"):
        registry.choose(NumpyBackend, dtype="float32")
    with pytest.raises(TypeError, match="lacks name, api_version, capabilities, is_available, prepare, forward"):
        registry.choose(3, dtype="float32")

    class DuckTyped:
        name, api_version, capabilities = "duck", 1, Capabilities(frozenset({"float32"}), training=True)
        is_available = prepare = forward = None

    with pytest.raises(TypeError, match="lacks backward"):
        registry.choose(DuckTyped(), dtype="float32")


# Threads and processes ----------------------------------------------------------------------------------------------


def test_made_once_by_many_threads(install: Callable[..., Path]) -> None:
    source = SUBCLASS.format(name="slow") + "    def __init__(self):\n        import time; time.sleep(0.05)\n"
    install("slow-dist", "slow = slow_backend:Plugin", slow_backend=source)
    start = threading.Barrier(8)

    def load(_: int) -> object:
        start.wait()
        return registry.load("slow")

    with ThreadPoolExecutor(8) as pool:
        assert len({id(backend) for backend in pool.map(load, range(8))}) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.forks
def test_fork_while_another_thread_makes_a_backend(install: Callable[..., Path]) -> None:
    source = SUBCLASS.format(name="slow") + (
        "    made = []\n    def __init__(self):\n        import time; self.made.append(self); time.sleep(1)\n"
    )
    site = install("slow-dist", "slow = slow_backend:Plugin", slow_backend=source)
    script = f"""
        import os, sys, threading, time, warnings
        sys.path.insert(0, {str(site)!r})
        warnings.simplefilter("ignore")
        import cylstm, slow_backend
        cylstm.set_backend("numpy")
        threading.Thread(target=cylstm.set_backend, args=("slow",), daemon=True).start()
        while not slow_backend.Plugin.made:
            time.sleep(0.01)
        child = os.fork()
        if not child:
            slow_backend.Plugin.__init__ = lambda self: None
            cylstm.set_backend("slow")
            os._exit(0 if cylstm.get_backend() == "slow" else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    assert python(script) == "0"
