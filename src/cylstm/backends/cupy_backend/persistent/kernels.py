"""The text of the persistent kernels, and the compiler's options for a dtype and a configuration."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from .configurations import Configuration

FOLDER = Path(__file__).parent
#: C++ type of what is stored, and the shape and types of the instruction mma.
TYPES = {
    "bfloat16": ("Bfloat", "m16n8k16.row.col.f32.bf16.bf16.f32"),
    "float16": ("Half", "m16n8k16.row.col.f32.f16.f16.f32"),
    "float32": ("float", "m16n8k8.row.col.f32.tf32.tf32.f32"),
}


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
    storage, mma = TYPES[dtype]
    values = {"STORAGE": storage, "ARITHMETIC": "float", "MMA": f'"{mma}"', "UNITS": c.units, "WARPS": c.warps}
    values |= {"K_STEPS": c.k_steps, "TILES": c.tiles, "GROUP" if c.name == "forward" else "CHUNK": c.at_once}
    return tuple(f"-D{name}={value}" for name, value in values.items())
