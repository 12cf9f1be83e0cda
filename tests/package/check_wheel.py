"""Hold an installed wheel to the conformance kit, the published numbers and the bits: ``python -I check_wheel.py``.

Needs NumPy and the installed cylstm, nothing else. Each instruction set that runs here has a process of its own:
``check_wheel.py`` alone starts them, ``check_wheel.py one`` is one of them. With the word ``bits`` before it computes
the bits alone: for a second processor. Exits with 1 where something differs.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np

import cylstm
from cylstm import testing
from cylstm.backends.cython_backend import _layer, _lstm, threads

sys.path.append(str(Path(__file__).parent))
import smoke_wheel

#: SHA-256 of `bits`, first digits, per precision: with a fused multiply-add, whatever the width of vectors and the
#: system; where the processor multiplies pairs of bfloat16 as well, which Intel and Arm round in ways of their own;
#: without either.
BITS = {
    "fused": {"state": "c2adde70282f", "int8": "cab62dbf4035", "bfloat16": "3e8bd7d02ed1"},
    "vdpbf16ps": {"state": "c2adde70282f", "int8": "3058ce672c34", "bfloat16": "811574360ea9"},
    "bfdot": {"state": "c2adde70282f", "int8": "63675d9ad5cd", "bfloat16": "e11945dfa215"},
    "plain": {"state": "3863cf0bf57f", "int8": "28419aff14bb", "bfloat16": "c5db0cb732c3"},
}
KIND = {"generic": "plain", "avx512_bf16": "vdpbf16ps", "neon_bf16": "bfdot"}  # the others: "fused"
MAX_ISA = "CYLSTM_MAX_ISA"


def bits(precision: str) -> str:
    """A digest of the forward results of a few layers: no number of it is drawn by a function of the C library."""
    digest, named = hashlib.sha256(), None if precision == "state" else precision
    for dtype in (np.float32, np.float64) if precision == "state" else (np.float32,):
        for T, B, I, H, options in (
            (5, 3, 4, 7, {}),
            (6, 9, 20, 64, {"bidirectional": True}),
            (4, 2, 33, 130, {"bidirectional": True, "proj_size": 50}),
            (3, 1, 64, 64, {"num_layers": 2}),
        ):
            cylstm.manual_seed(1)
            lstm = cylstm.LSTM(I, H, backend="cython", dtype=dtype, precision=named, **options)
            input = ((np.arange(T * B * I) * 7919 % 1009) / 512 - 1).astype(dtype).reshape(T, B, I)
            output, (h_n, c_n) = lstm(input)
            for array in (output, h_n, c_n):
                digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()[:12]


def check_kit(isa: str) -> bool:
    """Whether the conformance kit holds on the instruction set that the environment names."""
    try:
        report = testing.check_backend("cython", bitwise=True)
    except testing.ConformanceError as error:
        print(error)
        report = error.report
    print(f"{isa}: {len(report) - len(report.failures)} of {len(report)} checks of the conformance kit, bitwise")
    return not report.failures


def check_bits(isa: str) -> bool:
    """Whether each precision gives the bits that it gives everywhere, on one, two and three threads."""
    holds = True
    for precision, expected in BITS[KIND.get(isa, "fused")].items():
        seen = set()
        for count in (1, 2, 3):
            cylstm.set_num_threads(count)
            seen.add(bits(precision))
        print(f"{isa}, {precision}: bits {', '.join(sorted(seen))}, expected {expected}")
        holds &= seen == {expected}
    return holds


def check_one(with_kit: bool) -> int:
    """The kit, if asked for, and the bits on the instruction set that the environment names."""
    isa = os.environ[MAX_ISA]
    _lstm.open_regions(True)
    held = [check_kit(isa)] if with_kit else []
    return 0 if all([*held, check_bits(isa)]) else 1


def main(with_kit: bool) -> int:
    """All that runs here; the exit status."""
    machine = (
        f"{platform.system()} {platform.machine()}, {platform.python_implementation()} {platform.python_version()}"
    )
    print(f"{machine}, NumPy {np.__version__}, OpenMP: {_lstm.openmp()}, threads: {threads.get_num_threads()}")
    differing = smoke_wheel.main() if with_kit else 0
    sets = list(dict.fromkeys(isa for isa, _, here in _layer.kernel_table() if here))
    # The first one takes from lower ones what it has not: float32 and float64 of the highest that has them.
    kits = {sets[0], *_layer.instruction_sets()[1:]} if with_kit else set()
    for isa in sets:
        what = [] if isa in kits else ["bits"]
        command = [sys.executable, *(["-I"] if sys.flags.isolated else []), __file__, *what, "one"]
        done = subprocess.run(command, env=os.environ | {MAX_ISA: isa}, check=False)
        differing += done.returncode != 0
    said = "fails" if differing else "holds"
    print(f"the wheel {said} on {', '.join(sets)}")
    return 1 if differing else 0


if __name__ == "__main__":
    kit = "bits" not in sys.argv
    sys.exit(check_one(kit) if sys.argv[-1] == "one" else main(kit))
