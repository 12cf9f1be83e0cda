"""The benchmark of the GPU without one: its table, its contenders on the CPU with small cases, its runs, its report."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import device_array
import gpu
import gpu_cases
import gpu_docs
import gpu_results
import numpy as np
import pytest
from cases import Case
from cuda_host import HostBackend, needs_compiler, without_gpu
from device_array import to_device

import cylstm

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
    assert {case.dtype for case in ragged} == {case.dtype for case in stacks} == {"float32", "float16", "bfloat16"}
    assert sum(case.dtype == "float64" for case in cases) == 24


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


# Runs ----------------------------------------------------------------------------------------------------------------


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
import gpu, test_gpu
gpu.matching, gpu.Gpu, gpu.why_not = test_gpu.small_cases, test_gpu.Cpu, lambda: ""
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
    assert len(rows) == 4
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
