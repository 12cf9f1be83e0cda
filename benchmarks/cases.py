"""The named cases: one table. What each contender runs is made from a case alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Case:
    """One measured task, in PyTorch's words and the symbols of ``cylstm.backends.base``."""

    name: str
    regime: str
    B: int = 1
    T: int = 1
    I: int = 0  # 0: as many as H
    H: int
    layers: int = 1
    bidirectional: bool = False
    proj_size: int = 0
    dtype: str = "float32"
    shortest: int = 0  # ragged where > 0: lengths uniform in shortest ... T
    training: bool = False
    quick: bool = False  # a part of `make bench-quick`

    @property
    def input_size(self) -> int:
        return self.I or self.H

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def recurrent_size(self) -> int:
        return self.proj_size or self.H

    @cached_property
    def lengths(self) -> np.ndarray:
        """Length of each sequence, (B,) int64. The longest has T steps."""
        if not self.shortest:
            return np.full(self.B, self.T)
        lengths = np.random.default_rng(0).integers(self.shortest, self.T + 1, self.B)
        lengths[lengths.argmax()] = self.T
        return lengths

    def layer_sizes(self) -> list[tuple[int, int, int]]:
        """(input, hidden, recurrent) size of each layer."""
        following = self.recurrent_size * self.directions
        return [(following if layer else self.input_size, self.H, self.recurrent_size) for layer in range(self.layers)]

    def flops(self, *, skips_zeros: bool = False) -> int:
        """Floating-point operations of the matrix products: a multiply-add counts two.

        With `skips_zeros`, those of a contender that in a single step from zeros leaves out the state's share.
        """
        rows, state = int(self.lengths.sum()), not (skips_zeros and self.T == 1)
        per_row = sum(8 * H * (I + R * state) + 2 * H * self.proj_size for I, H, R in self.layer_sizes())
        return rows * per_row * self.directions * (3 if self.training else 1)

    def shortened(self, T: int) -> Case:
        """The same with at most T steps, for runs that check values only."""
        return replace(self, T=min(self.T, T), shortest=min(self.shortest, T))


def _regime(regime: str, **cases: dict) -> list[Case]:
    return [Case(name=name.replace("_", "-"), regime=regime, **sizes) for name, sizes in cases.items()]


CASES = [
    *_regime(
        "one step",
        step_h64=dict(H=64, quick=True),
        step_h128=dict(H=128),
        step_h256=dict(H=256, quick=True),
        step_h512=dict(H=512),
        step_2layers_h64=dict(H=64, layers=2),
        step_2layers_h256=dict(H=256, layers=2),
    ),
    *_regime(
        "long",
        long_h64=dict(T=100, H=64, quick=True),
        long_h128=dict(T=100, H=128),
        long_h256=dict(T=100, H=256, quick=True),
        long_h512=dict(T=100, H=512),
        long_h1024=dict(T=100, H=1024),
        long_t50000_h256=dict(T=50_000, H=256),
    ),
    *_regime(
        "small batch",
        b4_t64_h128=dict(B=4, T=64, H=128),
        b8_t100_h256=dict(B=8, T=100, H=256, quick=True),
        b1_bidirectional_h128=dict(T=100, H=128, bidirectional=True),
        b1_bidirectional_h256=dict(T=100, H=256, bidirectional=True, quick=True),
        b1_3layers_h128=dict(T=100, H=128, layers=3),
        b16_3layers_bidirectional_h256=dict(B=16, T=100, I=80, H=256, layers=3, bidirectional=True),
        b7_odd_sizes=dict(B=7, T=61, I=37, H=100, layers=2, bidirectional=True),
    ),
    *_regime(
        "large batch",
        b32_t100_h128=dict(B=32, T=100, H=128),
        b64_t100_h64=dict(B=64, T=100, H=64),
        b64_t100_i128_h256=dict(B=64, T=100, I=128, H=256, quick=True),
        b64_t50_h512=dict(B=64, T=50, H=512),
        b32_t50_h1024=dict(B=32, T=50, H=1024),
        b256_t64_h128=dict(B=256, T=64, H=128),
    ),
    *_regime(
        "ragged, proj_size, float64",
        ragged_b8_h128=dict(B=8, T=100, H=128, shortest=10),
        ragged_b32_i128_h256=dict(B=32, T=100, I=128, H=256, shortest=10, quick=True),
        ragged_b64_bidirectional_h128=dict(B=64, T=100, H=128, shortest=10, bidirectional=True),
        projection_b1_h256_p64=dict(T=100, H=256, proj_size=64),
        projection_b16_i80_h512_p128=dict(B=16, T=100, I=80, H=512, proj_size=128, quick=True),
        float64_b1_h128=dict(T=100, H=128, dtype="float64", quick=True),
        float64_b32_h128=dict(B=32, T=100, H=128, dtype="float64"),
        float64_b64_i128_h256=dict(B=64, T=100, I=128, H=256, dtype="float64"),
    ),
    *_regime(
        "training",
        train_b1_t100_h64=dict(T=100, H=64, training=True),
        train_b16_t64_h64=dict(B=16, T=64, H=64, training=True, quick=True),
        train_b32_t100_i128_h256=dict(B=32, T=100, I=128, H=256, training=True, quick=True),
        train_b64_t50_h512=dict(B=64, T=50, H=512, training=True),
        train_b16_2layers_bidirectional_h128=dict(B=16, T=64, H=128, layers=2, bidirectional=True, training=True),
    ),
    *_regime(
        "training, ragged or float64",
        train_ragged_b32_i128_h256=dict(B=32, T=100, I=128, H=256, shortest=10, training=True, quick=True),
        train_float64_b16_h128=dict(B=16, T=64, H=128, dtype="float64", training=True),
    ),
]


@dataclass(frozen=True)
class Problem:
    """The arrays of a case: what every contender gets."""

    parameters: dict[str, np.ndarray]  # under PyTorch's names
    input: np.ndarray  # (T, B, I), zeros behind the end of a sequence
    grad_output: np.ndarray | None  # (T, B, D R), in training


def make_problem(case: Case) -> Problem:
    """Random parameters, input and gradients for a case; the same ones each time."""
    rng = np.random.default_rng(1)
    parameters = {}
    for layer, (I, H, R) in enumerate(case.layer_sizes()):
        for suffix in (f"_l{layer}", f"_l{layer}_reverse")[: case.directions]:
            shapes = {"weight_ih": (4 * H, I), "weight_hh": (4 * H, R), "bias_ih": (4 * H,), "bias_hh": (4 * H,)}
            if case.proj_size:
                shapes["weight_hr"] = (R, H)
            for field, shape in shapes.items():
                parameters[field + suffix] = rng.uniform(-(H**-0.5), H**-0.5, shape).astype(case.dtype)
    there = np.arange(case.T)[:, None, None] < case.lengths[:, None]
    input = (rng.standard_normal((case.T, case.B, case.input_size)) * there).astype(case.dtype)
    grad_output = None
    if case.training:
        width = case.recurrent_size * case.directions
        grad_output = (rng.standard_normal((case.T, case.B, width)) * there).astype(case.dtype)
    return Problem(parameters, input, grad_output)
