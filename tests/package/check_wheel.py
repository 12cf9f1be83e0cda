"""Hold an installed wheel to the conformance kit, the published numbers and the bits: ``python -I check_wheel.py``.

Needs NumPy and the installed cylstm, nothing else. Each instruction set that runs here has a process of its own:
``check_wheel.py`` alone starts them, ``check_wheel.py one`` is one of them. Exits with 1 where something differs.
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

#: SHA-256 of `bits`, first digits: with a fused multiply-add, whatever the vectors' width and the system; and without.
BITS = {"fused": "c2adde70282f", "generic": "3863cf0bf57f"}
FUSED = ("avx512", "avx2", "neon")
MAX_ISA = "CYLSTM_MAX_ISA"


def bits() -> str:
    """A digest of the forward results of a few layers: no number of it is drawn by a function of the C library."""
    digest = hashlib.sha256()
    for dtype in (np.float32, np.float64):
        for T, B, I, H, options in (
            (5, 3, 4, 7, {}),
            (6, 9, 20, 64, {"bidirectional": True}),
            (4, 2, 33, 130, {"bidirectional": True, "proj_size": 50}),
            (3, 1, 64, 64, {"num_layers": 2}),
        ):
            cylstm.manual_seed(1)
            lstm = cylstm.LSTM(I, H, backend="cython", dtype=dtype, **options)
            input = ((np.arange(T * B * I) * 7919 % 1009) / 512 - 1).astype(dtype).reshape(T, B, I)
            output, (h_n, c_n) = lstm(input)
            for array in (output, h_n, c_n):
                digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()[:12]


def check_one() -> int:
    """The kit and the bits on the instruction set that the environment names."""
    isa = os.environ[MAX_ISA]
    _lstm.open_regions(True)
    failed = 0
    try:
        report = testing.check_backend("cython", bitwise=True)
    except testing.ConformanceError as error:
        print(error)
        report, failed = error.report, 1
    print(f"{isa}: {len(report) - len(report.failures)} of {len(report)} checks of the conformance kit, bitwise")
    seen = set()
    for count in (1, 2, 3):
        cylstm.set_num_threads(count)
        seen.add(bits())
    expected = BITS["fused" if isa in FUSED else "generic"]
    print(f"{isa}: bits {', '.join(sorted(seen))}, expected {expected}")
    return failed + (seen != {expected})


def main() -> int:
    machine = (
        f"{platform.system()} {platform.machine()}, {platform.python_implementation()} {platform.python_version()}"
    )
    print(f"{machine}, NumPy {np.__version__}, OpenMP: {_lstm.openmp()}, threads: {threads.get_num_threads()}")
    differing = smoke_wheel.main()
    for isa in _layer.instruction_sets():
        command = [sys.executable, *(["-I"] if sys.flags.isolated else []), __file__, "one"]
        done = subprocess.run(command, env=os.environ | {MAX_ISA: isa}, check=False)
        differing += done.returncode != 0
    print("the wheel fails" if differing else "the wheel holds")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(check_one() if sys.argv[1:] == ["one"] else main())
