"""Print the table of instruction sets and precisions, made of kernels.def; --write puts it into the documentation."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
KERNELS = ROOT / "src/cylstm/backends/cython_backend/kernels"
PAGE = ROOT / "docs/design/kernels.md"
PLACES = {"x86_64": "x86-64", "aarch64": "64-bit Arm", "any": "everywhere"}
BEGIN, END = "<!-- kernels.def -->", "<!-- /kernels.def -->"


def table() -> str:
    """The table in Markdown."""
    lines = re.findall(r"^KERNELS\((\w+), (\w+), (\w+), (\w+), (\w+)\)$", (KERNELS / "kernels.def").read_text(), re.M)
    precisions = list(dict.fromkeys(line[2] for line in lines))
    rows = ["| instruction set | where | " + " | ".join(f"`{name}`" for name in precisions) + " |"]
    rows.append("|---" * (2 + len(precisions)) + "|")
    for architecture, isa in dict.fromkeys(line[:2] for line in lines):
        weights = {precision: header for _, name, precision, _, header in lines if name == isa}
        cells = [_can(weights[precision]) if precision in weights else "–" for precision in precisions]
        rows.append(f"| `{isa}` | {PLACES[architecture]} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _can(weights: str) -> str:
    header = (KERNELS / "weights" / f"{weights}.h").read_text()
    return "trains" if "#define TRAINS 1" in header else "inference"


def in_page() -> str:
    """The table as the page has it."""
    return PAGE.read_text("utf-8").partition(BEGIN)[2].partition(END)[0].strip()


if __name__ == "__main__":
    print(table())
    if "--write" in sys.argv[1:]:
        page = PAGE.read_text("utf-8")
        PAGE.write_text(page.replace(in_page(), table()), "utf-8")
