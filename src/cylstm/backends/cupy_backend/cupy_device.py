"""The GPUs as CuPy has them: compiles, launches, records, multiplies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any, NamedTuple

import cupy
import numpy as np

from .device import Dim, InVain, Launch
from .gemm import COMPUTE_32F_FAST_TF32, COMPUTE_TYPES, DATA_TYPES, gemm_of
from .planner import Facts

#: Statuses of errors that mean a lack of memory: cudaErrorMemoryAllocation, CUDA_ERROR_OUT_OF_MEMORY,
#: CUBLAS_STATUS_ALLOC_FAILED.
LACKS_MEMORY = {"CUDARuntimeError": 2, "CUDADriverError": 2, "CUBLASError": 3}
INVALID_VALUE = 1  # CUDA_ERROR_INVALID_VALUE
PER_THREAD = 2  # the address of CUDA's per-thread default stream, in every thread
GEMM_DEFAULT = -1  # CUBLAS_GEMM_DEFAULT
#: CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION: what cuBLAS adds up in parts, it adds up in float32, be the product
#: of 16 bits. And no TF32 unless a product asks for it.
STRICT_MATH = 16
#: 0 and 1 as cuBLAS takes factors of a product: of float32, and of float64.
SCALARS = [(np.array(0, dtype), np.array(1, dtype)) for dtype in (np.float32, np.float64)]


class CupySystem:
    """All GPUs of this machine; see `cylstm.backends.cupy_backend.device.System`."""

    def __init__(self) -> None:
        if os.environ.get("CUPY_ENABLE_UMP", "").strip() not in ("", "0"):
            raise RuntimeError(
                "CUPY_ENABLE_UMP must be 0, for else arrays of NumPy and CuPy may share memory, and what is returned "
                f"may not be computed yet, got {os.environ['CUPY_ENABLE_UMP']!r}: unset it"
            )
        if os.environ.get("CYLSTM_NO_POOL", "").strip() not in ("", "0"):
            # So that an array ends where its memory ends, and compute-sanitizer sees who reads beyond it.
            cupy.cuda.set_allocator(None)
        self.device = lru_cache(maxsize=None)(CupyDevice)

    def count(self) -> int:
        return cupy.cuda.runtime.getDeviceCount()

    def current(self) -> int:
        return cupy.cuda.Device().id


class Mark(NamedTuple):
    """A point in a stream."""

    stream: Any
    event: Any


class CupyDevice:
    """One GPU; see `cylstm.backends.cupy_backend.device.Device`."""

    xp = cupy

    def __init__(self, number: int) -> None:
        properties = cupy.cuda.runtime.getDeviceProperties(number)
        self.number = number
        self.name: str = properties["name"].decode()
        self.facts = Facts(
            compute_capability=(properties["major"], properties["minor"]),
            multiprocessors=properties["multiProcessorCount"],
            shared_memory=properties["sharedMemPerBlock"],
        )
        # On the host, where it is read without waiting for the device; kernels write it there.
        self._in_vain = np.frombuffer(cupy.cuda.alloc_pinned_memory(4), np.int32, 1)
        self._in_vain[0] = 0
        self._failures = InVain(number, self._in_vain)
        self._functions = lru_cache(maxsize=None)(self._compiled)
        self._grid_kernels = lru_cache(maxsize=None)(CupyGridKernel)

    def current(self) -> AbstractContextManager[Any]:
        return cupy.cuda.Device(self.number)

    def stream(self) -> Hashable:
        return _current_stream()

    def refuse_recording(self) -> None:
        if _current_stream().is_capturing():
            raise RuntimeError(
                "calls cannot be recorded in a CUDA graph, for they allocate memory, but the current stream is being "
                "recorded: call outside of the recording (a step of `stream` is a graph by itself)"
            )

    def mark(self) -> Mark:
        stream = _current_stream()
        return Mark(stream, stream.record(cupy.cuda.Event(disable_timing=True)))

    def wait(self, mark: Mark) -> None:
        stream = _current_stream()
        if stream != mark.stream:
            stream.wait_event(mark.event)

    def order(self, first: Any, then: Any) -> None:
        then.wait_event(first.record(cupy.cuda.Event(disable_timing=True)))

    def functions(self, source: str, options: tuple[str, ...], names: tuple[str, ...]) -> Mapping[str, Launch]:
        return self._functions(source, options, names)

    def _compiled(self, source: str, options: tuple[str, ...], names: tuple[str, ...]) -> Mapping[str, Launch]:
        module = cupy.RawModule(code=source, options=("-std=c++17", *options))
        return {name: _launch(module.get_function(name)) for name in names}

    def grid_kernel(
        self, name: str, source: str, definitions: tuple[str, ...], *, threads: int, shared_memory: int
    ) -> CupyGridKernel:
        multiprocessors, in_vain = self.facts.multiprocessors, np.uint64(self._in_vain.ctypes.data)
        return self._grid_kernels(name, source, definitions, threads, shared_memory, multiprocessors, in_vain)

    def verify(self) -> None:
        self._failures.verify()

    def all_ones(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        array = cupy.empty(shape, dtype)
        array.data.memset_async(0xFF, array.nbytes)
        return array

    def recorded(self, launch_all: Callable[[], None]) -> Callable[[], None]:
        # On a stream of its own: CUDA does not record the default stream. Not by `with`, whose end in CuPy before 14.3
        # makes the null stream the current one, whatever `use` had made it.
        before, stream = _current_stream(), cupy.cuda.Stream(non_blocking=True)
        stream.use()
        try:
            stream.begin_capture()
            try:
                launch_all()
            except BaseException:
                with contextlib.suppress(Exception):  # the first error says why
                    stream.end_capture()
                raise
            graph = stream.end_capture()
        finally:
            before.use()
        return lambda: graph.launch()

    def copy(self, source: Any, to: Any) -> None:
        # Not by CuPy's assignment or `copy`, which launch a kernel that moves element by element.
        to.data.copy_from_device_async(source.data, source.nbytes)

    def product(self, a: Any, b: Any, out: Any, *, add: bool = False, tf32: bool = False) -> None:
        if not out.size:
            return
        name, of_out = a.dtype.name, out.dtype.name
        gemm = gemm_of(a, b, out)
        if not gemm.k:
            if not add:
                out[...] = 0
            return
        compute = COMPUTE_32F_FAST_TF32 if tf32 and name == "float32" else COMPUTE_TYPES[name]
        one, beta = SCALARS[name == "float64"][1], SCALARS[name == "float64"][add]
        cublas, handle = _cublas(), cupy.cuda.device.get_cublas_handle()
        pointer_mode, math_mode = cublas.getPointerMode(handle), cublas.getMathMode(handle)
        cublas.setPointerMode(handle, cublas.CUBLAS_POINTER_MODE_HOST)
        cublas.setMathMode(handle, STRICT_MATH)
        try:
            cublas.gemmEx(
                handle, int(gemm.a.transposed), int(gemm.b.transposed), gemm.m, gemm.n, gemm.k, one.ctypes.data,
                b.data.ptr, DATA_TYPES[name], gemm.a.leading, a.data.ptr, DATA_TYPES[name], gemm.b.leading,
                beta.ctypes.data, out.data.ptr, DATA_TYPES[of_out], gemm.leading, compute, GEMM_DEFAULT,
            )  # fmt: skip
        finally:
            cublas.setPointerMode(handle, pointer_mode)
            cublas.setMathMode(handle, math_mode)

    def lacks_memory(self, error: BaseException) -> bool:
        if isinstance(error, (cupy.cuda.memory.OutOfMemoryError, MemoryError)):
            return True
        return LACKS_MEMORY.get(type(error).__name__) == getattr(error, "status", None) is not None

    def free(self) -> None:
        cupy.get_default_memory_pool().free_all_blocks()


def _current_stream() -> Any:
    """The current stream of this thread.

    Raises
    ------
    RuntimeError
        If it is CUDA's per-thread default stream. That has one address in all threads, so what is kept for a stream
        would be shared by several, in no order.
    """
    stream = cupy.cuda.get_current_stream()
    if stream.ptr == PER_THREAD or (not stream.ptr and _default_is_per_thread()):
        raise RuntimeError(
            "the current stream must not be CUDA's per-thread default stream, which has one address in all threads: "
            "unset CUPY_CUDA_PER_THREAD_DEFAULT_STREAM, or call inside `with cupy.cuda.Stream():` (PyTorch's tensors "
            "inside `with torch.cuda.stream(torch.cuda.Stream()):`)"
        )
    return stream


@lru_cache
def _default_is_per_thread() -> bool:
    from cupy_backends.cuda.stream import get_default_stream_ptr  # as CuPy has read its variable

    return bool(get_default_stream_ptr() == PER_THREAD)


@lru_cache
def _cublas() -> Any:
    from cupy_backends.cuda.libs import cublas  # which loads the library

    return cublas


def _launch(function: Any) -> Launch:
    def launch(grid: Dim, block: Dim, arguments: Sequence[Any], shared_memory: int = 0) -> None:
        function(grid, block, tuple(arguments), shared_mem=shared_memory)

    return launch


class CupyGridKernel:
    """A kernel in cooperative launches; see `cylstm.backends.cupy_backend.device.GridKernel`."""

    def __init__(
        self,
        name: str,
        source: str,
        definitions: tuple[str, ...],
        threads: int,
        shared_memory: int,
        multiprocessors: int,
        in_vain: np.uint64,
    ) -> None:
        module = cupy.RawModule(code=source, options=("-std=c++17", *definitions), enable_cooperative_groups=True)
        self._function = module.get_function(name)
        self._threads, self._shared_memory, self._in_vain = threads, shared_memory, in_vain
        try:
            self._function.max_dynamic_shared_size_bytes = shared_memory
        except cupy.cuda.driver.CUDADriverError as error:
            if error.status != INVALID_VALUE:  # a lack of memory, say, which must not be remembered
                raise
            self.resident = 0  # it is more than a block of this device may have
        else:
            of_one = cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor
            self.resident = multiprocessors * of_one(self._function.kernel.ptr, threads, shared_memory)

    def __call__(self, grid: tuple[int, int, int], arguments: Sequence[Any]) -> None:
        self._function(grid, (self._threads, 1, 1), (*arguments, self._in_vain), shared_mem=self._shared_memory)
