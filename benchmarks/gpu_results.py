"""The results of ``gpu.py``: one file for each device, which run after run goes on with.

A row has the time of a contender in a case, or why there is none, and the number of the run that it was measured in. So
the runs may be short, as long as a GPU is lent for, and each takes up what the ones before it have left.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from cases import Case

from cylstm.backends.cupy_backend.backend import VARIANTS

FOLDER = Path(__file__).parent / "results" / "gpu"
PEER, CHOSEN = "torch", "cylstm"
TIERS = {f"{CHOSEN}-{variant.name}": variant.name for variant in VARIANTS}  # best first
CONTENDERS = (PEER, CHOSEN, *TIERS)
#: What is measured of all cases before the next: what users get, what it could be instead, what is slow.
ROUNDS = ((PEER, CHOSEN), CONTENDERS[2:-1], CONTENDERS[-1:])
#: A variant is faster than another where its time is this share of the other's, or less.
FASTER = 0.95

Row = dict[str, Any]
Data = dict[str, Any]
Plan = list[tuple[Case, list[str]]]


def path_of(device: str) -> Path:
    """The file of a device."""
    return FOLDER / (re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + ".json")


def read(path: Path, device: str) -> Data:
    """The results of a device, none where there is no such file.

    Raises
    ------
    ValueError
        If they are another device's.
    """
    if not path.exists():
        return {"device": device, "runs": [], "cases": [], "rows": []}
    data: Data = json.loads(path.read_text("utf-8"))
    if data["device"] != device:
        raise ValueError(f"{path} must have results of {device}, got those of {data['device']}: choose another file")
    return data


def write(path: Path, data: Data) -> None:
    """Write a file so that there is a whole one at each moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(data, indent=1) + "\n", "utf-8")
    beside.replace(path)


def add(data: Data, case: Case, rows: Iterable[Row], run: int) -> None:
    """Put in the rows of a case, in the place of earlier ones of the same contenders."""
    rows = [{**row, "run": run} for row in rows]
    new = {row["contender"] for row in rows}
    data["rows"] = [row for row in data["rows"] if row["case"] != case.name or row["contender"] not in new] + rows
    if all(one["name"] != case.name for one in data["cases"]):
        data["cases"].append(asdict(case))


def missing(data: Data, cases: Sequence[Case], contenders: Sequence[str], *, again: bool = False) -> Plan:
    """What is to be measured, in order: what no row is there for, or everything `again`.

    In each round cases that nothing is known of come first.
    """
    there = {(row["case"], row["contender"]) for row in data["rows"] if not again}
    known = {case for case, _ in there}
    plan = []
    for of_round in ROUNDS:
        for case in sorted(cases, key=lambda case: case.name in known):
            names = [name for name in of_round if name in contenders and (case.name, name) not in there]
            if names:
                plan.append((case, names))
    return plan


# Report --------------------------------------------------------------------------------------------------------------


def ratios(rows: Sequence[Row]) -> dict[tuple[str, str], float]:
    """PyTorch's time over that of each contender, by case and contender: above 1 is faster than PyTorch."""
    peer = {row["case"]: row["seconds"] for row in rows if row["contender"] == PEER and "seconds" in row}
    return {
        (row["case"], row["contender"]): peer[row["case"]] / row["seconds"]
        for row in rows
        if row["contender"] != PEER and "seconds" in row and row["case"] in peer
    }


def out_of_order(rows: Sequence[Row]) -> list[str]:
    """Where a kernel variant is faster than one that stands before it: what the order in code has wrong."""
    seconds = {(row["case"], row["contender"]): row["seconds"] for row in rows if "seconds" in row}
    order, found = list(TIERS), []
    for case in dict.fromkeys(row["case"] for row in rows):
        for k, first in enumerate(order):
            for later in order[k + 1 :]:
                times = seconds.get((case, first)), seconds.get((case, later))
                if None not in times and times[1] < FASTER * times[0]:
                    found.append(f"{case}: {later} takes {times[1] / times[0]:.2f} of the time of {first}")
    return found


def report(data: Data) -> str:
    """The rows as a table, the mean ratio of each regime, and where the order of the variants is wrong."""
    ratio, regimes = ratios(data["rows"]), {case["name"]: case["regime"] for case in data["cases"]}
    lines = [f"{data['device']}, {len(data['rows'])} rows of {len(data['runs'])} runs"]
    lines.append(f"{'case':40} {'contender':18} {'ms':>10} {'error':>9} {'ratio':>6}")
    for row in sorted(data["rows"], key=lambda row: list(regimes).index(row["case"])):
        figures = row.get("failure", "")
        if not figures:
            of_peer = ratio.get((row["case"], row["contender"]))
            figures = f"{1e3 * row['seconds']:10.3f} {row['error']:9.1e} {'' if of_peer is None else f'{of_peer:6.2f}'}"
        lines.append(f"{row['case']:40} {row['contender']:18} {figures}".rstrip())
    for regime in dict.fromkeys(regimes.values()):
        for contender in CONTENDERS[1:]:
            of_regime = [r for (case, name), r in ratio.items() if name == contender and regimes[case] == regime]
            if of_regime:
                words = f"{geometric_mean(of_regime):.2f}, least {min(of_regime):.2f}, of {len(of_regime)}"
                lines.append(f"mean ratio, {regime}: {contender} {words}")
    return "\n".join(lines + [f"out of order: {line}" for line in out_of_order(data["rows"])])
