"""PyTorch's CPU random numbers in plain NumPy: the Mersenne Twister stream, and the uniform and normal draws on it.

The same seed gives what ``torch.manual_seed`` gives on the CPU: :func:`uniform`, :func:`rand` and
:func:`dropout_mask` bit for bit, :func:`randn` to 1e-6 (its logarithm, sine and cosine are NumPy's). Conventions
followed, all of PyTorch 2.13:

- one 32-bit word gives a number of at most 24 bits (float32 and the dtypes of 16 bits), two words, the high one first,
  give 53 bits;
- ``x * (high - low) + low`` is rounded once, and a result that rounds up to ``high`` becomes ``low``;
- complex numbers are pairs (real, imaginary) of real draws;
- fewer than 16 normal numbers come from a Box-Muller pair in float64 whose second value waits for the next call;
  16 or more come in blocks of 8 radii and 8 angles, and an incomplete last block is drawn again as the last 16;
- dropout keeps an element where 53 bits are below ``1 - p``. (PyTorch on an Intel CPU asks MKL's own generator
  instead, so there its masks differ; everywhere else they are these.)

Nothing is drawn or seeded before it is needed, and NumPy's global generator is never touched.
"""

from __future__ import annotations

import math
import operator
import os
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .arrays.arguments import as_dtype

__all__ = [
    "Generator",
    "default_generator",
    "dropout_mask",
    "get_rng_state",
    "initial_seed",
    "manual_seed",
    "rand",
    "randn",
    "set_rng_state",
    "uniform",
]

#: The seed of a new ``torch.Generator()``.
DEFAULT_SEED = 67280421310721

#: Layout of the 5056 bytes of ``torch.get_rng_state()``. ``left`` words of the block remain, counting the next one.
_TORCH_STATE = np.dtype(
    [
        ("seed", "<u8"),
        ("left", "<i4"),
        ("seeded", "<i4"),
        ("next", "<u8"),
        ("key", "<u8", 624),
        ("unused", "<f8"),
        ("normal", "<f8"),
        ("unused_2", "<f8"),
        ("normal_is_valid", "<i4"),
        ("padding", "V4"),
        ("normal_float", "<f4"),
        ("normal_float_is_valid", "u1"),
        ("padding_2", "V3"),
    ]
)

_CHUNK = 1 << 14  # numbers worked on at a time, so that the intermediate arrays stay in the cache

_REAL = {
    "bfloat16": "bfloat16",
    "float16": "float16",
    "float32": "float32",
    "float64": "float64",
    "complex64": "float32",
    "complex128": "float64",
}


