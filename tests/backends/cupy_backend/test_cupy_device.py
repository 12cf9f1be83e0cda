"""``cupy_device.py`` without a GPU: streams, errors and the arguments of cuBLAS, with CuPy's rules in CuPy's place."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_cupy import CUBLASError, CUDADriverError, CUDARuntimeError, FakeCublas, FakeCupy, OutOfMemoryError, Pointed

import cylstm
from cylstm.backends.cupy_backend import presence
from cylstm.backends.cupy_backend.gemm import COMPUTE_TYPES, DATA_TYPES, gemm_of

pytest.importorskip("cupy")
from cylstm.backends.cupy_backend import cupy_device

pytestmark = pytest.mark.names_backend("cupy")


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> FakeCupy:
    fake = FakeCupy()
    monkeypatch.setattr(cupy_device, "cupy", fake)
    return fake


def device() -> Any:
    """A device that was not asked what it is."""
    return object.__new__(cupy_device.CupyDevice)


# Streams -------------------------------------------------------------------------------------------------------------


def test_recording_leaves_the_stream_that_was_used(cupy: FakeCupy) -> None:
    """That of `use` too, which the end of a `with` block would lose, and the replay goes there."""
    mine, seen = cupy.cuda.Stream(non_blocking=True).use(), []
    replay = device().recorded(lambda: seen.append(cupy.current))
    assert cupy.current is mine
    replay()
    [(begin, recording), (end, ended), replayed] = cupy.events
    assert (begin, end, replayed) == ("begin", "end", ("replay", mine))
    assert seen == [recording]
    assert recording is ended
    assert recording is not mine
    assert recording.non_blocking
    with cupy.cuda.Stream() as inner:
        device().recorded(lambda: None)
        assert cupy.current is inner


@pytest.mark.parametrize("broken", [False, True])
def test_the_first_error_of_a_recording_is_the_one_that_is_raised(broken: bool, cupy: FakeCupy) -> None:
    """Not that of ending what it has made invalid; and the stream is as before."""
    mine = cupy.cuda.Stream().use()

    def fail() -> None:
        cupy.current.broken = broken
        raise ZeroDivisionError("the first")

    with pytest.raises(ZeroDivisionError, match="the first"):
        device().recorded(fail)
    assert cupy.current is mine
    assert [name for name, _ in cupy.events] == (["begin"] if broken else ["begin", "end"])  # it does not stay open


def test_a_stream_waits_for_marks_of_others_alone(cupy: FakeCupy) -> None:
    one, other = cupy.cuda.Stream().use(), cupy.cuda.Stream()
    mark = device().mark()
    device().wait(mark)
    other.use()
    device().wait(mark)
    assert cupy.events == [("record", one), ("wait", other)]


def test_a_stream_comes_after_another_one(cupy: FakeCupy) -> None:
    first, then = cupy.cuda.Stream(), cupy.cuda.Stream()
    device().order(first, then)
    assert cupy.events == [("record", first), ("wait", then)]


@pytest.mark.parametrize("by_default", [False, True])
def test_the_stream_that_each_thread_has_by_default_is_refused(
    by_default: bool, cupy: FakeCupy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its address is the same in all threads. CuPy has it by itself, or, by a variable, in the null stream's place."""
    monkeypatch.setattr(cupy_device, "_default_is_per_thread", lambda: by_default)
    refused = [cupy.cuda.Stream.ptds] + [cupy.cuda.Stream.null] * by_default
    for stream in (cupy.cuda.Stream.ptds, cupy.cuda.Stream.null, cupy.cuda.Stream()):
        stream.use()
        for call in (
            lambda: device().stream(),
            lambda: device().mark(),
            lambda: device().wait(cupy_device.Mark(None, None)),
            lambda: device().recorded(lambda: None),
            lambda: device().refuse_recording(),
        ):
            if stream in refused:
                with pytest.raises(RuntimeError, match=r"must not be CUDA's per-thread .*: unset CUPY_CUDA"):
                    call()
                assert not cupy.events
            else:
                call()
        cupy.events.clear()


def test_a_stream_that_is_being_recorded_is_refused(cupy: FakeCupy) -> None:
    stream = cupy.cuda.Stream().use()
    device().refuse_recording()
    stream.begin_capture()
    with pytest.raises(RuntimeError, match=r"calls cannot be recorded in a CUDA graph, .*: call outside of"):
        device().refuse_recording()
    stream.end_capture()
    device().refuse_recording()


@pytest.mark.parametrize("value", ["0", "1"])
def test_the_variable_is_read_as_cupy_reads_it(value: str) -> None:
    """In a process of its own, for CuPy reads it once."""
    script = "from cylstm.backends.cupy_backend import cupy_device as d; print(d._default_is_per_thread())"
    environment = os.environ | {"CUPY_CUDA_PER_THREAD_DEFAULT_STREAM": value}
    environment["PYTHONPATH"] = str(Path(cylstm.__file__).parents[1])
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == str(value == "1")


