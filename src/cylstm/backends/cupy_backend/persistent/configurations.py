"""Which configuration of the persistent kernels a layer takes: a decision from sizes, made without a GPU.

A configuration is what a kernel is compiled for. There are few of them, so that each can be compiled and looked at
without a GPU: none spills registers. Within one, H and B may be smaller than what it is made for.
"""

from __future__ import annotations

from typing import NamedTuple

#: H is padded to a multiple of this: 16 bytes hold eight numbers of 16 bits.
GRANULE = 8


class Configuration(NamedTuple):
    """What a kernel is compiled for; see persistent.h."""

    name: str  # "forward" or "backward"
    itemsize: int  # of the dtype
    units: int  # of a block
    warps: int  # of a block
    k_steps: int  # of a warp
    tiles: int
    at_once: int  # what is fetched at once: tiles forward, pairs of k steps backward

    @property
    def rows(self) -> int:
        """The sequences of a launch."""
        return self.tiles * (8 if self.name == "forward" else 16)

    @property
    def threads(self) -> int:
        """Of a block."""
        return self.warps * 32

    @property
    def shared_memory(self) -> int:
        """Bytes of a block: the parts of the sums of two steps."""
        return 2 * self.warps * self.rows * (4 * self.units + 4 if self.name == "forward" else self.units) * 4

    def blocks(self, H: int) -> int:
        """Of a direction."""
        return -(-H // self.units)


class Row(NamedTuple):
    """The configurations for layers up to a size, without their tiles: units, warps, what is fetched at once."""

    H: int  # the largest
    forward: tuple[int, int, int]
    backward: tuple[int, int, int]
    tiles: tuple[int, int] = (8, 4)  # the most, forward and backward: with more, registers spill


#: By the size of a number. Few units a block make many blocks, of which each multiplies little; but all blocks have to
#: run at once. As much is fetched at once as registers hold.
TABLE = {
    2: (
        Row(32, (8, 1, 4), (8, 4, 1), (4, 4)),
        Row(128, (4, 4, 8), (8, 8, 2)),
        Row(256, (4, 8, 8), (8, 8, 4)),
        Row(512, (4, 8, 8), (8, 8, 8)),
        Row(768, (8, 8, 4), (8, 8, 12)),
        Row(1024, (8, 8, 4), (8, 8, 4)),
        Row(1536, (12, 8, 1), (16, 8, 1), (4, 1)),
    ),
    4: (
        Row(32, (8, 1, 2), (8, 4, 2), (4, 4)),
        Row(128, (4, 4, 4), (8, 8, 4)),
        Row(256, (4, 8, 8), (8, 8, 8)),
        Row(512, (4, 8, 4), (8, 8, 8)),
        Row(768, (8, 8, 1), (8, 8, 8)),
        Row(1024, (8, 8, 1), (8, 8, 4)),
    ),
}


def padded(H: int) -> int:
    """H as the kernels take it."""
    return -(-H // GRANULE) * GRANULE


def forward_configurations(row: Row, B: int, itemsize: int) -> list[Configuration]:
    """Those of the forward kernel for B sequences: the one that takes most of them at once first."""
    units, warps, group = row.forward
    k_steps = _k_steps(row.H, warps, itemsize)
    return [
        Configuration("forward", itemsize, units, warps, k_steps, tiles, min(group, tiles))
        for tiles in _tiles(B, 8, row.tiles[0])
    ]


def backward_configurations(row: Row, B: int, itemsize: int) -> list[Configuration]:
    """Those of the backward kernel, likewise."""
    units, warps, chunk = row.backward
    k_steps = _k_steps(4 * row.H, warps, itemsize)
    return [
        Configuration("backward", itemsize, units, warps, k_steps, tiles, chunk)
        for tiles in _tiles(B, 16, row.tiles[1])
    ]


def every_configuration() -> list[Configuration]:
    """All that a call can take."""
    return [
        c
        for itemsize, rows in TABLE.items()
        for row in rows
        for kind in (forward_configurations, backward_configurations)
        for c in kind(row, 1 << 20, itemsize)
    ]


def _k_steps(K: int, warps: int, itemsize: int) -> int:
    """Steps of 32 bytes of a sum of K terms, for each warp: an even number."""
    return -(-K * itemsize // (64 * warps)) * 2


def _tiles(B: int, rows: int, most: int) -> list[int]:
    """Powers of two, the largest first, none larger than B sequences need."""
    powers = [1 << k for k in range(most.bit_length()) if 1 << k <= most]
    return [tiles for tiles in reversed(powers) if tiles == 1 or tiles // 2 * rows < B]
