"""The planner of the cupy backend, its tables and its cache: no GPU, no CuPy."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from cuda_host import HostBackend, HostSystem, needs_compiler, without_gpu
from hypothesis import given, settings
from hypothesis import strategies as st

import cylstm
from cylstm.backends.cupy_backend import planner
from cylstm.backends.cupy_backend.planner import (
    TILES,
    VARIANTS,
    Facts,
    Tile,
    choose_tile,
    choose_variant,
    grid,
    possible_variants,
    read_choice,
)
from cylstm.backends.cupy_backend.schedule import ScheduleCache, last_rows, previous_rows, walk
from cylstm.backends.cupy_backend.timings import MOST_ROWS, TimingRow, TimingTable, Workload, measure, write
from cylstm.cli.tune_cupy import combinations, main

pytestmark = pytest.mark.names_backend("cupy")

DEVICES = {
    "T4": Facts((7, 5), 40, 48 * 1024),
    "A100": Facts((8, 0), 108, 48 * 1024),
    "H100": Facts((9, 0), 132, 48 * 1024),
}
OLD = Facts((7, 0), 80, 48 * 1024)
lengths = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def batch_sizes_of(lengths: list[int]) -> np.ndarray:
    return np.array([sum(length > t for length in lengths) for t in range(max(lengths))], np.int64)


# Variants and tiles --------------------------------------------------------------------------------------------------


def variant(choice: str | TimingTable, workload: Workload, device: str = "H100") -> str:
    facts = OLD if device == "old" else DEVICES[device]
    possible = possible_variants(choice, dtype=workload.dtype, device=device, facts=facts)
    return choose_variant(choice, possible, workload)


def test_no_kernel_is_used_unless_asked_for() -> None:
    assert read_choice(None) == read_choice("") == planner.DEFAULT == "array"
    assert read_choice("steps") == "steps"
    with pytest.raises(
        ValueError, match=r"CYLSTM_CUPY_TIER must be one of array, steps, or the path.*got 'persistent'"
    ):
        read_choice("persistent")


@pytest.mark.parametrize("device", DEVICES)
def test_variant(device: str) -> None:
    for dtype in ("bfloat16", "float16", "float32", "float64"):
        workload = Workload(dtype, 128, 16, False)
        assert variant("array", workload, device) == "array"
        assert variant("steps", workload, device) == "steps"
        assert variant("steps", workload, "old") == "array"
    assert variant("steps", Workload("complex64", 128, 16, False), device) == "array"


# What was measured ---------------------------------------------------------------------------------------------------


def table() -> TimingTable:
    """By a clock that says: `steps` is three times as fast, but not with B = 256; gradients as fast."""

    def seconds(variant: str, workload: Workload) -> float:
        return 1.0 if variant == "array" else 3.0 if workload.batch_size == 256 else 1 / 3

    workloads = [
        Workload("float32", H, B, training) for H in (128, 512) for B in (1, 16, 256) for training in (False, True)
    ]
    return TimingTable("H100", measure(workloads, VARIANTS, seconds))


def test_the_fastest_tier_that_was_measured_is_chosen() -> None:
    measured = table()
    assert variant(measured, Workload("float32", 128, 16, False)) == "steps"
    assert variant(measured, Workload("float32", 128, 256, True)) == "array"
    assert variant(measured, Workload("float32", 140, 12, True)) == "steps"  # near
    assert variant(measured, Workload("float32", 140, 200, True)) == "array"


def test_what_was_not_measured_stays_with_the_default() -> None:
    measured = table()
    assert variant(measured, Workload("float32", 128, 16, False), "A100") == "array"  # another device
    assert variant(measured, Workload("float64", 128, 16, False)) == "array"
    assert variant(measured, Workload("float32", 2048, 16, False)) == "array"  # too far
    assert variant(measured, Workload("float32", 128, 0, False)) == "array"
    assert possible_variants(measured, dtype="float64", device="H100", facts=DEVICES["H100"]) == ("array",)
    assert possible_variants(measured, dtype="float32", device="H100", facts=OLD) == ("array",)


def test_table_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tiers.json"
    write(path, table())
    assert read_choice(str(path)) == table()
    assert len(path.read_text("utf-8").splitlines()) == 14  # a row a line


WRONG = {
    "no file": None,
    "no JSON": "{",
    "not an object": "[]",
    "other format": '{"format": "other", "device": "H100", "rows": []}',
    "no rows": '{"format": "cylstm tiers 1", "device": "H100"}',
    "negative time": '[["float32", 128, 16, true, {"array": -1.0}]]',
    "time of nothing": '[["float32", 128, 16, true, {}]]',
    "not a number": '[["float32", 128, 16, true, {"array": "1"}]]',
    "unknown tier": '[["float32", 128, 16, true, {"persistent": 1.0}]]',
    "no size": '[["float32", 0, 16, true, {"array": 1.0}]]',
    "number for a flag": '[["float32", 128, 16, 1, {"array": 1.0}]]',
    "too many rows": json.dumps([["float32", 128, 16, True, {"array": 1.0}]] * (MOST_ROWS + 1)),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_table_is_refused(what: str, tmp_path: Path) -> None:
    text, path = WRONG[what], tmp_path / "tiers.json"
    if text is not None:
        if text.startswith("[["):
            rows = [dict(zip((*Workload._fields, "seconds"), row, strict=True)) for row in json.loads(text)]
            text = json.dumps({"format": "cylstm tiers 1", "device": "H100", "rows": rows})
        path.write_text(text, "utf-8")
    with pytest.raises(
        ValueError, match=r"tiers.json' is no table of measured tiers .*: write one by python -m cylstm"
    ):
        read_choice(str(path))


@needs_compiler
def test_the_backend_goes_by_the_table(tmp_path: Path) -> None:
    """Both variants are ready, and each call takes the one that was the fastest for its batch."""
    system = HostSystem()
    rows = [
        TimingRow(Workload("float32", 5, B, training), {"array": 1.0, "steps": 0.5 * B})
        for B in (1, 8)
        for training in (False, True)
    ]
    write(tmp_path / "tiers.json", TimingTable(system.device(0).name, tuple(rows)))
    lstm = cylstm.LSTM(4, 5, backend=HostBackend(tier=str(tmp_path / "tiers.json"), system=system))
    reference = cylstm.LSTM(4, 5, backend="numpy")
    reference.load_state_dict(lstm.state_dict())
    for B, launches in ((8, 0), (1, 3), (7, 0), (1, 3)):
        system.device(0).launches.clear()
        x = cylstm.randn(3, B, 4)
        np.testing.assert_allclose(lstm(x)[0], reference(x)[0], rtol=1e-5, atol=1e-6)
        assert len(system.device(0).launches) == launches
        output, _, pullback = lstm.vjp(x)
        pullback(output)
        assert len(system.device(0).launches) == 3 * launches


def test_the_variable_names_the_tier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(planner.VARIABLE, "persistent")
    lstm = cylstm.LSTM(4, 5, backend=HostBackend(tier=""))
    with pytest.raises(cylstm.BackendFailedError, match="CYLSTM_CUPY_TIER must be one of"):
        lstm(cylstm.randn(3, 4))
    for value in ("", "array"):
        monkeypatch.setenv(planner.VARIABLE, value)
        lstm(cylstm.randn(3, 4))


@pytest.mark.parametrize("facts", DEVICES.values(), ids=DEVICES)
def test_tile_grows_with_the_batch_and_fits(facts: Facts) -> None:
    for itemsize in (4, 8):
        for units in (1, 33, 128, 1024, 4096):
            tiles = [
                choose_tile(B=B, units=units, D=2, itemsize=itemsize, facts=facts) for B in (1, 4, 16, 64, 256, 4096)
            ]
            assert [t.rows for t in tiles] == sorted(t.rows for t in tiles)
            assert tiles[0] == TILES[0]
            assert all(tile.shared_memory(itemsize) <= facts.shared_memory for tile in tiles)
        assert choose_tile(B=256, units=2048, D=1, itemsize=itemsize, facts=facts) == Tile(rows=16, slices=2)
    tight = facts._replace(shared_memory=20 * 1024)
    assert choose_tile(B=256, units=2048, D=1, itemsize=8, facts=tight) == Tile(rows=1, slices=8)


@settings(deadline=None)
@given(rows=st.integers(1, 300), units=st.integers(1, 300), D=st.integers(1, 2), tile=st.sampled_from(TILES))
def test_grid_covers_all_rows_and_units_and_no_more(rows: int, units: int, D: int, tile: Tile) -> None:
    x, y, z = grid(rows=rows, units=units, D=D, tile=tile)
    assert (x - 1) * tile.rows < rows <= x * tile.rows
    assert (y - 1) * planner.UNITS < units <= y * planner.UNITS
    assert z == D


# Tables --------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(lengths, st.booleans())
def test_walk_visits_each_row_once_and_finds_the_row_before(lengths: list[int], reverse: bool) -> None:
    lengths = sorted(lengths, reverse=True)
    sizes = batch_sizes_of(lengths)
    row_of = {}  # (sequence, time): packed row
    for t, size in enumerate(sizes):
        row_of.update({(b, t): int(sizes[:t].sum()) + b for b in range(size)})
    sequence_at = {row: place for place, row in row_of.items()}
    visited, previous = [], previous_rows(sizes, reverse=reverse)
    for first, rows, before, carried in walk(sizes, reverse=reverse).tolist():
        for b in range(rows):
            row = first + b
            visited.append(row)
            sequence, t = sequence_at[row]
            assert sequence == b
            t_before = t + 1 if reverse else t - 1
            begins = not 0 <= t_before < lengths[b]
            assert begins == (b >= carried)
            expected = sum(lengths) + b if begins else row_of[b, t_before]
            assert begins or before + b == expected
            assert previous[row] == expected
    assert sorted(visited) == list(range(sum(lengths)))
    assert last_rows(sizes).tolist() == [row_of[b, length - 1] for b, length in enumerate(lengths)]


def test_tables_of_an_empty_batch() -> None:
    sizes = np.zeros(3, np.int64)
    assert walk(sizes, reverse=False).tolist() == [[0, 0, 0, 0]] * 3
    assert previous_rows(sizes, reverse=True).shape == last_rows(sizes).shape == (0,)


# The cache of schedules ----------------------------------------------------------------------------------------------


def test_schedules_are_kept_and_bounded() -> None:
    schedules, made = ScheduleCache(most=2), []

    def make(key: str) -> str:
        made.append(key)
        return key.upper()

    for key in "abacab":  # c drives out b, b drives out c
        assert schedules.get(key, lambda key=key: make(key)) == key.upper()
        assert len(schedules) <= 2
    assert "".join(made) == "abcb"


def test_a_schedule_that_cannot_be_made_leaves_nothing() -> None:
    schedules = ScheduleCache(most=2)

    def fail() -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        schedules.get("a", fail)
    assert len(schedules) == 0
    assert schedules.get("a", lambda: 1) == 1


def test_schedules_from_several_threads() -> None:
    schedules = ScheduleCache(most=3)
    wrong: list[int] = []

    def work(k: int) -> None:
        for i in range(200):
            key = (k, i % 5)
            if schedules.get(key, lambda key=key: key) != key:
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(schedules) <= 3


# python -m cylstm.cli.tune_cupy --------------------------------------------------------------------------------------


def test_workloads_to_measure() -> None:
    assert combinations(["float32"], [8, 9], [1], [True]) == [
        Workload("float32", 8, 1, True),
        Workload("float32", 9, 1, True),
    ]
    for sizes in ([], [0], range(1, MOST_ROWS + 2)):
        with pytest.raises(ValueError, match="sizes must be positive and make 1 to 1000 combinations"):
            combinations(["float32"], list(sizes), [1], [True])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiers.txt"], "path must end in .json"),
        (["tiers.json", "--batch-sizes", "0"], "sizes must be positive"),
        pytest.param(["tiers.json"], "nothing can be measured here: ", marks=without_gpu),
    ],
)
def test_tune_refuses(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
