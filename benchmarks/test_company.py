"""The benchmark of company: contenders agree, every situation runs, and what is made of the figures."""

from __future__ import annotations

import json
import math
import os
import random
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
pytest.importorskip("matplotlib")

import company
import machine
from beside import contenders, others, report, situations, summary
from beside.contenders import NAMES, ONE_THREAD, OURS, Shape, prepare
from beside.measure import Unavailable, measure_cell, quantile
from beside.neighbours import neighbours
from compare import results

import cylstm

CALL, STREAM = Shape("2x8", 2, 8, T=5), Shape("stream8", 1, 8, T=4, stream=True)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns that last next to nothing."""
    for name in ("ALONE", "BESIDE", "QUOTA", "THREADS", "TAKEN_AFTER", "FOLLOWING"):
        monkeypatch.setattr(situations, name, 0.001)
    monkeypatch.setattr("beside.measure.settle", lambda: None)
    monkeypatch.setattr("beside.situations.time.sleep", lambda seconds: None)


@pytest.mark.parametrize("shape", [CALL, STREAM, Shape("step8", 1, 8, T=1)], ids=lambda shape: shape.name)
def test_contenders_agree(shape: Shape) -> None:
    prepared = prepare(shape, 1)
    assert [one.name for one in prepared.ready] == list(NAMES if shape == CALL else NAMES[:-1])
    for one in prepared.ready:
        with one.context():
            for call in (one.call, one.another()):
                call()
                error = prepared.error(one.name, call())
                assert not prepared.wrong(error)
    assert prepared.wrong(1e-3)
    assert prepared.wrong(float("nan"))


def test_the_last_contender_is_ours_on_one_thread() -> None:
    before = cylstm.get_num_threads()
    try:
        ready = {one.name: one for one in prepare(CALL, 2).ready}
        with ready[ONE_THREAD].context():
            assert cylstm.get_num_threads() == 1
            with ready[ONE_THREAD].context():
                pass
            assert cylstm.get_num_threads() == 1  # one Python thread of several has ended
        assert cylstm.get_num_threads() == 2
    finally:
        cylstm.set_num_threads(before)


@pytest.mark.parametrize("shape", [CALL, STREAM], ids=lambda shape: shape.name)
def test_every_situation_runs(shape: Shape, short: None) -> None:
    prepared, rows, left_out = prepare(shape, 1), [], []
    found = situations.situations(neighbours(1))
    for situation in found:
        try:
            rows += measure_cell(situation, prepared, 1, 0.0, random.Random(0))
        except Unavailable:
            assert "quota" in situation.key  # the system does not let us
            left_out.append(situation)
    assert {situation.letter for situation in found} == set(situations.TITLES)
    assert len(rows) == len(prepared.ready) * (len(found) - len(left_out))
    assert not [row for row in rows if "wrong" in row]
    assert all(0 < row["least"] <= row["median"] and row["p90"] <= row["p99"] for row in rows)


def test_busy_processes_end_with_the_situation() -> None:
    def children() -> set[int]:
        text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
        return set(map(int, text.split()))

    before = children()
    with others.busy(2):
        assert len(children() - before) == 2
        assert {os.getsid(child) for child in children() - before} == {os.getsid(0)}
    assert children() <= before


def test_a_processor_is_taken_and_given_back() -> None:
    before = os.sched_getaffinity(0)
    with others.taker() as taker:
        taker.take(0.0)
        end = time.monotonic() + 20
        while len(before) > 1 and os.sched_getaffinity(0) == before and time.monotonic() < end:
            time.sleep(0.001)
        during = os.sched_getaffinity(0)
        assert taker.give()
        assert os.sched_getaffinity(0) == before
        assert during < before or len(before) == 1
        taker.take(60)
        assert not taker.give()  # before its time had come
        assert os.sched_getaffinity(0) == before


def test_a_processor_is_taken_in_the_middle() -> None:
    """Where it came too late, the turn is another one."""

    class Late:
        answers: ClassVar = [False, False, True]

        def take(self, after: float) -> None:
            assert after == situations.TAKEN_AFTER

        def give(self) -> bool:
            return self.answers.pop(0)

    late = Late()
    turn = situations._taken(prepare(CALL, 1).ready[0], 0.001, late)
    assert late.answers == []
    assert sum(turn.calls) > 3.9 * situations.TAKEN_AFTER
    assert turn.figures == [pytest.approx(sum(turn.calls) / len(turn.calls))]


def test_the_quota_holds_in_the_situation_only() -> None:
    membership = Path("/proc/self/cgroup")
    before = membership.read_text()
    try:
        with others.quota():
            during = membership.read_text()
    except OSError as error:
        pytest.skip(f"the system lets us make no control group: {error}")
    assert f"cylstm-company-{os.getpid()}" in during
    assert membership.read_text() == before


def test_a_cell_ends_when_its_time_is_over(short: None) -> None:
    prepared = prepare(CALL, 1)
    situation = situations.Situation("a", "alone", situations._loop(0.0))

    def turns(rounds: int, budget: float) -> int:
        return measure_cell(situation, prepared, rounds, budget, random.Random(0))[0]["turns"]

    assert turns(5, 60.0) == 5
    assert turns(5, 0.0) == 1


def test_a_run_goes_on_without_a_situation_and_ends_at_ctrl_c(
    short: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused() -> Any:
        raise OSError("no control groups")

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    loop = situations._loop(0.0)
    found = [
        situations.Situation("a", "alone", loop),
        situations.Situation("g", "quota", loop, refused),
        situations.Situation("g", "taken", loop),
        situations.Situation("g", "interrupted", interrupted),
    ]
    monkeypatch.setattr(situations, "situations", lambda _: found)
    monkeypatch.setattr(contenders, "SHAPES", [CALL])
    data = company.run(None, None, threads=1, rounds=2, seconds=60.0)
    assert data["complete"] is False
    assert data["left_out"] == {"g: quota": "no control groups"}
    assert list(summary.cells(data)) == [("a: alone", "2x8"), ("g: taken", "2x8")]
    assert {row["turns"] for row in data["rows"]} == {2}
    results.save(data, tmp_path / "run.json")
    assert report.text(json.loads((tmp_path / "run.json").read_text("utf-8"))) == report.text(data)
    assert company.run("a", "2", threads=1, rounds=1, seconds=0.0)["complete"]


@pytest.mark.parametrize("option", ["--rounds=0", "--threads=two"])
def test_counts_are_whole_numbers(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        company.parser().parse_args([option])
    assert "must be a whole number from 1 on" in capsys.readouterr().err


def test_an_error_of_a_contender_is_no_missing_situation() -> None:
    def fails(*_: Any) -> Any:
        raise FileNotFoundError

    with pytest.raises(FileNotFoundError):
        measure_cell(situations.Situation("a", "alone", fails), prepare(CALL, 1), 1, 0.0, random.Random(0))


def test_an_exception_in_a_python_thread_is_raised() -> None:
    ready = prepare(CALL, 1).ready[0]

    def another() -> Any:
        raise ZeroDivisionError

    ready.another = another
    with pytest.raises(ZeroDivisionError):
        situations._threads(2)(ready, 0.001, None)


# What is made of the figures -----------------------------------------------------------------------------------------

TIMES = {  # of ours, PyTorch, ONNX Runtime, ours on one thread; in ms
    ("a: alone", "8x256"): (2.0, 4.0, 3.0, 4.0),
    ("a: alone", "64x256"): (10.0, 20.0, 30.0, 20.0),
    ("b: after ONNX Runtime", "8x256"): (4.0, 2.0, 3.0, 3.8),
    ("b: after ONNX Runtime", "64x256"): (40.0, 30.0, 30.0, 20.0),
    ("e: 4 Python threads", "8x256"): (1.0, 2.0, 2.0, 0.5),
    ("a: alone", "step256"): (0.01, 0.05, 0.03),
    ("f: after 30 ms of rest", "step256"): (0.04, 0.2, 0.04),
}


def tails(seconds: float) -> dict[str, float]:
    return {"least": 0.9 * seconds, "p90": 1.5 * seconds, "p99": 2 * seconds}


def data() -> dict[str, Any]:
    rows = [
        {"situation": key, "shape": shape, "contender": name, "error": 3e-7, "median": t / 1000, **tails(t / 1000)}
        for (key, shape), times in TIMES.items()
        for name, t in zip(NAMES, times, strict=False)
    ]
    about = {"processor": "a processor", "cpus": 2, "versions": {"cylstm": "1.0"}, "load": 0.1, "niceness": 0}
    return {
        "rows": rows,
        "threads": 2,
        "date": "2026-01-01T00:00:00",
        "machine": about,
        "left_out": {"g: quota of 1.5 processors": "no control groups"},
        "processors": {"a: alone": {"others": 0.0, "stolen": 0.001}, "b: after ONNX Runtime": {"others": 0.5}},
    }


def test_the_ratio_is_over_the_faster_peer_in_the_same_company() -> None:
    found = summary.ratios(data())
    assert list(found.values()) == pytest.approx([1.5, 2.0, 0.5, 0.75, 2.0, 3.0, 1.0])
    assert summary.mean(found, "a") == pytest.approx(9 ** (1 / 3))
    assert summary.mean(found, "b: after ONNX Runtime") == pytest.approx(0.375**0.5)
    assert summary.mean(found, shape="64x256") == pytest.approx(1.5**0.5)
    assert summary.mean(found) == pytest.approx(6.75 ** (1 / 7))
    assert math.isnan(summary.mean(found, "c"))


def test_what_is_wrong_has_no_ratio() -> None:
    some = data()
    next(row for row in some["rows"] if row["contender"] == OURS)["wrong"] = "the error is 1"
    assert len(summary.ratios(some)) == len(TIMES) - 1
    assert "WRONG cylstm in a: alone, 8x256: the error is 1" in report.text(some)


def test_longer_than_on_one_thread_counts_from_two_milliseconds_and_five_percent() -> None:
    longer = summary.over_one_thread(data())
    assert longer == {
        ("b: after ONNX Runtime", "8x256"): pytest.approx(4 / 3.8),
        ("b: after ONNX Runtime", "64x256"): 2.0,
    }


def test_a_single_step_after_a_rest() -> None:
    found = summary.after_a_rest(data())
    assert found == {"step256": pytest.approx({OURS: 4.0, "torch": 4.0, "onnxruntime": 4 / 3})}
    assert "step256 after 30 ms of rest over in a loop: cylstm 4.00, PyTorch 4.00" in report.text(data())


def test_processors_that_others_used() -> None:
    text = report.text(data())
    assert "not ours alone in b: after ONNX Runtime: 50% others" in text
    assert "not ours alone in a" not in text
    processors = machine.Processors()
    with others.busy(1):
        time.sleep(0.2)
        shares = processors.shares()
    assert 0 < shares["others"] <= 1
    assert 0 <= shares["stolen"] <= 1


def test_several_runs() -> None:
    other = data()
    for row in other["rows"]:
        if row["contender"] == OURS and row["situation"] == "a: alone":
            row.update(median=4 * row["median"], error=9e-7)
    other["machine"]["load"] = 3.0
    both = summary.merged([data(), other])
    ratio = summary.ratios(both)
    assert ratio["a: alone", "8x256"] == pytest.approx(1.5 / 2)
    assert ratio["e: 4 Python threads", "8x256"] == pytest.approx(2.0)
    assert both["rows"][0]["medians"] == pytest.approx([0.002, 0.008])
    assert both["rows"][0]["error"] == 9e-7
    assert both["machine"]["load"] == 3.0
    assert summary.apart([data(), other]) == 3
    assert summary.apart([data(), data()]) == 0
    text = "\n".join(report.markdown([data(), other]))
    assert "Times are geometric means of 2 runs, which gave 1.31, 0.73; 3 ratios differ by more than 20 %." in text
    other["rows"][0]["wrong"] = "the error is 1"
    assert ("a: alone", "8x256") not in summary.ratios(summary.merged([data(), other]))


def test_quantiles() -> None:
    assert quantile([1.0], 0.99) == 1
    assert quantile(list(map(float, range(100))), 0.9) == 90


def test_text() -> None:
    lines = report.text(data()).splitlines()
    line = next(line for line in lines if line.startswith("b: after"))
    assert line.split()[-3:] == ["<0.75", "–", "<0.61"]
    assert next(line for line in lines if line.startswith("e:")).split()[-3:] == ["–", "–", "2.00"]
    assert "By kind of situation: alone, in a loop 2.08; right after a neighbour's call 0.61; " in "\n".join(lines)
    assert "left out, g: quota of 1.5 processors: no control groups" in lines


def test_table_and_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "TABLE", tmp_path / "table.inc")
    monkeypatch.setattr(report, "PICTURE", tmp_path / "picture.svg")
    report.write_docs([data()])
    text = (tmp_path / "table.inc").read_text("utf-8")
    assert "runs" not in text
    assert "| b: after ONNX Runtime | **0.61** | **0.50** (8x256) | 0.61 |" in text
    assert "| b: after ONNX Runtime | 64x256 | **0.75** | 40 ms | 30 ms | 30 ms | 20 ms |" in text
    assert "| 4 Python threads | 8x256 | 1,000 / 2 ms | 500 / 4 ms | 500 / 4 ms |" in text
    assert "Largest error against float64: cylstm 3e-07" in text
    assert (tmp_path / "picture.svg").stat().st_size > 1000


def test_choice_by_letter_and_word() -> None:
    named = {"a: alone": 1, "f: 1 ms": 2, "f: 10 ms": 3}
    assert company._chosen(None, named) == [1, 2, 3]
    assert company._chosen("a,f: 10", named) == [1, 3]
    with pytest.raises(SystemExit, match="no name begins with 'z': a: alone"):
        company._chosen("a,z", named)


def test_a_quick_run_measures_what_there_is() -> None:
    named = {one.key: one for one in situations.situations(dict.fromkeys(("torch", "onnxruntime-front"), lambda: None))}
    few = company._chosen(situations.QUICK, named)
    assert {one.letter for one in few} == set(situations.TITLES)
    assert len(few) < len(named) / 1.5
    assert len(company._chosen(contenders.QUICK, {shape.name: shape for shape in contenders.SHAPES})) == 3
