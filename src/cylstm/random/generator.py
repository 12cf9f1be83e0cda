"""The Mersenne Twister stream, and the uniform and normal draws on it."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from ..locks import ForkSafe
from .exact import fused_multiply_add

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


class Generator:
    """A Mersenne Twister with PyTorch's seeding and draws. Safe to share among threads.

    Parameters
    ----------
    seed : int or None, optional
        As in :meth:`manual_seed`. Without it the generator starts like a new ``torch.Generator()``; None is a seed
        that cannot be foreseen, taken from the system when first needed.
    """

    def __init__(self, seed: int | None = DEFAULT_SEED) -> None:
        self._guard = ForkSafe(fork_waits=True)  # NumPy's generator has a lock of its own inside
        self._seed = None if seed is None else _checked_seed(seed)
        self._bits: np.random.MT19937 | None = None  # made when first needed
        self._normal: float | None = None  # the second value of a Box-Muller pair

    def __getstate__(self) -> dict[str, Any]:
        """What pickle and copy take along: the stream goes on in both."""
        with self._guard.lock:
            if self._seed is None:
                self.seed()
            return {"seed": self._seed, "twister": self._twister().state, "normal": self._normal}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["seed"])  # type: ignore[misc]
        self._bits, self._normal = np.random.MT19937(0), state["normal"]
        self._bits.state = state["twister"]

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
        with self._guard.lock:
            self._seed, self._bits, self._normal = checked, None, None
        return self

    def seed(self) -> int:
        """Start a stream that cannot be foreseen, and return its seed."""
        with self._guard.lock:
            self.manual_seed(int.from_bytes(os.urandom(8), "little"))
            return self.initial_seed()

    def initial_seed(self) -> int:
        """The seed the stream started from."""
        with self._guard.lock:
            if self._seed is None:
                self.seed()
            assert self._seed is not None
            return self._seed

    def get_state(self) -> np.ndarray:
        """The state as (5056,) uint8, the bytes of ``torch.get_rng_state()``."""
        with self._guard.lock:
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
            raise TypeError(f"state must have dtype uint8, got {array.dtype}: take it from get_rng_state")
        if array.shape != (_TORCH_STATE.itemsize,):
            raise RuntimeError(
                f"state must have shape ({_TORCH_STATE.itemsize},), got {array.shape}: take it from get_rng_state"
            )
        fields = np.frombuffer(array.tobytes(), _TORCH_STATE)[0]
        if not 1 <= fields["left"] <= 624 or fields["key"].max() >= 2**32 or fields["seeded"] != 1:
            raise RuntimeError("state must be a generator's, got other bytes: take it from get_rng_state")
        bits = np.random.MT19937(0)
        key, pos = fields["key"].astype(np.uint32), 625 - int(fields["left"])
        bits.state = {"bit_generator": "MT19937", "state": {"key": key, "pos": pos}}
        with self._guard.lock:
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

    def _kept(self, n: int, p: float) -> np.ndarray:
        """Which of n elements dropout keeps, with probability 1 - p."""
        with self._guard.lock:
            return self._draw_53(n) < 1 - p

    def _seed_64(self) -> int:
        """A number of 64 bits, for random numbers that are drawn elsewhere."""
        with self._guard.lock:
            high, low = self._twister().random_raw(2).tolist()
        return high << 32 | low

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
        with self._guard.lock:
            for start in range(0, n, _CHUNK):
                part = out[start : start + _CHUNK]
                x = self._draw(len(part), dtype)
                if dtype == "float64":
                    part[:] = fused_multiply_add(x, high - low, low)
                else:  # 24 bits times 24 bits are exact in float64
                    x *= float(np.float32(high) - np.float32(low))
                    x += float(np.float32(low))
                    part[:] = x.astype(np.float32)
                part[part >= part.dtype.type(high)] = low
        return out

    def _normals(self, n: int, dtype: str) -> np.ndarray:
        """n standard normal numbers in a real dtype."""
        with self._guard.lock:
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


def _checked_seed(seed: Any) -> int:
    number = int(seed)  # what torch.manual_seed does; None and text that is no number raise here
    if not -(2**63) <= number < 2**64:
        raise ValueError(f"seed must be from -2**63 to 2**64 - 1, got {number}")
    return number % 2**64
