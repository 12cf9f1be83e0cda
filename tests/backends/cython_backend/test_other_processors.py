"""Lines of kernels.def for processors that this machine is not, emulated, beside lines of other instruction sets."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]
KERNELS = ROOT / "src/cylstm/backends/cython_backend/kernels"
SUPPORT = ROOT / "tests/support"
FLAGS = ["-O1", "-std=gnu11", "-D_GNU_SOURCE", "-ffp-contract=off", "-fno-math-errno"]
CROSS = "aarch64-linux-gnu-gcc"


def tiles(folder: Path, isa: str, precision: str, *, emulated: bool = False, arm: bool = False) -> np.ndarray:
    """What the tiles of a line compute. An emulated line is compiled with the flags of AVX2."""
    definitions = (KERNELS / "kernels.def").read_text("utf-8")
    flags = {name: flags.split() for name, flags in re.findall(r'^ISA\(\w+, (\w+), "(.*?)"', definitions, re.MULTILINE)}
    [weights] = re.findall(rf"^KERNELS\(\w+, {isa}, {precision}, float, (\w+)\)", definitions, re.MULTILINE)
    header = "avx_vnni_emulated.h" if emulated else f"isa/{isa}.h"
    program = folder / f"{isa}_{precision}"
    macros = {
        "ISA_NAME": isa,
        "ISA_HEADER": f'"{header}"',
        "WEIGHTS_HEADER": f'"weights/{weights}.h"',
        "PRECISION": precision,
        "DOUBLE": 0,
        "KERNELS": f"cylstm_{isa}_{precision}",
    }
    source = str(SUPPORT / "kernel_tiles.c")
    command = [CROSS, "-static"] if arm else ["gcc"]
    command += [*FLAGS, *flags["avx2" if emulated else isa], f"-I{KERNELS}", f"-I{SUPPORT}", source, "-o", str(program)]
    subprocess.run([*command, *(f"-D{name}={value}" for name, value in macros.items())], check=True, timeout=600)
    run = ["qemu-aarch64", "-cpu", "max", str(program)] if arm else [str(program)]
    result = subprocess.run(run, check=True, capture_output=True, text=True, timeout=600)
    return np.array(result.stdout.split(), np.float32)


def needs(*commands: str, machine: str = "x86_64") -> pytest.MarkDecorator:
    there = all(map(shutil.which, commands)) and platform.machine() == machine
    return pytest.mark.skipif(not there, reason=f"needs {', '.join(commands)} on {machine}")


@needs("gcc")
def test_avx_vnni_is_avx2(tmp_path: Path) -> None:
    """Sums of integers are exact, however they are grouped: the same bits."""
    emulated = tiles(tmp_path, "avx_vnni", "int8", emulated=True)
    assert len(np.unique(emulated)) > 500
    assert np.isfinite(emulated).all()
    np.testing.assert_array_equal(emulated, tiles(tmp_path, "avx2", "int8"))


@needs("gcc")
def test_avx_vnni_compiles_to_its_instruction(tmp_path: Path) -> None:
    command = ["gcc", "-O3", *FLAGS[1:], "-mavx2", "-mfma", "-mavxvnni", f"-I{KERNELS}", "-S", str(KERNELS / "lstm.c")]
    macros = ["ISA_NAME=avx_vnni", 'ISA_HEADER="isa/avx_vnni.h"', 'WEIGHTS_HEADER="weights/int8.h"', "PRECISION=int8"]
    if b"avxvnni" not in subprocess.run(["gcc", "--target-help"], capture_output=True, check=True).stdout:
        pytest.skip("this compiler does not know AVX-VNNI")
    assembly = tmp_path / "lstm.s"
    subprocess.run([*command, *(f"-D{m}" for m in macros), "-DDOUBLE=0", "-o", str(assembly)], check=True, timeout=600)
    text = assembly.read_text("utf-8")
    assert text.count("{vex} vpdpbusd") > 40
    assert "zmm" not in text


@needs("qemu-aarch64", CROSS)
def test_arms_dot_products(tmp_path: Path) -> None:
    """Of integers the same bits; BFDOT rounds its sums in a way of its own."""
    plain = tiles(tmp_path, "neon", "int8", arm=True)
    assert len(np.unique(plain)) > 500
    np.testing.assert_array_equal(tiles(tmp_path, "neon_dot", "int8", arm=True), plain)
    np.testing.assert_allclose(tiles(tmp_path, "neon_bf16", "int8", arm=True), plain, rtol=2e-5, atol=2e-6)


@needs("qemu-aarch64", CROSS)
def test_arms_bfloat16(tmp_path: Path) -> None:
    plain = tiles(tmp_path, "neon", "bfloat16", arm=True)
    assert len(np.unique(plain)) > 500
    np.testing.assert_allclose(tiles(tmp_path, "neon_bf16", "bfloat16", arm=True), plain, rtol=2e-5, atol=2e-6)
