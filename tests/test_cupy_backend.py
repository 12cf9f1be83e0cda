"""The cupy backend as far as it can be tested without a GPU: the array loop, and what it says where it cannot run.

The array loop runs on arrays that follow NumPy's protocols and cannot be read by NumPy, as CuPy's. With a GPU at hand,
the conformance kit runs on the backend itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


# Arrays of a device through LSTM -------------------------------------------------------------------------------------


def moved(value: Any, move: Callable[[np.ndarray], Any]) -> Any:
    """Every array of it on the device."""
    if isinstance(value, cylstm.PackedSequence):
        return value._replace(data=move(value.data))
    if isinstance(value, tuple):
        return tuple(moved(item, move) for item in value)
    return move(value) if isinstance(value, np.ndarray) else value


def on_host(value: Any) -> Any:
    """Every array of it on the host; it must have been on the device."""
    if isinstance(value, cylstm.PackedSequence):
        assert value.is_cuda
        assert not value.cpu().is_cuda
        return value.cpu()
    if isinstance(value, dict):
        return {name: on_host(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return tuple(map(on_host, value))
    assert not isinstance(value, np.ndarray)
    return value.get()


def assert_close(got: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        got, expected = tuple(got.values()), tuple(expected.values())
    if isinstance(expected, tuple):
        for one, other in zip(got, expected, strict=True):
            assert_close(one, other)
    elif expected is not None:
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def packed(x: np.ndarray) -> cylstm.PackedSequence:
    return cylstm.pack_padded_sequence(x, [2, 5, 3], enforce_sorted=False)


FORMS: dict[str, tuple[dict[str, Any], Callable[[np.ndarray], Any], tuple[int, ...]]] = {
    "time first": ({}, lambda x: x, (3,)),
    "batch first": ({"batch_first": True}, lambda x: x.transpose(1, 0, 2), (3,)),
    "unbatched": ({}, lambda x: x[:, 0], ()),
    "packed": ({}, packed, (3,)),
    "dropout": ({"dropout": 0.5}, lambda x: x, (3,)),
    "projection": ({"proj_size": 2}, lambda x: x, (3,)),
}


@pytest.mark.parametrize("place", ["protocols", pytest.param("cupy", marks=needs_gpu)])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("with_state", [False, True])
def test_what_comes_from_the_device_goes_back_there(form: str, with_state: bool, place: str) -> None:
    """With the numbers that the numpy backend gives on the host, and no array on the host in between."""
    backend, move = (ElsewhereBackend(), to_device)
    if place == "cupy":
        import cupy

        backend, move = CupyBackend(), cupy.asarray
    options, form_of, batch = FORMS[form]
    cylstm.manual_seed(0)
    host = cylstm.LSTM(4, 5, num_layers=2, bidirectional=True, backend="numpy", **options)
    device = cylstm.LSTM(4, 5, num_layers=2, bidirectional=True, backend=backend, **options)
    device.load_state_dict(host.state_dict())
    R = options.get("proj_size", 5)
    x = form_of(cylstm.randn(5, 3, 4))
    hx = (cylstm.randn(4, *batch, R), cylstm.randn(4, *batch, 5)) if with_state else None
    results = []
    for module, enter, leave in ((host, np.copy, lambda a: a), (device, move, on_host)):
        cylstm.manual_seed(1)
        output, state = module(moved(x, enter), moved(hx, enter))
        output_again, _, pullback = module.vjp(moved(x, enter), moved(hx, enter))
        grads = pullback(output_again, state)
        results.append(leave((output, state, output_again, grads.input, grads.hx, grads.parameters)))
    expected, got = results
    assert_close(got, expected)


def test_what_comes_from_the_host_goes_back_there() -> None:
    host, device = cylstm.LSTM(4, 5, backend="numpy"), cylstm.LSTM(4, 5, backend=ElsewhereBackend())
    device.load_state_dict(host.state_dict())
    x = cylstm.randn(5, 3, 4)
    np.testing.assert_equal(device(x), host(x))
    assert all(isinstance(p, np.ndarray) for p in device.state_dict().values())


def test_parameters_go_up_once_per_version(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, prepared = ElsewhereBackend(), []
    prepare = backend.prepare
    monkeypatch.setattr(backend, "prepare", lambda p: prepared.append(1) or prepare(p))
    lstm, x = cylstm.LSTM(4, 5, num_layers=2, backend=backend), to_device(cylstm.randn(5, 3, 4))
    before = lstm(x)[0].get()
    lstm.vjp(x)
    assert len(prepared) == 2  # one per layer
    lstm.bias_ih_l0 = lstm.bias_ih_l0 + 1
    assert not np.array_equal(lstm(x)[0].get(), before)
    assert len(prepared) == 4


def test_arrays_of_host_and_device_are_not_mixed() -> None:
    lstm, x = cylstm.LSTM(4, 5, backend=ElsewhereBackend()), cylstm.randn(5, 3, 4)
    hx = (cylstm.randn(1, 3, 5), cylstm.randn(1, 3, 5))
    with pytest.raises(RuntimeError, match=r"h_0 must lie where the input does, on the GPU: use cupy.asarray\(h_0\)"):
        lstm(to_device(x), hx)
    with pytest.raises(RuntimeError, match=r"c_0 must lie where the input does, on the CPU: use c_0.get\(\)"):
        lstm(x, (hx[0], to_device(hx[1])))
    output, _, pullback = lstm.vjp(to_device(x))
    with pytest.raises(RuntimeError, match="grad_output must lie where the input does, on the GPU"):
        pullback(output.get())
    with pytest.raises(RuntimeError, match="grad_c_n must lie where the input does, on the GPU"):
        pullback(output, (None, hx[1]))
    output, _, pullback = lstm.vjp(x)
    with pytest.raises(TypeError, match="grad_output lies on another device than the CPU"):
        pullback(to_device(output))
    with pytest.raises(TypeError, match=r"input lies on another device.*cylstm\[cuda13\]"):
        cylstm.LSTM(4, 5, backend="numpy")(to_device(x))
    with pytest.raises(TypeError, match="data lies on another device than the CPU"):
        cylstm.pad_packed_sequence(moved(packed(x), to_device))


# device= -------------------------------------------------------------------------------------------------------------


class OnDevice(ElsewhereBackend):
    """Remembers what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def on(self, device: str) -> ElsewhereBackend:
        self.asked.append(device)
        return self


