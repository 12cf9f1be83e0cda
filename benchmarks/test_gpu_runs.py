"""Runs of the benchmark of the GPU without one: each goes on where the last one ended, whatever ended it."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import device_array
import gpu
import gpu_cases
import gpu_results
import pytest
from cases import Case
from test_gpu import CONTENDERS, SMALL, Cpu

import cylstm


def names_of(rows: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
    return [(row["case"], row["contender"], row["run"]) for row in rows]


class Bench(NamedTuple):
    """Runs the benchmark on the CPU, with another process that measures, and reads what it has written."""

    path: Path
    monkeypatch: pytest.MonkeyPatch

    def __call__(self, *arguments: str, child: str, most: float = 60.0) -> gpu_results.Data:
        apart = partial(gpu.measure_apart, command=[sys.executable, "-c", child], most=most)
        with self.monkeypatch.context() as patched:
            patched.setattr(gpu, "why_not", lambda: "")
            patched.setattr(gpu, "_device_name", lambda: "a card")
            patched.setattr(gpu, "what_runs", lambda: {"datetime": "2026-11-26T10:00", "versions": {}})
            patched.setattr(gpu, "measure_apart", apart)
            assert gpu.main(["--results", str(self.path), *arguments]) == 0
        data: gpu_results.Data = json.loads(self.path.read_text("utf-8"))
        return data


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path / "results.json", monkeypatch)


#: A process that measures nothing; what it does before a case may be something else.
QUICK = """
import json, sys, time
for case, names in json.load(sys.stdin):
    {before}
    print(json.dumps([dict(case=case, contender=name, seconds=1.0, error=0.0) for name in names]), flush=True)
