"""The comparison: values before times, what is kept of a run, and that the documentation shows what is kept."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import contenders
import numpy as np
import pytest
from cases import CASES, Case, Problem
from compare import report, results
from compare.measure import measure
from contenders import Contender, Runner
from values import check

TINY = Case(name="tiny", regime="tiny", T=3, B=2, H=4)


def run_of(**seconds: float) -> dict[str, Any]:
    """The results of a run of one case."""
    rows = [
        {"case": "long-h64", "contender": name, "median": s, "min": s / 2, "error": 1e-7, "gflops": 2.0, "share": 0.5}
        for name, s in seconds.items()
    ]
    return {
        "date": "2026-01-02T03:04:05+00:00",
        "commit": "0123abcd+",
        "threads": 2,
        "machine": {"processor": "Some CPU (R) 7", "environment": {}},
        "instruction_sets": dict.fromkeys(seconds, "avx2"),
        "rows": rows,
        "invalid": [{"case": "long-h64", "contender": "keras", "reason": "too far off"}],
    }


def test_docs_show_what_is_kept() -> None:
    shown = (report.DOCS / "_generated" / "benchmarks.inc").read_text("utf-8")
    assert shown == report.docs_text(results.load()), "run python benchmarks/run.py docs"


def test_plots_of_what_is_kept(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from compare import plots

    plots.draw(results.load(), tmp_path)
    drawn = {path.name for path in (tmp_path / "_static").iterdir()}
    assert drawn == {path.name for path in (report.DOCS / "_static").glob("benchmarks-*.svg")}


def test_history() -> None:
    with results.HISTORY.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == results.COLUMNS
    assert {line["case"] for line in lines} == {case.name for case in CASES}
    newest = results.load()
    last = [line for line in lines if line["date"] == newest["date"][:16]]
    assert [list(line.values()) for line in last] == results.history_of(newest)


def test_history_has_a_line_per_case() -> None:
    data = run_of(**{"cylstm-cython": 2e-3, "torch-native": 5e-3, "torch-onednn": 4e-3})
    figures = ["0.002", "0.004", "", "2", "1e-07"]
    expected = ["2026-01-02T03:04", "0123abcd+", "some-cpu-r-7-2threads", "avx2", "long-h64", "cython", *figures]
    assert results.history_of(data) == [expected]


def test_keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    monkeypatch.setattr(results, "HISTORY", tmp_path / "history.csv")
    data = run_of(**{"cylstm-cython": 2e-3, "torch-native": 5e-3})
    for _ in range(2):
        path = results.keep(data)
    assert path.name == "some-cpu-r-7-2threads.json"
    assert results.load() == results.load(path) == data
    assert len(results.HISTORY.read_text("utf-8").splitlines()) == 3


def test_rows_and_ratios() -> None:
    data = run_of(**{"cylstm-cython": 2e-3, "cylstm-cython-stream": 1e-3, "torch-native": 5e-3, "onnxruntime": 3e-3})
    (row,) = report.rows_of(data)
    assert (row.best, row.ours, row.ratio(), row.ratio("torch"), row.wrong) == (
        "cylstm-cython-stream", 1e-3, 3.0, 5.0, ["keras"],
    )  # fmt: skip
    (summary,) = report.summaries_of([row])
    assert (summary.regime, summary.cases, summary.least, summary.mean) == ("long", 1, 3.0, pytest.approx(3.0))
    assert report.rows_of(data, "min")[0].ours == 5e-4
    (alone,) = report.rows_of(run_of(**{"cylstm-cython": 2e-3}))
    assert math.isnan(alone.ratio())
    assert report.summaries_of([alone]) == []


class Off(Contender):
    """A contender whose output is a little off."""

    name = "off"

    def prepare(self, case: Case, problem: Problem, threads: int) -> Runner:
        runner = contenders.CONTENDERS["torch-native"].prepare(case, problem, threads)
        values = runner.values

        def shifted(result: Any) -> dict[str, np.ndarray]:
            return {name: array + np.float32(1e-3) for name, array in values(result).items()}

        return Runner(runner.call, shifted, runner.context)


class Broken(Contender):
    """A contender that cannot be prepared."""

    name = "broken"

    def prepare(self, case: Case, problem: Problem, threads: int) -> Runner:
        raise MemoryError("too large")


def test_a_wrong_result_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for contender in (Off(), Broken()):
        monkeypatch.setitem(contenders.CONTENDERS, contender.name, contender)
    rows = measure(TINY, ["torch-native", "off", "broken"], 1, budget=0.001, rounds=1)
    assert rows["torch-native"].seconds
    assert not rows["torch-native"].wrong
    assert rows["off"].wrong == "the error against float64 is 0.001, above 2e-05"
    assert rows["broken"].wrong == "MemoryError: too large"
    assert not rows["off"].seconds
    assert not rows["broken"].seconds


def test_check_tells_what_is_missing() -> None:
    expected = {"output": np.zeros((3, 2, 4)), "h_n": np.zeros((1, 2, 4))}
    assert check(TINY, {"output": np.zeros((3, 2, 4))}, expected).wrong == ""  # as Keras
    assert check(TINY, {"c_n": np.zeros(1)}, expected).wrong == "without h_n, output"
    assert "instead of" in check(TINY, expected | {"h_n": np.zeros(3)}, expected).wrong
    assert check(TINY, expected | {"h_n": np.full((1, 2, 4), np.nan)}, expected).wrong
