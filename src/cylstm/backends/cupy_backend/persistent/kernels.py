"""The text of the persistent kernels, and the compiler's options for a dtype and a configuration."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from .configurations import Configuration

FOLDER = Path(__file__).parent
#: C++ type of what is stored, and the name of the dtype in the instruction mma.
TYPES = {"bfloat16": ("Bfloat", "bf16"), "float16": ("Half", "f16")}


@cache
def source(name: str) -> str:
    """forward.cu or backward.cu with its headers put in: one text, so that a cache of kernels sees every change."""
    text = FOLDER.joinpath(f"{name}.cu").read_text("utf-8")
    for path in (FOLDER.parent / "lstm.h", FOLDER / "persistent.h"):
        header = path.read_text("utf-8").replace("#pragma once\n", "")
        text = text.replace(f'#include "{path.name}"\n', header)
    return text


def definitions(dtype: str, c: Configuration) -> tuple[str, ...]:
    """Compiler options that say what a kernel is to be compiled for."""
    storage, of_mma = TYPES[dtype]
    values = {"STORAGE": storage, "ARITHMETIC": "float", "MMA_TYPE": f'"{of_mma}"', "UNITS": c.units}
    values |= {"WARPS": c.warps, "K_STEPS": c.k_steps, "TILES": c.tiles}
    values |= {"CHUNK": c.chunk} if c.chunk else {}
    return tuple(f"-D{name}={value}" for name, value in values.items())
