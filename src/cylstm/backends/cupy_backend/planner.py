"""Tiles and grids of the variant ``steps``: decisions from facts, made without a GPU."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import NamedTuple

#: The dtypes of the kernels: C++ types of what is stored (states, weights) and of the arithmetic.
TYPES = {
    "bfloat16": ("Bfloat", "float"),
    "float16": ("Half", "float"),
    "float32": ("float", "float"),
    "float64": ("double", "double"),
}

UNITS = 8  # of a block, as in lstm.cu
LANES = 32


class Facts(NamedTuple):
    """What has to be known of a device."""

    compute_capability: tuple[int, int]
    multiprocessors: int
    shared_memory: int  # bytes that a block may have without asking for more


class Tile(NamedTuple):
    """What a block computes: `rows` rows, `UNITS` units, the sums over k cut into 4 * `slices` parts."""

    rows: int
    slices: int

    @property
    def block(self) -> tuple[int, int, int]:
        """The threads of a block."""
        return LANES, self.slices, 1

    def shared_memory(self, itemsize: int) -> int:
        """Bytes, for the kernel that needs most of it: four columns per unit."""
        return self.slices * self.rows * 4 * UNITS * itemsize


@cache
def tiles(itemsize: int) -> tuple[Tile, ...]:
    """The tiles for an arithmetic of this many bytes: sums of 16 rows, or of 8 in float64, fill the registers."""
    return tuple(Tile(rows, slices=8) for rows in (1, 4, 64 // itemsize))


@lru_cache
def choose_tile(*, B: int, itemsize: int) -> Tile:
    """The smallest tile with all rows of a step, or the largest one: a block reads its weights once for its rows."""
    able = tiles(itemsize)
    return next((tile for tile in able if tile.rows >= B), able[-1])


def grid(*, rows: int, units: int, D: int, tile: Tile) -> tuple[int, int, int]:
    """The grid of blocks of one launch."""
    return -(-rows // tile.rows), -(-units // UNITS), D
