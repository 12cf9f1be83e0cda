"""Which tier and which tile: a decision from facts, made without a GPU.

Tiers, slowest first:

``array``
    The code of the numpy backend on CuPy arrays: every dtype, some twenty launches per step. The default.
``steps``
    One launch per step (two with projection), which multiplies with the recurrent weights and does the gates; the
    input product is one large product before them, and the launches are replayed as a CUDA graph.

A third one, a kernel that keeps the recurrent weights in registers and shared memory for the whole sequence, belongs
here once there is a GPU to measure it on: it is chosen where 4 H R weights fit into the device.

A tier whose kernels have never run on a device is not used unless ``CYLSTM_CUPY_TIER`` allows it, or names a table of
what was measured on this device.
"""

from __future__ import annotations

from typing import NamedTuple

from .measured import Shape, Table, read

TIERS = ("array", "steps")
#: The highest tier used unless the variable allows more. The kernels of the others have not run on a device yet.
DEFAULT = "array"
VARIABLE = "CYLSTM_CUPY_TIER"

#: The dtypes of the tier ``steps``: C++ types of what is stored (states, recurrent weights) and of what is computed in.
TYPES = {
    "bfloat16": ("Bfloat", "float"),
    "float16": ("Half", "float"),
    "float32": ("float", "float"),
    "float64": ("double", "double"),
}

UNITS = 32  # that a block computes: the width of a warp. As in lstm.cu


class Facts(NamedTuple):
    """What the planner wants to know of a device."""

    compute_capability: tuple[int, int]
    multiprocessors: int
    shared_memory: int  # bytes that a block may have without asking for more

    @property
    def runs_steps(self) -> bool:
        """Whether the kernels of the tier ``steps`` run here."""
        return self.compute_capability >= (7, 5)


class Tile(NamedTuple):
    """What a block computes: `rows` rows, 32 units, the sums cut into `slices` parts."""

    rows: int
    slices: int

    def shared_memory(self, itemsize: int) -> int:
        """Bytes, for the kernel that needs most of it: four columns per unit."""
        return self.slices * self.rows * 4 * UNITS * itemsize


#: Few rows: many threads share a sum, for the work is short and must be spread. Many rows: weights are read once for
#: all of them. Not measured yet.
TILES = (Tile(rows=1, slices=8), Tile(rows=4, slices=8), Tile(rows=16, slices=2))


def policy(value: str | None) -> str | Table:
    """What a value of ``CYLSTM_CUPY_TIER`` says: the highest tier allowed, or a table; None or "" is the default.

    Raises
    ------
    ValueError
        If it is neither a tier nor the path of a table, ending in ``.json``.
    """
    if not value:
        return DEFAULT
    if value.endswith(".json"):
        return read(value, TIERS)
    if value not in TIERS:
        raise ValueError(
            f"{VARIABLE} must be one of {', '.join(TIERS)}, or the path of a .json file that "
            f"cylstm.backends.cupy_backend.tune wrote; got {value!r}: correct it, or unset it"
        )
    return value


def possible_tiers(allowed: str | Table, *, dtype: str, device: str, facts: Facts) -> tuple[str, ...]:
    """The tiers that a layer of this dtype may be computed by on this device; the default is there always."""
    if dtype not in TYPES or not facts.runs_steps:
        return (DEFAULT,)
    if isinstance(allowed, str):
        return (allowed,)
    measured = {row.fastest for row in allowed.rows if row.shape.dtype == dtype and allowed.device == device}
    return tuple(sorted({DEFAULT, *measured}))


def choose_tier(allowed: str | Table, possible: tuple[str, ...], shape: Shape) -> str:
    """The tier for a call of this shape, out of those that are possible."""
    if len(possible) == 1 or isinstance(allowed, str):
        return possible[0]
    return allowed.fastest(shape) or DEFAULT


def choose_tile(*, B: int, units: int, D: int, itemsize: int, facts: Facts) -> Tile:
    """The tile with most rows that leaves no multiprocessor idle, for a step of B rows and `units` units."""
    for tile in reversed(TILES):
        blocks = _up(units, UNITS) * _up(B, tile.rows) * D
        if tile.rows <= B and blocks >= facts.multiprocessors and tile.shared_memory(itemsize) <= facts.shared_memory:
            return tile
    return TILES[0]


def grid(*, rows: int, units: int, D: int, tile: Tile) -> tuple[int, int, int]:
    """The grid of blocks of one launch."""
    return _up(rows, tile.rows), _up(units, UNITS), D


def _up(a: int, b: int) -> int:
    return -(-a // b)
