"""The kernels of the cupy backend without a GPU.

They are compiled for GPUs by NVRTC, where CuPy is installed; they run on the CPU, block by block, through a shim, and
a whole layer of them goes through the conformance kit; their header is compiled as C++ and compared with NumPy.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from typing import Any

import cuda_host
import numpy as np
import pytest
from cuda_host import SMALL, HostBackend, HostSystem, compiled, needs_compiler, needs_gpu
from thorough import others_thorough

from cylstm import testing
from cylstm.backends.cupy_backend import CupyBackend
from cylstm.backends.cupy_backend.planner import TYPES, Tile, tiles
from cylstm.backends.cupy_backend.source import BOUND_BYTES, FOLDER, KERNELS, STEPS, STREAM, WINDOW, definitions, source
from cylstm.testing.compare import assert_close
from cylstm.testing.problems import (
    REFERENCE,
    backward,
    expected_outputs_and_gradients,
    forward,
    make_problem,
    outputs_and_gradients,
)

pytestmark = pytest.mark.names_backend("cupy")

# Compiled for GPUs ---------------------------------------------------------------------------------------------------


def architectures() -> list[str]:
    """sm_80, sm_90, sm_100 and the newest that the compiler knows; none without NVRTC."""
    try:
        from cupy_backends.cuda.libs import nvrtc

        known = set(nvrtc.getSupportedArchs())
    except (ImportError, RuntimeError):
        return []
    return [f"sm_{number}" for number in sorted({80, 90, 100} & known | {max(known)})]


ARCHITECTURES = architectures()
#: Everything for sm_90; elsewhere what needs most registers.
COMPILED = [
    (architecture, dtype, tile)
    for architecture in ARCHITECTURES or ["sm_90"]
    for dtype in TYPES
    for tile in tiles(8 if dtype == "float64" else 4)[0 if architecture == "sm_90" else -1 :]
    if architecture == "sm_90" or dtype in ("float16", "float32")
]


@pytest.mark.skipif(not ARCHITECTURES, reason="CuPy with NVRTC is not installed (pip install 'cupy-cuda13x[ctk]>=14')")
@pytest.mark.parametrize(
    ("architecture", "dtype", "tile"),
    others_thorough(COMPILED, lambda case: case[:2] == ("sm_90", "float32")),
    ids=lambda value: str(getattr(value, "rows", value)),
)
def test_compiles_without_spills(architecture: str, dtype: str, tile: Tile) -> None:
    from cupy_backends.cuda.libs import nvrtc

    program = nvrtc.createProgram(source(), "lstm.cu", (), ())
    options = (f"-arch={architecture}", "-std=c++17", "-ftz=true", "--ptxas-options=-v", *definitions(dtype, tile))
    try:
        nvrtc.compileProgram(program, options)
    except nvrtc.NVRTCError:
        pytest.fail(nvrtc.getProgramLog(program))
    log = nvrtc.getProgramLog(program)
    assert len(nvrtc.getCUBIN(program)) > 1000
    nvrtc.destroyProgram(program)
    assert sorted(re.findall(r"Compiling entry function '(\w+)' for '" + architecture, log)) == sorted(KERNELS)
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    assert spills == [("0", "0", "0")] * len(KERNELS), log
    itemsize = 8 if dtype == "float64" else 4
    assert max(map(int, re.findall(r"(\d+) bytes smem", log))) == tile.shared_memory(itemsize) <= SMALL.shared_memory
    assert "warning" not in log


@pytest.mark.skipif(not ARCHITECTURES, reason="CuPy with NVRTC is not installed (pip install 'cupy-cuda13x[ctk]>=14')")
@pytest.mark.parametrize("dtype", others_thorough(TYPES, lambda dtype: dtype == "float32"))
def test_no_atomics_no_tensor_cores_and_wide_loads(dtype: str) -> None:
    """Sums are added in a fixed order, and float32 is float32: nothing is rounded to TF32."""
    from cupy_backends.cuda.libs import nvrtc

    program = nvrtc.createProgram(source(), "lstm.cu", (), ())
    nvrtc.compileProgram(program, ("-arch=compute_90", "-std=c++17", *definitions(dtype, Tile(4, 8))))
    ptx = nvrtc.getPTX(program).decode()
    nvrtc.destroyProgram(program)
    assert "fma." in ptx
    assert not re.search(r"\b(atom|red|mma|wmma|wgmma)\.|tf32", ptx)
    # Four numbers at once of what is multiplied, forward and backward: of float64 in two loads.
    entries = dict(re.findall(r"\.entry (\w+)\((.*?)^}", ptx, re.DOTALL | re.MULTILINE))
    assert sorted(entries) == sorted(KERNELS)
    wide = r"\bld\.(global\.)?(nc\.)?" + (r"v2\.[bf]64" if dtype == "float64" else r"v4\.")
    for name in (*STEPS, *STREAM):
        assert len(re.findall(wide, entries[name])) >= 1 + 4, name  # of the matrix, and of each of four rows


def test_products_of_cupy_are_strict_unless_it_is_told_otherwise() -> None:
    """CuPy's CUPY_TF32 is the explicit choice; without it the compute type of float32 is cuBLAS's default, float32."""
    pytest.importorskip("cupy")
    script = (
        "import numpy; from cupy._core import _routines_linalg as linalg;"
        "assert linalg.get_compute_type(numpy.dtype('f')) == linalg.COMPUTE_TYPE_DEFAULT != linalg.COMPUTE_TYPE_TF32"
    )
    environment = {name: value for name, value in os.environ.items() if name != "CUPY_TF32"}
    subprocess.run([sys.executable, "-c", script], env=environment, timeout=120, check=True)


# Run on the CPU ------------------------------------------------------------------------------------------------------

#: Many steps, rows or calls: seconds each, of which the ordinary suite has those of one dtype.
LONG = ("threads", "values-long", "values-large", "gradients-long", "gradients-large")
CHECKS = others_thorough(
    testing.checks(HostBackend(tier="steps")), lambda check: not check.id.startswith(LONG) or "float32" in check.id
)


@needs_compiler
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_conformance(check: testing.Check) -> None:
    check()


def host_or_gpu(place: str) -> tuple[Any, CupyBackend]:
    """A system and a backend on it."""
    if place == "CPU as GPU":
        system = HostSystem()
        return system, HostBackend(tier="steps", system=system)
    from cylstm.backends.cupy_backend.cupy_device import CupySystem

    gpus = CupySystem()
    return gpus, CupyBackend(0, tier="steps", system=gpus)


@pytest.mark.parametrize(
    "place", [pytest.param("CPU as GPU", marks=needs_compiler), pytest.param("GPU", marks=needs_gpu)]
)
@pytest.mark.parametrize("dtype", others_thorough(TYPES, lambda dtype: dtype == "float32"))
def test_each_kernel_in_each_tile(dtype: str, place: str) -> None:
    """The kit's sizes do not reach all tiles; these do, with the odd rows and units of each."""
    dtype_here(dtype)
    system, backend = host_or_gpu(place)
    for B, H, P in ((1, 40, 0), (1, 36, 33), (3, 70, 0), (4, 70, 35), (7, 64, 0), (37, 66, 0), (37, 66, 34)):
        case = testing.Case(T=3, B=B, I=5, H=H, P=P, D=2, ragged=True, states=True)
        problem = make_problem(case, dtype)
        expected = expected_outputs_and_gradients(problem)
        result = outputs_and_gradients(backend, problem)
        assert_close(result, expected, dtype, testing.TOLERANCES[dtype].gradients, case)
    if place == "CPU as GPU":
        used = {(launch.name, launch.options) for launch in system.device(0).launches}
        able = tiles(8 if dtype == "float64" else 4)
        of_calls = [name for name in KERNELS if not name.startswith("stream")]  # those have test_stream_graphs
        assert used == {(name, definitions(dtype, tile)) for name in of_calls for tile in able}


