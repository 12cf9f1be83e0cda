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


class Option(NamedTuple):
    """A way to cut a layer into blocks."""

    units: int  # of a block
    warps: int
    at_once: int  # as in `Configuration`, at most
    tiles: int = 8  # at most: with more, registers spill


class Row(NamedTuple):
    """The options for layers up to a size, those with fewest units first."""

    H: int  # the largest
    forward: tuple[Option, ...]
    backward: tuple[Option, ...]


#: By the size of a number. As much is fetched at once as registers hold.
TABLE = {
    2: (
        Row(32, (Option(8, 1, 4, 4),), (Option(8, 4, 1, 4),)),
        Row(128, (Option(4, 4, 8), Option(8, 4, 4), Option(16, 4, 2, 4)), (Option(8, 8, 2, 4), Option(16, 8, 2, 2))),
        Row(256, (Option(4, 8, 8), Option(8, 8, 4), Option(16, 8, 2, 4)), (Option(8, 8, 4, 4), Option(16, 8, 4, 2))),
        Row(512, (Option(4, 8, 8), Option(8, 8, 4), Option(16, 8, 2, 4)), (Option(8, 8, 8, 4), Option(16, 8, 8, 2))),
        Row(768, (Option(8, 8, 4), Option(16, 8, 2, 4)), (Option(8, 8, 12, 4), Option(16, 8, 4, 2))),
        Row(1024, (Option(8, 8, 4), Option(16, 8, 1, 4)), (Option(8, 8, 4, 4), Option(16, 8, 2, 2))),
        Row(1536, (Option(12, 8, 1, 4),), (Option(16, 8, 1, 1),)),
    ),
    4: (
        Row(32, (Option(8, 1, 2, 4),), (Option(8, 4, 2, 4),)),
        Row(128, (Option(4, 4, 4), Option(8, 4, 2), Option(16, 4, 1, 4)), (Option(8, 8, 4, 4), Option(16, 8, 4, 2))),
        Row(256, (Option(4, 8, 4), Option(8, 8, 2), Option(16, 8, 1, 4)), (Option(8, 8, 8, 4), Option(16, 8, 4, 2))),
        Row(512, (Option(4, 8, 4), Option(8, 8, 2, 4)), (Option(8, 8, 8, 4),)),
        Row(768, (Option(8, 8, 1),), (Option(8, 8, 6, 4),)),
        Row(1024, (Option(8, 8, 1, 4),), (Option(8, 8, 4, 4),)),
    ),
}


def padded(H: int) -> int:
    """H as the kernels take it."""
    return -(-H // GRANULE) * GRANULE


def configurations(
    name: str, row: Row, *, H: int, B: int, D: int, itemsize: int, multiprocessors: int
) -> list[Configuration]:
    """Those of a kernel for B sequences, the best first.

    Blocks read the h of all their rows in each step. Where there are more multiprocessors than blocks of a direction,
    sequences go in groups, each with blocks of its own; the fewer launches that takes one after the other, the better,
    then the fewer rows, then the fewer units, of which a block multiplies less.
    """
    options = row.forward if name == "forward" else row.backward
    choices = []
    for option in options:
        for tiles in [1 << k for k in range(option.tiles.bit_length())]:
            c = _configuration(name, row, option, tiles, itemsize)
            groups, at_once = -(-B // c.rows), max(1, multiprocessors // (c.blocks(H) * D))
            choices.append((-(-groups // at_once), c.rows, c.units, c))
    return [c for *_, c in sorted(choices)]


def every_configuration() -> list[Configuration]:
    """All that a call can take."""
    return [
        _configuration(name, row, option, 1 << k, itemsize)
        for itemsize, rows in TABLE.items()
        for row in rows
        for name, options in (("forward", row.forward), ("backward", row.backward))
        for option in options
        for k in range(option.tiles.bit_length())
    ]


def _configuration(name: str, row: Row, option: Option, tiles: int, itemsize: int) -> Configuration:
    forward, (units, warps, at_once, _) = name == "forward", option
    bytes_of_sum = (row.H if forward else 4 * row.H) * itemsize
    k_steps = -(-bytes_of_sum // (64 * warps)) * 2  # of 32 bytes, for each warp: an even number
    return Configuration(name, itemsize, units, warps, k_steps, tiles, min(at_once, tiles) if forward else at_once)
