"""The compiled backend: checks and allocates, then calls ``_lstm``. float32 and float64.

``CYLSTM_MAX_ISA`` (``generic``, ``avx2``, ``avx512``) caps the instruction set; it is read when the first layer is
prepared.
"""

from __future__ import annotations

import math
import os
import threading
from typing import Any, ClassVar

import numpy as np

from ..base import Backend, Capabilities, DirectionParameters, Keep, LayerGradients, LayerOutput, LayerParameters
from .threads import get_num_threads

try:
    from . import _lstm
except ImportError as error:  # a source tree that was not built
    _lstm = None  # type: ignore[assignment]
    _WHY_NOT = f"the compiled module {__package__}._lstm cannot be imported ({error}): build it by `pip install .`"

VARIABLE = "CYLSTM_MAX_ISA"
_FLOAT32 = np.dtype(np.float32)
#: h_prev (D, N, R), c_prev (D, blocks, N, VL), activated gates (D, blocks, N, 4 VL), and of each segment
#: h_segment (D, S, B, R), c_segment (D, S, blocks, B, VL).
_Kept = tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None, np.ndarray | None, np.ndarray | None]
_NOTHING: _Kept = (None,) * 5


class Spares:
    """Large buffers of workspaces that are gone, for those to come.

    The C library may give such memory back to the system, and fresh memory costs a page fault for every 4 KiB: a fifth
    of the time of training a stack of layers. The latest are kept, 64 MiB of them.
    """

    LARGE = 1 << 17  # bytes of one
    MOST = 1 << 26  # bytes of all

    def __init__(self) -> None:
        self.buffers: list[np.ndarray] = []
        self.lock = threading.RLock()  # a workspace may be collected while this thread is in here

    def take(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array whose values are left to chance."""
        size = math.prod(shape) * dtype.itemsize
        if size >= self.LARGE:
            with self.lock:
                for n in range(len(self.buffers)):
                    if self.buffers[n].nbytes == size:
                        return self.buffers.pop(n).reshape(-1).view(dtype).reshape(shape)
        return np.empty(shape, dtype)

    def give(self, buffer: np.ndarray) -> None:
        """Take over an array that nobody else knows."""
        if buffer.nbytes >= self.LARGE:
            with self.lock:
                self.buffers.append(buffer)
                while sum(buffer.nbytes for buffer in self.buffers) > self.MOST:
                    del self.buffers[0]


_spares = Spares()
if hasattr(os, "register_at_fork"):  # a lock that another thread held when the process forked is never released
    os.register_at_fork(after_in_child=_spares.__init__)  # type: ignore[misc]


class Workspace:
    """What forward kept, in the kernels' layout (``_lstm.pyx``): D directions side by side.

    Either the gates and states of every step, or the states before each of S segments, from which backward computes
    the others again.
    """

    __slots__ = ("batch_sizes", "input", "kept")

    def __init__(self, input: np.ndarray, batch_sizes: np.ndarray, kept: _Kept) -> None:
        self.input = input  # (N, I)
        self.batch_sizes = batch_sizes  # (T,)
        self.kept = kept

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("a workspace cannot be copied: both would give the same memory back")

    def __del__(self) -> None:
        for buffer in self.kept:
            if buffer is not None:
                _spares.give(buffer)


class CythonBackend(Backend):
    """OpenMP-parallel kernels for the CPU. Results do not depend on threads, batch, or how a sequence is cut."""

    name: ClassVar[str] = "cython"
    capabilities: ClassVar[Capabilities] = Capabilities(dtypes=frozenset({"float32", "float64"}), training=True)

    @classmethod
    def is_available(cls) -> tuple[bool, str]:
        return (True, "") if _lstm is not None else (False, _WHY_NOT)

    def __init__(self) -> None:
        self._isa: str | None = None

    @property
    def instruction_set(self) -> str:
        """The instruction set of the kernels: the best that this processor has, up to ``CYLSTM_MAX_ISA``."""
        if self._isa is None:
            self._isa = _best_up_to(os.environ.get(VARIABLE, "").strip().lower())
        return self._isa

    def info(self) -> dict[str, Any]:
        """Facts for ``cylstm info``."""
        return {
            "instruction_set": self.instruction_set,
            "instruction_sets": _lstm.instruction_sets(),
            "threads": get_num_threads(),
            "openmp": _lstm.openmp(),
        }

    def prepare(self, layer_parameters: LayerParameters) -> _lstm.Layer:
        first = layer_parameters[0]
        gates, I = first.weight_ih.shape
        P = 0 if first.weight_hr is None else first.weight_hr.shape[0]
        isa = self.instruction_set
        layer = _lstm.Layer(len(layer_parameters), I, gates // 4, P, first.weight_ih.dtype.itemsize, isa)
        for d, parameters in enumerate(layer_parameters):
            contiguous = DirectionParameters(*(None if p is None else np.ascontiguousarray(p) for p in parameters))
            _lstm.pack(layer, d, *contiguous)
        return layer

    def forward(
        self,
        prepared: _lstm.Layer,
        *,
        input: np.ndarray,
        batch_sizes: np.ndarray,
        h_0: np.ndarray | None,
        c_0: np.ndarray | None,
        keep: Keep = "nothing",
    ) -> LayerOutput:
        D, H, R, B, N = prepared.D, prepared.H, prepared.R, batch_sizes.item(0), len(input)
        dtype = input.dtype
        threads = 1 if prepared.serial_below > N else get_num_threads()
        output = _on_a_line((N, D * R), dtype) if threads > 1 and N >= 16 else np.empty((N, D * R), dtype)
        h_n = np.empty((D, B, R), dtype)
        c_n = np.empty((D, B, H), dtype)
        kept: _Kept = _NOTHING
        if keep == "gates":
            h_prev = _spares.take((D, N, R), dtype)
            c_prev = _spares.take((D, prepared.blocks, N, prepared.lanes), dtype)
            gates = _spares.take((D, prepared.blocks, N, 4 * prepared.lanes), dtype)
            kept = (h_prev, c_prev, gates, None, None)
        elif keep == "states":
            S = _lstm.segments(len(batch_sizes), B)
            h_segment = _spares.take((D, S, B, R), dtype)
            c_segment = _spares.take((D, S, prepared.blocks, B, prepared.lanes), dtype)
            kept = (None, None, None, h_segment, c_segment)
        if N:
            _lstm.forward(prepared, input, batch_sizes, h_0, c_0, output, h_n, c_n, *kept, threads)
        workspace = None if keep == "nothing" else Workspace(input, batch_sizes, kept)
        return LayerOutput(output, h_n, c_n, workspace)

    def stepper(self, layers: tuple[_lstm.Layer, ...], *, batch_size: int) -> _lstm.Stepper:
        return _lstm.Stepper(layers, batch_size)

    def backward(
        self,
        prepared: _lstm.Layer,
        workspace: Workspace,
        *,
        grad_output: np.ndarray | None,
        grad_h_n: np.ndarray | None,
        grad_c_n: np.ndarray | None,
    ) -> LayerGradients:
        input, batch_sizes = workspace.input, workspace.batch_sizes
        dtype, N, B = input.dtype, len(input), batch_sizes[0]
        D, I, H, R, P = prepared.D, input.shape[1], prepared.H, prepared.R, prepared.P
        new = np.empty if N else np.zeros
        grad_input = new((D, N, I), dtype)
        grad_h_0 = new((D, B, R), dtype)
        grad_c_0 = new((D, B, H), dtype)
        grad_weight_ih = new((D, 4 * H, I), dtype)
        grad_weight_hh = new((D, 4 * H, R), dtype)
        grad_bias = new((D, 4 * H), dtype)
        grad_weight_hr = new((D, P, H), dtype) if P else None
        if N:
            run = _lstm.backward_float32 if dtype == _FLOAT32 else _lstm.backward_float64
            run(
                prepared, workspace.input, workspace.batch_sizes, *workspace.kept, grad_output, grad_h_n, grad_c_n,
                grad_input, grad_h_0, grad_c_0, grad_weight_ih, grad_weight_hh, grad_bias, grad_weight_hr,
                get_num_threads(),
            )  # fmt: skip
        parameters = tuple(
            DirectionParameters(
                grad_weight_ih[d],
                grad_weight_hh[d],
                grad_bias[d] if prepared.bias else None,
                grad_bias[d].copy() if prepared.bias else None,
                None if grad_weight_hr is None else grad_weight_hr[d],
            )
            for d in range(D)
        )
        total = grad_input[0] if D == 1 else np.add(grad_input[0], grad_input[1], out=grad_input[0])
        return LayerGradients(total, grad_h_0, grad_c_0, parameters)


def _on_a_line(shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """An array that begins on a cache line, so that threads that write different units seldom share one."""
    size = shape[0] * shape[1]
    array = np.empty(size + _lstm.line_bytes // dtype.itemsize, dtype)
    begin = _lstm.until_line(array)
    return array[begin : begin + size].reshape(shape)


def _best_up_to(cap: str) -> str:
    """The best instruction set of this processor that is not better than `cap`; "" means no cap."""
    here = _lstm.instruction_sets()  # best first
    known = ["avx512", "avx2", "generic"]
    if not cap:
        return here[0]
    if cap not in known:
        raise ValueError(f"{VARIABLE} must be one of {', '.join(known)}, got {cap!r}: correct it, or unset it")
    return next(isa for isa in here if known.index(isa) >= known.index(cap))
