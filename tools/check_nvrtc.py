"""Compile all persistent kernels of the cupy backend for GPUs, without one: registers and shared memory, as a table.

``make check-nvrtc``. It ends with 1 where more than a few registers are spilled.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from nvrtc_usage import DTYPES, FEW, usage, why_no_nvrtc

from cylstm.backends.cupy_backend.persistent.configurations import every_configuration

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")


def main() -> int:
    """Compile and print."""
    if reason := why_no_nvrtc():
        print(reason, file=sys.stderr)
        return 2
    spilled, kernels = 0, 0
    head = f"{'bits':>4} {'kernel':8} {'units':>5} {'warps':>5} {'k steps':>7} {'rows':>4} {'KB':>4}"
    print(f"{head}  registers on {', '.join(ARCHITECTURES)}; of {'/'.join(DTYPES[2])} where they have 16 bits")
    for c in sorted(every_configuration()):
        cells = []
        for architecture in ARCHITECTURES:
            found = [usage(architecture, dtype, c) for dtype in DTYPES[c.itemsize]]
            spilled = max(spilled, *(one.spilled for one in found))
            kernels += len(found)
            cells.append("/".join(f"{one.registers}{'!' * (one.spilled > 0)}" for one in found))
        sizes = f"{8 * c.itemsize:4} {c.name:8} {c.units:5} {c.warps:5} {c.k_steps:7} {c.rows:4}"
        print(f"{sizes} {c.shared_memory // 1024:4}  {'  '.join(cells)}", flush=True)
    print(
        f"{kernels} kernels, " + (f"of which some spill up to {spilled} bytes" if spilled else "none spills registers")
    )
    return spilled > FEW


if __name__ == "__main__":
    sys.exit(main())
