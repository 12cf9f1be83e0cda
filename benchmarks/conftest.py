"""Options of ``pytest benchmarks``, and the fixture by which every benchmark checks and times a contender."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import machine
import pytest
from cases import CASES, Case, make_problem
from contenders import CONTENDERS, FASTEST, Values, judge, reference
from pytest_benchmark.logger import PytestBenchmarkWarning
from values import check

BY_NAME = {case.name: case for case in CASES}
CHECK_STEPS = 12  # a run that checks values only cuts the sequences to these


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bench-threads", type=int, default=2, help="threads of every contender (2)")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # Of --benchmark-compare where versions differ: a warning, no error.
    warnings.filterwarnings("default", category=PytestBenchmarkWarning)


def pytest_report_header() -> str:
    here = [name for name, contender in CONTENDERS.items() if contender.installed]
    return f"benchmarks: {', '.join(here)}; values against {judge().name} in float64"


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, Any]:
    return machine.facts()


@lru_cache(maxsize=1)
def expected(case: Case, threads: int) -> Values:
    return reference(case, make_problem(case), threads)


@pytest.fixture
def run(benchmark: Any, request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Prepare a contender for a case, compare its values with float64, time its call; all by their names."""

    def run(case_name: str, name: str) -> None:
        case, contender = BY_NAME[case_name], CONTENDERS[name]
        threads: int = request.config.getoption("bench_threads")
        if contender.missing:
            pytest.skip(f"{contender.missing} is not installed")
        if request.config.getoption("benchmark_disable"):
            if not case.quick and name not in FASTEST:
                pytest.skip("slow, and no other code than in the quick cases")
            case = case.shortened(CHECK_STEPS)
        runner = contender.prepare(case, make_problem(case), threads)
        with runner.context():
            error, wrong = check(case, runner.values(runner.call()), expected(case, threads))
            assert not wrong, f"{name} in {case.name}: {wrong}"
            benchmark.group = case.name
            benchmark.extra_info.update(error=error, threads=threads, instruction_set=contender.instruction_set())
            if not benchmark.disabled:
                machine.settle()
            benchmark(runner.call)

    return run
