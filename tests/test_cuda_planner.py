"""The planner of the cupy backend, its tables and its cache: no GPU, no CuPy."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cylstm.backends.cuda import planner
from cylstm.backends.cuda.planner import TILES, Facts, Tile, choose_tier, choose_tile, grid, highest_tier
from cylstm.backends.cuda.steps import Plans, last_rows, previous_rows, walk

DEVICES = {
    "T4": Facts((7, 5), 40, 48 * 1024),
    "A100": Facts((8, 0), 108, 48 * 1024),
    "H100": Facts((9, 0), 132, 48 * 1024),
}
OLD = Facts((7, 0), 80, 48 * 1024)
lengths = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def batch_sizes_of(lengths: list[int]) -> np.ndarray:
    return np.array([sum(length > t for length in lengths) for t in range(max(lengths))], np.int64)


# Tiers and tiles -----------------------------------------------------------------------------------------------------


def test_no_kernel_is_used_unless_asked_for() -> None:
    assert highest_tier(None) == highest_tier("") == planner.DEFAULT == "array"
    assert highest_tier("steps") == "steps"
    with pytest.raises(ValueError, match="CYLSTM_CUPY_TIER must be one of array, steps, got 'persistent'"):
        highest_tier("persistent")


@pytest.mark.parametrize("facts", DEVICES.values(), ids=DEVICES)
def test_tier(facts: Facts) -> None:
    for dtype in ("bfloat16", "float16", "float32", "float64"):
        assert choose_tier("array", dtype=dtype, facts=facts) == "array"
        assert choose_tier("steps", dtype=dtype, facts=facts) == "steps"
        assert choose_tier("steps", dtype=dtype, facts=OLD) == "array"
    assert choose_tier("steps", dtype="complex64", facts=facts) == "array"


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


# The cache of plans --------------------------------------------------------------------------------------------------


def test_plans_are_kept_and_bounded() -> None:
    plans, made = Plans(most=2), []

    def make(key: str) -> str:
        made.append(key)
        return key.upper()

    for key in "abacab":  # c drives out b, b drives out c
        assert plans.get(key, lambda key=key: make(key)) == key.upper()
        assert len(plans) <= 2
    assert "".join(made) == "abcb"


def test_a_plan_that_cannot_be_made_leaves_nothing() -> None:
    plans = Plans(most=2)

    def fail() -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        plans.get("a", fail)
    assert len(plans) == 0
    assert plans.get("a", lambda: 1) == 1


def test_plans_from_several_threads() -> None:
    plans = Plans(most=3)
    wrong: list[int] = []

    def work(k: int) -> None:
        for i in range(200):
            key = (k, i % 5)
            if plans.get(key, lambda key=key: key) != key:
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(plans) <= 3
