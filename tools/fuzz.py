"""``make fuzz``: random layers against PyTorch, and against other ways to call them. Each failure is known by its seed.

    tools/fuzz.py                                  all kinds, 1,000 cases each, on every backend and instruction set
    tools/fuzz.py forward --count 100000           one kind
    tools/fuzz.py --seed 2000000 --count 100000 --log long.log  in pieces; leaves out those that the log has
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
PIECE = 500  # cases between two lines of a log


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], metavar="KIND", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--count", type=int, default=1000, help="cases of each kind, backend and instruction set")
    parser.add_argument("--seed", type=int, help="of the first case; otherwise by chance")
    parser.add_argument("--isa", help="of the cython backend this instruction set alone, and no other backend")
    parser.add_argument("--log", type=Path, help="a line for each 500 cases, and what failed; needs --seed")
    given = parser.parse_args()
    if given.log and given.seed is None:
        parser.error("--log needs --seed: a run that goes on must begin where it began")
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


def run_piece(check: Callable[[int], Any], name: str, seeds: range, isa: str | None) -> list[str]:
    """The commands that show each failure again."""
    import fuzz_cases

    import cylstm

    failures = []
    for seed in seeds:
        cylstm.set_num_threads(fuzz_cases.threads_of(seed))
        try:
            check(seed)
        except Exception as error:
            command = f"tools/fuzz.py {name.split()[0]} {f'--isa {isa} ' if isa else ''}--seed {seed} --count 1"
            message = " ".join(f"{type(error).__name__}: {error}".split())[:400]
            failures.append(f"{command}\n    {name}: {message}")
    return failures


def run(given: argparse.Namespace) -> list[str]:
    """The kinds in turns, a piece of each; what failed."""
    from cylstm.backends.cython_backend import _lstm

    _lstm.open_regions(True)
    done = set(given.log.read_text("utf-8").splitlines()) if given.log and given.log.exists() else set()
    todo = {name: check for kind in given.kinds for name, check in checks(kind, given.isa).items()}
    failures: dict[str, list[str]] = {name: [] for name in todo}
    seconds, counts = dict.fromkeys(todo, 0.0), dict.fromkeys(todo, 0)
    for first in range(given.seed, given.seed + given.count, PIECE):
        seeds = range(first, min(first + PIECE, given.seed + given.count))
        for name, check in todo.items():
            line = f"{name}, seeds {seeds.start} to {seeds[-1]}: none failed"
            counts[name] += len(seeds)
            if line in done:
                continue
            begin = time.monotonic()
            failed = run_piece(check, name, seeds, given.isa)
            seconds[name] += time.monotonic() - begin
            failures[name] += failed
            if given.log:
                with given.log.open("a", encoding="utf-8") as log:
                    print(*(failed or [line]), sep="\n", file=log)
    for name, failed in failures.items():
        print(f"{name:34} {counts[name]:,} cases from seed {given.seed}: {len(failed)} failed, {seconds[name]:.0f} s")
    return [failure for failed in failures.values() for failure in failed]


def main() -> int:
    failures = run(arguments())
    print(*failures, sep="\n", end="\n" if failures else "")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
