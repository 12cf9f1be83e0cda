"""What the tests of one run of the benchmarks share."""

from __future__ import annotations

import os

import pytest
from measure import Measured
from roofline import Limits, measure_limits

KEY = pytest.StashKey["Session"]()  # where pytest's configuration has it


class Session:
    """The settings, the limits of the machine, what was measured."""

    def __init__(self, config: pytest.Config) -> None:
        self.threads: int = config.getoption("bench_threads")
        self.checking = config.getoption("benchmark_disable")  # values only
        self.quick = config.getoption("bench_quick")
        self.budget = 0.0 if self.checking else 0.3 if self.quick else 2.5
        self.passes = 1 if self.checking or self.quick else 3  # over the table
        self.load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")  # of others, before the run
        self.limits: Limits | None = None
        self.last = ""  # case whose last pass is done
        self.measured: dict[str, dict[str, Measured]] = {}  # case to contender to its row
        self.invalid: list[dict[str, str]] = []

    def begin(self) -> None:
        """Measure the limits of the machine, once."""
        if self.limits is None:
            self.limits = self._measure_limits()

    def end(self) -> Limits | None:
        """The limits, measured once more: the machine may have been busy at the beginning."""
        return self.limits and self.limits.better(self._measure_limits())

    def _measure_limits(self) -> Limits:
        return measure_limits(self.threads, 10 if self.quick else 30)
