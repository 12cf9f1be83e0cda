"""The table of docs/gpu.md, from a file of results of ``gpu.py``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parents[1] / "docs" / "_generated" / "gpu.inc"
PEER = "torch"
TIERS = ("persistent", "cudnn", "steps")


def write_docs(data: Mapping[str, Any]) -> None:
    """Write the table: a row for each pair of a forward pass and a training step."""
    TABLE.write_text(table(data), "utf-8")


def table(data: Mapping[str, Any]) -> str:
    """The table, in Markdown. Ratios are PyTorch's time over cylstm's, forward and training."""
    rows = {(row["case"], row["contender"].removeprefix("cylstm-")): row for row in data["rows"] if "seconds" in row}
    cases = {case["name"]: case for case in data["cases"]}
    versions = data["versions"]
    lines = [
        f"{data['device']}, PyTorch {versions['torch']} with cuDNN {versions['cudnn']}, CuPy {versions['cupy']}, "
        f"{data['datetime'][:10]}; medians of 7, float32 {'with TF32' if data['tf32'] else 'strict'}.",
        "",
        "| | B, T, H | PyTorch, ms | persistent | cudnn | steps | error, PyTorch and cylstm |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, case in cases.items():
        pair = name, name.replace("-forward", "-training")
        if case["training"] or (pair[0], PEER) not in rows or (pair[1], PEER) not in rows:
            continue
        sizes = f"{case['B']}, {case['T']}, {case['H']}"
        peer = " / ".join(f"{1e3 * rows[each, PEER]['seconds']:.1f}" for each in pair)
        ratios = [" / ".join(_ratio(rows, each, tier) for each in pair) for tier in TIERS]
        errors = f"{rows[pair[0], PEER]['error']:.0e}, {rows[pair[0], TIERS[0]]['error']:.0e}"
        lines.append(f"| {case['regime']}, {case['dtype']} | {sizes} | {peer} | {' | '.join(ratios)} | {errors} |")
    return "\n".join(lines) + "\n"


def _ratio(rows: Mapping[tuple[str, str], Mapping[str, Any]], case: str, tier: str) -> str:
    row = rows.get((case, tier))
    return f"{rows[case, PEER]['seconds'] / row['seconds']:.2f}" if row else "-"
