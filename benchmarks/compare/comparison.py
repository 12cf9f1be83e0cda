"""The comparison: every contender in every case, in several passes over the table, and the limits of the machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cases import Case
from contenders import CONTENDERS, FASTEST

from cylstm.progress import Progress

from .measure import Measured, measure
from .roofline import Limits, measure_limits


def compare(cases: Sequence[Case], threads: int, *, quick: bool) -> dict[str, Any]:
    """Measure cases, and return what `results` keeps of it, from ``threads`` to ``limits``.

    A quick comparison makes one pass in the place of three, with the fastest contenders alone.
    """
    budget, passes, patience = (0.3, 1, 10) if quick else (2.5, 3, 30)
    limits = measure_limits(threads, patience)
    measured: dict[str, dict[str, Measured]] = {}
    with Progress(passes * len(cases), "cases", shown=True) as progress:
        for _ in range(passes):
            for case in cases:
                names = contenders_of(case, quick=quick)
                measured[case.name] = measure(case, names, threads, budget=budget, earlier=measured.get(case.name))
                progress.advance(1)
    limits = limits.better(measure_limits(threads, patience))  # the machine may have been busy at the beginning
    names = {name for rows in measured.values() for name in rows}
    return {
        "threads": threads,
        "instruction_sets": {name: CONTENDERS[name].instruction_set() for name in CONTENDERS if name in names},
        "rows": [
            row_of(case, name, row, limits)
            for case in cases
            for name, row in measured[case.name].items()
            if not row.wrong
        ],
        "invalid": [
            {"case": case.name, "contender": name, "reason": row.wrong}
            for case in cases
            for name, row in measured[case.name].items()
            if row.wrong
        ],
        "limits": limits.to_json(),
    }


def contenders_of(case: Case, *, quick: bool) -> list[str]:
    """The names of those that are installed and support a case."""
    able = [name for name, contender in CONTENDERS.items() if contender.installed and contender.supports(case)]
    return [name for name in able if not quick or name in FASTEST]


def row_of(case: Case, name: str, row: Measured, limits: Limits) -> dict[str, Any]:
    """One contender in one case: seconds of a call, error against float64; of ours also the share of the limit."""
    contender, seconds = CONTENDERS[name], row.median
    result = {"case": case.name, "contender": name, "median": seconds, "min": min(row.seconds), "error": row.error}
    if not contender.peer:
        result["gflops"] = case.flops(skips_zeros=contender.skips_zeros) / seconds / 1e9
        result["share"] = limits.least_seconds(case, skips_zeros=contender.skips_zeros) / seconds
    return result
