"""``make fuzz-files``: damaged files of models, on seeds that the tests do not reach.

Runs until it is stopped, or until a file gives something else than a module or a ValueError; it is kept then.
"""

from __future__ import annotations

import secrets
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from damaged_files import check, mutants, seeds

SLOW = 10.0  # seconds


def main() -> None:
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else secrets.randbelow(2**40)
    warnings.simplefilter("ignore")
    print(f"seed {seed}. Ctrl-C stops.")
    loaded = 0
    with tempfile.TemporaryDirectory() as folder:
        contents = {path: path.read_bytes() for path in seeds(Path(folder))}
        path = Path(folder)
        try:
            for n, (intact, content) in enumerate(mutants(contents, seed), 1):
                path = Path(folder) / f"mutant.{intact.name}"
                path.write_bytes(content)
                begin = time.perf_counter()
                loaded += check(path) is not None
                assert time.perf_counter() - begin < SLOW, "slow"
                if n % 100 == 0:
                    print(f"\r{n:,} files, {loaded:,} of them loaded", end="", flush=True)
        except KeyboardInterrupt:
            print()
        except BaseException:
            kept = Path(f"fuzz.{path.name}")
            kept.write_bytes(path.read_bytes())
            print(f"\nkept as {kept}")
            raise


if __name__ == "__main__":
    main()
