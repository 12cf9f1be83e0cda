"""Measure the precisions of cylstm beside PyTorch's and ONNX Runtime's: ``make bench-precisions``.

All contenders of a case run in turns, as in ``run.py``; beside each time stands the largest error against float64. A
full run keeps the results of this kind of machine in ``benchmarks/results/precisions`` and renews what the page about
precisions shows.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from cases import Case

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "precisions"
TABLE, PICTURE = ROOT / "docs" / "_generated" / "precisions.inc", ROOT / "docs" / "_static" / "precisions.svg"
SIZES = [
    {"B": 1, "T": 1, "H": 512, "quick": True},
    {"B": 1, "T": 100, "H": 256, "quick": True},
    {"B": 1, "T": 100, "H": 512},
    {"B": 1, "T": 100, "H": 1024},
    {"B": 8, "T": 100, "H": 256, "quick": True},
    {"B": 64, "T": 100, "I": 128, "H": 256, "quick": True},
    {"B": 64, "T": 50, "H": 512},
    {"B": 32, "T": 50, "H": 1024},
    {"B": 256, "T": 64, "H": 128},
]
CASES = [
    Case(name=f"({s['B']}, {s['T']}, {s.get('I', s['H'])}, {s['H']})", regime="precisions", **s)  # type: ignore[arg-type]
    for s in SIZES
]
#: Largest error against float64 of a result that counts: a wrong LSTM is farther off.
TOLERANCE = {"float32": 2e-5, "bfloat16": 3e-2, "int8": 0.15}
#: Columns of the table: of ours the faster of call and stream.
COLUMNS = {
    "cylstm-float32": "cylstm float32",
    "cylstm-bfloat16": "cylstm bfloat16",
    "cylstm-int8": "cylstm int8",
    "torch-bfloat16": "PyTorch bfloat16",
    "torch-int8": "PyTorch int8",
    "onnxruntime-int8": "ONNX Runtime int8",
}
COLOURS = {
    "cylstm-float32": "#fdba74",
    "cylstm-bfloat16": "#f97316",
    "cylstm-int8": "#c2410c",
    "onnxruntime": "#93c5fd",
    "onnxruntime-int8": "#2563eb",
    "torch-onednn": "#d1d5db",
    "torch-bfloat16": "#9ca3af",
    "torch-int8": "#4b5563",
}
LABELS = {**COLUMNS, "onnxruntime": "ONNX Runtime float32", "torch-onednn": "PyTorch float32"}


def measure_case(case: Case, threads: int, budget: float, rounds: int) -> list[dict[str, Any]]:
    """A row for each contender of a case."""
    from cases import make_problem
    from compare.measure import Measured, time_in_turns
    from contenders import reference
    from contenders.reduced import reduced
    from values import error_of

    problem = make_problem(case)
    expected = reference(case, problem, threads)
    measured, runners, precision = {}, {}, {}
    for contender in reduced():
        if not contender.installed or not contender.supports(case):
            continue
        name = contender.name
        precision[name] = getattr(contender, "precision", "float32")
        runner = contender.prepare(case, problem, threads)
        with runner.context():
            measured[name] = Measured(error_of(runner.values(runner.call()), expected))
        if measured[name].error <= TOLERANCE[precision[name]]:
            runners[name] = runner
        else:
            measured[name].wrong = f"the error against float64 is {measured[name].error:.2g}"
    if budget:
        time_in_turns(runners, measured, budget, rounds)
    return [
        {"case": case.name, "contender": name, "precision": precision[name], "error": row.error}
        | ({"wrong": row.wrong} if row.wrong else {})
        | ({"median": row.median, "min": min(row.seconds)} if row.seconds else {})
        for name, row in measured.items()
    ]


def by_case(data: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Case → contender → row, of those that have a time; of ours the faster of call and stream."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in data["rows"]:
        if "median" in row:
            rows, name = found.setdefault(row["case"], {}), row["contender"].removesuffix("-stream")
            if name not in rows or row["median"] < rows[name]["median"]:
                rows[name] = row
    return found


def ratios(data: Mapping[str, Any], precision: str) -> dict[str, float]:
    """By case: the time of the fastest peer in a precision over ours; of int8, the fastest in any reduced one."""
    among = {"bfloat16": ("bfloat16",), "int8": ("int8",), "any": ("bfloat16", "int8")}[precision]
    found = {}
    for case, rows in by_case(data).items():
        ours = [rows[f"cylstm-{one}"]["median"] for one in among if f"cylstm-{one}" in rows]
        peers = [r["median"] for n, r in rows.items() if not n.startswith("cylstm") and r["precision"] in among]
        if ours and peers:
            found[case] = min(peers) / min(ours)
    return found


def table(data: Mapping[str, Any]) -> list[str]:
    """The lines of a table in Markdown: time and error of each, and the ratios."""
    names = {name: label for name, label in COLUMNS.items() if any(name in rows for rows in by_case(data).values())}
    lines = [f"| (B, T, I, H) | {' | '.join(names.values())} |", "|---" * (len(names) + 1) + "|"]
    for case, rows in by_case(data).items():
        cells = [f"{_time(rows[n]['median'])} / {rows[n]['error']:.0e}" if n in rows else "–" for n in names]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    words = {"bfloat16": "bfloat16", "int8": "int8", "any": "any reduced precision"}
    for precision, label in words.items():
        if found := ratios(data, precision):
            least = min(found, key=found.__getitem__)
            lines += ["", f"Fastest peer over cylstm, {label}: geometric mean {geometric_mean(found.values()):.2f}, "]
            lines[-1] += f"least {found[least]:.2f} at {least}."
    shares = {
        case: rows["cylstm-int8"]["error"] / rows["onnxruntime-int8"]["error"]
        for case, rows in by_case(data).items()
        if {"cylstm-int8", "onnxruntime-int8"} <= set(rows)
    }
    if shares:
        most = max(shares, key=shares.__getitem__)
        lines += ["", f"Error of cylstm's int8 over ONNX Runtime's: at most {shares[most]:.2f}, at {most}."]
    return lines


def _time(seconds: float) -> str:
    return f"{1e6 * seconds:.3g} µs" if seconds < 5e-4 else f"{1e3 * seconds:.3g} ms"


def write_docs(data: Mapping[str, Any]) -> None:
    """Renew table and picture of the page."""
    machine = data["machine"]
    about = (
        f"Median time of a call and largest error against float64, {data['threads']} threads, "
        f"{machine['processor']}, {data['date'][:10]}; of cylstm the faster of call and stream."
    )
    picture = ["![Speed against error](_static/precisions.svg)", ""] if draw(data, PICTURE) else []
    TABLE.write_text("\n".join([*picture, about, "", *table(data), ""]), "utf-8")


def draw(data: Mapping[str, Any], path: Path) -> bool:
    """A point per case and contender, speed against error, and the mean of each; whether there is anything to draw."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt
    from compare.plots import STYLE

    cases = {case: rows for case, rows in by_case(data).items() if "torch-onednn" in rows}
    if not cases:
        return False
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7, 4))
        for name, colour in COLOURS.items():
            points = [
                (rows["torch-onednn"]["median"] / rows[name]["median"], rows[name]["error"])
                for rows in cases.values()
                if name in rows
            ]
            if not points:
                continue
            axes.scatter(*zip(*points, strict=True), s=14, color=colour, alpha=0.5, linewidths=0)
            mean = [geometric_mean(values) for values in zip(*points, strict=True)]
            marker = "o" if name.startswith("cylstm") else "s" if name.startswith("onnx") else "D"
            axes.scatter(*mean, s=70, color=colour, marker=marker, label=LABELS[name], zorder=3, edgecolors="white")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.set_xlabel("times as fast as PyTorch in float32: right is faster")
        axes.set_ylabel("largest error against float64: down is closer")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
        figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)
    return True


