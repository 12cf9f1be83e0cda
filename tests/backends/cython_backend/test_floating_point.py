"""Denormal numbers cost nothing: there are none in the kernels. And the caller's floating-point state comes back."""

from __future__ import annotations

import ctypes.util
import platform
import sys

import numpy as np
import pytest
from processes import run

import cylstm

_layer = pytest.importorskip("cylstm.backends.cython_backend._layer", reason="the compiled backend is not built")
pytestmark = pytest.mark.names_backend("cython")
knows_register = pytest.mark.skipif(
    not (sys.platform.startswith("linux") and platform.machine() == "x86_64"),
    reason="where the register MXCSR stands in fenv_t is known here for x86-64 alone",
)

# The control register of the thread that asks, by the C library. Without the six flags, which NumPy raises and clears.
REGISTER = f"""
import ctypes, threading
import numpy as np
import cylstm
from cylstm.backends.cython_backend import _layer, _lstm

libm = ctypes.CDLL({ctypes.util.find_library("m")!r})

def get():
    environment = (ctypes.c_uint32 * 8)()
    assert libm.fegetenv(environment) == 0
    return environment[7] & ~0x3f

def set(mxcsr):
    environment = (ctypes.c_uint32 * 8)()
    assert libm.fegetenv(environment) == 0
    environment[7] = mxcsr
    assert libm.fesetenv(environment) == 0

_lstm.open_regions(True)
lstm = cylstm.LSTM(64, 200, bidirectional=True, backend="cython")
x = cylstm.randn(20, 16, 64)
"""
RESTORED = """
output, _, pullback = lstm.vjp(x)
one_way = cylstm.LSTM(64, 200, backend="cython")
stream = one_way.stream(batch_size=16)
state = tuple(np.zeros((1, 16, 200), np.float32) for _ in range(2))
bad = x.copy()
bad[3, 2, 1] = np.nan
row = np.full(100, 100.0, np.float32)

def refused(call):
    try:
        call()
    except (TypeError, ValueError, RuntimeError):
        return
    raise AssertionError("was not refused")

work = {
    "call": lambda: lstm(x),
    "pullback": lambda: pullback(output),
    "step": lambda: stream(x[0]),
    "nan": lambda: lstm(bad),
    "activations": lambda: _layer.activate(True, row, row.copy()),
    "error in a call": lambda: refused(lambda: lstm(x[0, 0])),
    "error in a pullback": lambda: refused(lambda: pullback(x)),
    "error in a step": lambda: refused(lambda: stream(x[0], out=x[1])),
    "error in the kernels": lambda: refused(lambda: _layer.activate(True, row, row[1:].copy())),
}
DEFAULT = 0x1f80
states = {
    "default": DEFAULT,
    "denormals off": DEFAULT | 0x8040,
    "rounding upwards": DEFAULT | 0x4000,
    "traps": DEFAULT & ~0x680,  # invalid, division by zero, overflow: SIGFPE
}
changed = []

def check():
    for threads in (1, 2):
        cylstm.set_num_threads(threads)
        for name, mxcsr in states.items():
            for task, call in work.items():
                set(mxcsr)
                call()
                after = get()
                set(DEFAULT)
                if after != mxcsr:
                    changed.append((threads, name, task, hex(mxcsr), hex(after)))

check()
thread = threading.Thread(target=check)
thread.start()
thread.join()
print(changed)
"""


@knows_register
def test_the_callers_register_is_as_before() -> None:
    """Also after errors, in a thread of Python, and where the caller has traps, another rounding, or denormals off."""
    assert run(REGISTER + RESTORED, OMP_NUM_THREADS="2") == "[]"


POOL = """
pool = ctypes.CDLL(_lstm.__file__)  # and the OpenMP library that it is linked with

def registers():
    found = {}
    def ask(_):
        found[threading.get_native_id()] = get()
    pool.GOMP_parallel(ctypes.CFUNCTYPE(None, ctypes.c_void_p)(ask), None, 2, 0)
    return found

before = registers()
cylstm.set_num_threads(2)
output, _, pullback = lstm.vjp(x)
pullback(output)
print(len(before), registers() == before, {hex(register) for register in before.values()})
"""


@knows_register
def test_the_threads_of_openmp_have_their_register_back() -> None:
    """They belong to everybody who uses the library: PyTorch, say."""
    assert run(REGISTER + POOL, OMP_NUM_THREADS="2") == "2 True {'0x1f80'}"


ROUNDING = """
lstm = cylstm.LSTM(64, 200, backend="cython")  # with two directions NumPy adds their gradients, in the caller's mode

def results():
    output, _, pullback = lstm.vjp(x)
    return [output.tobytes(), pullback(output).input.tobytes()]

cylstm.set_num_threads(2)
expected = results()  # and OpenMP's thread is there, with a register of its own
set(get() | 0x4000)
upwards = np.float32(1) + np.float32(1e-10) > 1
two = results()
cylstm.set_num_threads(1)
one = results()
lstm.load_state_dict(lstm.state_dict())  # packed anew
print(upwards, two == expected, one == expected, results() == expected)
"""


@knows_register
def test_bits_do_not_depend_on_the_callers_rounding() -> None:
    assert run(REGISTER + ROUNDING, OMP_NUM_THREADS="2") == "True True True True"


@pytest.mark.parametrize(("dtype", "T"), [("float32", 140), ("float64", 1040)])
@pytest.mark.parametrize("threads", [1, 2])
def test_what_decays_ends_at_zero(dtype: str, T: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of c is forgotten in each step: by the definition there are denormal numbers in the end."""
    from cylstm.backends.cython_backend import threads as counts

    monkeypatch.setattr(counts, "_count", threads)
    smallest = np.finfo(dtype).tiny
    results = {}
    for backend in ("numpy", "cython"):
        lstm = cylstm.LSTM(1, 300, dtype=dtype, backend=backend)
        lstm.load_state_dict({name: np.zeros_like(array) for name, array in lstm.named_parameters()})
        x, hx = np.zeros((T, 1, 1), dtype), (np.zeros((1, 1, 300), dtype), np.ones((1, 1, 300), dtype))
        output, (h_n, c_n), pullback = lstm.vjp(x, hx)
        grad_c_0 = pullback(None, (None, np.ones_like(c_n))).hx[1]
        stream = lstm.stream()
        stream.state = hx
        for x_t in x:
            h = stream(x_t)
        results[backend] = [h_n, c_n, grad_c_0, h, stream.state[1]]
        plain, (_, plain_c_n) = lstm(x, hx)
        np.testing.assert_array_equal(plain, output)
        np.testing.assert_array_equal(plain_c_n, c_n)
    for defined, ours in zip(results["numpy"], results["cython"], strict=True):
        assert np.all((defined > 0) & (defined < smallest))
        assert not ours.any()
