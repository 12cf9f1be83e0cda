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

import numpy as np
from cases import Case, make_problem
from contenders import CONTENDERS, Runner, Values, reference

#: Largest error against float64 that a result may have: of the output and the states, which are below 1; of a gradient
#: relative to its largest element.
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}
GRADIENT_TOLERANCE = {"float32": 1e-4, "float64": 1e-11}
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
                measured[name] = _judge(case, runner.values(runner.call()), expected)
        except Exception as error:  # of any contender, on any machine: it has no result
            measured[name] = Measured(float("nan"), f"{type(error).__name__}: {error}")
            continue
        if not measured[name].wrong:
            measured[name].seconds = seconds
            runners[name] = runner
    if budget:
        _time(runners, measured, budget, rounds)
        for name, runner in runners.items():  # what was timed: threads that are awake may go another way
            with runner.context():
                _warm(runner)
                again = _judge(case, runner.values(runner.call()), expected)
            if again.wrong:
                measured[name] = again
    return measured


def _judge(case: Case, got: Values, expected: Values) -> Measured:
    """How far the values are from those in float64."""
    tolerance = (GRADIENT_TOLERANCE if case.training else TOLERANCE)[case.dtype]
    if (missing := expected.keys() - got.keys()) and got.keys() != {"output"}:  # which is all that Keras gives
        return Measured(float("nan"), f"without {', '.join(sorted(missing))}")
    worst = 0.0
    for name, array in got.items():
        if array.shape != expected[name].shape:
            return Measured(float("nan"), f"{name} has shape {array.shape} instead of {expected[name].shape}")
        error = np.abs(array - expected[name]).max()
        worst = np.maximum(worst, error / np.abs(expected[name]).max() if case.training else error)  # nan stays
    wrong = "" if worst <= tolerance else f"the error against float64 is {worst:.2g}, above {tolerance:g}"
    return Measured(float(worst), wrong)


def _time(runners: dict[str, Runner], measured: dict[str, Measured], budget: float, rounds: int) -> None:
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


def settle(at_most: float = 0.25) -> None:
    """Wait until no thread of this process spins: pools go on for 10 to 40 ms, not all visibly."""
    time.sleep(0.05)
    end = time.perf_counter() + at_most
    while time.perf_counter() < end:
        wall, busy = time.perf_counter(), time.process_time()
        time.sleep(0.002)
        if time.process_time() - busy < 0.1 * (time.perf_counter() - wall):
            return
