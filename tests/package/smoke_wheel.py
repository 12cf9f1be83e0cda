"""Reproduce the published tutorials' numbers with the installed package: ``python -I tests/package/smoke_wheel.py``.

Needs NumPy and the installed cylstm, nothing else. Exits with 1 where a number differs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cylstm

sys.path.append(str(Path(__file__).parents[1] / "support"))
from published_numbers import DOCUMENTS


def main() -> int:
    backends = [info.name for info in cylstm.available_backends() if info.status == "available"]
    print(f"cylstm {cylstm.__version__} in {Path(cylstm.__file__).parent}, backends {', '.join(backends)}")
    differing = 0
    for title, parts in DOCUMENTS.items():
        for backend in (None, *backends):
            held, skipped = 0, []
            for part, dtype in parts.items():
                try:
                    rows = part(backend)
                except cylstm.UnsupportedError:
                    skipped.append(dtype)
                    continue
                for row in rows:
                    if row.holds():
                        held += 1
                    else:
                        differing += 1
                        print(f"{title}, {part.__name__}, {row.what}:\nprinted {row.printed}\ngot     {row.got!r}")
            without = f" (it has no {', '.join(skipped)})" if skipped else ""
            print(f"{title}: {held} printed things hold on the backend {backend or 'chosen automatically'}{without}")
    if "torch" in sys.modules:
        print("PyTorch was imported")
        return 1
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