def run(cases: Sequence[Case], threads: int, *, budget: float, rounds: int) -> dict[str, Any]:
    """Measure cases, and return what is kept of it."""
    import machine
    from compare import results

    from cylstm.progress import Progress

    facts = {**machine.facts(), "load": machine.load()}
    rows: list[dict[str, Any]] = []
    with Progress(len(cases), "cases", shown=True) as progress:
        for case in cases:
            rows += measure_case(case, threads, budget, rounds)
            progress.advance(1)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": results.commit(),
        "command": " ".join(["python benchmarks/precisions.py", *sys.argv[1:]]),
        "threads": threads,
        "machine": facts,
        "rows": rows,
    }


def main() -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer cases, less time; nothing is kept")
    parser.add_argument("--threads", type=int, default=2, help="of every contender (2)")
    parser.add_argument("-k", dest="words", nargs="+", help="only cases whose name holds one of these; nothing is kept")
    parser.add_argument(
        "--docs", type=Path, metavar="FILE", help="renew the documentation from a file of results alone"
    )
    arguments = parser.parse_args()
    count = str(arguments.threads)
    os.environ.update({name: count for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")})
    if arguments.docs:
        write_docs(json.loads(arguments.docs.read_text("utf-8")))
        return 0
    words, few = arguments.words or [""], bool(arguments.quick or arguments.words)
    cases = [case for case in CASES if any(word in case.name for word in words) and (case.quick or not arguments.quick)]
    if not cases:
        parser.error(f"no case has one of {words} in its name")
    budget, rounds = (0.3, 7) if arguments.quick else (3.0, 25)
    data = run(cases, arguments.threads, budget=budget, rounds=rounds)
    print("\n".join(table(data)))
    wrong = [row for row in data["rows"] if "wrong" in row]
    for row in wrong:
        print(f"WRONG {row['contender']} in {row['case']}: {row['wrong']}")
    if not few:
        from compare import results

        path = RESULTS / f"{results.machine_of(data)}.json"
        results.save(data, path)
        write_docs(data)
        print(f"\nkept in {path}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
