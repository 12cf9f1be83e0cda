"""``make fuzz``: the random configurations of tests/test_differential.py on seeds that the tests do not reach.

Runs until it is stopped, or until one configuration differs from PyTorch; the error names its seed.
"""

from __future__ import annotations

import itertools
import secrets
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from random_cases import BACKENDS
from test_differential import CASES, CHUNK, test_forward


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
