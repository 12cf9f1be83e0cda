"""The persistent kernels, compiled for GPUs: on sm_90 no register is spilled. `make check-nvrtc` compiles them all."""

from __future__ import annotations

import re

import pytest
from nvrtc_usage import DTYPES, FEW, usage, why_no_nvrtc
from thorough import others_thorough

from cylstm.backends.cupy_backend.persistent.configurations import Configuration, every_configuration
from cylstm.backends.cupy_backend.persistent.kernels import definitions, source

pytestmark = [
    pytest.mark.names_backend("cupy"),
    pytest.mark.skipif(bool(why_no_nvrtc()), reason=why_no_nvrtc()),
]
TF32 = "m16n8k8.row.col.f32.tf32.tf32.f32"
#: Of those that differ in their tiles alone, that with most of them: it needs most registers.
LARGEST = list({c._replace(tiles=0, at_once=0): c for c in sorted(every_configuration())}.values())
QUICK = [("sm_90", DTYPES[c.itemsize][-1], c) for c in LARGEST]
QUICK += [
    (architecture, "bfloat16", c)
    for architecture in ("sm_80", "sm_100")
    for c in LARGEST
    if c.itemsize == 2 and c.k_steps in (12, 48)
]


def is_small(case: tuple[str, str, Configuration]) -> bool:
    """Compiled in half a second."""
    return case[0] == "sm_90" and case[2].k_steps <= 4


@pytest.mark.parametrize(
    ("architecture", "dtype", "configuration"), others_thorough(QUICK, is_small), ids=lambda value: str(value)
)
def test_no_register_is_spilled(architecture: str, dtype: str, configuration: Configuration) -> None:
    found = usage(architecture, dtype, configuration)
    assert found.spilled <= (0 if architecture == "sm_90" else FEW)
    assert found.registers * configuration.threads <= 64 * 1024  # those of a multiprocessor


def test_shared_memory_suffices() -> None:
    assert max(c.shared_memory for c in every_configuration()) <= 227 * 1024


def test_products_are_those_of_tensor_cores_and_nothing_is_atomic() -> None:
    from cupy_backends.cuda.libs import nvrtc

    small = [c for c in LARGEST if c.k_steps == 2] + [c for c in LARGEST if c.itemsize == 4][:2]
    for c in small:
        dtype, mma = ("bfloat16", "m16n8k16.row.col.f32.bf16.bf16.f32") if c.itemsize == 2 else ("float32", TF32)
        program = nvrtc.createProgram(source(c.name), "p.cu", (), ())
        nvrtc.compileProgram(program, ("-arch=compute_90", "-std=c++17", *definitions(dtype, c)))
        ptx = nvrtc.getPTX(program).decode()
        nvrtc.destroyProgram(program)
        assert f"mma.sync.aligned.{mma}" in ptx
        assert "ld.relaxed.gpu.global.v4.u32" in ptx
        assert "st.relaxed.gpu.global.u32" in ptx
        assert not re.search(r"\b(atom|red)\.|membar|fence", ptx)