def steps_of(system: HostSystem) -> list[Any]:
    """The launches of steps."""
    return [launch for launch in system.device(0).launches if launch.name in STEPS]


@needs_compiler
def test_no_work_for_padding() -> None:
    """Blocks are launched for the rows of a step, not for those of the longest one."""
    system = HostSystem()
    case = testing.Case(T=4, B=37, I=3, H=5)
    problem = make_problem(case, "float32")
    sizes = np.array([37, 20, 5, 1])
    problem = problem._replace(batch_sizes=sizes, input=problem.input[: sizes.sum()])
    forward(HostBackend(tier="steps", system=system), problem)
    assert [launch.grid for launch in steps_of(system)] == [(3, 1, 1), (2, 1, 1), (1, 1, 1), (1, 1, 1)]
    assert {launch.options for launch in steps_of(system)} == {definitions("float32", Tile(16, 8))}


@needs_compiler
def test_the_same_bits_each_time() -> None:
    """Launched one by one, recorded, replayed, and by another backend."""
    problem = make_problem(testing.Case(T=19, B=9, H=50, D=2, ragged=True, states=True), "float32")
    backend = HostBackend(tier="steps")
    backends = (backend, backend, backend, HostBackend(tier="steps"))
    first, *others = ({n: a.tobytes() for n, a in outputs_and_gradients(b, problem).items()} for b in backends)
    assert all(other == first for other in others)


