"""The backends that are here, for the parametrisation of tests."""

from __future__ import annotations

import numpy as np

import cylstm
from cylstm.backends import registry
from cylstm.backends.registry import UnsupportedError


def names(dtype: str = "float32") -> list[str]:
    """The available backends that support a dtype."""
    found = []
    for info in cylstm.available_backends():
        if info.status == "available":
            try:
                registry.choose(info.name, dtype=np.dtype(dtype).name)
            except UnsupportedError:
                continue
            found.append(info.name)
    return found


def pairs(dtypes: list[str]) -> list[tuple[str, str]]:
    """Each available backend with each of the dtypes that it supports."""
    return [(name, dtype) for dtype in dtypes for name in names(dtype)]
