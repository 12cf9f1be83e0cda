"""The benchmark of the GPU without one: its table, its contenders on the CPU with small cases, its report."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gpu
import gpu_cases
import gpu_docs
import gpu_results
import numpy as np
import pytest
from cases import Case
from cuda_host import HostBackend, needs_compiler, without_gpu
from device_array import to_device

CONTENDERS = gpu_results.CONTENDERS


class Cpu:
    """The CPU in the place of a GPU, and a clock that counts calls."""

    torch_device = "cpu"

    def __init__(self) -> None:
        self.calls = 0
        self.tf32: list[bool] = []

    def array(self, tensor: Any) -> Any:
        import torch

        if tensor.dtype != torch.bfloat16:
            return to_device(tensor.numpy())
        import ml_dtypes

        return to_device(tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16))

    def tensor(self, array: Any) -> Any:
        import torch

        return torch.from_numpy(array.get().astype(np.float64))

    def allow_tf32(self, allowed: bool) -> None:
        self.tf32.append(allowed)

    def backend(self, tier: str, tf32: bool) -> HostBackend:
        self.tf32.append(tf32)
        return HostBackend(tier=tier, tf32=tf32)

    def seconds(self, run: Callable[[], Any]) -> float:
        run()
        self.calls += 1
        return float(self.calls)

    def free(self) -> None:
        pass


SMALL = Case(name="small", regime="small", T=5, B=3, H=6)


# Cases ---------------------------------------------------------------------------------------------------------------


def test_table() -> None:
    """All of the grid, forward and in training, in each dtype and precision; the names tell cases from one another."""
    cases = gpu_cases.cases()
    assert len({case.name for case in cases}) == len(cases)
    sizes = {(B, H) for B in (1, 16, 64, 256) for H in (128, 256, 512, 1024, 2048)}
    for T, regime in ((256, "equal lengths"), (1024, "long")):
        grid = {(case.dtype, case.B, case.H, case.training) for case in cases if (case.regime, case.T) == (regime, T)}
        for dtype in ("float32", "float16", "bfloat16"):
            for training in (False, True):
                assert {(B, H) for d, B, H, t in grid if (d, t) == (dtype, training)} >= sizes
    assert any((case.B, case.T, case.H) == (16, 1024, 768) for case in cases)
    of_tf32 = {(case.B, case.H) for case in cases if gpu_cases.allows_tf32(case) and case.T == 256}
    assert of_tf32 == sizes
    assert all(case.dtype == "float32" for case in cases if gpu_cases.allows_tf32(case))
    ragged = [case for case in cases if case.shortest]
    stacks = [case for case in cases if case.layers == 3 and case.bidirectional]
    assert {case.dtype for case in ragged} == {case.dtype for case in stacks} == set(LIMITS)
    assert sum(case.regime == "float64" for case in cases) == 24


def test_cases_are_found_by_name_and_by_regime() -> None:
    """The name of a case holds one word of its regime at most."""
    assert {case.layers for case in gpu_cases.matching("layers")} == {3}
    assert len(gpu_cases.matching("layers")) == len(gpu_cases.matching("3 layers, bidirectional")) > 0
    assert {case.H for case in gpu_cases.matching("h512")} == {512}
    assert gpu_cases.matching("") == gpu_cases.cases()
    assert gpu_cases.matching("nowhere") == []


# Contenders ----------------------------------------------------------------------------------------------------------

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
    contenders = ("torch", "cylstm", "cylstm-steps", "cylstm-array")  # those that the CPU can stand for
    rows = gpu.measure(Cpu(), case, contenders)
    assert [row["contender"] for row in rows] == list(contenders)
    assert [row.get("failure") for row in rows] == [None] * len(rows)
    assert [row["seconds"] for row in rows] == list(range(1, len(rows) + 1))
    assert all(row["error"] < LIMITS[case.dtype] for row in rows)
    assert all(row["error"] > 0 for row in rows) or case.dtype == "float64"  # PyTorch is the measure of itself


def test_tf32_is_for_its_cases_alone() -> None:
    for regime, allowed in (("small", False), ("TF32", True)):
        place = Cpu()
        gpu.measure(place, Case(name="small", regime=regime, T=5, B=3, H=6), ("torch", "cylstm-array"))
        assert place.tf32 == [allowed, allowed]


def test_a_contender_that_fails_says_why() -> None:
    class Small(Cpu):
        def backend(self, tier: str, tf32: bool) -> HostBackend:
            raise MemoryError(f"none for {tier or 'its choice'}")

    rows = gpu.measure(Small(), SMALL)
    assert "seconds" in rows[0]
    names = ["its choice", *gpu_results.TIERS.values()]
    assert [row.get("failure") for row in rows] == [None, *(f"MemoryError: none for {name}" for name in names)]


class Broken(Cpu):
    def backend(self, tier: str, tf32: bool) -> HostBackend:
        raise RuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")


def test_an_error_after_which_nothing_works_ends_the_process(capsys: pytest.CaptureFixture[str]) -> None:
    """What was measured before is kept, and what comes after is not taken for failures of its own."""
    place, plan = Broken(), [(SMALL, ["torch", "cylstm", "cylstm-steps"]), (SMALL, ["torch"])]
    assert gpu.measure_here(place, plan, 60, place.free) == gpu.STATUS_POISONED
    [rows] = map(json.loads, capsys.readouterr().out.splitlines())
    assert [row["contender"] for row in rows] == ["torch", "cylstm"]
    assert "seconds" in rows[0]
    assert rows[1]["failure"].startswith("RuntimeError: cudaErrorIllegalAddress")


def test_errors() -> None:
    torch = pytest.importorskip("torch")
    found, expected = torch.tensor([1.0, 8.5]), torch.tensor([1.0, 8.0]).double()
    zeros, quarters = torch.zeros(2), torch.full((2,), 0.25).double()
    assert gpu.error_of([found, zeros], [expected, quarters], training=False) == 0.5
    assert gpu.error_of([found, zeros], [expected, quarters], training=True) == 1.0
    assert np.isnan(gpu.error_of([found * float("nan"), zeros], [expected, quarters], training=False))
    with pytest.raises(ValueError, match="zip"):
        gpu.error_of([found, zeros], [expected], training=False)


@pytest.mark.parametrize("dtype", LIMITS)
def test_numbers_go_to_cupy_and_back_on_the_same_memory(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy stands for CuPy, whose DLPack need not know bfloat16."""
    torch, ml_dtypes = pytest.importorskip("torch"), pytest.importorskip("ml_dtypes")
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(from_dlpack=np.from_dlpack))
    numbers = torch.randn(3, 4).to(getattr(torch, dtype))
    array = gpu.Gpu().array(numbers)
    assert array.dtype == (ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype))
    np.testing.assert_array_equal(array.astype(np.float64), numbers.double().numpy())
    again = gpu.Gpu().tensor(array)
    assert again.dtype == numbers.dtype
    assert again.data_ptr() == numbers.data_ptr()
    assert torch.equal(again, numbers)


