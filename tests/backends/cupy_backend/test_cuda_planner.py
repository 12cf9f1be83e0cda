"""What the cupy backend decides and keeps: variants, tiles, tables of steps, what is recent. No GPU, no CuPy."""

from __future__ import annotations

import threading
from typing import Any, ClassVar

import numpy as np
import pytest
from cuda_host import SMALL, HostBackend, HostDevice, HostSystem
from hypothesis import given, settings
from hypothesis import strategies as st

import cylstm
from cylstm import testing
from cylstm.backends.cupy_backend import backend as cupy_backend
from cylstm.backends.cupy_backend import planner
from cylstm.backends.cupy_backend.backend import VARIABLE, VARIANTS
from cylstm.backends.cupy_backend.planner import Tile, choose_tile, grid, tiles
from cylstm.backends.cupy_backend.schedule import Recent, Table, last_rows, walk
from cylstm.backends.cupy_backend.steps import Steps
from cylstm.backends.cupy_backend.variants import LayerShape, candidates, chosen
from cylstm.testing.problems import make_problem

pytestmark = pytest.mark.names_backend("cupy")

OLD = SMALL._replace(compute_capability=(7, 0))
lengths = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def batch_sizes_of(lengths: list[int]) -> np.ndarray:
    return np.array([sum(length > t for length in lengths) for t in range(max(lengths))], np.int64)


# Variants and tiles --------------------------------------------------------------------------------------------------


class Missing(Steps):
    """A variant whose library is not there."""

    name: ClassVar[str] = "missing"

    def unavailable(self) -> str:
        return "its library is not here"


class Asked(Steps):
    """A variant for one size, and a slow one for two sequences or more."""

    name: ClassVar[str] = "asked"

    def refusal(self, shape: LayerShape, *call: Any) -> str:
        return "" if shape.H == 5 else "H is not 5"

    def slower_than(self, shape: LayerShape, B: int) -> str:
        return "steps" if B > 1 else ""


def test_the_order_is_in_code() -> None:
    """Persistent, where it has passed the kit, before cuDNN before a launch per step before the array loop."""
    order = ["persistent", "cudnn", "steps", "array"]
    assert [variant.name for variant in VARIANTS] == [name for name in order if name in {v.name for v in VARIANTS}]
    assert {"steps", "array"} <= {variant.name for variant in VARIANTS}


def test_candidates() -> None:
    variants = (Asked, Missing, *VARIANTS[-2:])
    assert [v.name for v in candidates(variants, "")] == ["asked", "missing", "steps", "array"]
    assert [v.name for v in candidates(variants, "asked")] == ["asked", "missing", "steps", "array"]
    assert [v.name for v in candidates(variants, "steps")] == ["steps", "array"]
    assert [v.name for v in candidates(variants, "array")] == ["array"]
    with pytest.raises(ValueError, match=r"CYLSTM_CUPY_TIER must be one of asked, missing, steps, array, got 'fast'"):
        candidates(variants, "fast")


@pytest.mark.parametrize(
    ("dtype", "expected"), [("float32", "steps"), ("bfloat16", "steps"), ("float64", "steps"), ("complex64", "array")]
)
def test_the_first_that_does_not_refuse_is_chosen(dtype: str, expected: str) -> None:
    variants = [variant(HostDevice()) for variant in VARIANTS[-2:]]
    shape = LayerShape(dtype, I=4, H=5, P=0, D=1, bias=True)
    assert chosen(variants, shape, np.ones(3, np.int64), "gates", named=False).name == expected


@pytest.mark.parametrize(("B", "named", "expected"), [(1, False, "asked"), (2, False, "steps"), (2, True, "asked")])
def test_one_that_is_slower_leaves_the_call_to_a_faster_one_unless_it_was_named(
    B: int, named: bool, expected: str
) -> None:
    variants = [variant(HostDevice()) for variant in (Asked, *VARIANTS[-2:])]
    shape = LayerShape("float32", I=4, H=5, P=0, D=1, bias=True)
    assert chosen(variants, shape, np.array([B]), "gates", named=named).name == expected
    without = [variants[0], variants[-1]]
    assert chosen(without, shape, np.array([B]), "gates", named=named).name == "asked"


