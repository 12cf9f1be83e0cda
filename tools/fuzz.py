"""``make fuzz``: the random configurations of tests/nn/test_differential.py on seeds that the tests do not reach.

Runs until it is stopped, or until one configuration differs from PyTorch; the error names its seed.
"""

from __future__ import annotations

import itertools
import secrets
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS / "support"), str(TESTS / "nn")]

from random_cases import BACKENDS  # noqa: E402
from test_differential import CASES, CHUNK, test_forward  # noqa: E402


def main() -> None:
    start = int(sys.argv[1]) if len(sys.argv) > 1 else CASES + secrets.randbelow(2**40)
    print(f"backends {', '.join(BACKENDS)}; seeds from {start} on. Ctrl-C stops.")
    try:
        for first in itertools.count(start, CHUNK):
            for backend in BACKENDS:
                test_forward(backend, range(first, first + CHUNK))
            print(f"\r{first + CHUNK - start:,} configurations per backend agree", end="", flush=True)
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    main()
