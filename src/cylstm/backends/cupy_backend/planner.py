"""Which kernel variant and which tile: a decision from facts, made without a GPU.

Kernel variants, slowest first (users know them as the tiers of ``CYLSTM_CUPY_TIER``):

``array``
    The code of the numpy backend on CuPy arrays: every dtype, some twenty launches per step. The default.
``steps``
    One launch per step (two with projection), which multiplies with the recurrent weights and does the gates. The
    input product is one large product before them. The launches are replayed as a CUDA graph.

A third one, a kernel that keeps the recurrent weights in registers and shared memory for the whole sequence, belongs
here once there is a GPU to measure it on: it is chosen where 4 H R weights fit into the device.

A variant whose kernels have never run on a device is not used unless ``CYLSTM_CUPY_TIER`` allows it, or names a table
of what was measured on this device.
"""

from __future__ import annotations

from typing import NamedTuple

from .timings import TimingTable, Workload, read

VARIANTS = ("array", "steps")
#: The highest variant used unless the variable allows more. The kernels of the others have not run on a device yet.
DEFAULT = "array"
VARIABLE = "CYLSTM_CUPY_TIER"

#: The dtypes of ``steps``: C++ types of what is stored (states, recurrent weights) and of the arithmetic.
TYPES = {
    "bfloat16": ("Bfloat", "float"),
    "float16": ("Half", "float"),
    "float32": ("float", "float"),
    "float64": ("double", "double"),
}

UNITS = 32  # of a block: the width of a warp, as in lstm.cu


class Facts(NamedTuple):
    """What the planner has to know of a device."""

    compute_capability: tuple[int, int]
    multiprocessors: int
    shared_memory: int  # bytes that a block may have without asking for more

    @property
    def runs_steps(self) -> bool:
        """Whether the kernels of ``steps`` run here."""
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


def read_choice(value: str | None) -> str | TimingTable:
    """What a value of ``CYLSTM_CUPY_TIER`` says: the highest variant allowed, or a table; None or "" is the default.

    Raises
    ------
    ValueError
        If it is neither a variant nor the path of a table, ending in ``.json``.
    """
    if not value:
        return DEFAULT
    if value.endswith(".json"):
        return read(value, VARIANTS)
    if value not in VARIANTS:
        raise ValueError(
            f"{VARIABLE} must be one of {', '.join(VARIANTS)}, or the path of a .json file that "
            f"cylstm.cli.tune_cupy wrote, got {value!r}: correct it, or unset it"
        )
    return value


def possible_variants(choice: str | TimingTable, *, dtype: str, device: str, facts: Facts) -> tuple[str, ...]:
    """The variants that may compute a layer of this dtype on this device; a table leaves the default among them."""
    if dtype not in TYPES or not facts.runs_steps:
        return (DEFAULT,)
    if isinstance(choice, str):
        return (choice,)
    measured = {row.fastest for row in choice.rows if row.workload.dtype == dtype and choice.device == device}
    return tuple(sorted({DEFAULT, *measured}))


def choose_variant(choice: str | TimingTable, possible: tuple[str, ...], workload: Workload) -> str:
    """The variant for a call, out of those that are possible."""
    if len(possible) == 1 or isinstance(choice, str):
        return possible[0]
    return choice.fastest(workload) or DEFAULT


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
