"""Every backend present goes through the conformance kit, and a third party's, really installed. The kit itself."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import LIMIT

import cylstm
from cylstm import testing
from cylstm.backends import plugins, registry
from cylstm.backends.numpy_backend import NumpyBackend
from cylstm.testing import problems

PLUGIN = Path(__file__).parent / "plugins" / "cylstm-torch-kernels"
#: Backends that come with cylstm, and whether they claim the same bits however a call is cut up.
BITWISE = {"cython": True, "numpy": False, "cupy": False}
PRESENT = [b.name for b in cylstm.available_backends() if b.distribution == "cylstm" and b.status == "available"]


def each_check(backend: str) -> list[Any]:
    return [
        pytest.param(check, id=f"{backend}-{check.id}", marks=pytest.mark.names_backend(backend))
        for check in testing.checks(backend, bitwise=BITWISE[backend])
    ]


@pytest.mark.parametrize("check", [check for backend in PRESENT for check in each_check(backend)])
def test_built_in(check: testing.Check) -> None:
    check()


# A third party's backend --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the plugin."""
    pytest.importorskip("torch", reason="the plugin computes with PyTorch")
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(
        PLUGIN, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    )
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    result = subprocess.run(
        [*command, "--target", str(folder / "site"), str(source)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return folder / "site"


@pytest.fixture
def plugin(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CYLSTM_BACKEND", raising=False)
    monkeypatch.setattr(registry, "_state", registry._State())
    monkeypatch.syspath_prepend(site)


def test_plugin_is_listed_and_chosen_by_name(plugin: None) -> None:
    info = next(info for info in cylstm.available_backends() if info.name == "torch-kernels")
    assert info == plugins.BackendInfo("torch-kernels", "cylstm-torch-kernels", "available", "")
    lstm, x = cylstm.LSTM(3, 4, backend="torch-kernels"), cylstm.randn(5, 2, 3)
    reference = cylstm.LSTM(3, 4, backend="numpy")
    reference.load_state_dict(lstm.state_dict())
    np.testing.assert_allclose(lstm(x)[0], reference(x)[0], atol=1e-6)
    with pytest.raises(cylstm.UnsupportedError, match=r"float16.*Backends that can: numpy\."):
        cylstm.LSTM(3, 4, dtype="float16", backend="torch-kernels")
    with pytest.raises(cylstm.UnknownBackendError, match="Did you mean 'torch-kernels'"):
        cylstm.set_backend("torch_kernels")


def test_plugin_passes(plugin: None) -> None:
    report = testing.check_backend("torch-kernels")
    assert {result.check.rpartition("-")[2] for result in report} >= {"float32", "float64", "complex64", "complex128"}


@pytest.mark.parametrize("source", ["environment by name", "environment by path", "set_backend"])
def test_plugin_in_a_process_of_its_own(site: Path, source: str) -> None:
    script = """
        import sys
        import numpy as np, cylstm
        if len(sys.argv) > 1:
            cylstm.set_backend(sys.argv[1])
        assert "torch" not in sys.modules
        lstm = cylstm.LSTM(3, 4)
        output, (h_n, c_n), pullback = lstm.vjp(np.ones((5, 2, 3), np.float32))
        assert np.array_equal(output[-1], h_n[0])
        assert pullback(np.ones_like(output)).input.shape == (5, 2, 3)
        assert "torch" in sys.modules
        print(cylstm.get_backend())
    """
    name = "cylstm_torch_kernels:TorchBackend" if "path" in source else "torch-kernels"
    variable = {"CYLSTM_BACKEND": name} if "environment" in source else {}
    paths = os.pathsep.join([str(Path(cylstm.__file__).parents[1]), str(site)])
    environment = {k: v for k, v in os.environ.items() if k != "CYLSTM_BACKEND"} | {"PYTHONPATH": paths} | variable
    command = [sys.executable, "-c", textwrap.dedent(script), *([] if variable else [name])]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert (result.returncode, result.stdout.strip()) == (0, name), result.stderr


@pytest.mark.parametrize("name", PRESENT)
def test_torch_is_the_judge(name: str, plugin: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kit's checks of values and gradients, with PyTorch in the place of the numpy definition."""
    torch_backend = importlib.import_module("cylstm_torch_kernels").TorchBackend
    todo = [check for check in testing.checks(name) if check.id.startswith(("values-", "gradients-", "gradient_"))]
    monkeypatch.setattr(problems, "REFERENCE", torch_backend())
    assert len(todo) > 40
    for check in todo:
        check()


# The kit itself -----------------------------------------------------------------------------------------------------


class Renamed(NumpyBackend):
    name = "renamed"
    capabilities = NumpyBackend.capabilities._replace(
        dtypes=frozenset({"float32"}), projection=False, training=False, precisions=("float32",)
    )


class WithoutEmptyBatches(Renamed):
    def forward(self, prepared, *, batch_sizes, **arguments):
        if not batch_sizes[0]:
            raise RuntimeError("no empty batches here")
        return super().forward(prepared, batch_sizes=batch_sizes, **arguments)


def test_only_claims_are_checked() -> None:
    ids = [check.id for check in testing.checks(Renamed())]
    assert len(set(ids)) == len(ids)
    assert not [i for i in ids if "gradient" in i or "projection" in i or "float64" in i or "bitwise" in i]
    assert all(check.description.endswith(".") for check in testing.checks("numpy", bitwise=True))


def test_a_class_is_no_backend() -> None:
    with pytest.raises(TypeError, match="pass an instance of Renamed"):
        testing.check_backend(Renamed)
    with pytest.raises(cylstm.UnknownBackendError):
        testing.check_backend("nobody")


def test_report_is_a_table() -> None:
    report = testing.check_backend(Renamed())
    lines = str(report).splitlines()
    assert len(lines) == len(report) + 1
    assert lines[-1] == f"{len(report)} checks, 0 failures"
    assert all(line.endswith("  passed") for line in lines[:-1])


def test_expected_failures() -> None:
    failing = "values-empty_batch-float32"
    with pytest.raises(testing.ConformanceError, match="RuntimeError: no empty batches here") as caught:
        testing.check_backend(WithoutEmptyBatches())
    assert isinstance(caught.value, AssertionError)
    assert [result.check for result in caught.value.report.failures] == [failing]
    report = testing.check_backend(WithoutEmptyBatches(), expected_failures={failing: "not yet"})
    assert [result for result in report if result.outcome != "passed"] == [(failing, "expected failure", "not yet")]
    with pytest.raises(testing.ConformanceError, match="passed, though declared as expected failure: why not"):
        testing.check_backend(Renamed(), expected_failures={"contract": "why not"})
    with pytest.raises(ValueError, match="expected_failures must name checks of this backend, got value-plain"):
        testing.check_backend(Renamed(), expected_failures={"value-plain": "misspelt"})


def test_parametrize_with_checks(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent("""
            from test_conformance import Renamed, WithoutEmptyBatches
            from cylstm.testing import parametrize_with_checks
            reasons = {"values-empty_batch-float32": "not yet"}

            @parametrize_with_checks(["numpy", Renamed()])
            def test_right(check):
                check()

            @parametrize_with_checks([WithoutEmptyBatches()], expected_failures=reasons)
            def test_declared(check):
                check()

            @parametrize_with_checks([Renamed()], expected_failures=reasons)
            def test_wrongly_declared(check):
                check()
        """)
    )
    here = Path(__file__).parent
    paths = os.pathsep.join(map(str, (Path(cylstm.__file__).parents[1], here, here.parent / "support")))
    command = [sys.executable, "-m", "pytest", "-q", "-rfx", "-p", "no:cacheprovider", "test_it.py"]
    result = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert "1 failed" in result.stdout, result.stdout + result.stderr
    assert "1 xfailed" in result.stdout
    assert "XFAIL test_it.py::test_declared[renamed-values-empty_batch-float32] - not yet" in result.stdout
    assert "FAILED test_it.py::test_wrongly_declared[renamed-values-empty_batch-float32]" in result.stdout


def test_needs_numpy_only() -> None:
    script = """
        import sys, cylstm.testing
        cylstm.testing.check_backend("numpy")
        print(sorted({"pytest", "torch", "importlib.metadata"} & set(sys.modules)))
    """
    environment = os.environ | {"PYTHONPATH": str(Path(cylstm.__file__).parents[1])}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr
