"""Whether there is a GPU that CuPy can use: asked in a way that a later fork survives.

CUDA, once a process has used it, is dead in children that are forked. So NVML is asked, which is no part of CUDA; CUDA
itself only where there is no NVML, and then it is remembered that it was.
"""

from __future__ import annotations

import ctypes
import os
from glob import glob

from ...words import CUPY

#: Where the drivers of NVIDIA's GPUs, of Windows's subsystem for Linux and of Jetson appear.
DEVICE_FILES = ("/dev/nvidia*", "/dev/dxg", "/dev/nvhost*", "/dev/nvgpu*")


class _Use:
    """Which process has used CUDA through this package; None so far."""

    pid: int | None = None


def refuse_after_fork() -> None:
    """Take note that this process uses CUDA.

    Raises
    ------
    RuntimeError
        If it was forked from one that does.
    """
    if _Use.pid is None:
        _Use.pid = os.getpid()
    if reason := _why_dead():
        raise RuntimeError(reason)


def _why_dead() -> str:
    if _Use.pid in (None, os.getpid()):
        return ""
    return (
        f"CUDA cannot be used in a process forked (pid {os.getpid()}) from one that has used it (pid {_Use.pid}): "
        "start processes by multiprocessing's method 'spawn' or 'forkserver', or choose another backend in the child"
    )


def why_no_gpu() -> str:
    """What is missing: "" where CuPy can use a GPU. Never raises."""
    try:
        import cupy
    except ImportError as error:
        return f"it needs CuPy ({str(error).strip().splitlines()[0]}): install it, {CUPY}"
    runtime = cupy.cuda.runtime
    needed = runtime.runtimeGetVersion() // 1000
    if reason := _why_dead():
        return reason
    if not any(map(glob, DEVICE_FILES)):
        found = "no driver is loaded"
    elif os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        found = f"CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']!r}"
    elif (seen := seen_by_nvml()) is not None:
        count, version = seen
        found = "NVML counts none" if not count else f"the driver is for CUDA {version}" if version < needed else ""
    else:
        found = _asked_of_cuda(runtime)
    return found and (
        f"CuPy {cupy.__version__} finds no GPU that it can use ({found}): it needs an NVIDIA GPU and a driver at least "
        f"as new as CUDA {needed}"
    )


def _asked_of_cuda(runtime: object) -> str:
    """Why CUDA finds no GPU. From here on, CUDA is used by this process."""
    _Use.pid = os.getpid()
    try:
        runtime.getDeviceCount()  # type: ignore[attr-defined]
    except runtime.CUDARuntimeError as error:  # type: ignore[attr-defined]
        return str(error)
    return ""


def seen_by_nvml() -> tuple[int, int] | None:
    """The number of GPUs and the major version of CUDA that the driver is for; None where NVML does not say it."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        count, version = ctypes.c_uint(), ctypes.c_int()
        if nvml.nvmlInit_v2():
            return None
        try:
            if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
                return None
            if nvml.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(version)):
                return None
        finally:
            nvml.nvmlShutdown()
    except (OSError, AttributeError):  # no such library, or an old one
        return None
    return count.value, version.value // 1000
