"""Which configuration of the persistent kernels a layer takes, and the steps of a launch."""

from __future__ import annotations

import numpy as np
import pytest

from cylstm.backends.cupy_backend.persistent.configurations import TABLE, configurations, every_configuration, padded
from cylstm.backends.cupy_backend.persistent.walks import Walks
from cylstm.backends.cupy_backend.schedule import walk

pytestmark = pytest.mark.names_backend("cupy")

MULTIPROCESSORS = 132


def test_sums_are_covered_and_warps_take_whole_pairs_of_steps() -> None:
    for itemsize, rows in TABLE.items():
        for row in rows:
            for name, terms in (("forward", row.H), ("backward", 4 * row.H)):
                for c in configurations(
                    name, row, H=row.H, B=16, D=1, itemsize=itemsize, multiprocessors=MULTIPROCESSORS
                ):
                    assert c.k_steps % 2 == 0
                    assert 0 <= c.warps * c.k_steps * 32 // itemsize - terms < c.warps * 64 // itemsize
                    assert (c.tiles if name == "forward" else c.k_steps // 2) % c.at_once == 0
                    assert c.units % (4 if name == "forward" else 8) == 0


@pytest.mark.parametrize(
    ("H", "B", "D", "units", "rows"),
    [
        (512, 1, 1, 4, 8),  # 128 blocks
        (512, 8, 1, 4, 8),
        (512, 16, 1, 8, 8),  # two groups of 64 blocks
        (512, 64, 1, 16, 16),  # four of 32
        (512, 64, 2, 16, 32),
        (512, 1000, 1, 16, 32),  # in eight launches of four groups
        (256, 16, 1, 4, 8),
        (256, 64, 1, 16, 8),
        (1024, 16, 1, 16, 8),
            (1024, 32, 1, 8, 32),
    ],
)
def test_groups_that_all_run_at_once_with_as_few_rows_as_can_be(H: int, B: int, D: int, units: int, rows: int) -> None:
    row = next(row for row in TABLE[2] if row.H >= H)
    best = configurations("forward", row, H=H, B=B, D=D, itemsize=2, multiprocessors=MULTIPROCESSORS)[0]
    assert (best.units, best.rows) == (units, rows)


def test_layers_are_padded_to_words() -> None:
    assert [padded(H) for H in (1, 8, 9, 1536)] == [8, 8, 16, 1536]


def test_walks_of_both_directions_and_the_rows_they_end_in() -> None:
    sizes = np.array([5, 3, 1])
    walks = Walks.of(sizes, 2, against=False, xp=np)
    assert walks.steps[:, 0].tolist() == walk(sizes, reverse=False).tolist()
    assert walks.steps[:, 1].tolist() == walk(sizes, reverse=True).tolist()
    assert walks.ends[0].tolist() == [8, 6, 7, 3, 4]
    assert walks.ends[1] == slice(0, 5)
    assert Walks.of(np.array([2, 2]), 2, against=True, xp=np).ends == [slice(0, 2), slice(2, 4)]


def test_every_configuration_is_named_once() -> None:
    every = every_configuration()
    assert len(every) == len(set(every)) > 100