def test_the_backend_goes_by_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot run on the device is passed over, unless it was named; what refuses a layer, in any case."""
    monkeypatch.setattr(cupy_backend, "VARIANTS", (Asked, Missing, *VARIANTS[-2:]))
    parameters = make_problem(testing.Case(H=5), "float32").parameters

    def names(tier: str | None, facts: planner.Facts = SMALL) -> list[str]:
        prepared = HostBackend(tier=tier, system=HostSystem(facts=facts)).prepare(parameters)
        return [variant.name for variant in prepared.variants]

    assert names("") == ["asked", "steps", "array"]
    assert names("", OLD) == names("array") == ["array"]
    assert names("asked") == ["asked", "steps", "array"]
    with pytest.raises(RuntimeError, match=r"tier 'missing' cannot run on cuda:0: its library is not"):
        names("missing")
    with pytest.raises(RuntimeError, match=r"tier 'steps' cannot run on cuda:0: .* 7.5, and CPU as GPU"):
        names("steps", OLD)
    monkeypatch.setenv(VARIABLE, " array ")
    assert names(None) == ["array"]


def test_the_variable_names_the_tier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "fast")
    lstm = cylstm.LSTM(4, 5, backend=HostBackend())
    with pytest.raises(cylstm.BackendFailedError, match=r"CYLSTM_CUPY_TIER must be one of .*, array, got 'fast'"):
        lstm(cylstm.randn(3, 4))
    monkeypatch.setenv(VARIABLE, "array")
    lstm(cylstm.randn(3, 4))


@pytest.mark.parametrize("itemsize", [4, 8])
def test_a_tile_has_the_rows_of_the_batch(itemsize: int) -> None:
    """A block reads its weights once for them; what is beyond the largest tile goes to more blocks."""
    most = 64 // itemsize
    for B in (1, 2, 4, 5, 8, 16, 64, 4096):
        tile = choose_tile(B=B, itemsize=itemsize)
        assert min(B, most) <= tile.rows <= most
        assert tile.shared_memory(itemsize) <= SMALL.shared_memory
    assert choose_tile(B=1, itemsize=itemsize).rows == 1


@settings(deadline=None)
@given(rows=st.integers(1, 300), units=st.integers(1, 300), D=st.integers(1, 2), tile=st.sampled_from(tiles(4)))
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
    visited = []
    for first, rows, before, carried in walk(sizes, reverse=reverse).tolist():
        for b in range(rows):
            row = first + b
            visited.append(row)
            sequence, t = sequence_at[row]
            assert sequence == b
            t_before = t + 1 if reverse else t - 1
            begins = not 0 <= t_before < lengths[b]
            assert begins == (b >= carried)
            assert begins or before + b == row_of[b, t_before]
    assert sorted(visited) == list(range(sum(lengths)))
    assert last_rows(sizes).tolist() == [row_of[b, length - 1] for b, length in enumerate(lengths)]


def test_tables_of_an_empty_batch() -> None:
    sizes = np.zeros(3, np.int64)
    assert walk(sizes, reverse=False).tolist() == [[0, 0, 0, 0]] * 3
    assert last_rows(sizes).shape == (0,)


@settings(deadline=None)
@given(lengths, st.integers(1, 2), st.booleans())
def test_table_of_a_pass(lengths: list[int], D: int, against: bool) -> None:
    """It is filled up with steps of no rows, and its ends are the rows of the last steps of the walk."""
    sizes = batch_sizes_of(sorted(lengths, reverse=True))
    table, T = Table.of(sizes, D, against=against, xp=np), len(sizes)
    assert len(table.steps) % 8 == 0
    assert T <= len(table.steps) < T + 8
    assert not table.steps[T:].any()
    assert len(table.rows) == T
    for d in range(D):
        end_of_sequence = (d == 1) == against
        expected = last_rows(sizes) if end_of_sequence else np.arange(sizes[0])
        assert table.ends[d].tolist() == expected.tolist()
        assert (table.steps[:T, d, 1] <= table.rows).all()


# What is recent -------------------------------------------------------------------------------------------------------


def test_recent_values_are_kept_and_bounded() -> None:
    recent, made = Recent(most=2), []

    def make(key: str) -> str:
        made.append(key)
        return key.upper()

    for key in "abacab":  # c drives out b, b drives out c
        assert recent.get(key, lambda key=key: make(key)) == key.upper()
        assert len(recent) <= 2
    assert "".join(made) == "abcb"


def test_recent_values_are_weighed() -> None:
    """All that is too much goes; a single value that is too heavy stays, for it is in use."""
    recent: Recent[str] = Recent(most=10, weight=len)
    for key in ("aaaa", "bbbb", "cc"):
        recent.get(key, lambda key=key: key)
    assert len(recent) == 3
    recent.get("dddd", lambda: "dddd")
    assert len(recent) == 3
    recent.get("e" * 20, lambda: "e" * 20)
    assert len(recent) == 1
    recent.clear()
    assert len(recent) == 0


def test_what_cannot_be_made_leaves_nothing() -> None:
    recent = Recent(most=2)

    def fail() -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        recent.get("a", fail)
    assert len(recent) == 0
    assert recent.get("a", lambda: 1) == 1


def test_recent_values_from_several_threads() -> None:
    recent = Recent(most=3)
    wrong: list[int] = []

    def work(k: int) -> None:
        for i in range(200):
            key = (k, i % 5)
            if recent.get(key, lambda key=key: key) != key:
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(recent) <= 3