class Generator:
    """A Mersenne Twister with PyTorch's seeding and draws. Safe to share among threads.

    Parameters
    ----------
    seed : int or None, optional
        As in :meth:`manual_seed`. Without it the generator starts like a new ``torch.Generator()``; None is a seed
        that cannot be foreseen, taken from the system when first needed.
    """

    def __init__(self, seed: int | None = DEFAULT_SEED) -> None:
        self._lock = threading.RLock()
        self._seed = None if seed is None else _checked_seed(seed)
        self._bits: np.random.MT19937 | None = None  # made when first needed
        self._normal: float | None = None  # the second value of a Box-Muller pair

    def manual_seed(self, seed: int) -> Generator:
        """Start the stream of this seed.

        Parameters
        ----------
        seed : int
            From -2**63 to 2**64 - 1; a negative one counts from 2**64. As in PyTorch the lowest 32 bits decide.

        Returns
        -------
        Generator
            Itself.

        Raises
        ------
        TypeError
            If ``seed`` is not a number.
        ValueError
            If it is out of range.
        """
        checked = _checked_seed(seed)
        with self._lock:
            self._seed, self._bits, self._normal = checked, None, None
        return self

    def seed(self) -> int:
        """Start a stream that cannot be foreseen, and return its seed."""
        with self._lock:
            self.manual_seed(int.from_bytes(os.urandom(8), "little"))
            return self.initial_seed()

    def initial_seed(self) -> int:
        """The seed the stream started from."""
        with self._lock:
            if self._seed is None:
                self.seed()
            assert self._seed is not None
            return self._seed

    def get_state(self) -> np.ndarray:
        """The state as (5056,) uint8, the bytes of ``torch.get_rng_state()``."""
        with self._lock:
            twister = self._twister().state["state"]
            state = np.zeros((), _TORCH_STATE)
            state["seed"], state["seeded"] = self._seed, 1
            state["key"], state["next"], state["left"] = twister["key"], twister["pos"], 625 - twister["pos"]
            if self._normal is not None:
                state["normal"], state["normal_is_valid"] = self._normal, 1
        return np.frombuffer(state.tobytes(), np.uint8).copy()

    def set_state(self, state: Any) -> Generator:
        """Continue from a state of :meth:`get_state` or of ``torch.get_rng_state()``.

        Raises
        ------
        TypeError
            If ``state`` is not an array of uint8.
        RuntimeError
            If it does not have 5056 elements, or they are not a state.
        """
        array = np.asarray(state)
        if array.dtype != np.uint8:
            raise TypeError(f"expected a state of dtype uint8, as get_rng_state gives, got {array.dtype}")
        if array.shape != (_TORCH_STATE.itemsize,):
            raise RuntimeError(f"expected a state of shape ({_TORCH_STATE.itemsize},), got {array.shape}")
        fields = np.frombuffer(array.tobytes(), _TORCH_STATE)[0]
        if not 1 <= fields["left"] <= 624 or fields["key"].max() >= 2**32 or fields["seeded"] != 1:
            raise RuntimeError("expected a state that get_rng_state gave, got other bytes")
        bits = np.random.MT19937(0)
        key, pos = fields["key"].astype(np.uint32), 625 - int(fields["left"])
        bits.state = {"bit_generator": "MT19937", "state": {"key": key, "pos": pos}}
        with self._lock:
            self._seed, self._bits = int(fields["seed"]), bits
            self._normal = float(fields["normal"]) if fields["normal_is_valid"] else None
        return self

    def _twister(self) -> np.random.MT19937:
        if self._bits is None:
            # RandomState has the classical seeding by one 32-bit word, which is PyTorch's.
            seeded: Any = np.random.RandomState(self.initial_seed() & 0xFFFFFFFF).get_state(legacy=False)
            self._bits = np.random.MT19937(0)
            self._bits.state = seeded
        return self._bits

    def _draw_24(self, n: int) -> np.ndarray:
        """n float64 numbers of [0, 1) with 24 bits each."""
        words = self._twister().random_raw(n)
        words &= (1 << 24) - 1
        return words * 2.0**-24

    def _draw_53(self, n: int) -> np.ndarray:
        """n float64 numbers of [0, 1) with 53 bits each."""
        words = self._twister().random_raw(2 * n).reshape(n, 2)
        return (((words[:, 0] << np.uint64(32)) | words[:, 1]) & np.uint64((1 << 53) - 1)) * 2.0**-53

    def _draw(self, n: int, dtype: str) -> np.ndarray:
        """n numbers of [0, 1) as PyTorch draws them for a real dtype, still in float64."""
        return self._draw_53(n) if dtype == "float64" else self._draw_24(n)

    def _uniform(self, n: int, low: float, high: float, dtype: str) -> np.ndarray:
        """n numbers of [low, high) in a real dtype."""
        out = np.empty(n, dtype)
        with self._lock:
            for start in range(0, n, _CHUNK):
                part = out[start : start + _CHUNK]
                x = self._draw(len(part), dtype)
                if dtype == "float64":
                    part[:] = _fma(x, high - low, low)
                else:  # 24 bits times 24 bits are exact in float64
                    x *= float(np.float32(high) - np.float32(low))
                    x += float(np.float32(low))
                    part[:] = x.astype(np.float32)
                part[part >= part.dtype.type(high)] = low
        return out

    def _normals(self, n: int, dtype: str) -> np.ndarray:
        """n standard normal numbers in a real dtype."""
        with self._lock:
            if n < 16:
                return self._few_normals(n).astype(dtype)
            whole = n - n % 16
            first = self._draw(whole if dtype in ("float16", "bfloat16") else n, dtype)[:whole]
            last = self._draw(16, dtype) if whole < n else None
        x = np.empty(n, dtype)
        x[:whole] = _box_muller(first, dtype)
        if last is not None:
            x[-16:] = _box_muller(last, dtype)
        return x

    def _few_normals(self, n: int) -> np.ndarray:
        waiting = [] if self._normal is None or n == 0 else [self._normal]
        pairs = (n - len(waiting) + 1) // 2
        u = self._draw_53(2 * pairs).reshape(pairs, 2)
        radius, angle = np.sqrt(-2.0 * np.log1p(-u[:, 1])), 2.0 * math.pi * u[:, 0]
        x = np.concatenate([waiting, np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()])
        if n > 0:
            self._normal = float(x[-1]) if len(x) > n else None
        return x[:n]


