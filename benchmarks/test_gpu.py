"""The benchmark of the GPU without one: its table, its contenders on the CPU with small cases, its report."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import gpu
import gpu_docs
import numpy as np
import pytest
from cases import Case
from cuda_host import HostBackend, needs_compiler, without_gpu
from device_array import to_device


class Cpu:
    """The CPU in the place of a GPU, and a clock that counts calls."""

    torch_device = "cpu"

    def __init__(self) -> None:
        self.calls = 0

    def asarray(self, array: np.ndarray) -> Any:
        return to_device(array)

    def backend(self, tier: str) -> HostBackend:
        return HostBackend(tier=tier)

    def seconds(self, run: Callable[[], Any]) -> float:
        run()
        self.calls += 1
        return float(self.calls)


@pytest.mark.parametrize("quick", [False, True])
def test_table(quick: bool) -> None:
    cases = gpu.cases(quick=quick)
    assert len({case.name for case in cases}) == len(cases)
    assert {case.T for case in cases} == {256, 1024}
    assert any((case.B, case.T, case.H) == (16, 1024, 768) for case in cases)
    equal = {(case.dtype, case.H, case.B, case.training) for case in cases if case.regime == "equal lengths"}
    if quick:
        assert len(cases) < 90
    else:
        assert len(equal) == 3 * 5 * 4 * 2
        assert {(case.B, case.H) for case in cases} >= {(1, 128), (16, 256), (64, 1024), (256, 2048)}
    assert any(case.shortest for case in cases)
    assert any(case.layers == 3 and case.bidirectional for case in cases)
    assert {case.dtype for case in cases} == {"float16", "bfloat16", "float32", "float64"}


def test_cases_are_found_by_name_and_by_regime() -> None:
    """The name of a case holds one word of its regime at most."""
    assert {case.layers for case in gpu.matching("layers", quick=False)} == {3}
    assert len(gpu.matching("layers", quick=False)) == len(gpu.matching("3 layers, bidirectional", quick=False)) > 0
    assert {case.H for case in gpu.matching("h512", quick=True)} == {512}
    assert gpu.matching("", quick=True) == gpu.cases(quick=True)
    assert gpu.matching("nowhere", quick=False) == []


LIMITS = {"float64": 1e-11, "float32": 1e-4, "float16": 2e-2, "bfloat16": 0.15}


@needs_compiler
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "sizes",
    [{}, {"shortest": 2}, {"layers": 3, "bidirectional": True}, *({"dtype": dtype} for dtype in LIMITS)],
    ids=str,
)
def test_contenders_compute_the_same(sizes: dict[str, Any], training: bool) -> None:
    if sizes.get("dtype") == "bfloat16":
        pytest.importorskip("ml_dtypes")
    case = Case(name="small", regime="small", T=5, B=3, I=4, H=6, training=training, **sizes)
    contenders = (gpu.PEER, gpu.CHOSEN, "cylstm-steps", "cylstm-array")  # those that the CPU can stand for
    rows = gpu.measure(Cpu(), case, contenders)
    assert [row["contender"] for row in rows] == list(contenders)
    assert [row["seconds"] for row in rows] == list(range(1, len(rows) + 1))
    assert all(row["error"] < LIMITS[case.dtype] for row in rows)
    assert all(row["error"] > 0 for row in rows) or case.dtype == "float64"  # PyTorch is the measure of itself


def test_a_contender_that_fails_says_why() -> None:
    class Small(Cpu):
        def backend(self, tier: str) -> HostBackend:
            raise MemoryError(f"none for {tier or 'its choice'}")

    rows = gpu.measure(Small(), Case(name="small", regime="small", T=5, B=3, H=6))
    assert "seconds" in rows[0]
    names = ["its choice", *gpu.TIERS.values()]
    assert [row.get("failure") for row in rows] == [None, *(f"MemoryError: none for {name}" for name in names)]


def test_an_error_after_which_nothing_works_ends_the_process() -> None:
    """So that its regime alone is lost, and what comes after is not taken for failures of its own."""

    class Broken(Cpu):
        def backend(self, tier: str) -> HostBackend:
            raise RuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")

    with pytest.raises(gpu.PoisonedError, match="small, cylstm: RuntimeError: cudaErrorIllegalAddress"):
        gpu.measure(Broken(), Case(name="small", regime="small", T=5, B=3, H=6))


def test_cases_in_a_process_of_their_own() -> None:
    """What it printed before it ended is kept, and the rest has the reason."""
    script = 'import sys; print(\'[{"case": "a", "seconds": 1.0}]\'); print(\'x\', sys.argv[1:]); sys.exit(%d)'
    rows = gpu.measure_apart(["a", "b"], ["--quick"], [sys.executable, "-c", script % 3])
    assert rows[0] == {"case": "a", "seconds": 1.0}
    assert rows[1:] == [{"case": "b", "contender": "cylstm", "failure": "the process ended with status 3"}]
    assert gpu.measure_apart(["a", "b"], [], [sys.executable, "-c", script % 0]) == rows[:1]  # no time was left for b


def test_cases_that_no_time_was_left_for_are_counted() -> None:
    cases = [{"name": "a", "regime": "r"}, {"name": "b", "regime": "r"}]
    rows = [{"case": "a", "contender": "torch", "seconds": 1.0, "error": 0.0}]
    assert "no time was left for 1 cases" in gpu.report({"device": "d", "tf32": False, "cases": cases, "rows": rows})


def test_the_table_of_the_docs() -> None:
    """A row for a forward pass and its training step; where one is missing, none."""
    cases = gpu.matching("long", quick=False)
    rows = [
        {"case": case.name, "contender": contender, "seconds": seconds, "error": 1e-6}
        for case in cases[:3]
        for contender, seconds in (("torch", 0.02), ("cylstm-persistent", 0.005))
    ]
    versions = {"torch": "2.11", "cudnn": 91900, "cupy": "14"}
    data = {"device": "d", "datetime": "2026-11-26T00", "tf32": False, "versions": versions, "rows": rows}
    lines = gpu_docs.table({**data, "cases": [vars(case) for case in cases]}).splitlines()
    assert lines[4:] == ["| long, float16 | 16, 1024, 768 | 20.0 / 20.0 | 4.00 / 4.00 | - / - | - / - | 1e-06, 1e-06 |"]


def test_the_order_of_the_variants_is_checked() -> None:
    seconds = {"cylstm-steps": 2.0, "cylstm-array": 1.0}
    rows = [{"case": "a", "contender": name, "seconds": s} for name, s in seconds.items()]
    rows += [{"case": "b", "contender": "cylstm-array", "seconds": 1.0}]
    assert gpu.out_of_order(rows) == ["a: cylstm-array takes 0.50 of the time of cylstm-steps"]
    rows[0]["seconds"] = 1.01
    assert gpu.out_of_order(rows) == []


def test_errors() -> None:
    found, expected = [np.array([1.0, 8.5]), np.zeros(2)], [np.array([1.0, 8.0]), np.full(2, 0.25)]
    assert gpu.errors(found, expected, training=False) == 0.5
    assert gpu.errors(found, expected, training=True) == 1.0
    with pytest.raises(ValueError, match="zip"):
        gpu.errors(found, expected[:1], training=False)


def data() -> dict[str, Any]:
    seconds = {"torch": 2e-3, "cylstm-array": 8e-3, "cylstm-steps": 1e-3}
    rows = [{"case": "a", "contender": name, "seconds": s, "error": 1e-6} for name, s in seconds.items()]
    rows += [{"case": "b", "contender": "torch", "seconds": 1e-3, "error": 1e-6}]
    rows += [{"case": "b", "contender": "cylstm-steps", "failure": "MemoryError: too large"}]
    cases = [{"name": "a", "regime": "ragged"}, {"name": "b", "regime": "float64"}]
    when = "2026-01-02T03:04:05.678+00:00"
    return {"datetime": when, "device": "NVIDIA H100 80GB", "tf32": False, "cases": cases, "rows": rows}


def test_report() -> None:
    assert gpu.ratios(data()["rows"]) == {("a", "cylstm-array"): 0.25, ("a", "cylstm-steps"): 2.0}
    text = gpu.report(data())
    assert text.startswith("NVIDIA H100 80GB, TF32 off\n")
    assert "cylstm-steps        1.000   1.0e-06   2.00\n" in text
    assert "MemoryError: too large" in text
    assert text.endswith("mean ratio, ragged: cylstm-steps 2.00\nmean ratio, ragged: cylstm-array 0.25")
    assert gpu.file_name(data()) == "20260102t0304-nvidia-h100-80gb-strict.json"


@without_gpu
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 2
    assert "nothing can be measured here: " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        gpu.main(["-k", "nowhere"])
