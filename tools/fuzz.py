"""``make fuzz``: random layers against PyTorch, and against other ways to call them. Each failure is known by its seed.

    tools/fuzz.py                                  all kinds, 1,000 cases each, on every backend and instruction set
    tools/fuzz.py forward --count 100000           one kind
    tools/fuzz.py threads --isa avx2 --seed 4711 --count 1      a failure again

Kinds: forward, gradients (random options, dtypes, ragged shapes, strides, 1 to 4 threads; each backend), and bit for
bit on the cython backend: pieces, batches, threads. All failures are listed at the end, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS / "support"), str(TESTS / "nn")]
KINDS = ("forward", "gradients", "pieces", "batches", "threads")
FIRST = 1 << 20  # seeds below are those of the tests


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], metavar="KIND", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--count", type=int, default=1000, help="cases of each kind, backend and instruction set")
    parser.add_argument("--seed", type=int, help="of the first case; otherwise by chance")
    parser.add_argument("--isa", help="this instruction set alone; without it, a process for each of this machine")
    given = parser.parse_args()
    given.kinds = given.kinds or list(KINDS)
    if given.seed is None:
        given.seed = FIRST + secrets.randbelow(2**40)
    return given


def checks(kinds: list[str], best: bool) -> dict[str, Callable[[int], None]]:
    """The function of a seed for each kind and backend; backends without instruction sets run with the best one."""
    import fuzz_cases
    from random_cases import BACKENDS
    from test_differential import test_forward

    found: dict[str, Callable[[int], None]] = {}
    for kind in kinds:
        if kind in fuzz_cases.INVARIANCES:
            found[kind] = fuzz_cases.INVARIANCES[kind]
            continue
        for backend in BACKENDS if best else ["cython"]:
            if kind == "forward":
                found[f"forward {backend}"] = lambda seed, b=backend: test_forward(b, range(seed, seed + 1))
            else:
                found[f"gradients {backend}"] = lambda seed, b=backend: fuzz_cases.gradients(b, seed)
    return found


def run(given: argparse.Namespace, isa: str, best: bool) -> list[str]:
    """The commands that show each failure again."""
    import fuzz_cases

    import cylstm
    from cylstm.backends.cython_backend import _lstm

    _lstm.open_regions(True)
    failures = []
    for name, check in checks(given.kinds, best).items():
        begin = time.monotonic()
        for seed in range(given.seed, given.seed + given.count):
            cylstm.set_num_threads(fuzz_cases.threads_of(seed))
            try:
                check(seed)
            except Exception as error:
                command = f"tools/fuzz.py {name.split()[0]} --isa {isa} --seed {seed} --count 1"
                failures.append(f"{command}\n    {name}: {' '.join(f'{type(error).__name__}: {error}'.split())[:400]}")
        seconds = time.monotonic() - begin
        print(f"{isa:8} {name:18} {given.count:,} cases from seed {given.seed}, {seconds:.0f} s", flush=True)
    return failures


def main() -> int:
    given = arguments()
    from cylstm.backends.cython_backend import _layer

    here = _layer.instruction_sets()
    if given.isa is None:
        command = [sys.executable, __file__, *given.kinds, "--count", str(given.count), "--seed", str(given.seed)]
        return max(subprocess.call([*command, "--isa", isa]) for isa in here)
    os.environ["CYLSTM_MAX_ISA"] = given.isa
    failures = run(given, given.isa, best=given.isa == here[0])
    print(*failures, sep="\n", end="\n" if failures else "")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
