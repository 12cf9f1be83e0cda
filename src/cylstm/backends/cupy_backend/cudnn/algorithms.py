"""Which of cuDNN's algorithms computes a layer: a decision from sizes, made without a GPU.

``standard`` computes all that cuDNN has. The persistent ones keep the recurrent weights on the chip. They are tried
first where they are known to pay; where cuDNN says that it has no such kernel for these sizes or this device, the next
one is tried, ``standard`` last. cuDNN is given one layer at a time, so a stack takes the persistent algorithms layer by
layer. ``persist_static`` is for one direction, so the two of a layer go one after the other where it serves each.
"""

from __future__ import annotations

from typing import NamedTuple

from ..variants import LayerShape

#: cudnnRNNAlgo_t
ALGORITHMS = {"standard": 0, "persist_static": 1, "persist_static_small_h": 3}
#: The version from which on cuDNN has recurrent layers of bfloat16.
BFLOAT16_SINCE = 91300
#: The most units of ``persist_static_small_h``: forward alone, and with a backward pass.
SMALL_H, SMALL_H_TRAINING = 192, 128

#: B * H up to which kernels launched step by step were faster on an H200 in float64: with few products, cuDNN waits for
#: itself.
SMALL_FLOAT64 = 4096


class Conditions(NamedTuple):
    """What the choice of an algorithm depends on, beside the layer."""

    B: int
    ragged: bool  # sequences of different lengths
    training: bool
    tf32: bool  # whether products of float32 may be rounded
    multiprocessors: int


def algorithms(shape: LayerShape, of: Conditions) -> tuple[str, ...]:
    """The algorithms to try, in order.

    The persistent ones take neither projection, nor sequences of different lengths, nor float64. The bounds of
    ``persist_static`` are those of the sizes that its kernels are made for: float16, whole tiles of rows and units.
    """
    chosen = ["standard"]
    strict = shape.dtype == "float64" or (shape.dtype == "float32" and not of.tf32)
    if shape.P or of.ragged or strict:
        return tuple(chosen)
    whole_tiles = shape.H % 128 == 0 and shape.I % 128 == 0 and of.B % 8 == 0
    on_chip = whole_tiles and shape.H <= 1024 and of.B <= 128 and of.multiprocessors >= 98
    if shape.dtype == "float16" and on_chip and shape.D == 1:
        chosen.insert(0, "persist_static")
    most = SMALL_H_TRAINING if of.training else SMALL_H
    if most >= shape.H:
        chosen.insert(0, "persist_static_small_h")
    return tuple(chosen)


def one_by_one(shape: LayerShape, of: Conditions) -> tuple[str, ...]:
    """The algorithms to try with each of two directions by itself before both together; none where that is no gain."""
    alone = algorithms(shape._replace(D=1), of)
    return alone[:1] if alone[0] not in algorithms(shape, of) else ()


def refusal(shape: LayerShape, B: int, version: int) -> str:
    """Why cuDNN of this version does not compute a layer with B sequences; "" if it does."""
    if shape.dtype not in ("bfloat16", "float16", "float32", "float64"):
        return f"cuDNN has no recurrent layers of {shape.dtype}"
    if shape.dtype == "bfloat16" and version < BFLOAT16_SINCE:
        return f"cuDNN has recurrent layers of bfloat16 from version {BFLOAT16_SINCE} on, and this is {version}"
    return "" if B else "cuDNN takes no empty batch"


def slower_than(shape: LayerShape, B: int) -> str:
    """The variant that is faster than cuDNN for such sizes, "" for none."""
    return "steps" if shape.dtype == "float64" and not shape.P and B * shape.H <= SMALL_FLOAT64 else ""
