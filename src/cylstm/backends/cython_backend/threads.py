"""How many threads the kernels of the CPU may use.

The first of these that is there: ``set_num_threads``, ``CYLSTM_NUM_THREADS``, what OpenMP allows (the processors this
process may run on, ``OMP_NUM_THREADS``), never more than the CPU quota of the control group. A limit that threadpoolctl
puts on OpenMP holds in every case.

Workers divide the processors among them, so what would be multiplied is not: a process that ``multiprocessing`` started
takes one thread where nothing is set, a forked process one in every case (threads do not survive a fork), and of the
Python threads of a process two at a time have threads of OpenMP behind them, and one of the two computes at a time
(parallel/region.h).
"""

from __future__ import annotations

import contextlib
import importlib
import math
import operator
import os
import sys
from pathlib import Path, PurePosixPath
from typing import Any

VARIABLE = "CYLSTM_NUM_THREADS"
MOST = 4096  # far above what helps


def set_num_threads(n: int) -> None:
    """Set the number of threads of the CPU kernels, for this process.

    Results do not depend on it. Where fewer can run, in a forked process say, `get_num_threads` tells so.

    Parameters
    ----------
    n : int
        From 1 to 4096.

    Raises
    ------
    TypeError, ValueError
        Not an integer; outside this range.
    """
    global _count
    try:
        count = operator.index(n)
    except TypeError:
        raise TypeError(f"n must be an int, got {type(n).__name__}") from None
    if not 1 <= count <= MOST:
        raise ValueError(f"n must be from 1 to {MOST}, got {count}")
    _count = count


def get_num_threads() -> int:
    """The number of threads that the next call of a CPU kernel may use.

    It is 1 where there is no compiled backend, where it was compiled without OpenMP, and in a forked process. A call
    runs on one thread all the same where another call has the threads at that moment, where it comes from the third
    Python thread or a later one, or where the system refuses to make threads.
    """
    global _count
    if _forked or (_lstm is None and not _load()):
        return 1
    allowed = _lstm.max_threads()
    if _count is None:
        _count = _from_environment()
    if not _lstm.openmp():
        return 1
    if _count == 0:
        return 1 if _is_worker() else min(allowed, _quota())
    return min(_count, allowed) if allowed < _lstm.default_threads else _count


_lstm: Any = None  # the compiled module, which alone has threads
_count: int | None = None  # None: the environment was not read yet; 0: nothing was set
_quota_threads: int | None = None
_NO_QUOTA = 1 << 20
_forked = False
_worker: bool | None = None


def _load() -> bool:
    """Load the compiled module, where there is one."""
    global _lstm
    with contextlib.suppress(ImportError):
        _lstm = importlib.import_module("._lstm", __package__)
    return _lstm is not None


def _after_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _is_worker() -> bool:
    """Whether this process is one of several, and nobody has told OpenMP how many threads are its share."""
    global _worker
    if _worker is None:
        process = sys.modules.get("multiprocessing.process")  # loaded in every process that it started
        told = os.environ.get("OMP_NUM_THREADS", "").strip()
        _worker = not told and process is not None and process.parent_process() is not None
    return _worker


def _from_environment() -> int:
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return 0
    if not text.isdecimal() or not 1 <= int(text) <= MOST:
        raise ValueError(f"{VARIABLE} must be a whole number from 1 to {MOST}, got {text!r}: correct it, or unset it")
    return int(text)


def _quota() -> int:
    """Whole processors that the control groups (version 2 or 1) grant; a large number where there is no quota."""
    global _quota_threads
    if _quota_threads is None:
        _quota_threads = max(1, math.ceil(_quota_of_group()))
    return _quota_threads


def _quota_of_group(root: str = "/sys/fs/cgroup", membership: str = "/proc/self/cgroup") -> float:
    """The least quota of the groups of this process and of those around them, up to the root as it is seen from here.

    In a container the root is the container's own group; a service of the system is in a group further down.
    """
    names = {"/"}
    with contextlib.suppress(OSError, ValueError):
        for line in Path(membership).read_text().splitlines():  # "0::/a/b" in version 2, "1:cpu,cpuacct:/a/b" in 1
            _, controllers, name = line.split(":", 2)
            if not controllers or "cpu" in controllers.split(","):
                names.update(map(str, (PurePosixPath(name), *PurePosixPath(name).parents)))
    return min(
        min(_quota_in(Path(root, name.lstrip("/"))), _old_quota_in(Path(root, "cpu", name.lstrip("/"))))
        for name in names
    )


def _quota_in(group: Path) -> float:
    try:
        quota, period = Path(group, "cpu.max").read_text().split()
        return _NO_QUOTA if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return _NO_QUOTA


def _old_quota_in(group: Path) -> float:
    try:
        microseconds = int(Path(group, "cpu.cfs_quota_us").read_text())
        return _NO_QUOTA if microseconds < 0 else microseconds / int(Path(group, "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return _NO_QUOTA
