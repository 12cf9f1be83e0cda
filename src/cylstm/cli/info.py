"""What ``cylstm info`` tells: versions, processor, backends, threads, environment."""

from __future__ import annotations

import os
import platform
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ..backends import precision, registry
from ..backends.base import Backend
from ..backends.errors import BackendError
from ..backends.plugins import available_backends

#: The environment variables that change what cylstm computes with, or how fast.
VARIABLES = (
    registry.VARIABLE,
    precision.VARIABLE,
    "CYLSTM_NUM_THREADS",
    "CYLSTM_MAX_ISA",
    "OMP_NUM_THREADS",
    "OMP_THREAD_LIMIT",
    "OMP_WAIT_POLICY",
    "OMP_PROC_BIND",
    "GOMP_CPU_AFFINITY",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)


def system_info() -> dict[str, Any]:
    """Everything that a report about a problem or a measurement should name, as plain data for JSON.

    Returns
    -------
    dict
        The sections ``cylstm``, ``system``, ``backend`` (the one that float32 goes to, or why there is none),
        ``backends`` (the rows of :func:`cylstm.available_backends`) and ``environment`` (of :data:`VARIABLES`, those
        that are set).
    """
    from .. import __version__

    return {
        "cylstm": {
            "version": __version__,
            "folder": str(Path(__file__).parents[1]),
            "Python": f"{platform.python_version()} ({platform.python_implementation()}, {sys.executable})",
            "NumPy": np.__version__,
        },
        "system": {
            "platform": platform.platform(),
            "processor": _processor(),
            "machine": platform.machine(),
            "CPUs": os.cpu_count(),
            "usable CPUs": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        },
        "backend": _chosen(),
        "backends": [row._asdict() for row in available_backends()],
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def backend_info(backend: Backend) -> dict[str, Any]:
    """What a backend tells about itself: its name, and the facts of its ``info()`` where it has one."""
    info = getattr(backend, "info", None)
    return {"name": backend.name, **(info() if info is not None else {})}


def _chosen() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the table of backends gives the reason
        try:
            return backend_info(registry.choose(dtype="float32"))
        except BackendError as error:
            return {"name": None, "reason": str(error)}


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()
