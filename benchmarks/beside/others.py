"""Other processes on the same processors, and a CPU quota. They go when the measurement goes."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

#: Ends by itself where the process that started it has gone.
BUSY = """
import os, sys
parent = os.getppid()
print("here", flush=True)
while os.getppid() == parent:
    for _ in range(100_000):
        pass
"""
TAKER = "from beside.others import take_processors; take_processors()"
PERIOD, QUOTA = 100_000, 150_000  # microseconds: one and a half processors


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that compute without end, of the same priority."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(_child(BUSY))
        yield


@contextlib.contextmanager
def _child(code: str) -> Iterator[subprocess.Popen]:
    """A process of Python that has said that it runs. Ctrl-C is not for it: it is ended.

    A session of its own would give it a share of its own of the processors.
    """
    here = str(Path(__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": here}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}
    process = subprocess.Popen([sys.executable, "-c", code], env=env, process_group=0, **pipes)
    try:
        if process.stdout.readline() != b"here\n":  # type: ignore[union-attr]
            raise RuntimeError(f"a process must say that it is here, got its end: {code.strip().splitlines()[-1]}")
        yield process
    finally:
        process.kill()
        process.communicate()


class Taker:
    """Takes a processor away from this process, while it computes: see `taker`."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.process = process

    def take(self, after: float) -> None:
        """In so many seconds all threads of this process leave one processor."""
        self.process.stdin.write(f"{after}\n".encode())  # type: ignore[union-attr]

    def give(self) -> bool:
        """All may run everywhere again. Returns whether the time had come."""
        self.process.stdin.write(b"give\n")  # type: ignore[union-attr]
        return self.process.stdout.readline() == b"taken\n"  # type: ignore[union-attr]


@contextlib.contextmanager
def taker() -> Iterator[Taker]:
    """A process that can take one processor away from this one, as a control group or a scheduler does."""
    with _child(TAKER) as process:
        yield Taker(process)


def take_processors() -> None:
    """What the process of `taker` runs: lines with a number of seconds, each followed by one with ``give``."""
    parent = os.getppid()
    with contextlib.suppress(OSError, AttributeError):  # it comes in time where the system allows it
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    print("here", flush=True)
    while line := sys.stdin.buffer.raw.readline():  # type: ignore[attr-defined]
        in_time = not select.select([sys.stdin.fileno()], [], [], float(line))[0]
        before = _masks(parent) if in_time else {}
        everywhere = set().union(*before.values())
        for thread, mask in before.items():
            with contextlib.suppress(OSError):  # it has ended
                os.sched_setaffinity(thread, (mask - {max(everywhere)}) or {min(everywhere)})
        sys.stdin.buffer.raw.readline()  # type: ignore[attr-defined]
        for thread in _masks(parent) if in_time else ():
            with contextlib.suppress(OSError):
                os.sched_setaffinity(thread, before.get(thread, everywhere))
        print("taken" if in_time else "late", flush=True)


def _masks(process: int) -> dict[int, set[int]]:
    """Where each thread of a process may run."""
    found = {}
    for thread in map(int, os.listdir(f"/proc/{process}/task")):
        with contextlib.suppress(OSError):
            found[thread] = os.sched_getaffinity(thread)
    return found


@contextlib.contextmanager
def quota() -> Iterator[None]:
    """This process in a control group of one and a half processors.

    Raises
    ------
    OSError
        The system has no control groups, or does not let this process make one: who started it may, as in
        ``systemd-run --scope -p CPUQuota=150%``.
    """
    own, parent, limits = _controller()
    group = parent / f"cylstm-company-{os.getpid()}"
    group.mkdir()
    try:
        for file, text in limits.items():
            (group / file).write_text(text)
        (group / "cgroup.procs").write_text(str(os.getpid()))
        try:
            yield
        finally:
            (own / "cgroup.procs").write_text(str(os.getpid()))
    finally:
        group.rmdir()


def _controller() -> tuple[Path, Path, dict[str, str]]:
    """The group of this process in the cpu controller, that in which another can be made, and the files of a quota."""
    old = {"cpu.cfs_period_us": str(PERIOD), "cpu.cfs_quota_us": str(QUOTA)}
    names = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, names[controllers] = line.split(":", 2)
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, kind, options, *_ = line.split()
        if kind == "cgroup" and "cpu" in options.split(","):
            own = _group(mount, next(name for c, name in names.items() if "cpu" in c.split(",")))
            return own, own, old
        if kind == "cgroup2" and "cpu" in Path(mount, "cgroup.subtree_control").read_text().split():
            return _group(mount, names[""]), Path(mount), {"cpu.max": f"{QUOTA} {PERIOD}"}
    raise OSError("no cpu controller of control groups is mounted")


def _group(mount: str, name: str) -> Path:
    """A group by its name; in a container, whose names may be those outside, its root."""
    return group if (group := Path(mount, name.lstrip("/"))).is_dir() else Path(mount)