@needs_compiler
@pytest.mark.parametrize(
    ("P", "kernels"), [(0, ["forward", "backward"]), (3, ["forward", "project", "backward", "backward_projected"])]
)
def test_only_the_recurrent_loop_is_made_of_steps(P: int, kernels: list[str]) -> None:
    """One launch per step, two with projection, both directions in it; products over all rows are not among them."""
    system, T = HostSystem(), 4
    problem = make_problem(testing.Case(T=T, B=2, P=P, D=2), "float32")
    outputs_and_gradients(HostBackend(tier="steps", system=system), problem)
    launches = [(launch.name, launch.grid[2]) for launch in steps_of(system)]
    half = len(kernels) // 2
    assert launches == [(name, 2) for part in (kernels[:half], kernels[half:]) for _ in range(T) for name in part]
    assert [launch.name for launch in system.device(0).launches if launch.name not in STEPS] == [
        "bind_forward",
        "advance",
        "bind_backward",
        "advance",
    ]


@needs_compiler
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
@pytest.mark.parametrize("tf32", [False, True])
def test_products_are_of_the_dtype_that_is_stored(dtype: str, tf32: bool) -> None:
    """16 bits are multiplied as 16 bits, on tensor cores; nothing is converted before. TF32 is an argument."""
    dtype_here(dtype)
    system = HostSystem()
    problem = make_problem(testing.Case(P=3, D=2), dtype)
    outputs_and_gradients(HostBackend(tier="steps", tf32=tf32, system=system), problem)
    sums = "float64" if dtype == "float64" else "float32"
    products = system.device(0).products
    assert products[0] == (dtype, sums, tf32)  # the input's share of the gates
    assert len(products) > 5
    assert all(product == (dtype, dtype, tf32) for product in products[1:])


@needs_compiler
def test_what_is_bound_fits() -> None:
    """`struct Bound` into the bytes that are reserved for it, and the window into what `advance` brings."""
    text = (FOLDER / "lstm.cu").read_text("utf-8")
    struct = text[text.index("struct Bound {") : text.index("// Where the arrays of the next call lie.")]
    options = definitions("float64", tiles(8)[0])
    window = f"#define WINDOW {WINDOW}\n"
    size = 'extern "C" int size() { return sizeof(Bound); }'
    header_text = (FOLDER / "lstm.h").read_text("utf-8").replace("#pragma once\n", "")
    assert compiled(header_text + window + struct + size, options).size() <= BOUND_BYTES
    assert f"#define WINDOW {WINDOW} " in text


# The header ----------------------------------------------------------------------------------------------------------

EXPORTS_16 = """
extern "C" float to_float(unsigned short bits) { return widened(STORAGE{bits}); }
extern "C" unsigned short from_float(float a) { STORAGE to; store(&to, a); return to.bits; }
"""
EXPORTS = """
extern "C" void forward_of_unit(const ARITHMETIC *a, ARITHMETIC c_prev, ARITHMETIC *out) {
    const Gates gates = activated(a);
    const ARITHMETIC c = next_cell(gates, c_prev);
    const ARITHMETIC results[] = {gates.i, gates.f, gates.g, gates.o, c, next_hidden(gates, c)};
    std::memcpy(out, results, sizeof results);
}
extern "C" void backward_of_unit(
    const ARITHMETIC *a, ARITHMETIC c_prev, ARITHMETIC dh, ARITHMETIC dc, ARITHMETIC *out
) {
    gate_gradients(activated(a), c_prev, dh, dc, out);
    out[4] = dc;
}
"""


def header(dtype: str, exports: str = EXPORTS) -> ctypes.CDLL:
    text = (FOLDER / "lstm.h").read_text("utf-8").replace("#pragma once\n", "")
    return compiled(text + exports, definitions(dtype, Tile(1, 8)))


