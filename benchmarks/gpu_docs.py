"""The table of docs/gpu.md, from the results of ``gpu.py`` for a device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpu_results import CHOSEN, CONTENDERS, PEER, ratios

TABLE = Path(__file__).parents[1] / "docs" / "_generated" / "gpu.inc"


def write_docs(data: Mapping[str, Any]) -> None:
    """Write the table: a row for each pair of a forward pass and a training step."""
    TABLE.write_text(table(data), "utf-8")


def table(data: Mapping[str, Any]) -> str:
    """The table, in Markdown. Ratios are PyTorch's time over cylstm's, forward and training; no column is empty."""
    rows = {(row["case"], row["contender"]): row for row in data["rows"] if "seconds" in row}
    versions, days = data["runs"][-1]["versions"], sorted({run["datetime"][:10] for run in data["runs"]})
    ratio = ratios(data["rows"])
    columns = [name for name in CONTENDERS[1:] if any(contender == name for _, contender in ratio)]
    lines = [
        f"{data['device']}, PyTorch {versions['torch']} with cuDNN {versions['cudnn']}, CuPy {versions['cupy']}, "
        f"{' to '.join(dict.fromkeys((days[0], days[-1])))};",
        "medians of 3 to 7 calls, float32 strict but where it says TF32.",
        "",
        f"| | B, T, H | PyTorch, ms | {' | '.join(c.removeprefix(f'{CHOSEN}-') for c in columns)} | "
        "error, PyTorch and cylstm |",
        "|---|---|---|" + "---|" * (len(columns) + 1),
    ]
    for case in data["cases"]:
        pair = case["name"], case["name"].replace("-forward", "-training")
        if case["training"] or (pair[0], PEER) not in rows or (pair[1], PEER) not in rows:
            continue
        sizes = f"{case['B']}, {case['T']}, {case['H']}"
        peer = " / ".join(f"{1e3 * rows[each, PEER]['seconds']:.1f}" for each in pair)
        found = [" / ".join(_shown(ratio.get((each, name))) for each in pair) for name in columns]
        ours = next((rows[pair[0], name]["error"] for name in columns if (pair[0], name) in rows), None)
        errors = f"{rows[pair[0], PEER]['error']:.0e}, {'-' if ours is None else f'{ours:.0e}'}"
        lines.append(f"| {case['regime']}, {case['dtype']} | {sizes} | {peer} | {' | '.join(found)} | {errors} |")
    return "\n".join(lines) + "\n"


def _shown(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"
