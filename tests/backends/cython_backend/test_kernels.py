"""The compiled kernels by themselves: activations, instruction sets, denormals, the caller's floating-point state."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from processes import LIMIT

import cylstm
from cylstm.backends.base import DirectionParameters
from cylstm.backends.numpy_backend import NumpyBackend

_layer = pytest.importorskip("cylstm.backends.cython_backend._layer", reason="the compiled backend is not built")
cython_backend = pytest.importorskip("cylstm.backends.cython_backend")
pytestmark = pytest.mark.names_backend("cython")

ISAS = _layer.instruction_sets()


def activated(name: str, x: np.ndarray, isa: str) -> np.ndarray:
    out = np.empty_like(x)
    _layer.activate(name == "tanh", x, out, isa)
    return out


def exact(name: str, x: np.ndarray) -> np.ndarray:
    x = x.astype(np.longdouble)
    return np.tanh(x) if name == "tanh" else 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_activations_are_within_2_ulp(name: str, dtype: type, isa: str) -> None:
    small = 10.0 ** np.linspace(-30, 0, 100_001)
    x = np.concatenate([np.linspace(-80, 80, 1_000_001), np.linspace(-2, 2, 1_000_001), small, -small]).astype(dtype)
    reference = exact(name, x)
    ulp = np.spacing(np.abs(reference).astype(dtype))
    error = np.abs(activated(name, x, isa) - reference) / ulp
    assert error.max() <= 2.0, x[error.argmax()]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_activations_at_the_limits(dtype: type, isa: str) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0.0, 1e30, -1e30, 104, -104, 1000, -1000], dtype)
    np.testing.assert_array_equal(activated("sigmoid", x, isa)[:6], [np.nan, 1, 0, 0.5, 1, 0])
    np.testing.assert_array_equal(activated("tanh", x, isa), [np.nan, 1, -1, 0, 1, -1, 1, -1, 1, -1])
    tiny = np.array([np.finfo(dtype).tiny * 4, -np.finfo(dtype).tiny * 4], dtype)
    np.testing.assert_array_equal(activated("tanh", tiny, isa), tiny)


def test_an_unknown_instruction_set_is_refused() -> None:
    with pytest.raises(ValueError, match="sse9"):
        _layer.Layer(1, 2, 3, 0, "float32", "sse9")


@pytest.mark.parametrize("isa", ISAS)
def test_max_isa_caps_the_choice(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    monkeypatch.setenv("CYLSTM_MAX_ISA", isa)
    assert cython_backend.CythonBackend().instruction_set() == isa


def test_a_wrong_max_isa_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CYLSTM_MAX_ISA", "avx1024")
    known = ", ".join(dict.fromkeys(isa for isa, _, _ in _layer.kernel_table()))
    with pytest.raises(ValueError, match=f"CYLSTM_MAX_ISA must be one of {known}, got 'avx1024'"):
        _ = cython_backend.CythonBackend().instruction_set()


def test_denormals_count_as_zero_and_the_callers_mode_comes_back() -> None:
    """The arithmetic of NumPy after a call still knows denormal numbers."""
    lstm = cylstm.LSTM(64, 64, backend="cython")
    with lstm.unlocked() as params:
        for array in params.values():
            array[...] = 1e-39
    output, (h_n, c_n) = lstm(np.full((4, 3, 64), 1e-39, np.float32))
    assert not output.any()
    assert not h_n.any()
    assert not c_n.any()
    denormal = np.array([1e-39], np.float32)
    assert (denormal * np.float32(0.5))[0] != 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("where", ["input", "h_0", "weight_ih", "weight_hh"])
def test_nan_and_inf_go_where_the_definition_lets_them_go(where: str, isa: str, dtype: type) -> None:
    """Of 17 units only those that see the number, at the step that sees it and after; no padding, no other row."""
    rng = np.random.default_rng(3)
    I, H, B, T = 5, 17, 3, 4

    def draw(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.4).astype(dtype)

    arrays = {"input": draw(T * B, I), "h_0": draw(1, B, H), "weight_ih": draw(4 * H, I), "weight_hh": draw(4 * H, H)}
    for bad in (np.nan, np.inf, -np.inf):
        case = {name: array.copy() for name, array in arrays.items()}
        case[where].flat[4] = bad
        parameters = (DirectionParameters(case["weight_ih"], case["weight_hh"]),)
        results = []
        for backend in (NumpyBackend(), _capped(isa)):
            with np.errstate(invalid="ignore"):
                results.append(
                    backend.forward(
                        backend.prepare(parameters),
                        input=case["input"],
                        batch_sizes=np.full(T, B),
                        h_0=case["h_0"],
                        c_0=None,
                    )
                )
        for expected, got in zip(results[0][:3], results[1][:3], strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def _capped(isa: str) -> object:
    backend = cython_backend.CythonBackend()
    backend._cap = isa
    return backend


FORK = """
import os, sys
{first}
import numpy as np
import cylstm
from cylstm.backends.cython_backend import _lstm
_lstm.open_regions(True)
cylstm.set_num_threads(2)
cylstm.manual_seed(0)
lstm = cylstm.LSTM(128, 256, bidirectional={bidirectional})
x = cylstm.randn(40, 16, 128)
before, _ = lstm(x)
pid = os.fork()
if pid == 0:
    after, _ = lstm(x)
    output, _, pullback = lstm.vjp(x)
    pullback(np.ones_like(output))
    os._exit(0 if np.array_equal(before, after) else 3)
