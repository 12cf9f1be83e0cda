"""``make fuzz``: random layers against PyTorch, and against other ways to call them. Each failure is known by its seed.

    tools/fuzz.py                                  all kinds, 1,000 cases each, on every backend and instruction set
    tools/fuzz.py forward --count 100000           one kind
    tools/fuzz.py threads --isa avx2 --seed 4711 --count 1      a failure again

Kinds: forward, dropout, gradients (random options, dtypes, ragged shapes, strides, 1 to 4 threads) against PyTorch on
each backend, the cython backend with each instruction set; options (those that PyTorch's LSTM lacks) against the numpy
backend; and bit for bit on the cython backend pieces, batches, threads. All failures are listed at the end, and the
exit status is 1.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SUPPORT = Path(__file__).parents[1] / "tests" / "support"
sys.path.insert(0, str(SUPPORT))
KINDS = ("forward", "dropout", "gradients", "options", "pieces", "batches", "threads")
FIRST = 1 << 20  # seeds below are those of the tests


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], metavar="KIND", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--count", type=int, default=1000, help="cases of each kind, backend and instruction set")
    parser.add_argument("--seed", type=int, help="of the first case; otherwise by chance")
    parser.add_argument("--isa", help="of the cython backend this instruction set alone, and no other backend")
    given = parser.parse_args()
    given.kinds = given.kinds or list(KINDS)
    if given.seed is None:
        given.seed = FIRST + secrets.randbelow(2**40)
    return given


def checks(kind: str, isa: str | None) -> dict[str, Callable[[int], Any]]:
    """The function of a seed for each name of what it is about."""
    import fuzz_cases
    from random_cases import BACKENDS

    compiled = fuzz_cases.cython_backends(isa)
    if kind in fuzz_cases.INVARIANCES:
        check = fuzz_cases.INVARIANCES[kind]
        return {f"{kind} {name}": lambda seed, b=backend: check(seed, b) for name, backend in compiled.items()}
    check = fuzz_cases.COMPARISONS[kind]
    # One case for all instruction sets: PyTorch takes most of the time.
    found = {f"{kind} cython {'+'.join(compiled)}": lambda seed: check(seed, list(compiled.values()))}
    if isa is None and kind != "options":
        found |= {f"{kind} {name}": lambda seed, b=name: check(seed, [b]) for name in BACKENDS if name != "cython"}
    return found


def run(given: argparse.Namespace) -> list[str]:
    """The commands that show each failure again."""
    import fuzz_cases

    import cylstm
    from cylstm.backends.cython_backend import _lstm

    _lstm.open_regions(True)
    failures = []
    for kind in given.kinds:
        for name, check in checks(kind, given.isa).items():
            begin, before = time.monotonic(), len(failures)
            for seed in range(given.seed, given.seed + given.count):
                cylstm.set_num_threads(fuzz_cases.threads_of(seed))
                try:
                    check(seed)
                except Exception as error:
                    command = (
                        f"tools/fuzz.py {kind} {f'--isa {given.isa} ' if given.isa else ''}--seed {seed} --count 1"
                    )
                    message = " ".join(f"{type(error).__name__}: {error}".split())[:400]
                    failures.append(f"{command}\n    {name}: {message}")
            failed, seconds = len(failures) - before, time.monotonic() - begin
            print(
                f"{name:34} {given.count:,} cases from seed {given.seed}: {failed} failed, {seconds:.0f} s", flush=True
            )
    return failures


def main() -> int:
    failures = run(arguments())
    print(*failures, sep="\n", end="\n" if failures else "")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
