"""Tables from a file of results: ``python benchmarks/report.py [FILE]`` prints those of the newest.

Of ours the faster of call and stream counts. The ratio is the fastest peer's median over ours, so above 1 we are ahead.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cases import CASES, LOWER_MARKS, MARKS

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parent.parent / "docs"
OURS = ("cylstm-cython", "cylstm-cython-stream")


@dataclass
class Row:
    """A case: the medians of those that were right, in seconds."""

    case: str
    regime: str
    seconds: dict[str, float]
    share: float  # of the roofline, of the faster of ours
    gflops: float
    wrong: list[str]

    @property
    def ours(self) -> float:
        return min((s for name, s in self.seconds.items() if name in OURS), default=math.nan)

    def ratio(self, peers: str = "") -> float:
        """The fastest peer's time over ours; nan where one of the two is missing."""
        times = [s for name, s in self.seconds.items() if not name.startswith("cylstm") and name.startswith(peers)]
        return min(times, default=math.nan) / self.ours


@dataclass
class Summary:
    """A regime against its mark."""

    regime: str
    least: float
    least_case: str
    mean: float
    cases: int
    short: list[str]  # cases below their mark
    every: float
    mean_mark: float
    peers: str

    @property
    def met(self) -> bool:
        return not self.short and self.mean >= self.mean_mark


def rows_of(data: dict[str, Any], statistic: str = "median") -> list[Row]:
    """One row per case, in the order of the table of cases."""
    rows = {}
    for case in CASES:
        found = {b["extra_info"]["contender"]: b for b in data["benchmarks"] if b["group"] == case.name}
        wrong = [item["contender"] for item in data["invalid"] if item["group"] == case.name]
        if not found and not wrong:
            continue
        seconds = {name: b["stats"][statistic] for name, b in found.items()}
        best = min((name for name in OURS if name in found), key=seconds.get, default=None)
        share = gflops = math.nan
        if best:
            info, to_median = found[best]["extra_info"], found[best]["stats"]["median"] / seconds[best]
            share, gflops = info["share"] * to_median, info["gflops"] * to_median
        rows[case.name] = Row(case.name, case.regime, seconds, share, gflops, wrong)
    return list(rows.values())


def summaries_of(rows: list[Row]) -> list[Summary]:
    """One line per regime that has cases with a peer."""
    result = []
    for regime, mark in MARKS.items():
        ratios = {r.case: r.ratio(mark.peers) for r in rows if r.regime == regime}
        if not ratios:
            continue
        short = [case for case, ratio in ratios.items() if not ratio >= LOWER_MARKS.get(case, mark.every)]
        short += [f"{r.case} without {name}" for r in rows if r.regime == regime for name in r.wrong]
        least = min(ratios, key=lambda case: -math.inf if math.isnan(ratios[case]) else ratios[case])
        mean = math.exp(sum(math.log(ratio) for ratio in ratios.values()) / len(ratios))
        result.append(
            Summary(regime, ratios[least], least, mean, len(ratios), short, mark.every, mark.mean, mark.peers)
        )
    return result


def table_of_cases(rows: list[Row]) -> list[list[str]]:
    """Header and cells."""
    names = list(dict.fromkeys(name for row in rows for name in [*row.seconds, *row.wrong]))
    table = [["case", *names, "ratio", "GFLOP/s", "of limit"]]
    for row in rows:
        times = ["wrong" if n in row.wrong else format_time(row.seconds[n]) if n in row.seconds else "" for n in names]
        table.append([row.case, *times, f"{row.ratio():.2f}", f"{row.gflops:.3g}", f"{row.share:.0%}"])
    return table


def table_of_regimes(summaries: list[Summary]) -> list[list[str]]:
    table = [["regime", "cases", "least ratio", "mark", "geometric mean", "mark", "peers", "met"]]
    for s in summaries:
        met = "yes" if s.met else f"no: {', '.join(s.short) or 'the mean'}"
        least = f"{s.least:.2f} ({s.least_case})"
        peers = "PyTorch" if s.peers else "all"
        table.append([s.regime, str(s.cases), least, f"{s.every:g}", f"{s.mean:.2f}", f"{s.mean_mark:g}", peers, met])
    return table


