"""The precision of a module: how its float32 parameters are prepared and computed.

The precision in force is the first of these that is there::

    precision= argument, or the attribute  >  CYLSTM_PRECISION  >  float32

The variable is about float32 modules: others compute in the dtype that they have. It is read when first needed.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

#: ``"float32"``, the default, computes in the dtype of the parameters.
PRECISIONS = ("float32", "bfloat16", "int8")
DEFAULT = PRECISIONS[0]
VARIABLE = "CYLSTM_PRECISION"

_by_variable: list[str] = []  # what the variable says, once it has been read


def check_precision(precision: Any, dtype: Any) -> str | None:
    """The precision of a module of this dtype as its caller gives it, None for none.

    Raises
    ------
    TypeError, ValueError
        If it is no precision, or one that parameters of this dtype do not have.
    """
    expected = f"precision must be {', '.join(map(repr, PRECISIONS))} or None"
    if precision is None:
        return None
    if not isinstance(precision, str):
        raise TypeError(f"{expected}, got {precision!r} of type {type(precision).__name__}")
    if precision not in PRECISIONS:
        raise ValueError(f"{expected}, got {precision!r}")
    name = np.dtype(dtype).name
    if precision != DEFAULT and name != "float32":
        raise ValueError(
            f"precision must be {DEFAULT!r} for parameters of dtype {name}, got {precision!r}, in which float32 is "
            f"computed: use dtype float32, or leave the precision out"
        )
    return precision


def in_force(given: str | None, dtype: np.dtype) -> str:
    """The precision of a module of this dtype for which `given` was chosen, None where nothing was.

    Raises
    ------
    ValueError
        If ``CYLSTM_PRECISION`` names none.
    """
    if given is not None:
        return given
    return _default() if dtype.name == "float32" else DEFAULT


def refuse_training(precision: str, remedy: str = "set precision = 'float32' where you train") -> None:
    """Raise where gradients are requested in a precision that has none.

    Raises
    ------
    RuntimeError
        If it is not ``"float32"``.
    """
    if precision != DEFAULT:
        raise RuntimeError(
            f"precision must be {DEFAULT!r} for gradients, got {precision!r}, which is for inference only: {remedy}"
        )


def _default() -> str:
    if not _by_variable:
        name = os.environ.get(VARIABLE, "").strip() or DEFAULT
        if name not in PRECISIONS:
            raise ValueError(f"{VARIABLE} must be {' or '.join(PRECISIONS)}, got {name!r}: correct it, or unset it")
        _by_variable.append(name)
    return _by_variable[0]
