"""Which configuration of the persistent kernels a layer takes, and which rows a launch."""

from __future__ import annotations

import numpy as np
import pytest

from cylstm.backends.cupy_backend.persistent.configurations import (
    TABLE,
    Configuration,
    Row,
    backward_configurations,
    every_configuration,
    forward_configurations,
    padded,
)
from cylstm.backends.cupy_backend.persistent.rows import Launches, of_sequences
from cylstm.backends.cupy_backend.schedule import walk

pytestmark = pytest.mark.names_backend("cupy")


def test_sums_are_covered_and_warps_take_whole_pairs_of_steps() -> None:
    for c, row in every_row():
        terms = row.H if c.name == "forward" else 4 * row.H
        of_step = 32 // c.itemsize
        assert c.k_steps % 2 == 0
        assert 0 <= c.warps * c.k_steps * of_step - terms < c.warps * 2 * of_step
        assert (c.tiles if c.name == "forward" else c.k_steps // 2) % c.at_once == 0
        assert c.units % (4 if c.name == "forward" else 8) == 0


def every_row() -> list[tuple[Configuration, Row]]:
    return [
        (c, row)
        for itemsize, rows in TABLE.items()
        for row in rows
        for kind in (forward_configurations, backward_configurations)
        for B in (1, 64)
        for c in kind(row, B, itemsize)
    ]


@pytest.mark.parametrize(
    ("B", "forward", "backward"), [(1, 8, 16), (8, 8, 16), (9, 16, 16), (17, 32, 32), (99, 64, 64)]
)
def test_as_many_sequences_as_fit_and_no_more_than_there_are(B: int, forward: int, backward: int) -> None:
    row = TABLE[2][2]
    largest = [forward_configurations(row, B, 2)[0].rows, backward_configurations(row, B, 2)[0].rows]
    assert largest == [forward, backward]
    assert [c.rows for c in forward_configurations(row, 99, 2)] == [64, 32, 16, 8]  # a smaller one needs fewer registers


def test_layers_are_padded_to_words() -> None:
    assert [padded(H) for H in (1, 8, 9, 1536)] == [8, 8, 16, 1536]


def test_rows_of_some_sequences_alone() -> None:
    table = walk(np.array([5, 3, 1]), reverse=False)
    assert of_sequences(table, 2, 2).tolist() == [[2, 2, 2, 0], [7, 1, 2, 1], [10, 0, 7, 0]]
    assert of_sequences(table, 0, 5).tolist() == table.tolist()


def test_tables_of_launches() -> None:
    """Of two launches, and the rows in which the walks of both directions end, in equal and in ragged batches."""
    launches = Launches.of(np.array([5, 3, 1]), 2, against=False, rows=4, xp=np)
    assert [table.shape for table in launches.tables] == [(3, 2, 4)] * 2
    assert launches.tables[1][:, 0].tolist() == [[4, 1, 4, 0], [9, 0, 4, 0], [12, 0, 9, 0]]
    assert launches.ends[0].tolist() == [8, 6, 7, 3, 4]
    assert launches.ends[1] == slice(0, 5)
    assert Launches.of(np.array([2, 2]), 2, against=True, rows=4, xp=np).ends == [slice(0, 2), slice(2, 4)]


def test_every_configuration_is_named_once() -> None:
    every = every_configuration()
    assert len(every) == len(set(every)) > 40
