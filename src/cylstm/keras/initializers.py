"""Keras's initialisers, on the generator of cylstm."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ..arrays.arguments import as_dtype
from ..files.names import either
from ..random import randn, uniform
from ..words import quoted
from .files.contents import snake_case

Initializer = str | Callable[..., Any]

#: Older names.
_OTHERWISE = {"uniform": "random_uniform", "normal": "random_normal", "zero": "zeros", "one": "ones"}


def initializer(value: Initializer) -> Callable[..., Any]:
    """What draws an array of a shape and dtype: a name of Keras's, or the callable itself."""
    if callable(value):
        return value
    name = snake_case(_OTHERWISE.get(value, value)) if isinstance(value, str) else value
    if not isinstance(name, str) or name not in INITIALIZERS:
        raise ValueError(f"initializer must be a callable, {either(map(repr, INITIALIZERS))}, got {quoted(value)}")
    return INITIALIZERS[name]


def _scaled(shape: tuple[int, ...], dtype: Any = None, *, scale: float, mode: str, distribution: str) -> np.ndarray:
    """Keras's VarianceScaling for a matrix (fan_in, fan_out), or such a matrix for each step of a window."""
    window = math.prod(shape[:-2])
    fan_in, fan_out = window * shape[-2 if len(shape) > 1 else 0], window * shape[-1]
    variance = scale / max(1.0, fan_in if mode == "fan_in" else (fan_in + fan_out) / 2)
    if distribution == "uniform":
        limit = math.sqrt(3 * variance)
        return uniform(shape, -limit, limit, dtype)
    return _truncated(shape, math.sqrt(variance) / 0.87962566103423978, dtype)


def _truncated(shape: tuple[int, ...], deviation: float, dtype: Any = None) -> np.ndarray:
    """Normal numbers; those beyond two deviations are drawn again."""
    drawn = randn(*shape, dtype=dtype)
    while (far := np.abs(drawn) > 2).any():
        drawn[far] = randn(int(far.sum()), dtype=dtype)
    return drawn * drawn.dtype.type(deviation)


def _orthogonal(shape: tuple[int, ...], dtype: Any = None) -> np.ndarray:
    """A matrix with orthonormal rows or columns, whichever are fewer; every one of them equally likely."""
    few, many = sorted((math.prod(shape[:-1]), shape[-1]))
    q, r = np.linalg.qr(randn(many, few, dtype=np.float64))
    q *= np.sign(np.diag(r))
    return (q if shape[-1] == few else q.T).reshape(shape).astype(as_dtype(dtype))


def _identity(shape: tuple[int, ...], dtype: Any = None) -> np.ndarray:
    if len(shape) != 2:
        raise ValueError(f"shape must have two dimensions for 'identity', got {shape}")
    return np.eye(*shape, dtype=as_dtype(dtype))


def _random_normal(shape: tuple[int, ...], dtype: Any = None) -> np.ndarray:
    return randn(*shape, dtype=dtype) * as_dtype(dtype).type(0.05)


def _random_uniform(shape: tuple[int, ...], dtype: Any = None) -> np.ndarray:
    return uniform(shape, -0.05, 0.05, dtype)


#: Functions that pickle finds by name, for layers hold them.
INITIALIZERS: dict[str, Callable[..., Any]] = {
    "zeros": np.zeros,
    "ones": np.ones,
    "identity": _identity,
    "orthogonal": _orthogonal,
    "truncated_normal": partial(_truncated, deviation=0.05),
    "random_normal": _random_normal,
    "random_uniform": _random_uniform,
    **{
        f"{name}_{distribution}": partial(_scaled, scale=scale, mode=mode, distribution=distribution)
        for name, scale, mode in (("glorot", 1, "fan_avg"), ("he", 2, "fan_in"), ("lecun", 1, "fan_in"))
        for distribution in ("uniform", "normal")
    },
}
