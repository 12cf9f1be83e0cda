"""The functions that draw, from a generator or from the default one."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..arrays.arguments import as_dtype
from .generator import Generator

#: The generator of all functions that are called without one.
default_generator = Generator(None)

_REAL = {
    "bfloat16": "bfloat16",
    "float16": "float16",
    "float32": "float32",
    "float64": "float64",
    "complex64": "float32",
    "complex128": "float64",
}


def manual_seed(seed: int) -> Generator:
    """Seed the default generator, like ``torch.manual_seed``.

    Parameters
    ----------
    seed : int
        From -2**63 to 2**64 - 1. As in PyTorch the lowest 32 bits decide.

    Returns
    -------
    Generator
        The default generator.
    """
    return default_generator.manual_seed(seed)


def initial_seed() -> int:
    """The seed the default generator started from."""
    return default_generator.initial_seed()


def get_rng_state() -> np.ndarray:
    """The state of the default generator as (5056,) uint8; ``torch.set_rng_state`` takes it too."""
    return default_generator.get_state()


def set_rng_state(state: Any) -> None:
    """Let the default generator continue from a state of :func:`get_rng_state` or of ``torch.get_rng_state()``."""
    default_generator.set_state(state)


def uniform(
    shape: Sequence[int],
    low: float = 0.0,
    high: float = 1.0,
    dtype: Any = None,
    *,
    generator: Generator | None = None,
) -> np.ndarray:
    """Numbers spread evenly over [low, high), bit for bit those of ``torch.nn.init.uniform_``.

    Parameters
    ----------
    shape : sequence of int
    low, high : float
    dtype : optional
        bfloat16, float16, float32 (the default), float64, complex64 or complex128. The real and the imaginary part
        of a complex number are drawn alike, one after the other.
    generator : Generator, optional

    Returns
    -------
    numpy.ndarray

    Raises
    ------
    RuntimeError
        If ``low > high``, a bound is not finite in ``dtype``, or the dtype is none of these.
    """
    name, size = as_dtype(dtype).name, _checked_size(shape)
    # NumPy's finfo does not know bfloat16.
    largest = 2.0**128 - 2.0**120 if name == "bfloat16" else float(np.finfo(_REAL[name]).max)
    for word, bound in (("low", low), ("high", high)):
        if not -largest <= bound <= largest:
            raise RuntimeError(f"{word} must be finite in {_REAL[name]}, got {bound}")
    if low > high:
        raise RuntimeError(f"low must be at most high, got low={low} and high={high}")
    if high - low > largest:
        raise RuntimeError(f"high - low must be at most {largest}, got low={low} and high={high}")
    n = math.prod(size) * (2 if name.startswith("complex") else 1)
    x = (generator or default_generator)._uniform(n, float(low), float(high), _REAL[name])
    return x.view(name).reshape(size)


def rand(*size: Any, dtype: Any = None, generator: Generator | None = None) -> np.ndarray:
    """Numbers spread evenly over [0, 1), bit for bit those of ``torch.rand``.

    Parameters
    ----------
    *size : int, or one sequence of int
    dtype, generator
        As in :func:`uniform`.
    """
    return uniform(_size_of_arguments("rand", size), dtype=dtype, generator=generator)


def randn(*size: Any, dtype: Any = None, generator: Generator | None = None) -> np.ndarray:
    """Normally distributed numbers with mean 0 and variance 1: those of ``torch.randn``, to 1e-6.

    Parameters
    ----------
    *size : int, or one sequence of int
    dtype, generator
        As in :func:`uniform`. The real and the imaginary part of a complex number have variance 1/2.
    """
    shape, name = _checked_size(_size_of_arguments("randn", size)), as_dtype(dtype).name
    generator = generator or default_generator
    if not name.startswith("complex"):
        return generator._normals(math.prod(shape), name).reshape(shape)
    parts = generator._normals(2 * math.prod(shape), _REAL[name])
    parts *= math.sqrt(0.5)
    return parts.view(name).reshape(shape)


def dropout_mask(
    shape: Sequence[int], p: float, dtype: Any = None, *, generator: Generator | None = None
) -> np.ndarray:
    """What ``torch.dropout`` multiplies by in training: 0 with probability p, else 1 / (1 - p).

    Nothing is drawn where nothing is left to chance (p is 0 or 1), as in PyTorch.

    Parameters
    ----------
    shape : sequence of int
    p : float
        From 0 to 1.
    dtype : optional
        bfloat16, float16, float32 (the default) or float64.
    generator : Generator, optional

    Raises
    ------
    ValueError
        If ``p`` is not in [0, 1].
    RuntimeError
        If the dtype is none of these; PyTorch has no dropout of complex numbers on the CPU either.
    """
    name, size = as_dtype(dtype).name, _checked_size(shape)
    if not 0 <= p <= 1:
        raise ValueError(f"p must be a probability from 0 to 1, got {p}")
    if name.startswith("complex"):
        raise RuntimeError(f"dtype must be real for dropout, got {name}: set dropout=0 or call eval()")
    if p in (0, 1):
        return np.full(size, 1 - p, name)
    generator = generator or default_generator
    kept = generator._kept(math.prod(size), p).reshape(size)
    exact = np.float64 if name == "float64" else np.float32
    return np.where(kept, (exact(1) / exact(1 - p)).astype(name), np.zeros((), name))


def _checked_size(size: Iterable[Any]) -> tuple[int, ...]:
    checked = []
    for n in size:
        if isinstance(n, (bool, np.bool_)):
            raise TypeError(f"size must hold integers, got {n!r} of type bool")
        checked.append(operator.index(n))
    if any(n < 0 for n in checked):
        raise RuntimeError(f"size must hold no negative number, got {tuple(checked)}")
    return tuple(checked)


def _size_of_arguments(function: str, size: tuple[Any, ...]) -> tuple[Any, ...]:
    if not size:
        raise TypeError(f"size must be given, got none: call {function}(2, 3), or {function}(()) for a single number")
    return tuple(size[0]) if len(size) == 1 and isinstance(size[0], Iterable) and not isinstance(size[0], str) else size