@pytest.mark.parametrize(("ms", "timed"), [(1.0, gpu.MOST), (300.0, 4), (5000.0, gpu.FEWEST)])
def test_long_calls_are_timed_fewer_times(ms: float, timed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            pass

        def synchronize(self) -> None:
            pass

        def elapsed_time(self, end: Any) -> float:
            return ms

    calls: list[None] = []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert gpu.Gpu().seconds(lambda: calls.append(None)) == pytest.approx(ms / 1000)
    assert len(calls) == gpu.WARM_UP + timed


# Report --------------------------------------------------------------------------------------------------------------


def test_the_table_of_the_docs() -> None:
    """A row for a forward pass and its training step; where one is missing, none. A column for who has figures."""
    cases = gpu_cases.matching("long")
    rows = [
        {"case": case.name, "contender": contender, "seconds": seconds, "error": 1e-6}
        for case in cases[:3]
        for contender, seconds in (("torch", 0.02), ("cylstm-persistent", 0.005))
    ]
    rows += [{"case": cases[0].name, "contender": "cylstm-cudnn", "failure": "none"}]
    versions = {"torch": "2.11", "cudnn": 91900, "cupy": "14"}
    runs = [{"datetime": f"2026-11-{day}T00", "versions": versions} for day in (27, 26)]
    data = {"device": "d", "runs": runs, "rows": rows, "cases": [vars(case) for case in cases]}
    lines = gpu_docs.table(data).splitlines()
    assert lines[0].endswith("CuPy 14, 2026-11-26 to 2026-11-27;")
    assert lines[3] == "| | B, T, H | PyTorch, ms | persistent | error, PyTorch and cylstm |"
    assert lines[5:] == ["| long, float32 | 16, 1024, 768 | 20.0 / 20.0 | 4.00 / 4.00 | 1e-06, 1e-06 |"]


def test_the_order_of_the_variants_is_checked() -> None:
    seconds = {"cylstm-steps": 2.0, "cylstm-array": 1.0}
    rows = [{"case": "a", "contender": name, "seconds": s} for name, s in seconds.items()]
    rows += [{"case": "b", "contender": "cylstm-array", "seconds": 1.0}]
    assert gpu_results.out_of_order(rows) == ["a: cylstm-array takes 0.50 of the time of cylstm-steps"]
    rows[0]["seconds"] = 1.01
    assert gpu_results.out_of_order(rows) == []


def data() -> dict[str, Any]:
    seconds = {"torch": 2e-3, "cylstm-array": 8e-3, "cylstm-steps": 1e-3}
    rows = [{"case": "a", "contender": name, "seconds": s, "error": 1e-6} for name, s in seconds.items()]
    rows += [{"case": "b", "contender": "torch", "seconds": 1e-3, "error": 1e-6}]
    rows += [{"case": "b", "contender": "cylstm-steps", "failure": "MemoryError: too large"}]
    cases = [{"name": "a", "regime": "ragged"}, {"name": "b", "regime": "float64"}]
    return {"device": "NVIDIA H100 80GB", "runs": [{}], "cases": cases, "rows": rows}


def test_report() -> None:
    assert gpu_results.ratios(data()["rows"]) == {("a", "cylstm-array"): 0.25, ("a", "cylstm-steps"): 2.0}
    text = gpu_results.report(data())
    assert text.startswith("NVIDIA H100 80GB, 5 rows of 1 runs\n")
    assert "cylstm-steps            1.000   1.0e-06   2.00\n" in text
    assert "MemoryError: too large" in text
    of_two = ("steps 2.00, least 2.00", "array 0.25, least 0.25")
    assert text.endswith("\n".join(f"mean ratio, ragged: cylstm-{words}, of 1" for words in of_two))


@without_gpu
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 2
    assert "nothing can be measured here: " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        gpu.main(["-k", "nowhere"])
