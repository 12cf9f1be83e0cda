"""What is kept of a comparison: the last full run of each kind of machine as JSON, and a line per case in a history.

A file of results holds ``date``, ``commit`` (with + where files were changed), ``command``, ``threads``, ``machine``
(processor, load before the run, versions, environment), ``instruction_sets`` of the contenders that tell, ``rows``
(seconds of a call, largest error against float64), ``invalid`` (who has no time in which case, and why), ``limits`` of
the machine and ``costs``.
"""

from __future__ import annotations

import csv
import json
import re
import subprocess
from pathlib import Path
from typing import Any

from .report import fastest, rows_of

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
HISTORY = RESULTS / "history.csv"
#: Of each case and run: the faster of our call and stream, the faster of PyTorch's two forms, ONNX Runtime, in seconds;
#: the fastest peer's time over ours; our largest error against float64.
COLUMNS = (
    "date", "commit", "machine", "instruction_set", "case", "contender", "seconds", "torch", "onnxruntime", "ratio",
    "error",
)  # fmt: skip


def load(path: Path | None = None) -> dict[str, Any]:
    """A file of results; by default the newest in benchmarks/results."""
    if path is None:
        files = [json.loads(path.read_text("utf-8")) for path in RESULTS.glob("*.json")]
        if not files:
            raise SystemExit(f"there is no file of results in {RESULTS}: run python benchmarks/run.py")
        return max(files, key=lambda data: data["date"])
    return json.loads(path.read_text("utf-8"))


def save(data: dict[str, Any], path: Path) -> None:
    """Write a file of results, one row a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = []
    for key, value in data.items():
        text = json.dumps(value, ensure_ascii=False)
        if key == "rows":
            text = "[\n  " + ",\n  ".join(json.dumps(row) for row in value) + "\n ]"
        parts.append(f" {json.dumps(key)}: {text}")
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", "utf-8")


def keep(data: dict[str, Any]) -> Path:
    """Replace the results of this kind of machine and append to the history. Returns the file of results."""
    held_back = data["machine"]["environment"].get("CYLSTM_MAX_ISA", "")
    path = RESULTS / f"{'-'.join(filter(None, [machine_of(data), held_back]))}.json"
    save(data, path)
    new = not HISTORY.exists()
    with HISTORY.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([COLUMNS] * new + history_of(data))
    return path


def machine_of(data: dict[str, Any]) -> str:
    """Processor and threads."""
    processor = re.sub(r"[^a-z0-9]+", "-", data["machine"]["processor"].lower()).strip("-")
    return f"{processor}-{data['threads']}threads"


def history_of(data: dict[str, Any]) -> list[list[str]]:
    """The lines of a run in the history."""
    errors = {(row["case"], row["contender"]): row["error"] for row in data["rows"]}
    lines = []
    for row in rows_of(data):
        if not row.best:
            continue
        peers = [fastest(row.seconds, name) for name in ("torch", "onnxruntime")]
        figures = [row.ours, *peers, row.ratio(), errors[row.case, row.best]]
        lines.append(
            [
                data["date"][:16],
                data["commit"],
                machine_of(data),
                data["instruction_sets"][row.best],
                row.case,
                row.best.removeprefix("cylstm-"),
                *("" if figure != figure else f"{figure:.4g}" for figure in figures),  # nan: there is none
            ]
        )
    return lines


def commit() -> str:
    """The commit that is measured, with + where tracked files differ from it; "" outside of a repository."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=8", "HEAD") + "+" * bool(git("status", "--porcelain", "-uno"))
    except (OSError, subprocess.CalledProcessError):
        return ""
