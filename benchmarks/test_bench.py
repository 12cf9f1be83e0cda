"""Every contender in every case. ``pytest benchmarks`` measures, with ``--benchmark-disable`` it checks values only.

`test_pass` measures all contenders of a case in turns (``measure.py``), once in each pass over the table but the last.
There the first test of a case does so, and each test hands its own contender's times of all passes to pytest-benchmark,
by a clock that shows them.
"""

from __future__ import annotations

import pytest
from cases import CASES, Case
from contenders import CONTENDERS
from measure import measure
from session import KEY, Session

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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.function is test_pass:
        passes = range(1, metafunc.config.stash[KEY].passes)
        names = [pytest.param(name, id=f"{name}-pass{number}") for number in passes for name in BY_NAME]
        metafunc.parametrize("case_name", names)


def test_pass(case_name: str, session: Session, request: pytest.FixtureRequest) -> None:
    session.begin()
    _measure(BY_NAME[case_name], session, request)


@pytest.mark.benchmark(timer=REPLAY.now)
@pytest.mark.parametrize(("case_name", "name"), PAIRS)
def test_case(case_name: str, name: str, session: Session, request: pytest.FixtureRequest, benchmark) -> None:
    case = BY_NAME[case_name]
    if not _wanted(case, name, session):
        pytest.skip("left out of quick runs")
    if not CONTENDERS[name].installed:
        pytest.skip(f"{CONTENDERS[name].needs} is not installed")
    if session.last != case.name:
        _measure(case, session, request)
        session.last = case.name
    row = session.measured[case.name][name]
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


def _measure(case: Case, session: Session, request: pytest.FixtureRequest) -> None:
    """Measure all contenders that are to run in this case, in a later pass those that are not far behind."""
    wanted = [
        item.callspec.params["name"]
        for item in request.session.items
        if getattr(item, "function", None) is test_case and item.callspec.params["case_name"] == case.name
    ]
    names = [name for name in wanted if CONTENDERS[name].installed and _wanted(case, name, session)]
    session.measured[case.name] = measure(
        case.shortened(CHECK_STEPS) if session.checking else case,
        names,
        session.threads,
        budget=session.budget,
        earlier=session.measured.get(case.name),
    )
