"""The backends that are here, for the parametrisation of tests."""

from __future__ import annotations

import cylstm
from cylstm.backends import registry
from cylstm.backends.errors import UnsupportedError


def names(dtype: str = "float32") -> list[str]:
    """The available backends that support a dtype."""
    return [info.name for info in cylstm.available_backends() if info.status == "available" and can(info.name, dtype)]


def choices(dtype: str = "float32") -> list[str | None]:
    """The same and, where it supports the dtype, None: the backend in force, which CYLSTM_BACKEND may have named."""
    return [None, *names(dtype)] if can(None, dtype) else [*names(dtype)]


def can(backend: str | None, dtype: str) -> bool:
    """Whether a backend supports a dtype."""
    try:
        registry.choose(backend, dtype=dtype)
    except UnsupportedError:
        return False
    return True


def on_gpu() -> bool:
    """Whether ``device="cuda"`` works, with the backend in force."""
    try:
        registry.choose(dtype="float32", device="cuda")
    except cylstm.BackendError:
        return False
    return True


def pairs(dtypes: list[str]) -> list[tuple[str, str]]:
    """Each available backend with each of the dtypes that it supports."""
    return [(name, dtype) for dtype in dtypes for name in names(dtype)]
