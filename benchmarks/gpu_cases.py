"""The cases of ``gpu.py``, those first that say most: time may end before the last ones."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from cases import Case

T, LONG = 256, 1024
BATCH_SIZES = (64, 16, 1, 256)
HIDDEN_SIZES = (512, 128, 1024, 256, 2048)
DTYPES = ("float32", "float16", "bfloat16")
TF32 = "TF32"
Sizes = dict[str, Any]


def cases() -> list[Case]:
    """The table of cases."""
    return [
        Case(name=_name(regime, sizes, training), regime=regime, training=training, **{"T": T, **sizes})
        for regime, sizes in _sizes()
        for training in (False, True)
    ]


def allows_tf32(case: Case) -> bool:
    """Whether products of float32 may be rounded to TF32 in a case; else they are strict."""
    return case.regime == TF32


def matching(words: str) -> list[Case]:
    """The cases whose name or regime holds these words."""
    return [case for case in cases() if words in case.name or words in case.regime]


def _sizes() -> Iterator[tuple[str, Sizes]]:
    """The regime and the sizes of each pair of a forward pass and a training step."""
    anchor = {"H": 768, "B": 16, "T": LONG}
    grid = [{"H": H, "B": B} for H, B in product(HIDDEN_SIZES, BATCH_SIZES)]
    few = [{"H": H, "B": B} for H, B in product((128, 512, 1024), (16, 64, 256))]
    yield from (("long", {**anchor, "dtype": dtype}) for dtype in DTYPES)
    yield from (("equal lengths", {**sizes, "dtype": dtype}) for sizes in grid for dtype in DTYPES)
    yield from (("float64", {**sizes, "dtype": "float64"}) for sizes in grid if sizes["H"] in (128, 512, 1024))
    yield from ((TF32, sizes) for sizes in (anchor, *grid))
    for dtype, sizes in product((*DTYPES, "float64"), few):
        yield "ragged", {**sizes, "dtype": dtype, "shortest": 16}
        yield "3 layers, bidirectional", {**sizes, "dtype": dtype, "layers": 3, "bidirectional": True}
    yield from (("long", {**sizes, "dtype": dtype, "T": LONG}) for sizes in grid for dtype in DTYPES)


def _name(regime: str, sizes: Sizes, training: bool) -> str:
    words = [regime.split()[0] if regime != "equal lengths" else "", sizes.get("dtype", "float32")]
    words += [f"h{sizes['H']}", f"b{sizes['B']}", "training" if training else "forward"]
    return "-".join(dict.fromkeys(filter(None, words)))
