"""The conformance kit on each kernel variant of the cupy backend, on a GPU; a failure does not end the others.

``python tools/gpu_conformance.py [tier ...]``; all of them by default.
"""

from __future__ import annotations

import sys

from cylstm import testing
from cylstm.backends.cupy_backend import CupyBackend
from cylstm.backends.cupy_backend.backend import VARIANTS

MOST_SHOWN = 20


def failures(tier: str) -> list[str]:
    """What fails on a variant."""
    failed = []
    for check in testing.checks(CupyBackend(tier=tier)):
        try:
            check()
        except Exception as error:
            failed.append(f"{check.id}: {type(error).__name__}: {str(error)[:300]}")
    return failed


def main() -> int:
    """Run the command."""
    every = 0
    for tier in sys.argv[1:] or [variant.name for variant in VARIANTS]:
        failed = failures(tier)
        every += len(failed)
        print(f"tier {tier!r}: {len(failed)} checks failed", *failed[:MOST_SHOWN], sep="\n    ", flush=True)
    return int(every > 0)


if __name__ == "__main__":
    sys.exit(main())
