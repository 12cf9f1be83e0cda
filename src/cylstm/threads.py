"""How many threads the kernels of the CPU may use.

The first of these that is there: ``set_num_threads``, ``CYLSTM_NUM_THREADS``, what OpenMP allows (the processors this
process may run on, ``OMP_NUM_THREADS``), never more than the CPU quota of the control group. A limit that threadpoolctl
puts on OpenMP holds in every case.
"""

from __future__ import annotations

import math
import operator
import os
from pathlib import Path

VARIABLE = "CYLSTM_NUM_THREADS"


def set_num_threads(n: int) -> None:
    """Set the number of threads of the CPU kernels, for this process.

    Parameters
    ----------
    n : int
        At least 1. Results do not depend on it.

    Raises
    ------
    TypeError, ValueError
        Not an integer; less than 1.
    """
    global _count
    try:
        count = operator.index(n)
    except TypeError:
        raise TypeError(f"set_num_threads expects an int, got {type(n).__name__}") from None
    if count < 1:
        raise ValueError(f"set_num_threads expects a number of at least 1, got {count}")
    _count = count


def get_num_threads() -> int:
    """The number of threads that the next call of a CPU kernel may use."""
    global _count
    from .backends import _lstm  # only the compiled backend has threads

    allowed = _lstm.max_threads()
    if _count is None:
        _count = _from_environment()
    if _count == 0:
        return min(allowed, _quota())
    return min(_count, allowed) if allowed < _lstm.default_threads else _count


_count: int | None = None  # None: the environment was not asked yet; 0: nothing was set
_quota_threads: int | None = None


def _from_environment() -> int:
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{VARIABLE} must be a whole number of at least 1, got {text!r}: correct it, or unset it")
    return int(text)


def _quota() -> int:
    """Whole processors that the control group (version 2 or 1) grants; a large number where there is no quota."""
    global _quota_threads
    if _quota_threads is None:
        _quota_threads = max(1, math.ceil(_quota_of_group()))
    return _quota_threads


def _quota_of_group(root: str = "/sys/fs/cgroup") -> float:
    try:
        quota, period = Path(root, "cpu.max").read_text().split()
        return 1 << 20 if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        microseconds = int(Path(root, "cpu/cpu.cfs_quota_us").read_text())
        return 1 << 20 if microseconds < 0 else microseconds / int(Path(root, "cpu/cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return 1 << 20
