"""The text of the kernels, and the compiler's options for a dtype and a tile."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from .planner import TYPES, Tile

#: The kernels in lstm.cu: those of a step, those before them, those of a step of a stream.
STEPS = ("forward", "project", "backward", "backward_projected")
STREAM = ("stream", "stream_projected")
KERNELS = (*STEPS, "bind_forward", "bind_backward", "advance", *STREAM)

#: Steps that `advance` brings at once, at most: WINDOW in lstm.cu.
WINDOW = 64
#: At least the bytes of `Bound` in lstm.cu: 18 fields and the window for two directions.
BOUND_BYTES = 8 * 20 + 16 * 2 * WINDOW

FOLDER = Path(__file__).parent


@cache
def source() -> str:
    """lstm.cu with its header put in: one text, so that a cache of compiled kernels sees every change."""
    header, kernels = (FOLDER.joinpath(name).read_text("utf-8") for name in ("lstm.h", "lstm.cu"))
    return kernels.replace('#include "lstm.h"\n', header.replace("#pragma once\n", ""))


def definitions(dtype: str, tile: Tile) -> tuple[str, ...]:
    """Compiler options that say what the kernels are to be compiled for."""
    storage, arithmetic = TYPES[dtype]
    return (f"-DSTORAGE={storage}", f"-DARITHMETIC={arithmetic}", f"-DROWS={tile.rows}", f"-DSLICES={tile.slices}")