_, status = os.waitpid(pid, 0)
assert np.array_equal(before, lstm(x)[0])
sys.exit(os.waitstatus_to_exitcode(status))
"""


FORK_FIRST = """
import os, sys
import torch
torch.set_num_threads(2)
torch.ones(2000, 2000).exp()
import cylstm
lstm = cylstm.LSTM(128, 256, backend="cython")
from cylstm.backends.cython_backend import _lstm
_lstm.open_regions(True)
cylstm.set_num_threads(2)
x = cylstm.randn(40, 16, 128)
pid = os.fork()
if pid == 0:
    lstm(x)
    os._exit(0)
_, status = os.waitpid(pid, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_before_the_first_call_does_not_hang() -> None:
    """PyTorch, which may share the OpenMP library, has made threads that the child does not have."""
    pytest.importorskip("torch")
    environment = {**os.environ, "CYLSTM_BACKEND": "cython", "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", FORK_FIRST], timeout=LIMIT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("first", ["", "import torch; torch.set_num_threads(2); torch.ones(2000, 2000).exp()"])
def test_a_forked_child_computes_the_same_and_does_not_hang(first: str, bidirectional: bool) -> None:
    """Also where PyTorch, which may share the OpenMP library, has made threads before."""
    if "torch" in first:
        pytest.importorskip("torch")
    code = FORK.format(first=first, bidirectional=bidirectional)
    environment = {**os.environ, "CYLSTM_BACKEND": "cython", "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], timeout=LIMIT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


PEAK = """
import resource, sys
import numpy as np
import cylstm
cylstm.set_num_threads({threads})
lstm = cylstm.LSTM(8, 256, bidirectional={bidirectional})
x = np.ones(({T}, {B}, 8), np.float32)
lstm(x[:2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
output, _ = lstm(x)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024)
print(grown - output.nbytes)
"""


@pytest.mark.parametrize(
    ("T", "B", "threads", "bidirectional"), [(20_000, 1, 1, False), (10_000, 1, 2, True), (600, 40, 2, False)]
)
def test_scratch_memory_does_not_grow_with_time(T: int, B: int, threads: int, bidirectional: bool) -> None:
    """The input's share of the gates of all steps would be four times the output: 80 MB here."""
    pytest.importorskip("resource", reason="this system does not tell the memory of a process")
    code = PEAK.format(T=T, B=B, threads=threads, bidirectional=bidirectional)
    environment = {**os.environ, "CYLSTM_BACKEND": "cython", "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], timeout=LIMIT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 8 << 20


def test_the_beginning_of_a_cache_line_is_found() -> None:
    lines = np.zeros(64, np.float32)
    start = lines.__array_interface__["data"][0]
    for skipped in range(17):
        found = skipped + _layer.until_line(lines[skipped:])
        assert (start + 4 * found) % _layer.line_bytes == 0
        assert skipped <= found < skipped + _layer.line_bytes // 4
