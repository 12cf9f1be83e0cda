"""What a contender is: it prepares a case, and then runs it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from cases import Case, Problem

Values = dict[str, np.ndarray]  # output (T, B, D R), h_n, c_n; in training the gradients instead, under PyTorch's names


@dataclass
class Runner:
    """One contender, ready for one case."""

    call: Callable[[], Any]
    values: Callable[[Any], Values]  # what a call has returned, as NumPy arrays
    context: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext  # around a block of calls


class Contender:
    """Base class. A contender is made without side effects; `prepare` may load what it needs."""

    name = ""
    needs: tuple[str, ...] = ()  # the packages that have to be installed
    peer = True
    skips_zeros = False  # a single step without a given state leaves out the state's share

    @property
    def missing(self) -> str:
        """The first of the packages that is not installed; "" if all are."""
        return next((name for name in self.needs if find_spec(name) is None), "")

    @property
    def installed(self) -> bool:
        return not self.missing

    def supports(self, case: Case) -> bool:
        return True

    def prepare(self, case: Case, problem: Problem, threads: int) -> Runner:
        raise NotImplementedError

    def instruction_set(self) -> str:
        return ""  # it does not tell