def _box_muller(u: np.ndarray, dtype: str) -> np.ndarray:
    """Normal numbers of float64 draws u, in blocks of 16: 8 radii, 8 angles. Rounded where PyTorch rounds."""
    step: Any = np.float64 if dtype == "float64" else np.float32
    u = u.reshape(-1, 2, 8)
    # The functions in float64, their results rounded: at most half a unit from the true value.
    radius = np.sqrt(step(-2) * np.log(1 - u[:, 0]).astype(step))
    angle = (step(2 * math.pi) * u[:, 1].astype(step)).astype(np.float64)
    return np.stack([radius * np.cos(angle).astype(step), radius * np.sin(angle).astype(step)], axis=1).ravel()


def _fma(x: np.ndarray, a: float, b: float) -> np.ndarray:
    """x * a + b of float64 numbers, rounded once, as the fused instruction PyTorch is compiled to.

    Dekker's exact product and Knuth's exact sum; the parts that remain are added with rounding to odd (Boldo and
    Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
    """
    product, product_error = _two_product(x, a)
    high, low = _two_sum(np.float64(b), product_error)
    high, high_error = _two_sum(product, high)
    rest, rest_error = _two_sum(low, high_error)
    bits = rest.view(np.int64)
    to_odd = (rest_error != 0) & (bits & 1 == 0)
    bits += np.where(to_odd, np.where((rest_error > 0) == (rest > 0), 1, -1), 0)
    return high + rest


def _two_product(x: np.ndarray, a: float) -> tuple[np.ndarray, np.ndarray]:
    """x * a as a rounded product and its exact error."""
    split = 2.0**27 + 1
    x_high = split * x - (split * x - x)
    a_high = split * a - (split * a - a)
    x_low, a_low = x - x_high, a - a_high
    product = x * a
    return product, ((x_high * a_high - product) + x_high * a_low + x_low * a_high) + x_low * a_low


def _two_sum(a: Any, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a + b as a rounded sum and its exact error."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


#: The generator of all functions that are called without one.
default_generator = Generator(None)


def _renew_lock() -> None:
    default_generator._lock = threading.RLock()


if hasattr(os, "register_at_fork"):  # a lock that another thread held when the process forked is never released
    os.register_at_fork(after_in_child=_renew_lock)


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
            raise RuntimeError(f"{word} is out of bounds for {_REAL[name]}: expected a finite number, got {bound}")
    if low > high:
        raise RuntimeError(f"expected low <= high, got low={low} and high={high}")
    if high - low > largest:
        raise RuntimeError(f"expected high - low <= {largest}, got low={low} and high={high}")
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
        raise ValueError(f"expected a dropout probability from 0 to 1, got {p}")
    if name.startswith("complex"):
        raise RuntimeError(f"dropout expects float16, float32 or float64, got {name}: set dropout=0 or call eval()")
    if p in (0, 1):
        return np.full(size, 1 - p, name)
    generator = generator or default_generator
    with generator._lock:
        kept = generator._draw_53(math.prod(size)).reshape(size) < 1 - p
    exact = np.float64 if name == "float64" else np.float32
    return np.where(kept, (exact(1) / exact(1 - p)).astype(name), np.zeros((), name))


def _checked_seed(seed: Any) -> int:
    number = int(seed)  # what torch.manual_seed does; None and text that is no number raise here
    if not -(2**63) <= number < 2**64:
        raise ValueError(f"expected a seed from -2**63 to 2**64 - 1, got {number}")
    return number % 2**64


def _checked_size(size: Iterable[Any]) -> tuple[int, ...]:
    checked = []
    for n in size:
        if isinstance(n, (bool, np.bool_)):
            raise TypeError(f"expected a size of integers, got {n!r} of type bool")
        checked.append(operator.index(n))
    if any(n < 0 for n in checked):
        raise RuntimeError(f"expected a size without negative numbers, got {tuple(checked)}")
    return tuple(checked)


def _size_of_arguments(function: str, size: tuple[Any, ...]) -> tuple[Any, ...]:
    if not size:
        raise TypeError(f"{function}() expects a size: {function}(2, 3), or {function}(()) for a single number")
    return tuple(size[0]) if len(size) == 1 and isinstance(size[0], Iterable) and not isinstance(size[0], str) else size