def table_of_costs(data: dict[str, Any]) -> list[list[str]]:
    costs = data.get("costs") or {}
    table = [["cost", "measured"]]
    if not costs:
        return table
    for name, seconds in costs["import"].items():
        table.append([f"import {name}, after NumPy", format_time(seconds)])
    for name, seconds in costs["first_call"].items():
        table.append([f"a new process, T=1 H=256: {name}", format_time(seconds)])
    for name, (median, most) in costs.get("after_rest", {}).items():
        text = f"{format_time(median)}, at most {format_time(most)}"
        table.append([f"ten calls after a rest, T=1 H=256, {name}", text])
    if costs["wheel"]:
        sizes = costs["wheel"]
        table.append(["wheel", f"{sizes['packed'] / 1e6:.2f} MB, unpacked {sizes['unpacked'] / 1e6:.2f} MB"])
    for name, points in costs["memory"].items():
        text = ", ".join(f"T={T}: {size / 1e6:.1f}" for T, size in points)
        table.append([f"memory beside input and output, MB, {name}, H=256", text])
    for label, counts in costs.get("threads", {}).items():
        table.append([f"{label}, by threads", ", ".join(f"{n}: {format_time(s)}" for n, s in counts.items())])
    return table


def format_time(seconds: float) -> str:
    for unit, factor in (("µs", 1e6), ("ms", 1e3)):
        if seconds * factor < 1000:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def aligned(table: list[list[str]]) -> str:
    """A table as text: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in table]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown(table: list[list[str]]) -> str:
    head, *body = table
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine_line(data: dict[str, Any]) -> str:
    machine = data["machine_info"]
    isa = {b["extra_info"]["instruction_set"] for b in data["benchmarks"] if b["extra_info"]["contender"] in OURS}
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    parts = [
        f"{machine['processor']}, {machine['cpus']} CPUs",
        f"{data['threads']} threads",
        f"kernels for {'/'.join(sorted(isa))}",
        f"{machine['system']}",
        f"Python {machine['python']}",
        versions,
        f"{data['datetime'][:10]}",
        f"load {machine['load']:.1f} before the run",
        f"`{data['command']}`",
    ]
    return ", ".join(parts)


def text(data: dict[str, Any], statistic: str = "median") -> str:
    """Everything, for a terminal."""
    from roofline import Limits, describe

    rows = rows_of(data, statistic)
    parts = [machine_line(data), aligned(table_of_cases(rows)), aligned(table_of_regimes(summaries_of(rows)))]
    parts += [f"{i['contender']} has no time in {i['group']}: {i['reason']}" for i in data["invalid"]]
    if data.get("costs"):
        parts.append(aligned(table_of_costs(data)))
    if data["limits"]:
        parts.append(describe(Limits(**data["limits"])))
    return "\n\n".join(parts)


def write_docs(data: dict[str, Any]) -> None:
    """What docs/benchmarks.md includes: tables, and the plots that `plots.draw` makes."""
    rows = rows_of(data)
    parts = [
        f"Measured on: {machine_line(data)}.",
        "### By regime\nRatio: time of the fastest peer over ours.",
        markdown(table_of_regimes(summaries_of(rows))),
        "### By case\nMedian time of a call.",
        markdown(table_of_cases(rows)),
        *(f"{i['contender']} has no time in {i['group']}: {i['reason']}." for i in data["invalid"]),
        "![Time of each peer over that of cylstm, for each case](_static/benchmarks-ratios.svg)",
        "### Share of the limit",
        "![Speed of cylstm in per cent of the machine's limit, for each case](_static/benchmarks-roofline.svg)",
        "### As B, T and H grow",
        "![Microseconds per step and sequence against B, T and H](_static/benchmarks-scaling.svg)",
        "### Beside the arithmetic\nImport, first call, calls after a rest, package and memory.",
        markdown(table_of_costs(data)),
        "![Memory beside input and output against the number of steps](_static/benchmarks-memory.svg)",
    ]
    folder = DOCS / "_generated"
    folder.mkdir(exist_ok=True)
    (folder / "benchmarks.inc").write_text("\n\n".join(parts) + "\n", "utf-8")


def newest() -> Path:
    return max(RESULTS.glob("*.json"), key=lambda path: json.loads(path.read_text("utf-8"))["datetime"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", nargs="?", type=Path, help="the newest in benchmarks/results/ if not given")
    parser.add_argument(
        "--statistic", choices=("median", "min"), default="median", help="min: while the machine is busy"
    )
    arguments = parser.parse_args()
    print(text(json.loads((arguments.file or newest()).read_text("utf-8")), arguments.statistic))
