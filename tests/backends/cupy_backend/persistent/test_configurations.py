"""Which configuration of the persistent kernels a layer takes, and which rows a launch."""

from __future__ import annotations

import numpy as np
import pytest

from cylstm.backends.cupy_backend.persistent.configurations import (
    TABLE,
    backward_configurations,
    every_configuration,
    forward_configurations,
    padded,
)
from cylstm.backends.cupy_backend.persistent.fragments import backward_fragments, forward_fragments
from cylstm.backends.cupy_backend.persistent.rows import of_sequences
from cylstm.backends.cupy_backend.schedule import walk

pytestmark = pytest.mark.names_backend("cupy")


def test_sums_are_covered_and_warps_take_whole_pairs_of_steps() -> None:
    for row in TABLE:
        for c in (*forward_configurations(row, 64), *backward_configurations(row, 64)):
            terms = row.H if c.name == "forward" else 4 * row.H
            assert c.k_steps % 2 == 0
            assert 0 <= c.warps * c.k_steps * 16 - terms < c.warps * 32
            assert not c.chunk or c.k_steps // 2 % c.chunk == 0
            assert c.units % (4 if c.name == "forward" else 8) == 0


@pytest.mark.parametrize(
    ("B", "forward", "backward"), [(1, 8, 16), (8, 8, 16), (9, 16, 16), (17, 32, 32), (99, 64, 64)]
)
def test_as_many_sequences_as_fit_and_no_more_than_there_are(B: int, forward: int, backward: int) -> None:
    row = TABLE[2]
    assert [forward_configurations(row, B)[0].rows, backward_configurations(row, B)[0].rows] == [forward, backward]
    assert [c.rows for c in forward_configurations(row, 99)] == [64, 32, 16, 8]  # a smaller one needs fewer registers


def test_layers_are_padded_to_words() -> None:
    assert [padded(H) for H in (1, 8, 9, 1536)] == [8, 8, 16, 1536]


def test_rows_of_some_sequences_alone() -> None:
    table = walk(np.array([5, 3, 1]), reverse=False)
    assert of_sequences(table, 2, 2).tolist() == [[2, 2, 2, 0], [7, 1, 2, 1], [10, 0, 7, 0]]
    assert of_sequences(table, 0, 5).tolist() == table.tolist()


def test_every_weight_is_in_one_register() -> None:
    """Of one lane of one warp of one block; all others hold zeros."""
    for row in TABLE[:4]:
        H = row.H - 8
        weight = np.arange(1, 4 * H * H + 1, dtype=np.uint32).astype(np.uint16).reshape(4 * H, H)
        for c, fragments in (
            (forward_configurations(row, 1)[0], forward_fragments),
            (backward_configurations(row, 1)[0], backward_fragments),
        ):
            words = fragments(weight, c, np)
            blocks = c.blocks(H)
            of_tile = (c.units // 4, 32, 4) if c.name == "forward" else (c.units // 8, 32, 2)
            assert words.shape == (blocks, c.warps, c.k_steps, *of_tile)
            halves = np.concatenate([words & 0xFFFF, words >> 16], axis=None)
            expected = np.bincount(weight.ravel(), minlength=1 << 16)
            found = np.bincount(halves, minlength=1 << 16)
            assert (found[1:] == expected[1:]).all()


def test_every_configuration_is_named_once() -> None:
    every = every_configuration()
    assert len(every) == len(set(every)) > 40
