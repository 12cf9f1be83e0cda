"""What the rows say: ratios to the faster peer in the same company, their means, and calls that one thread beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import geometric_mean
from typing import Any

from .contenders import ONE_THREAD, OURS, PEERS

Cell = tuple[str, str]  # situation, shape
#: A call of more than so many seconds is to take no longer than on one thread by more than this share.
LONG, LONGER = 0.002, 1.05


def merged(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Several runs as one: geometric means of the times, the largest error, and of each row the medians of the runs."""
    last, rows = dict(runs[-1]), {}
    for row in (row for data in runs for row in data["rows"]):
        rows.setdefault((row["situation"], row["shape"], row["contender"]), []).append(row)
    last["rows"] = [_merged_row(found) for found in rows.values()]
    last["machine"] = {**last["machine"], "load": max(data["machine"]["load"] for data in runs)}
    last["left_out"] = {key: why for data in runs for key, why in data["left_out"].items()}
    return {**last, "runs": len(runs)}


def _merged_row(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    wrong = next((row for row in rows if "wrong" in row), None)
    if wrong:
        return wrong
    times = {name: geometric_mean(row[name] for row in rows) for name in ("median", "p90", "p99")}
    least, error = min(row["least"] for row in rows), max(row["error"] for row in rows)
    return {**rows[-1], **times, "least": least, "error": error, "medians": [row["median"] for row in rows]}


def apart(runs: Sequence[Mapping[str, Any]], by: float = 1.2) -> int:
    """The number of cells whose ratio differs between runs by more than a factor."""
    each = [ratios(data) for data in runs]
    shared = set(each[0]).intersection(*each)
    return sum(max(found[cell] for found in each) > by * min(found[cell] for found in each) for cell in shared)


def cells(data: Mapping[str, Any]) -> dict[Cell, dict[str, dict[str, Any]]]:
    """Situation and shape → contender → row, of the right ones."""
    found: dict[Cell, dict[str, dict[str, Any]]] = {}
    for row in data["rows"]:
        if "wrong" not in row:
            found.setdefault((row["situation"], row["shape"]), {})[row["contender"]] = row
    return found


def ratios(data: Mapping[str, Any], figure: str = "median") -> dict[Cell, float]:
    """The faster peer's time over ours, in the same company."""
    found = {}
    for cell, rows in cells(data).items():
        peers = [rows[name][figure] for name in PEERS if name in rows]
        if peers and OURS in rows:
            found[cell] = min(peers) / rows[OURS][figure]
    return found


def over_one_thread(data: Mapping[str, Any]) -> dict[Cell, float]:
    """Our time over that on one thread, where both take longer than 2 ms and threads made it longer by 5 %."""
    found = {}
    for cell, rows in cells(data).items():
        if OURS in rows and ONE_THREAD in rows:
            ours, alone = rows[OURS]["median"], rows[ONE_THREAD]["median"]
            if ours > LONG and ours > LONGER * alone:
                found[cell] = ours / alone
    return found


def after_a_rest(data: Mapping[str, Any], rest: str = "f: after 30 ms of rest") -> dict[str, dict[str, float]]:
    """By shape and contender: the time of a single step after a rest over that in a loop."""
    of, found = cells(data), {}
    for key, shape in of:
        if key == rest and shape.startswith(("step", "stream")) and ("a: alone", shape) in of:
            loop = of["a: alone", shape]
            found[shape] = {n: row["median"] / loop[n]["median"] for n, row in of[key, shape].items() if n in loop}
    return found


def mean(ratios: Mapping[Cell, float], situation: str = "", shape: str = "") -> float:
    """The geometric mean of some cells, nan of none. A situation is given by its key or its letter."""
    some = [
        ratio
        for (key, name), ratio in ratios.items()
        if shape in ("", name) and (situation in ("", key) or key.startswith(f"{situation}:"))
    ]
    return geometric_mean(some) if some else float("nan")
