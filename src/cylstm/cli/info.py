"""What ``cylstm info`` and ``cylstm backends`` tell: versions, processor, backends, threads, environment."""

from __future__ import annotations

import os
import platform
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays.arguments import DTYPES
from ..backends import precision, registry
from ..backends.base import Backend
from ..backends.cython_backend import CythonBackend, threads
from ..backends.errors import BackendError
from ..backends.plugins import BackendInfo, available_backends


def _check_number(text: str) -> None:
    if not re.fullmatch(r"\d+(,\d+)*", text.replace(" ", "")):
        raise ValueError("must be a whole number, or several with commas between them, and is ignored")


def _check_tier(text: str) -> None:
    from ..backends.cupy_backend.backend import VARIANTS
    from ..backends.cupy_backend.variants import candidates

    candidates(VARIANTS, text.strip())


#: The environment variables that change what cylstm computes with, or how fast; each with what raises where its value
#: is wrong, as far as that can be told.
VARIABLES: dict[str, Callable[[str], object] | None] = {
    registry.VARIABLE: lambda text: text.strip() and registry.load(text.strip(), registry.VARIABLE),
    precision.VARIABLE: lambda text: precision.in_force(None, np.dtype(np.float32)),
    threads.VARIABLE: lambda text: threads.get_num_threads(),
    "CYLSTM_MAX_ISA": lambda text: CythonBackend.is_available()[0] and CythonBackend().instruction_set(),
    "CYLSTM_CUPY_TIER": _check_tier,
    "OMP_NUM_THREADS": _check_number,
    "OMP_THREAD_LIMIT": _check_number,
    "OMP_WAIT_POLICY": None,
    "OMP_PROC_BIND": None,
    "GOMP_CPU_AFFINITY": None,
    "OPENBLAS_NUM_THREADS": _check_number,
    "MKL_NUM_THREADS": _check_number,
}


def system_info() -> dict[str, Any]:
    """Everything that a report about a problem or a measurement should name, as plain data for JSON. Never raises.

    Returns
    -------
    dict
        The sections ``cylstm``, ``system``, ``backend`` (the one that float32 goes to, or why there is none),
        ``backends`` (the rows of :func:`backends_info`), ``environment`` (of :data:`VARIABLES`, those that are set)
        and ``wrong`` (those of them whose values cannot be taken, and why).
    """
    from .. import __version__

    environment = {name: os.environ[name] for name in VARIABLES if name in os.environ}
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
        "backends": backends_info()["backends"],
        "environment": environment,
        "wrong": {name: reason for name, text in environment.items() if (reason := _wrong(name, text))},
    }


def backends_info() -> dict[str, Any]:
    """The backend in force and all that there are, as plain data for JSON. Never raises.

    Returns
    -------
    dict
        ``selected`` (``name``, None where it cannot be used, with the ``reason``; and ``by``, who has named it), and
        ``backends``: the rows of :func:`cylstm.available_backends`, with the capabilities of those that work.
    """
    name, source = registry.named_by()
    selected = {"name": None, "by": source if name else "the automatic choice"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the rows give the reason
        try:
            selected["name"] = registry.get_backend()
        except Exception as error:  # of a plugin, whatever it is
            selected["reason"] = str(error)
        rows = list(available_backends())
        if ":" in name and selected["name"]:
            rows.append(BackendInfo(name, "", "available", ""))
        return {"selected": selected, "backends": [row._asdict() | _capabilities(row) for row in rows]}


def backend_info(backend: Backend) -> dict[str, Any]:
    """What a backend tells about itself: its name, and the facts of its ``info()`` where it has one."""
    info = getattr(backend, "info", None)
    return {"name": backend.name, **(info() if info is not None else {})}


def _capabilities(row: BackendInfo) -> dict[str, Any]:
    """What a backend that works can do; names of dtypes in the order of their size."""
    if row.status != "available":
        return {}
    try:
        able = registry.load(row.name).capabilities._asdict()
    except BackendError:  # it says that it works, and does not
        return {}
    plain = {name: sorted(value) if isinstance(value, frozenset) else value for name, value in able.items()}
    return {**plain, "dtypes": sorted(able["dtypes"], key=(*DTYPES, *sorted(able["dtypes"])).index)}


def _chosen() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the table of backends gives the reason
        try:
            chosen = registry.choose(dtype="float32")
        except Exception as error:  # of a plugin, whatever it is
            return {"name": None, "reason": str(error)}
        try:
            return backend_info(chosen)
        except Exception as error:  # a variable that it reads is wrong
            return {"name": chosen.name, "reason": str(error)}


def _wrong(name: str, text: str) -> str:
    """Why the value of a variable cannot be taken; empty if it can."""
    check = VARIABLES[name]
    try:
        if check is not None and text.strip():
            check(text)
    except Exception as error:
        return str(error)
    return ""


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()
