"""The situations: what is around a call, and how it is timed in it.

A turn is what one contender does before it is the next one's: an unmeasured call or some, then those that count. In
each situation it is the same for all contenders.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from threading import Barrier, Thread
from typing import Any

from .contenders import LABELS, Ready
from .others import Taker, busy, quota, taker

#: Seconds that a turn lasts: alone, beside busy processes (some of the scheduler's time slices), under a quota (some of
#: its periods), of several Python threads, and until a processor is taken away.
ALONE, BESIDE, QUOTA, THREADS, TAKEN_AFTER = 0.005, 0.06, 0.25, 0.12, 0.01
#: Measured calls of a turn, each after the same neighbour or rest: as many as take this long, from 1 to MOST.
FOLLOWING, MOST = 0.1, 6
#: What a quick run measures, as on the command line.
QUICK = "a,b,c: 5 ms,d,e: 4,f: after 30 ms,g"
TITLES = {
    "a": "alone, in a loop",
    "b": "right after a neighbour's call",
    "c": "some time after a neighbour's call",
    "d": "beside busy processes",
    "e": "from several Python threads at once",
    "f": "after a rest",
    "g": "with less than two processors",
}


@dataclass
class Turn:
    """What was measured in a turn, in seconds: the figures that count, and every single call."""

    figures: list[float]
    calls: list[float]
    result: Any


@dataclass(frozen=True)
class Situation:
    """What is around a call.

    Attributes
    ----------
    letter, name : str
        The kind of the situation, and what tells it from others.
    turn : callable
        What a contender does, given itself, how long a call of ours takes alone, and what `around` gives.
    around : callable
        A context manager around all turns.
    least : int
        Rounds that a cell has even if they take longer than others may.
    """

    letter: str
    name: str
    turn: Callable[[Ready, float, Any], Turn]
    around: Callable[[], AbstractContextManager] = field(default=contextlib.nullcontext)
    least: int = 3

    @property
    def key(self) -> str:
        return f"{self.letter}: {self.name}"


def situations(neighbours: dict[str, Callable[[], Any]]) -> list[Situation]:
    """All of them; of the neighbours there are an LSTM and a front end of each peer."""
    found = [Situation("a", "alone", _loop(ALONE))]
    for key, call in neighbours.items():
        found.append(Situation("b", f"after {_label(key)}", _following(call, 0)))
    for key, call in neighbours.items():
        if not key.endswith("-front"):
            found += [
                Situation("c", f"{ms} ms after {_label(key)}", _following(call, ms / 1000)) for ms in (1, 5, 20, 80)
            ]
    for count, words in ((1, "one busy process"), (2, "two busy processes")):
        found.append(Situation("d", f"beside {words}", _loop(BESIDE), lambda count=count: busy(count)))
    found += [Situation("e", f"{n} Python thread{'s' * (n > 1)}", _threads(n)) for n in (1, 2, 4, 8)]
    found += [Situation("f", f"after {ms} ms of rest", _following(None, ms / 1000)) for ms in (1, 10, 30, 100)]
    found.append(Situation("f", "after 1 s of rest", _following(None, 1.0), least=2))
    found.append(Situation("g", "quota of 1.5 processors", _loop(QUOTA), quota))
    found.append(Situation("g", "one processor taken away", _taken, taker))
    return found


def _label(key: str) -> str:
    name, _, front = key.partition("-")
    return LABELS[name] + (", front end" if front else "")


def warm(call: Callable[[], Any], seconds: float = 0.003) -> None:
    """A few calls: weights are in the cache again."""
    end = time.perf_counter() + seconds
    call()
    while time.perf_counter() < end:
        call()


def _loop(seconds: float) -> Callable[[Ready, float, Any], Turn]:
    """Calls one after the other; what counts is their mean."""

    def turn(ready: Ready, pace: float, _: Any) -> Turn:
        warm(ready.call)
        calls, result = _calls(ready.call, seconds)
        return Turn([sum(calls) / len(calls)], calls, result)

    return turn


def _calls(call: Callable[[], Any], seconds: float) -> tuple[list[float], Any]:
    clock, times = time.perf_counter, []
    now = begin = clock()
    while True:
        result = call()
        before, now = now, clock()
        times.append(now - before)
        if now - begin >= seconds:
            return times, result


def _following(neighbour: Callable[[], Any] | None, rest: float) -> Callable[[Ready, float, Any], Turn]:
    """Single calls, each after a neighbour's or a rest or both; each counts."""

    def turn(ready: Ready, pace: float, _: Any) -> Turn:
        call, clock, times = ready.call, time.perf_counter, []
        warm(call)
        for _ in range(min(MOST, max(1, int(FOLLOWING / (pace + rest + 0.005))))):
            if neighbour:
                neighbour()
            if rest:
                time.sleep(rest)
            begin = clock()
            result = call()
            times.append(clock() - begin)
        return Turn(times, times, result)

    return turn


def _threads(count: int) -> Callable[[Ready, float, Any], Turn]:
    """Calls of several Python threads in loops; what counts is the time for all over the number of calls."""

    def turn(ready: Ready, pace: float, _: Any) -> Turn:
        start = Barrier(count + 1)
        seconds = max(THREADS, 2 * count * pace)
        done: list[tuple[list[float], Any]] = []
        failed: list[BaseException] = []

        def work() -> None:
            try:
                with ready.context():
                    call = ready.another()
                    call()
                    start.wait()
                    done.append(_calls(call, seconds))
            except BaseException as error:
                failed.append(error)
                start.abort()

        workers = [Thread(target=work) for _ in range(count)]
        for worker in workers:
            worker.start()
        with contextlib.suppress(RuntimeError):  # broken by one that failed
            start.wait()
        begin = time.perf_counter()
        for worker in workers:
            worker.join()
        wall = time.perf_counter() - begin
        if failed:
            raise failed[0]
        calls = [seconds for times, _ in done for seconds in times]
        return Turn([wall / len(calls)], calls, done[-1][1])

    return turn


def _taken(ready: Ready, pace: float, around: Taker) -> Turn:
    """Calls for 40 ms, at least one; after 10 ms a processor is taken away until their end."""
    warm(ready.call)
    while True:
        around.take(TAKEN_AFTER)
        times, result = _calls(ready.call, 4 * TAKEN_AFTER)
        if around.give():  # else the process that takes it was late
            return Turn([sum(times) / len(times)], times, result)
