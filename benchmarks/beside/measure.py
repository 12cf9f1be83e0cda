"""All contenders of a cell, a situation and a shape, in turns and in random order."""

from __future__ import annotations

import contextlib
import gc
import random
import statistics
import time
from collections.abc import Sequence
from typing import Any

from machine import settle

from .contenders import Prepared
from .situations import Situation, Turn

#: Threads that wait for each other may make a call last for seconds. Then a cell has fewer rounds.
PATIENCE = 4


class Unavailable(Exception):
    """The system does not let a situation be made."""


def measure_cell(
    situation: Situation, prepared: Prepared, rounds: int, budget: float, rng: random.Random
) -> list[dict[str, Any]]:
    """A row for each contender.

    Parameters
    ----------
    situation : Situation
    prepared : Prepared
    rounds : int
        In each of them every contender has a turn.
    budget : float
        Seconds after which no round begins. Those that a situation has at least begin until four times as many.
    rng : random.Random
        For the order in a round.

    Raises
    ------
    Unavailable
        The situation cannot be had here.
    """
    turns: dict[str, list[Turn]] = {one.name: [] for one in prepared.ready}
    collecting = gc.isenabled()
    gc.disable()
    try:
        with contextlib.ExitStack() as stack:
            try:
                around = stack.enter_context(situation.around())
            except OSError as error:
                raise Unavailable(str(error)) from error
            begin = time.perf_counter()
            for turn in range(rounds):
                patience = budget * (1 if turn >= situation.least else PATIENCE)
                if turn and time.perf_counter() - begin > patience:
                    break
                for one in rng.sample(prepared.ready, len(prepared.ready)):
                    settle()
                    with one.context():
                        turns[one.name].append(situation.turn(one, prepared.pace, around))
    finally:
        if collecting:
            gc.enable()
    return [_row(situation, prepared, name, found) for name, found in turns.items()]


def _row(situation: Situation, prepared: Prepared, name: str, turns: Sequence[Turn]) -> dict[str, Any]:
    figures = [seconds for turn in turns for seconds in turn.figures]
    calls = sorted(seconds for turn in turns for seconds in turn.calls)
    error = prepared.error(name, turns[-1].result)
    row = {
        "situation": situation.key,
        "shape": prepared.shape.name,
        "contender": name,
        "error": error,
        "median": statistics.median(figures),
        "least": min(figures),
        "p90": quantile(calls, 0.9),
        "p99": quantile(calls, 0.99),
        "turns": len(turns),
        "calls": len(calls),
    }
    return {**row, "wrong": f"the error against float64 is {error:.2g}"} if prepared.wrong(error) else row


def quantile(ordered: Sequence[float], share: float) -> float:
    """The least of the ordered numbers that so large a share does not exceed."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
