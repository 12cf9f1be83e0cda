"""Values first, then time: all contenders of a case in turns, so that a noisy machine is noisy for each of them.

Noise also lasts for seconds to minutes, and where arrays happen to lie matters. So a full run measures each case in
several passes over the whole table, minutes apart and with fresh arrays, and takes the median of all rounds.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from cases import Case, make_problem
from contenders import CONTENDERS, Runner, reference
from machine import settle
from values import check

#: Rounds that all contenders of a case take part in, and how many times slower than the fastest of ours or of the peers
#: one is that then stops.
ALL, BEHIND = 5, 3
#: Seconds that a block of calls lasts at least, that unmeasured calls go before it, and a call that needs none of them.
BLOCK, WARM, LONG = 0.005, 0.003, 0.02


@dataclass
class Measured:
    """One contender in one case."""

    error: float  # largest, against float64
    wrong: str = ""  # why the result is wrong, or why there is none; then there are no seconds
    seconds: list[float] = field(default_factory=list)  # of one call, one number per block
    calls: int = 1  # in the last block

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def measure(
    case: Case,
    names: Iterable[str],
    threads: int,
    *,
    budget: float,
    rounds: int = 15,
    earlier: dict[str, Measured] | None = None,
) -> dict[str, Measured]:
    """Check and time contenders.

    Parameters
    ----------
    case : Case
    names : iterable of str
        Of contenders that support the case.
    threads : int
        For each of them.
    budget : float
        Seconds for the rounds after the first five, in which contenders that are far behind take no part; pauses not
        counted. 0 checks the values only.
    rounds : int
        Blocks per contender at most.
    earlier : dict, optional
        What the last pass returned. Those that were right and not far behind are checked again and get further rounds.

    Returns
    -------
    dict
        Name to `Measured`.
    """
    problem = make_problem(case)
    expected = reference(case, problem, threads)
    measured, runners = dict(earlier or {}), {}
    for name in _near(measured) if earlier else names:
        seconds = list(measured[name].seconds) if earlier else []
        try:
            runner = CONTENDERS[name].prepare(case, problem, threads)
            with runner.context():
                measured[name] = Measured(*check(case, runner.values(runner.call()), expected))
        except Exception as error:  # of any contender, on any machine: it has no result
            measured[name] = Measured(float("nan"), f"{type(error).__name__}: {error}")
            continue
        if not measured[name].wrong:
            measured[name].seconds = seconds
            runners[name] = runner
    if budget:
        time_in_turns(runners, measured, budget, rounds)
        for name, runner in runners.items():  # what was timed: threads that are awake may go another way
            with runner.context():
                _warm(runner)
                again = check(case, runner.values(runner.call()), expected)
            if again.wrong:
                measured[name] = Measured(*again)
    return measured


def time_in_turns(runners: dict[str, Runner], measured: dict[str, Measured], budget: float, rounds: int) -> None:
    """Add blocks of calls of each contender, one of each in every round, to what was measured of it."""
    names, spent = list(runners), 0.0
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(rounds if names else 0):
            if turn == ALL:
                names, spent = _near({name: measured[name] for name in names}), 0.0
            if turn >= ALL and spent > budget:
                break
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                row = measured[name]
                settle()
                begin = time.perf_counter()
                with runners[name].context():
                    if not row.seconds or min(row.seconds) < LONG:
                        warm = _warm(runners[name])
                        row.calls = max(1, int(BLOCK / min([warm, *row.seconds])))
                    row.seconds.append(_block(runners[name], row.calls) / row.calls)
                spent += time.perf_counter() - begin
    finally:
        if collecting:
            gc.enable()


def _near(measured: dict[str, Measured]) -> list[str]:
    """The contenders that are right and not far behind the fastest of ours, or of the peers."""
    names = [name for name, row in measured.items() if not row.wrong]
    near = []
    for side in (True, False):
        medians = {name: measured[name].median for name in names if name.startswith("cylstm") is side}
        near += [name for name, median in medians.items() if median < BEHIND * min(medians.values())]
    return near


def _block(runner: Runner, calls: int) -> float:
    call = runner.call
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    return time.perf_counter() - begin


def _warm(runner: Runner) -> float:
    """Seconds of the last of a few calls: threads wake up, weights are in the cache again."""
    end, calls, seconds = time.perf_counter() + WARM, 0, 0.0
    while calls < 3 or time.perf_counter() < end:
        seconds = _block(runner, 1)
        calls += 1
    return seconds
