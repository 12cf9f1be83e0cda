"""What NVIDIA's compiler says of the persistent kernels: registers and spills, for a GPU that need not be there."""

from __future__ import annotations

import re
from typing import NamedTuple

from cylstm.backends.cupy_backend.persistent.configurations import Configuration
from cylstm.backends.cupy_backend.persistent.kernels import definitions, source

#: Bytes that a kernel of the largest layers may spill on GPUs other than those of sm_90, which the sizes are made for.
FEW = 64
#: By the size of a number.
DTYPES = {2: ("bfloat16", "float16"), 4: ("float32",)}


class Usage(NamedTuple):
    """Of a kernel."""

    registers: int  # of a thread
    stack: int  # bytes of a thread; those of spilled registers are among them
    spilled: int


def why_no_nvrtc() -> str:
    """Why nothing can be compiled here; "" if it can."""
    try:
        from cupy_backends.cuda.libs import nvrtc

        nvrtc.getVersion()
    except (ImportError, RuntimeError) as error:
        return f"CuPy with NVRTC is not installed ({error}): pip install 'cupy-cuda13x>=14' nvidia-cuda-nvrtc"
    return ""


def usage(architecture: str, dtype: str, configuration: Configuration) -> Usage:
    """Compile a kernel for an architecture such as ``"sm_90"``."""
    from cupy_backends.cuda.libs import nvrtc

    program = nvrtc.createProgram(source(configuration.name), f"{configuration.name}.cu", (), ())
    options = ("-std=c++17", "-ftz=true", "--ptxas-options=-v", *definitions(dtype, configuration))
    try:
        nvrtc.compileProgram(program, (f"-arch={architecture}", *options))
    except nvrtc.NVRTCError as error:
        raise AssertionError(nvrtc.getProgramLog(program)) from error
    log = nvrtc.getProgramLog(program)
    nvrtc.destroyProgram(program)
    assert "warning" not in log, log
    (registers,), ((stack, *spills),) = (
        re.findall(r"Used (\d+) registers", log),
        re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log),
    )
    return Usage(int(registers), int(stack), sum(map(int, spills)))
