"""No kernel reads or writes beyond its arrays: each ends, or begins, at a page that may not be touched."""

from __future__ import annotations

import sys

import pytest
from processes import run

pytest.importorskip("cylstm.backends.cython_backend._lstm", reason="the compiled backend is not built")
pytestmark = [
    pytest.mark.names_backend("cython"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pages are protected as Linux does it"),
]

CODE = """
import ctypes, mmap
import numpy as np
from cylstm.backends.base import DirectionParameters
from cylstm.backends.cython_backend import _layer, _lstm
from cylstm.backends.cython_backend.backend import CythonBackend

libc, PAGE, kept = ctypes.CDLL(None, use_errno=True), mmap.PAGESIZE, []
_lstm.open_regions(True)

def guarded(array, at_end=True):
    \"\"\"The same numbers between two pages that end the process when they are touched.\"\"\"
    size = -(-max(array.nbytes, 1) // PAGE) * PAGE
    memory = mmap.mmap(-1, size + 2 * PAGE)
    kept.append(memory)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    offset = PAGE + (size - array.nbytes if at_end else 0)
    placed = np.frombuffer(memory, array.dtype, array.size, offset).reshape(array.shape)
    placed[...] = array
    for page in (begin, begin + PAGE + size):
        assert libc.mprotect(ctypes.c_void_p(page), PAGE, 0) == 0
    return placed

def case(seed, at_end):
    rng = np.random.default_rng(seed)
    dtype = [np.float32, np.float64][seed % 2]
    I, H, D, B = (int(n) for n in (rng.integers(1, 70), rng.integers(2, 70), rng.integers(1, 3), rng.integers(1, 24)))
    P = int(rng.integers(1, H)) if seed % 3 == 0 else 0
    sizes = np.sort(rng.integers(1, B + 1, int(rng.integers(1, 40))))[::-1].copy()
    sizes[0], N, R = B, 0, P or H
    N = int(sizes.sum())
    def new(*shape):
        return guarded((0.3 * rng.standard_normal(shape)).astype(dtype), at_end)
    weights = [(new(4 * H, I), new(4 * H, R), new(4 * H), new(4 * H), new(P, H) if P else None) for _ in range(D)]
    layer = CythonBackend().prepare(tuple(DirectionParameters(*w) for w in weights))
    x, h_0, c_0, sizes = new(N, I), new(D, B, R), new(D, B, H), guarded(sizes.astype(np.int64), at_end)
    threads = 1 + seed % 3
    results = new(N, D * R), new(D, B, R), new(D, B, H)
    kept_arrays = new(D, N, R), new(D, layer.blocks, N, layer.lanes), new(D, layer.blocks, N, 4 * layer.lanes)
    S = _layer.segments(len(sizes), B)
    segments = new(D, S, B, R), new(D, S, layer.blocks, B, layer.lanes)
    for kept_of_call in ((*kept_arrays, None, None), (None, None, None, *segments)):
        _lstm.forward(layer, x, sizes, (h_0, c_0), results, kept_of_call, threads)
        gradients = (new(D, N, I), new(D, B, R), new(D, B, H), new(D, 4 * H, I), new(D, 4 * H, R), new(D, 4 * H),
                     new(D, P, H) if P else None)
        _lstm.backward(layer, x, sizes, kept_of_call, (new(N, D * R), new(D, B, R), new(D, B, H)), gradients, threads)
    stepper = _lstm.Stepper((layer,), B) if D == 1 else None
    if stepper is not None:
        stepper.set_state(h_0, c_0)
        stepper.step(x[:B] if N == B else guarded(x[:B].copy(), at_end), new(B, R), threads)
        stepper.get_state(new(1, B, R), new(1, B, H))

for seed in range({first}, {first} + {count}):
    for at_end in (True, False):
        case(seed, at_end)
        for memory in kept:
            begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
            libc.mprotect(ctypes.c_void_p(begin), len(memory), 3)
        kept.clear()
print("whole")
"""


@pytest.mark.parametrize("isa", ["avx512", "avx2", "neon", "generic"])
def test_arrays_between_pages_that_may_not_be_touched(isa: str) -> None:
    from cylstm.backends.cython_backend import _layer

    if isa not in _layer.instruction_sets():
        pytest.skip(f"this processor has no {isa}")
    assert run(CODE.replace("{first}", "0").replace("{count}", "24"), CYLSTM_MAX_ISA=isa) == "whole"


def test_the_pages_are_there() -> None:
    """The test could fail."""
    from subprocess import TimeoutExpired

    code = CODE.partition("for seed in")[0] + "guarded(np.ones(5))[:].base; import ctypes as c\n"
    code += "c.memset(guarded(np.ones(5)).ctypes.data + 40, 1, 1)"
    with pytest.raises((AssertionError, TimeoutExpired)):
        run(code)