def dtype_here(name: str) -> np.dtype:
    """A dtype, or the test is skipped: bfloat16 needs ml_dtypes."""
    if name == "bfloat16":
        pytest.importorskip("ml_dtypes")
    return np.dtype(name)


@needs_compiler
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_numbers_of_16_bits_are_those_of_numpy(name: str) -> None:
    """Every one of them, and what is rounded to them: at, between and beside them, too large, too small."""
    dtype, library = dtype_here(name), header(name, EXPORTS_16)
    library.to_float.restype, library.from_float.restype = ctypes.c_float, ctypes.c_ushort
    every = np.arange(1 << 16, dtype=np.uint16)
    wide = np.array([library.to_float(ctypes.c_ushort(int(bits))) for bits in every], np.float32)
    np.testing.assert_array_equal(wide, every.view(dtype).astype(np.float32))
    numbers = wide[np.isfinite(wide)]
    with np.errstate(over="ignore"):
        between = np.concatenate([numbers, (numbers[1:] / 2 + numbers[:-1] / 2), numbers * np.float32(1.0003)])
        between = np.concatenate([between, np.float32([65519, 65520, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-30, -0.0])])
        expected = between.astype(dtype).view(np.uint16)
    got = [library.from_float(ctypes.c_float(float(a))) for a in between]
    np.testing.assert_array_equal(got, expected)
    assert np.isnan(np.uint16(library.from_float(ctypes.c_float(np.nan))).view(dtype))


@needs_compiler
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("bfloat16", 8e-3), ("float16", 1e-3), ("float32", 1e-6), ("float64", 1e-14)]
)
def test_arithmetic_of_a_unit_is_that_of_the_definition(dtype: str, tolerance: float) -> None:
    """A layer with one unit, one step and no weights: the sums of the gates are the biases."""
    library = header(dtype)
    real = np.float64 if dtype == "float64" else np.float32
    number = ctypes.c_double if dtype == "float64" else ctypes.c_float
    rng = np.random.default_rng(0)
    case = testing.Case(T=1, B=1, I=1, H=1, states=True)
    for _ in range(50):
        problem = make_problem(case, "float64")
        a, (c_prev, dh, dc) = rng.normal(size=4) * 3, rng.normal(size=3).astype(np.float16).astype(float)
        a = a.astype(real)
        zero = [np.zeros_like(p) for p in problem.parameters[0][:2]]
        parameters = problem.parameters[0]._replace(
            weight_ih=zero[0], weight_hh=zero[1], bias_ih=a.astype(float), bias_hh=np.zeros(4)
        )
        problem = problem._replace(
            parameters=(parameters,), c_0=np.full((1, 1, 1), c_prev), grad_h_n=np.full((1, 1, 1), dh),
            grad_c_n=np.full((1, 1, 1), dc), grad_output=None,
        )  # fmt: skip
        prepared = REFERENCE.prepare(problem.parameters)
        result = forward(REFERENCE, problem, prepared, "gates")
        grads = backward(REFERENCE, problem, prepared, result.workspace)
        out = np.zeros(6, real)
        library.forward_of_unit(a.ctypes, number(c_prev), out.ctypes)
        expected = [*result.workspace.gates[0][0], result.c_n.item(), result.h_n.item()]
        np.testing.assert_allclose(out, expected, rtol=tolerance, atol=tolerance)
        library.backward_of_unit(a.ctypes, number(c_prev), number(dh), number(dc), out.ctypes)
        expected = [*grads.parameters[0].bias_ih, grads.c_0.item()]
        np.testing.assert_allclose(out[:5], expected, rtol=tolerance, atol=tolerance)


@needs_compiler
def test_a_block_whose_threads_do_not_meet_is_an_error() -> None:
    """The shim sees what would hang or break on a GPU."""
    from pathlib import Path

    shim = Path(cuda_host.__file__).with_name("cuda_host.h").read_text("utf-8")
    kernel = """
        __global__ void half_waits(int n) { if (int(threadIdx.x) < n) __syncthreads(); }
        extern "C" int run(int n) {
            int grid[] = {1, 1, 1}, block[] = {8, 1, 1}, size = sizeof n;
            void *arguments[] = {&n};
            return launch(half_waits, grid, block, arguments, &size, 1);
        }
    """
    library = compiled(shim + kernel, ())
    assert [library.run(n) for n in (0, 8, 3)] == [0, 0, 1]