"""
#: One that measures, on the CPU, with few steps and units.
REAL = """
import sys
import gpu, test_gpu, test_gpu_runs
gpu.matching, gpu.Gpu, gpu.why_not = test_gpu_runs.small_cases, test_gpu.Cpu, lambda: ""
sys.exit(gpu.main(["--here", *sys.argv[1:]]))
"""


def small_cases(words: str) -> list[Case]:
    return [
        Case(**{**vars(case), "T": 4, "B": 2, "H": 5, "shortest": min(case.shortest, 2)})
        for case in gpu_cases.matching(words)
    ]


def test_a_dry_run(bench: Bench) -> None:
    """All but the GPU: the table, another process, its measurements, the file, the report."""
    pytest.importorskip("torch")
    pytest.importorskip("ml_dtypes")
    paths = [Path(gpu.__file__).parent, Path(device_array.__file__).parent, Path(cylstm.__file__).parents[1]]
    bench.monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, paths)))
    contenders = ("torch", "cylstm-array")
    data = bench("-k", "h128-b16-f", "--contenders", *contenders, child=REAL, most=600.0)
    assert [row.get("failure") for row in data["rows"]] == [None] * len(data["rows"])
    assert {(row["case"], row["contender"]) for row in data["rows"]} == {
        (case.name, name) for case in gpu_cases.matching("h128-b16-f") for name in contenders
    }
    assert all(row["error"] < 0.15 for row in data["rows"])
    assert {case["regime"] for case in data["cases"]} == {case.regime for case in gpu_cases.cases()}


def test_a_run_goes_on_where_the_last_one_ended(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """What is there is not measured again, unless it is asked for; and it all lies in one file."""
    child, pair = QUICK.format(before=""), ("--contenders", "torch", "cylstm-array")
    first = bench("-k", "TF32-float32-h128-b1-f", *pair, child=child)
    case = "TF32-float32-h128-b1-forward"
    assert names_of(first["rows"]) == [(case, "torch", 0), (case, "cylstm-array", 0)]
    assert bench("-k", "TF32-float32-h128-b1-f", *pair, child=child) == first
    more = bench("-k", "TF32-float32-h128-b1-", *pair, child=child)
    assert more["rows"][:2] == first["rows"]
    other = "TF32-float32-h128-b1-training"
    assert names_of(more["rows"][2:]) == [(other, "torch", 1), (other, "cylstm-array", 1)]
    assert [len(more[name]) for name in ("runs", "cases")] == [2, 2]
    again = bench("-k", case, "--again", *pair, child=child)
    assert names_of(again["rows"]) == [*names_of(more["rows"][2:]), (case, "torch", 2), (case, "cylstm-array", 2)]
    assert "of 0 of 1 cases something is missing" in capsys.readouterr().out


def test_a_case_that_ends_its_process_does_not_end_the_run(bench: Bench) -> None:
    """It has failed, and is not tried again; the others are measured."""
    options = ("-k", "float64-h512-b1", "--contenders", "torch")
    child = QUICK.format(before="if case == 'float64-h512-b16-training': sys.exit(5)")
    data = bench(*options, child=child)
    rows = {row["case"]: row for row in data["rows"]}
    assert len(rows) == 8
    assert "ended with status 5" in rows.pop("float64-h512-b16-training")["failure"]
    assert all("seconds" in row for row in rows.values())
    assert bench(*options, child=child) == data


def test_a_process_in_which_nothing_works_is_not_the_fault_of_the_next_case(bench: Bench) -> None:
    child = f"once = {str(bench.path)!r} + '.once'\n" + QUICK.format(
        before="import os\n    if case.endswith('g') and not os.path.exists(once): open(once, 'w'); sys.exit(3)"
    )
    data = bench("-k", "float64-h512-b1-", "--contenders", "torch", child=child)
    assert ["seconds" in row for row in data["rows"]] == [True, True]


def test_a_case_that_hangs_is_ended(bench: Bench) -> None:
    child = QUICK.format(before="if case.endswith('forward'): time.sleep(600)")
    failed, measured = bench("-k", "float64-h512-b1-", "--contenders", "torch", child=child, most=4.0)["rows"]
    assert "was ended after 4.0 s" in failed["failure"]
    assert "seconds" in measured


def test_no_case_begins_after_the_time_is_over(bench: Bench) -> None:
    child = QUICK.format(before="")
    bench("-k", "float64-h512-b1-forward", "--contenders", "torch", child=child)
    data = bench("--contenders", "torch", "--seconds", "0", child=child)
    assert len(data["rows"]) == 1
    place, plan = Cpu(), [(SMALL, ["torch"])]
    assert gpu.measure_here(place, plan, -1, place.free) == 0
    assert not place.calls


def test_results_of_another_device_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    gpu_results.write(path, gpu_results.read(path, "a card"))
    with pytest.raises(ValueError, match="must have results of another, got those of a card: choose another file"):
        gpu_results.read(path, "another")
    assert gpu_results.path_of("NVIDIA H100 80GB").name == "nvidia-h100-80gb.json"


def test_the_order_of_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    """What nothing is known of first; what users get before the variants; the slow one last."""
    cases = gpu_cases.cases()
    data = gpu_results.read(Path("nowhere"), "a card")
    gpu_results.add(data, cases[0], [{"case": cases[0].name, "contender": "torch", "seconds": 1.0}], 0)
    plan = gpu_results.missing(data, cases, CONTENDERS)
    assert plan[0] == (cases[1], ["torch", "cylstm"])
    assert plan[len(cases) - 1] == (cases[0], ["cylstm"])
    assert [names for _, names in plan[-len(cases) :]] == [["cylstm-array"]] * len(cases)
    assert gpu_results.missing(data, cases[:1], ["torch"]) == []
    assert gpu_results.missing(data, cases[:1], ["torch"], again=True) == [(cases[0], ["torch"])]
    assert gpu.main(["--list", "no such card", "-k", "float64-h128-b1-f", "--contenders", "torch"]) == 0
    assert capsys.readouterr().out == "float64-h128-b1-forward: torch\n"