@pytest.mark.parametrize("value", ["1", "2"])
def test_memory_that_numpy_and_cupy_share_is_refused(
    value: str, cupy: FakeCupy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUPY_ENABLE_UMP", value)
    with pytest.raises(RuntimeError, match=f"CUPY_ENABLE_UMP must be 0, .* got '{value}': unset it"):
        cupy_device.CupySystem()
    monkeypatch.setenv("CUPY_ENABLE_UMP", "0")
    cupy_device.CupySystem()


@pytest.mark.parametrize(("value", "off"), [(None, False), ("", False), ("0", False), ("1", True)])
def test_the_pool_can_be_switched_off(
    value: str | None, off: bool, cupy: FakeCupy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CYLSTM_NO_POOL", raising=False)
    if value is not None:
        monkeypatch.setenv("CYLSTM_NO_POOL", value)
    cupy_device.CupySystem()
    assert cupy.events == [("allocator", None)] * off


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "lacks"),
    [
        (OutOfMemoryError(), True),  # of CuPy's pool
        (MemoryError(), True),
        (CUDARuntimeError(2), True),  # cudaErrorMemoryAllocation, of a graph or of pinned memory
        (CUDARuntimeError(700), False),  # an illegal address
        (CUDADriverError(2), True),  # of loading a module
        (CUBLASError(3), True),  # CUBLAS_STATUS_ALLOC_FAILED
        (CUBLASError(2), False),
        (RuntimeError("status 2"), False),
    ],
    ids=repr,
)
def test_lack_of_memory_by_whichever_library(error: Exception, lacks: bool, cupy: FakeCupy) -> None:
    assert device().lacks_memory(error) is lacks


@pytest.mark.parametrize("status", [1, 2])
def test_a_kernel_with_too_much_shared_memory_cannot_run_and_one_that_failed_may_be_tried_again(
    status: int, cupy: FakeCupy
) -> None:
    class Function:
        def __setattr__(self, name: str, value: int) -> None:
            raise CUDADriverError(status)

    cupy.RawModule = lambda **_: SimpleNamespace(get_function=lambda name: Function())  # type: ignore[attr-defined]
    arguments = ("forward", "", (), 32, 1 << 20, 132, np.uint64(0))
    if status == 1:  # CUDA_ERROR_INVALID_VALUE
        assert cupy_device.CupyGridKernel(*arguments).resident == 0
    else:
        with pytest.raises(CUDADriverError) as raised:
            cupy_device.CupyGridKernel(*arguments)
        assert device().lacks_memory(raised.value)


# Products ------------------------------------------------------------------------------------------------------------


def matrix(shape: tuple[int, int], layout: str, dtype: np.dtype, rng: np.random.Generator) -> Any:
    """Numbers as a whole array, the transpose of one, or columns of a wider one."""
    rows, columns = shape
    if layout == "transposed":
        return matrix((columns, rows), "whole", dtype, rng).T
    wide = rng.normal(size=(rows, columns + 5 * (layout == "part"))).astype(dtype).view(Pointed)
    return wide[:, 3 : 3 + columns] if layout == "part" else wide


