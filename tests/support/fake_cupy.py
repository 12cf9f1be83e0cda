"""The few calls of CuPy that ``cupy_device.py`` makes of streams and cuBLAS, as CuPy 14.2 does them; nothing computes.

For what no arrays are needed: which stream is the current one when, and which arguments go to cuBLAS.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np


class OutOfMemoryError(Exception):
    """As ``cupy.cuda.memory.OutOfMemoryError``."""


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


class CUDADriverError(CUDARuntimeError):
    pass


class CUBLASError(CUDARuntimeError):
    pass


class FakeCupy:
    """The module."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        cupy = self

        class Stream:
            null: Any
            ptds: Any

            def __init__(self, non_blocking: bool = False, ptr: int | None = None) -> None:
                self.non_blocking = non_blocking
                self.ptr = id(self) if ptr is None else ptr
                self.broken = False
                self.waits = 0

            @classmethod
            def from_external(cls, external: Any) -> Any:
                stream = cls(ptr=id(external))
                stream.external = external
                return stream

            def is_capturing(self) -> bool:
                return cupy.events[-1:] == [("begin", self)]

            def __eq__(self, other: object) -> bool:
                return isinstance(other, Stream) and self.ptr == other.ptr

            def __hash__(self) -> int:
                return self.ptr

            def synchronize(self) -> None:
                self.waits += 1

            def use(self) -> Any:
                cupy.current = self
                return self

            def __enter__(self) -> Any:  # the end of a block goes back to the block around it, not to what was `use`d
                cupy.blocks.append(self)
                return self.use()

            def __exit__(self, *_: Any) -> None:
                cupy.blocks.pop()
                cupy.current = cupy.blocks[-1] if cupy.blocks else Stream.null

            def begin_capture(self) -> None:
                cupy.events.append(("begin", self))

            def end_capture(self) -> Any:
                if self.broken:
                    raise CUDARuntimeError(901)
                cupy.events.append(("end", self))
                return SimpleNamespace(launch=lambda: cupy.events.append(("replay", cupy.current)))

            def record(self, event: Any) -> Any:
                cupy.events.append(("record", self))
                return event

            def wait_event(self, event: Any) -> None:
                cupy.events.append(("wait", self))

        Stream.null = Stream(ptr=0)
        Stream.ptds = Stream(ptr=2)
        self.current: Any = Stream.null
        self.blocks: list[Any] = []
        self.cuda = SimpleNamespace(
            Stream=Stream,
            Event=lambda **_: object(),
            get_current_stream=lambda: self.current,
            driver=SimpleNamespace(CUDADriverError=CUDADriverError),
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            device=SimpleNamespace(get_cublas_handle=lambda: 7),
            set_allocator=lambda allocator: self.events.append(("allocator", allocator)),
        )


class Pointer(NamedTuple):
    """As ``cupy.cuda.MemoryPointer``."""

    ptr: int

    def copy_from_device_async(self, source: Pointer, size: int) -> None:
        ctypes.memmove(self.ptr, source.ptr, size)


class Pointed(np.ndarray):
    """An array of NumPy with its address at the place where CuPy has it."""

    @property
    def data(self) -> Any:  # type: ignore[override]
        return Pointer(self.__array_interface__["data"][0])


class FakeCublas:
    """cuBLAS's ``gemmEx`` on the CPU: column-major matrices at addresses."""

    CUBLAS_POINTER_MODE_HOST = 0

    def __init__(self, dtypes: dict[int, np.dtype]) -> None:
        self.dtypes = dtypes
        self.mode = 1
        self.math = 3  # somebody else wants TF32
        self.compute: list[int] = []

    def getPointerMode(self, handle: int) -> int:
        return self.mode

    def setPointerMode(self, handle: int, mode: int) -> None:
        self.mode = mode

    def getMathMode(self, handle: int) -> int:
        return self.math

    def setMathMode(self, handle: int, mode: int) -> None:
        self.math = mode

    def gemmEx(
        self, handle, transa, transb, m, n, k, alpha, A, Atype, lda, B, Btype, ldb, beta, C, Ctype, ldc, compute, algo
    ) -> None:  # fmt: skip
        assert self.mode == self.CUBLAS_POINTER_MODE_HOST
        assert self.math == 16  # no TF32 by the way, no sums in 16 bits
        assert handle == 7
        assert algo == -1
        self.compute.append(compute)
        scalar = ctypes.c_double if compute == 70 else ctypes.c_float
        factor, kept = (scalar.from_address(address).value for address in (alpha, beta))
        a = self._matrix(A, Atype, *((k, m) if transa else (m, k)), lda)
        b = self._matrix(B, Btype, *((n, k) if transb else (k, n)), ldb)
        c = self._matrix(C, Ctype, m, n, ldc)
        wide = np.float64 if compute == 70 else np.float32
        product = (a.T if transa else a).astype(wide) @ (b.T if transb else b).astype(wide)
        c[...] = factor * product + (kept * c.astype(wide) if kept else 0)

    def _matrix(self, address: int, kind: int, rows: int, columns: int, leading: int) -> np.ndarray:
        dtype = self.dtypes[kind]
        assert leading >= max(1, rows)
        bytes_ = ((columns - 1) * leading + rows) * dtype.itemsize
        memory = np.frombuffer((ctypes.c_char * bytes_).from_address(address), dtype)
        return np.lib.stride_tricks.as_strided(
            memory, (rows, columns), (dtype.itemsize, leading * dtype.itemsize), writeable=True
        )
