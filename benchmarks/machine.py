"""The machine that measures: what it is, and when it is at rest."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("cylstm", "numpy", "torch", "onnxruntime", "jax", "keras", "tensorflow", "pytest-benchmark")


def facts() -> dict[str, Any]:
    """Processor, system, versions and the settings of the environment, as plain data."""
    return {
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: v for name in PACKAGES if (v := _version(name))},
        "environment": {
            name: value for name, value in sorted(os.environ.items()) if name.startswith(("CYLSTM_", "OMP_"))
        },
    }


def load() -> float:
    """Processes that want to run, on average over the last minute; nan where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


def scheduling() -> dict[str, Any]:
    """Niceness of this process, and whether each session has an equal share, whatever its niceness (Linux only)."""
    try:
        autogroup = Path("/proc/sys/kernel/sched_autogroup_enabled").read_text().strip() == "1"
    except OSError:
        autogroup = False
    return {"niceness": os.nice(0), "autogroup": autogroup}


class Processors:
    """What the processors have done since this was made."""

    def __init__(self) -> None:
        self._ticks, self._own = _ticks(), sum(os.times()[:4])

    def shares(self) -> dict[str, float]:
        """Shares of the time of all processors.

        ``others``: other processes used it, children that still run among them. ``stolen``: other virtual machines did.
        """
        if not self._ticks or not (now := _ticks()):
            return {}
        user, nice, system, idle, waiting, irq, softirq, stolen = (b - a for a, b in zip(self._ticks, now, strict=True))
        used = user + nice + system + irq + softirq
        total = max(1, used + idle + waiting + stolen)
        own = (sum(os.times()[:4]) - self._own) * os.sysconf("SC_CLK_TCK")
        return {"others": max(0.0, used - own) / total, "stolen": stolen / total}


def _ticks() -> list[int]:
    """Of all processors: user, nice, system, idle, iowait, irq, softirq, steal. Empty where nothing tells."""
    try:
        return [int(word) for word in Path("/proc/stat").read_text().split()[1:9]]
    except (OSError, ValueError):
        return []


def settle(at_most: float = 0.25) -> None:
    """Wait until no thread of this process spins: thread pools go on for 10 to 40 ms, not all visibly."""
    time.sleep(0.05)
    end = time.perf_counter() + at_most
    while time.perf_counter() < end:
        wall, busy = time.perf_counter(), time.process_time()
        time.sleep(0.002)
        if time.process_time() - busy < 0.1 * (time.perf_counter() - wall):
            return


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        if package != "cylstm":
            return None
        import cylstm

        return cylstm.__version__


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
