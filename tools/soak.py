"""``make soak``: many calls, many modules, many threads. Memory must stay where it is after the first tenth.

Each line names what was done, how often, and by how much the resident memory grew; more than 1 MB is a failure.
"""

from __future__ import annotations

import argparse
import os
import threading
from collections.abc import Callable

import numpy as np

import cylstm
import cylstm.optim

LIMIT = 1 << 20


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def os_threads() -> int:
    """Threads of this process."""
    return len(os.listdir("/proc/self/task"))


def lifetime() -> None:
    """A module from its first number to its end: every path that keeps something."""
    lstm = cylstm.LSTM(3, 8, num_layers=2, bidirectional=True)
    x = cylstm.randn(5, 2, 3)
    output, state, pullback = lstm.vjp(x)
    cylstm.optim.Adam(lstm).step(pullback(output, state).parameters)
    lstm.load_state_dict(lstm.state_dict())
    lstm(cylstm.pack_padded_sequence(x, [5, 2]))
    cylstm.LSTM(3, 8).stream()(x[0, 0])


def in_threads(count: int, work: Callable[[], None]) -> None:
    """Run it in so many Python threads at once."""
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def soak(scale: float) -> list[str]:
    """What failed."""
    lstm, x = cylstm.LSTM(32, 64), cylstm.randn(10, 4, 32)
    expected = lstm(x)[0]
    large, y = cylstm.LSTM(64, 128), cylstm.randn(50, 16, 64)
    wrong: list[str] = []

    def call() -> None:
        if not np.array_equal(lstm(x)[0], expected):
            wrong.append("a call gave other bits")

    def gradients() -> None:
        output, _, pullback = large.vjp(y)
        pullback(output)

    def sixty_four() -> None:
        in_threads(64, lambda: [call() for _ in range(20)] and None)

    def refused() -> None:
        try:
            lstm(x[..., :3])
        except RuntimeError:
            return
        wrong.append("a wrong shape was taken")

    work = {
        "calls": (call, 100_000),
        "lifetimes of a module": (lifetime, 10_000),
        "gradients": (gradients, 5_000),
        "times 64 threads of 20 calls": (sixty_four, 200),
        "errors": (refused, 50_000),
    }
    for name, (function, times) in work.items():
        count = max(10, int(times * scale))
        for _ in range(count // 10):
            function()
        before, threads = resident(), os_threads()
        for _ in range(count):
            function()
        grown = resident() - before
        print(f"{count:,} {name}: {grown / 2**20:+.2f} MB, {os_threads()} threads", flush=True)
        if grown > LIMIT:
            wrong.append(f"{name}: memory grew by {grown} bytes")
        if os_threads() > threads + 4:
            wrong.append(f"{name}: {os_threads()} threads, {threads} before")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="this many times the numbers that are promised")
    wrong = soak(parser.parse_args().scale)
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
