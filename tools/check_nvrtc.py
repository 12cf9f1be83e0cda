"""Compile all persistent kernels of the cupy backend for GPUs, without one: registers and shared memory, as a table.

``make check-nvrtc``. It ends with 1 where registers are spilled.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from nvrtc_usage import usage, why_no_nvrtc

from cylstm.backends.cupy_backend.persistent.configurations import (
    TABLE,
    backward_configurations,
    forward_configurations,
)
from cylstm.backends.cupy_backend.persistent.kernels import TYPES

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")


def main() -> int:
    """Compile and print."""
    if reason := why_no_nvrtc():
        print(reason, file=sys.stderr)
        return 2
    spilled = 0
    head = f"{'H to':>5} {'kernel':8} {'units':>5} {'warps':>5} {'rows':>4} {'KB':>4}"
    print(f"{head}  registers, {'/'.join(TYPES)}: {' '.join(ARCHITECTURES)}")
    for row in TABLE:
        for kind in (forward_configurations, backward_configurations):
            for c in kind(row, 1 << 20):
                cells = []
                for architecture in ARCHITECTURES:
                    found = [usage(architecture, dtype, c) for dtype in TYPES]
                    spilled += sum(one.spilled > 0 for one in found)
                    cells.append("/".join(f"{one.registers}{'!' * (one.spilled > 0)}" for one in found))
                figures = f"{row.H:5} {c.name:8} {c.units:5} {c.warps:5} {c.rows:4} {c.shared_memory // 1024:4}"
                print(f"{figures}  {'  '.join(cells)}", flush=True)
    print(f"{spilled} kernels spill registers" if spilled else "no kernel spills registers")
    return spilled > 0


if __name__ == "__main__":
    sys.exit(main())
