"""A progress bar in plain text, for the command line."""

from __future__ import annotations

import sys
import time
from typing import Self, TextIO

_WIDTH = 30


class Progress:
    """A bar that is drawn over itself on a terminal, and is a line at each tenth of the way elsewhere.

    Parameters
    ----------
    total : int
        How many units there are to do.
    unit : str
        What is counted, in the plural; empty where the numbers tell nobody anything.
    shown : bool, optional
        By default on a terminal only.
    file : text file
        Where it is drawn.
    """

    def __init__(self, total: int, unit: str, *, shown: bool | None = None, file: TextIO | None = None) -> None:
        self.total, self.unit, self.done = total, unit, 0
        self.file = sys.stderr if file is None else file
        self.terminal = self.file.isatty()
        self.shown = self.terminal if shown is None else shown
        self._start = time.perf_counter()
        self._drawn_at, self._drawn_tenth = -1.0, -1
        fancy = (self.file.encoding or "").lower().startswith("utf")
        self._full, self._empty = "█░" if fancy else "#."

    def __enter__(self) -> Self:
        self.advance(0)
        return self

    def __exit__(self, *error: object) -> None:
        if self.shown and self.terminal:
            self._draw()
            print(file=self.file)

    def advance(self, units: int) -> None:
        """So many units more are done."""
        self.done += units
        if not self.shown:
            return
        if self.terminal:
            if time.perf_counter() - self._drawn_at > 0.05:
                self._draw()
        elif (tenth := self._tenths()) != self._drawn_tenth:
            self._drawn_tenth = tenth
            print(self._line(), file=self.file, flush=True)

    def _tenths(self) -> int:
        return 10 * self.done // self.total if self.total else 10

    def _draw(self) -> None:
        self._drawn_at = time.perf_counter()
        print(f"\r{self._line()}\033[K", end="", file=self.file, flush=True)

    def _line(self) -> str:
        share = self.done / self.total if self.total else 1.0
        full = round(share * _WIDTH)
        seconds = time.perf_counter() - self._start
        counted = f"{self.done:{len(f'{self.total:,}')},}/{self.total:,} {self.unit}"
        rate = f"{self.done / seconds:,.0f}/s" if self.done and seconds else "–/s" if self._full == "█" else "-/s"
        left = seconds / share - seconds if share else 0.0
        counts = f"  {counted}  {rate}" if self.unit else ""
        clock = f"{_clock(left)} left" if 0 < share < 1 else _clock(seconds)
        return f"{self._full * full}{self._empty * (_WIDTH - full)} {share:4.0%}{counts}  {clock}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"
