"""Every contender in every case. ``pytest benchmarks`` measures, with ``--benchmark-disable`` it checks values only.

The first test of a case measures all its contenders in turns (``measure.py``); each test then hands its own contender's
times to pytest-benchmark, by a clock that shows them.
"""

from __future__ import annotations

import pytest
from cases import CASES, Case
from contenders import CONTENDERS
from measure import Measured, measure
from session import Session

pytestmark = pytest.mark.filterwarnings("default")  # the peers' warnings are theirs
FASTEST = ("cylstm-cython", "cylstm-cython-stream", "torch-onednn", "torch-native", "onnxruntime")  # in quick runs
BY_NAME = {case.name: case for case in CASES}
CHECK_STEPS = 12  # a run that checks values only cuts the sequences to these
PAIRS = [
    pytest.param(case.name, name, id=f"{case.name}-{name}")
    for case in CASES
    for name, contender in CONTENDERS.items()
    if contender.supports(case)
]


class Replay:
    """A clock that stands still but for `tick`, which moves it by the next of the measured times."""

    def __init__(self) -> None:
        self.time, self.seconds = 0.0, iter(())

    def now(self) -> float:
        return self.time

    def tick(self) -> None:
        self.time = next(self.seconds)


REPLAY = Replay()


@pytest.mark.benchmark(timer=REPLAY.now)
@pytest.mark.parametrize(("case_name", "name"), PAIRS)
def test_case(case_name: str, name: str, session: Session, request: pytest.FixtureRequest, benchmark) -> None:
    case = BY_NAME[case_name]
    if not _wanted(case, name, session):
        pytest.skip("left out of quick runs")
    if not CONTENDERS[name].installed:
        pytest.skip(f"{CONTENDERS[name].needs} is not installed")
    row = _measured(case, name, session, request)
    if row.wrong:
        session.invalid.append({"group": case.name, "contender": name, "reason": row.wrong})
        pytest.fail(f"{name} has no time in {case.name}: {row.wrong}")
    if session.checking:
        benchmark.pedantic(lambda: None)
        return
    session.begin()
    benchmark.group = case.name
    benchmark.extra_info.update(
        case=case.name,
        regime=case.regime,
        contender=name,
        threads=session.threads,
        instruction_set=CONTENDERS[name].instruction_set(),
        error=row.error,
        gflops=case.flops(skips_zeros=CONTENDERS[name].skips_zeros) / row.median / 1e9,
    )
    REPLAY.seconds = iter(row.seconds)

    def start() -> None:
        REPLAY.time = 0.0

    benchmark.pedantic(REPLAY.tick, setup=start, rounds=len(row.seconds), iterations=1)


def _wanted(case: Case, name: str, session: Session) -> bool:
    if session.quick:
        return case.quick and name in FASTEST
    return not session.checking or case.quick or name in FASTEST


def _measured(case: Case, name: str, session: Session, request: pytest.FixtureRequest) -> Measured:
    """The row of one contender; all that are to run in this case are measured when the first of them asks."""
    if session.case != case.name:
        wanted = [
            item.callspec.params["name"]
            for item in request.session.items
            if getattr(item, "callspec", None) and item.callspec.params.get("case_name") == case.name
        ]
        names = [n for n in wanted if CONTENDERS[n].installed and _wanted(case, n, session)]
        task = case.shortened(CHECK_STEPS) if session.checking else case
        session.measured = measure(task, names, session.threads, budget=session.budget)
        session.case = case.name
    return session.measured[name]
