"""``count_instructions.py [H ...]``: instructions of a step of a stream, counted by valgrind's callgrind.

Of the cylstm that this Python imports: a layer with as many inputs as hidden units (8 and 64 if unsaid), float32, one
sample, one thread. What a longer run has more than a shorter one is divided by its steps, so that nothing but steps
counts. The processor that valgrind shows has AVX2.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

STEPS = (500, 2500)


def run(H: int, steps: int) -> None:
    """What is counted."""
    import numpy as np

    import cylstm

    step = cylstm.LSTM(H, H, backend="cython").eval().stream()
    x = np.ones(H, np.float32)
    for _ in range(steps):
        step(x)


def count(H: int, steps: int) -> int:
    """Instructions of a process that takes so many steps."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={Path(folder, 'out')}", sys.executable]
        # A thread that waits counts too.
        environment = os.environ | {"CYLSTM_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command += [__file__, str(H), "--steps", str(steps)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not found:
        raise SystemExit(f"valgrind must count, and says: {done.stderr[-1000:]}")
    return int(found[1])


def main() -> None:
    """Print the count of each H."""
    if "--steps" in sys.argv:
        return run(int(sys.argv[1]), int(sys.argv[-1]))
    for H in map(int, sys.argv[1:] or (8, 64)):
        few, many = (count(H, steps) for steps in STEPS)
        print(f"H = {H}: {(many - few) / (STEPS[1] - STEPS[0]):.0f} instructions a step")
    return None


if __name__ == "__main__":
    main()
