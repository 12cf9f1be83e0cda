"""The expected values of a case, in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from cases import Case, Problem

from .base import Contender, Values
from .ours import CyLSTM
from .pytorch import Torch


def judge() -> Contender:
    """Who computes the expected values: PyTorch without oneDNN, or where it is not installed the numpy backend."""
    return torch if (torch := Torch(onednn=False)).installed else CyLSTM("numpy")


def reference(case: Case, problem: Problem, threads: int) -> Values:
    """The values in float64, by the `judge`."""

    def double(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else array.astype(np.float64)

    wide = Problem(
        {name: double(array) for name, array in problem.parameters.items()},
        double(problem.input),
        double(problem.grad_output),
    )
    runner = judge().prepare(replace(case, dtype="float64"), wide, threads)
    with runner.context():
        return runner.values(runner.call())