def test_the_device_reaches_the_backend() -> None:
    backend = OnDevice()
    lstm, x = cylstm.LSTM(4, 5, device="cuda:1", backend=backend), cylstm.randn(5, 3, 4)
    expected = lstm(x)[0]
    assert set(backend.asked) == {"cuda:1"}
    assert lstm.to("cuda:2") is lstm
    backend.asked.clear()
    np.testing.assert_array_equal(lstm(x)[0], expected)
    assert set(backend.asked) == {"cuda:2"}
    backend.asked.clear()
    lstm.to("cpu")
    np.testing.assert_array_equal(lstm(x)[0], expected)
    assert not backend.asked


def test_a_device_that_cannot_be_used_is_refused_and_nothing_changes(new_registry: None) -> None:
    lstm, x = cylstm.LSTM(4, 5, backend="numpy"), cylstm.randn(5, 3, 4)
    expected = lstm(x)[0]
    with pytest.raises(RuntimeError, match=r"device 'cuda' cannot be used, 'cpu' can: .*computes on cpu.*'cupy'"):
        lstm.to("cuda")
    np.testing.assert_array_equal(lstm(x)[0], expected)
    with pytest.raises(RuntimeError, match="expected device None or 'cpu', got 'cuda'"):
        cylstm.Linear(3, 4, device="cuda")


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
