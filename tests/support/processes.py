"""Python in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

#: Seconds until a process, or a thread that another one waits for, is taken to hang: no machine is as slow as that, an
#: emulated or a busy one neither.
LIMIT = 1800


def run(code: str, **environment: str) -> str:
    """What a program prints. Of the settings of threads and backends it sees only those that are given here."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "CYLSTM_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**kept, **environment}, timeout=LIMIT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
