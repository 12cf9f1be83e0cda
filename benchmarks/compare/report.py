"""Tables of a comparison, for a terminal and for the documentation.

Of ours the faster of call and stream counts. The ratio is the fastest peer's median over ours, so above 1 we are ahead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cases import CASES

DOCS = Path(__file__).parents[2] / "docs"
OURS = ("cylstm-cython", "cylstm-cython-stream")
#: Regimes that are held against PyTorch alone: of its peers few or none can do all of their cases.
AGAINST_PYTORCH = {"ragged, proj_size, float64", "training", "training, ragged or float64"}


@dataclass
class Row:
    """A case: seconds of a call of those whose results are right."""

    case: str
    regime: str
    seconds: dict[str, float]
    best: str  # the faster of ours; "" where we have no time
    share: float  # of the roofline, of the faster of ours
    gflops: float
    wrong: list[str]

    @property
    def ours(self) -> float:
        return self.seconds.get(self.best, math.nan)

    def ratio(self, peers: str = "") -> float:
        """The time of the fastest peer whose name begins so over ours; nan where one of the two is missing."""
        others = {name: seconds for name, seconds in self.seconds.items() if not name.startswith("cylstm")}
        return fastest(others, peers) / self.ours


@dataclass
class Summary:
    """The ratios of a regime."""

    regime: str
    cases: int
    least: float
    least_case: str
    mean: float  # geometric
    peers: str  # how their names begin; "" for all of them


def fastest(seconds: Mapping[str, float], prefix: str) -> float:
    """The least time of those whose names begin with a prefix; nan where there is none."""
    return min((s for name, s in seconds.items() if name.startswith(prefix)), default=math.nan)


def rows_of(data: Mapping[str, Any], statistic: str = "median") -> list[Row]:
    """One row per case, in the order of the table of cases."""
    rows = []
    for case in CASES:
        found = {row["contender"]: row for row in data["rows"] if row["case"] == case.name}
        wrong = [item["contender"] for item in data["invalid"] if item["case"] == case.name]
        if not found and not wrong:
            continue
        seconds = {name: row[statistic] for name, row in found.items()}
        best = min((name for name in OURS if name in found), key=seconds.__getitem__, default="")
        share = gflops = math.nan
        if best:
            to_median = found[best]["median"] / seconds[best]
            share, gflops = found[best]["share"] * to_median, found[best]["gflops"] * to_median
        rows.append(Row(case.name, case.regime, seconds, best, share, gflops, wrong))
    return rows


def summaries_of(rows: list[Row]) -> list[Summary]:
    """One line per regime that has cases with a peer."""
    result = []
    for regime in dict.fromkeys(row.regime for row in rows):
        peers = "torch" if regime in AGAINST_PYTORCH else ""
        ratios = {row.case: row.ratio(peers) for row in rows if row.regime == regime}
        ratios = {case: ratio for case, ratio in ratios.items() if not math.isnan(ratio)}
        if ratios:
            least = min(ratios, key=ratios.__getitem__)
            mean = math.exp(sum(math.log(ratio) for ratio in ratios.values()) / len(ratios))
            result.append(Summary(regime, len(ratios), ratios[least], least, mean, peers))
    return result


def table_of_cases(rows: list[Row]) -> list[list[str]]:
    """Header and cells."""
    names = list(dict.fromkeys(name for row in rows for name in [*row.seconds, *row.wrong]))
    table = [["case", *names, "ratio", "GFLOP/s", "of limit"]]
    for row in rows:
        times = ["wrong" if n in row.wrong else format_time(row.seconds[n]) if n in row.seconds else "" for n in names]
        table.append([row.case, *times, f"{row.ratio():.2f}", f"{row.gflops:.3g}", f"{row.share:.0%}"])
    return table


def tables_for_docs(rows: list[Row]) -> tuple[list[list[str]], list[list[str]]]:
    """The table of cases as two, each narrow enough for a page: cylstm beside its peers, and its own ways."""
    names = list(dict.fromkeys(name for row in rows for name in [*row.seconds, *row.wrong]))
    peers = [name for name in names if not name.startswith("cylstm")]
    ways = [name for name in names if name.startswith("cylstm")]

    def time_of(row: Row, name: str) -> str:
        return "wrong" if name in row.wrong else format_time(row.seconds[name]) if name in row.seconds else ""

    beside = [["case", "cylstm", *peers, "ratio", "of limit"]]
    own = [["case", *(name.removeprefix("cylstm-").replace("-", " ") for name in ways), "GFLOP/s"]]
    for row in rows:
        times = [time_of(row, row.best), *(time_of(row, name) for name in peers)]
        beside.append([row.case, *times, f"{row.ratio():.2f}", f"{row.share:.0%}"])
        own.append([row.case, *(time_of(row, name) for name in ways), f"{row.gflops:.3g}"])
    return beside, own


def table_of_regimes(summaries: list[Summary]) -> list[list[str]]:
    table = [["regime", "cases", "least ratio", "geometric mean", "peers"]]
    for s in summaries:
        least = f"{s.least:.2f} ({s.least_case})"
        table.append([s.regime, str(s.cases), least, f"{s.mean:.2f}", "PyTorch" if s.peers else "all"])
    return table


def table_of_costs(data: Mapping[str, Any]) -> list[list[str]]:
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


def machine_line(data: Mapping[str, Any]) -> str:
    machine = data["machine"]
    sets = {isa for name, isa in data["instruction_sets"].items() if name in OURS}
    parts = [
        f"{machine['processor']}, {machine['cpus']} CPUs",
        f"{data['threads']} threads",
        f"kernels for {'/'.join(sorted(sets))}",
        f"{machine['system']}",
        f"Python {machine['python']}",
        ", ".join(f"{name} {version}" for name, version in machine["versions"].items()),
        f"{data['date'][:10]}",
        f"load {machine['load']:.1f} before the run",
        f"`{data['command']}`",
    ]
    return ", ".join(parts)


def text(data: Mapping[str, Any], statistic: str = "median") -> str:
    """Everything, for a terminal."""
    from .roofline import Limits, describe

    rows = rows_of(data, statistic)
    parts = [machine_line(data), aligned(table_of_cases(rows)), aligned(table_of_regimes(summaries_of(rows)))]
    parts += [f"{i['contender']} has no time in {i['case']}: {i['reason']}" for i in data["invalid"]]
    if data["costs"]:
        parts.append(aligned(table_of_costs(data)))
    parts.append(describe(Limits(**data["limits"])))
    return "\n\n".join(parts)


def docs_text(data: Mapping[str, Any]) -> str:
    """What docs/benchmarks.md includes: tables, and the plots that `plots.draw` makes."""
    rows = rows_of(data)
    beside, own = tables_for_docs(rows)
    parts = [
        f"Measured on: {machine_line(data)}.",
        "### By regime\nRatio: time of the fastest peer over ours.",
        markdown(table_of_regimes(summaries_of(rows))),
        "### By case\nMedian time of a call: cylstm (the faster of `lstm(x)` and `stream(x)` on the cython backend) "
        "beside its peers. Ratio and limit are explained above.",
        markdown(beside),
        *(f"{i['contender']} has no time in {i['case']}: {i['reason']}." for i in data["invalid"]),
        "![Time of each peer over that of cylstm, for each case](_static/benchmarks-ratios.svg)",
        "### By backend\nMedian time of a call, and the rate of the faster of the cython ones.",
        markdown(own),
        "### Share of the limit",
        "![Speed of cylstm in per cent of the machine's limit, for each case](_static/benchmarks-roofline.svg)",
        "### As B, T and H grow",
        "![Microseconds per step and sequence against B, T and H](_static/benchmarks-scaling.svg)",
        "### Beside the arithmetic\nImport, first call, calls after a rest, package and memory.",
        markdown(table_of_costs(data)),
        "![Memory beside input and output against the number of steps](_static/benchmarks-memory.svg)",
    ]
    return "\n\n".join(parts) + "\n"


def write_docs(data: Mapping[str, Any], docs: Path = DOCS) -> None:
    """Renew the tables that docs/benchmarks.md includes."""
    (docs / "_generated").mkdir(exist_ok=True)
    (docs / "_generated" / "benchmarks.inc").write_text(docs_text(data), "utf-8")