@pytest.mark.parametrize("dtype", list(DATA_TYPES))
@pytest.mark.parametrize("add", [False, True])
def test_products_by_cublas(dtype: str, add: bool, cupy: FakeCupy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way that matrices may lie, sizes of 1 too, into 16 bits and 32."""
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    stored = np.dtype(dtype)
    cublas = FakeCublas({number: np.dtype(name) for name, number in DATA_TYPES.items() if name in (dtype, "float32")})
    monkeypatch.setattr(cupy_device, "_cublas", lambda: cublas)
    rng, layouts = np.random.default_rng(0), ("whole", "transposed", "part")
    outs = {stored, np.dtype(np.float32)} if stored.itemsize == 2 else {stored}
    for (m, k, n), of_a, of_b, of_out in itertools.product(
        [(4, 3, 5), (1, 3, 5), (4, 1, 5), (4, 3, 1), (1, 1, 1)], layouts, layouts, outs
    ):
        a, b = matrix((m, k), of_a, stored, rng), matrix((k, n), of_b, stored, rng)
        for out in (matrix((m, n), layout, of_out, rng) for layout in ("whole", "part")):
            wide = np.float64 if dtype == "float64" else np.float32
            expected = a.astype(wide) @ b.astype(wide) + (out.astype(wide) if add else 0)
            device().product(a, b, out, add=add)
            limit = {"float64": 1e-12, "bfloat16": 3e-2}.get(dtype, 3e-3 if of_out.itemsize == 2 else 1e-5)
            np.testing.assert_allclose(np.asarray(out, wide), expected, rtol=limit, atol=limit)
    assert set(cublas.compute) == {COMPUTE_TYPES[dtype]}
    assert (cublas.mode, cublas.math) == (1, 3)  # as they were
    if dtype == "float32":
        cublas.compute.clear()
        device().product(a, b, out, tf32=True)
        assert cublas.compute == [77]


def test_products_of_nothing(cupy: FakeCupy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cupy_device, "_cublas", lambda: None)
    out = np.ones((2, 3), np.float32).view(Pointed)
    device().product(np.zeros((2, 0), np.float32), np.zeros((0, 3), np.float32), out, add=True)
    assert out.sum() == 6
    device().product(np.zeros((2, 0), np.float32), np.zeros((0, 3), np.float32), out)
    assert out.sum() == 0
    device().product(np.zeros((0, 4), np.float32), np.zeros((4, 3), np.float32), np.zeros((0, 3), np.float32))


def test_matrices_that_cublas_cannot_read() -> None:
    a, b, out = np.zeros((4, 6))[:, ::2], np.zeros((3, 5)), np.zeros((4, 5))
    with pytest.raises(ValueError, match="rows or columns must lie side by side"):
        gemm_of(a, b, out)
    with pytest.raises(ValueError, match="the elements of a row of out must lie side by side"):
        gemm_of(np.zeros((4, 3)), b, out.reshape(5, 4).T)
    with pytest.raises(ValueError, match=r"shapes must be .* got \(4, 3\), \(5, 3\) and \(4, 5\)"):
        gemm_of(np.zeros((4, 3)), np.zeros((5, 3)), out)


def test_copies_are_of_memory(cupy: FakeCupy) -> None:
    """One of all bytes, in the current stream; no kernel."""
    a, b = (np.zeros((3, 5), np.float16).view(Pointed) for _ in "ab")
    a[...] = np.arange(15).reshape(3, 5)
    device().copy(a, b)
    np.testing.assert_array_equal(a, b)


# Presence ------------------------------------------------------------------------------------------------------------


class Cuda:
    """Stands for CUDA's runtime, which nobody shall ask."""

    class CUDARuntimeError(Exception):
        pass

    def __init__(self, fails: bool = False) -> None:
        self.asked = 0
        self.fails = fails

    def runtimeGetVersion(self) -> int:
        return 13000

    def getDeviceCount(self) -> int:
        self.asked += 1
        if self.fails:
            raise self.CUDARuntimeError("cudaErrorNoDevice")
        return 1


@pytest.mark.parametrize(
    ("files", "visible", "nvml", "reason", "asked"),
    [
        (False, None, (1, 13), "no driver is loaded", 0),
        (True, None, (1, 13), "", 0),
        (True, None, (0, 13), "NVML counts none", 0),
        (True, None, (1, 12), "the driver is for CUDA 12", 0),
        (True, "", (1, 13), "CUDA_VISIBLE_DEVICES is ''", 0),
        (True, "-1", (1, 13), "CUDA_VISIBLE_DEVICES is '-1'", 0),
        (True, "0", (1, 13), "", 0),
        (True, None, None, "", 1),
        (True, None, None, "cudaErrorNoDevice", 1),
    ],
)
def test_cuda_is_not_used_to_learn_whether_it_is_there(
    files: bool,
    visible: str | None,
    nvml: tuple[int, int] | None,
    reason: str,
    asked: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that children of a process that has only asked can use it. Where there is no NVML, it is remembered."""
    import cupy

    cuda = Cuda(fails=reason == "cudaErrorNoDevice")
    monkeypatch.setattr(cupy.cuda, "runtime", cuda)
    monkeypatch.setattr(presence, "glob", lambda pattern: [pattern] * files)
    monkeypatch.setattr(presence, "seen_by_nvml", lambda: nvml)
    monkeypatch.setattr(presence._Use, "pid", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    got = presence.why_no_gpu()
    assert (f"({reason}): it needs an NVIDIA GPU and a driver at least as new as CUDA 13" in got) if reason else not got
    assert cuda.asked == asked
    assert presence._Use.pid == (os.getpid() if asked else None)


def test_a_child_of_a_process_that_has_used_cuda_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence._Use, "pid", os.getpid() - 1)
    assert "forked" in presence.why_no_gpu()
    with pytest.raises(RuntimeError, match=r"forked .* start processes by multiprocessing's method 'spawn'"):
        presence.refuse_after_fork()


def test_listing_backends_asks_neither_cuda_nor_opens_its_library() -> None:
    """In a process of its own."""
    script = (
        "import cylstm, sys; cylstm.available_backends();"
        "maps = open('/proc/self/maps').read() if sys.platform == 'linux' else '';"
        "assert 'libcuda.so' not in maps"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(cylstm.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", script], env=environment, timeout=120, check=True)
