"""The compiled backend: checks and allocates, then calls ``_lstm``. float32 and float64.

``CYLSTM_MAX_ISA`` (``avx512``, ``avx2``, ``neon``, ``generic``: names of ``kernels/kernels.def``) caps the instruction
set. It is read when the first layer is prepared.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from ...arrays.quantization import QuantizedWeight, quantized
from ..base import (
    Backend,
    Capabilities,
    DirectionParameters,
    Keep,
    LayerGradients,
    LayerOptions,
    LayerOutput,
    LayerParameters,
)
from .buffers import pool
from .options import COMPUTED, packed_activations, packed_limits
from .threads import get_num_threads

try:
    from . import _layer, _lstm
except ImportError as error:  # a source tree that was not built
    _layer = _lstm = None  # type: ignore[assignment]
    _WHY_NOT = f"the compiled module {__package__}._lstm cannot be imported ({error}): build it by `pip install .`"

VARIABLE = "CYLSTM_MAX_ISA"
#: h_prev (D, N, R), c_prev (D, blocks, N, VL), activated gates (D, blocks, N, 4 VL), and of each segment
#: h_segment (D, S, B, R), c_segment (D, S, blocks, B, VL).
_KeptArrays = tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None, np.ndarray | None, np.ndarray | None]


class Workspace:
    """What forward kept, in the kernels' layout (``_pass.pxd``): D directions side by side.

    Either the gates and states of every step, or the states before each of S segments, from which backward computes
    the others again.
    """

    __slots__ = ("batch_sizes", "input", "kept")

    def __init__(self, input: np.ndarray, batch_sizes: np.ndarray, kept: _KeptArrays) -> None:
        self.input = input  # (N, I)
        self.batch_sizes = batch_sizes  # (T,)
        self.kept: _KeptArrays | None = kept  # None once it has been given back

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("a workspace cannot be copied: both would give the same memory back")

    def __del__(self, release: Callable[[np.ndarray], None] = pool.release) -> None:  # names are gone at exit
        kept, self.kept = self.kept, None  # a finaliser may bring the workspace back after this
        for buffer in kept or ():
            if buffer is not None:
                release(buffer)


class CythonBackend(Backend):
    """OpenMP-parallel kernels for the CPU. Results do not depend on threads, batch, or how a sequence is cut."""

    name: ClassVar[str] = "cython"
    capabilities: ClassVar[Capabilities] = Capabilities(
        dtypes=frozenset({"float32", "float64"}),
        training=True,
        precisions=("float32", "bfloat16", "int8"),
        options=COMPUTED,
        training_options=frozenset(),
    )

    @classmethod
    def is_available(cls) -> tuple[bool, str]:
        return (True, "") if _lstm is not None else (False, _WHY_NOT)

    def __init__(self) -> None:
        self._cap: str | None = None  # read when first needed

    def instruction_set(self, precision: str = "float32") -> str:
        """The instruction set of the kernels: the best that this processor has, up to ``CYLSTM_MAX_ISA``."""
        if self._cap is None:
            self._cap = _known(os.environ.get(VARIABLE, "").strip().lower())
        return _best_up_to(self._cap, precision)

    def info(self) -> dict[str, Any]:
        """Facts for ``cylstm info``."""
        return {
            "instruction_set": self.instruction_set(),
            "instruction_sets": _layer.instruction_sets(),
            "threads": get_num_threads(),
            "openmp": _lstm.openmp(),
        }

    def prepare(
        self, layer_parameters: LayerParameters, *, precision: str = "float32", options: LayerOptions | None = None
    ) -> _layer.Layer:
        """Pack the weights of a layer. float32 stands for the parameters' own dtype."""
        first = layer_parameters[0]
        gates, I = first.weight_ih.shape
        P = 0 if first.weight_hr is None else first.weight_hr.shape[0]
        if precision == "float32":
            precision = first.weight_ih.dtype.name
        layer = _layer.Layer(len(layer_parameters), I, gates // 4, P, precision, self.instruction_set(precision))
        for d, parameters in enumerate(layer_parameters):
            _pack(layer, d, parameters)
            if options is not None and options.named():
                _pack_options(layer, d, parameters, options)
        return layer

    def forward(
        self,
        prepared: _layer.Layer,
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
        kept: _KeptArrays | None = None
        if keep != "nothing" and not prepared.trains and prepared.precision == dtype.name:
            raise NotImplementedError(f"keep must be 'nothing' with options, got {keep!r}: there are no gradients")
        if keep == "gates":
            h_prev = pool.acquire((D, N, R), dtype)
            c_prev = pool.acquire((D, prepared.blocks, N, prepared.lanes), dtype)
            gates = pool.acquire((D, prepared.blocks, N, 4 * prepared.lanes), dtype)
            kept = (h_prev, c_prev, gates, None, None)
        elif keep == "states":
            S = _layer.segments(len(batch_sizes), B)
            h_segment = pool.acquire((D, S, B, R), dtype)
            c_segment = pool.acquire((D, S, prepared.blocks, B, prepared.lanes), dtype)
            kept = (None, None, None, h_segment, c_segment)
        if N:
            _lstm.forward(prepared, input, batch_sizes, (h_0, c_0), (output, h_n, c_n), kept, threads)
        workspace = None if kept is None else Workspace(input, batch_sizes, kept)
        return LayerOutput(output, h_n, c_n, workspace)

    def stepper(self, layers: tuple[_layer.Layer, ...], *, batch_size: int) -> _lstm.Stepper:
        return _lstm.Stepper(layers, batch_size)

    def backward(
        self,
        prepared: _layer.Layer,
        workspace: Workspace,
        *,
        grad_output: np.ndarray | None,
        grad_h_n: np.ndarray | None,
        grad_c_n: np.ndarray | None,
    ) -> LayerGradients:
        input, batch_sizes, kept = workspace.input, workspace.batch_sizes, workspace.kept
        if kept is None:
            raise RuntimeError(
                "the workspace must be whole, got one that the garbage collector has finalised: keep a pullback by a "
                "plain reference, not by an object whose __del__ saves it"
            )
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
            gradients = (grad_input, grad_h_0, grad_c_0, grad_weight_ih, grad_weight_hh, grad_bias, grad_weight_hr)
            grad_result = (grad_output, grad_h_n, grad_c_n)
            _lstm.backward(prepared, input, batch_sizes, kept, grad_result, gradients, get_num_threads())
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
    array = np.empty(size + _layer.line_bytes // dtype.itemsize, dtype)
    begin = _layer.until_line(array)
    return array[begin : begin + size].reshape(shape)


def _pack(layer: _layer.Layer, d: int, p: DirectionParameters) -> None:
    """Pack the weights of direction d."""
    weight_ih: Any = p.weight_ih
    scale_ih = None
    if isinstance(weight_ih, QuantizedWeight):
        weight_ih, scale_ih = weight_ih.values.astype(np.float32), weight_ih.scale
    weight_hh = None if layer.whole else p.weight_hh
    rest = (scale_ih, weight_hh, p.bias_ih, p.bias_hh, p.weight_hr)
    contiguous = (None if a is None else np.ascontiguousarray(a) for a in rest)
    _layer.pack(layer, d, np.ascontiguousarray(weight_ih), *contiguous)
    if layer.whole:
        whole = p.weight_hh if isinstance(p.weight_hh, QuantizedWeight) else quantized(p.weight_hh)
        _layer.pack_whole(layer, d, *map(np.ascontiguousarray, whole))


def _pack_options(layer: _layer.Layer, d: int, p: DirectionParameters, options: LayerOptions) -> None:
    """What direction d computes beyond PyTorch's LSTM."""
    weight_ch = None if p.weight_ch is None else np.ascontiguousarray(p.weight_ch)
    activations, limits = packed_activations(options, d), packed_limits(options)
    _layer.pack_options(layer, d, activations, limits, options.input_forget, weight_ch)


def _known(cap: str) -> str:
    """`cap` itself, the name of an instruction set or "" for no cap."""
    known = _all_instruction_sets()
    if cap and cap not in known:
        raise ValueError(f"{VARIABLE} must be one of {', '.join(known)}, got {cap!r}: correct it, or unset it")
    return cap


def _best_up_to(cap: str, precision: str) -> str:
    """The best instruction set of this processor that has the precision and is not better than `cap`."""
    known = _all_instruction_sets()
    least = known.index(cap) if cap else 0
    here = _layer.instruction_sets(precision)
    if not here:
        has = ", ".join(dict.fromkeys(has for _, has, runs_here in _layer.kernel_table() if runs_here))
        raise ValueError(f"precision must be one of {has}, got {precision!r}")
    return next(isa for isa in here if known.index(isa) >= least)


def _all_instruction_sets() -> list[str]:
    """Of this architecture, best first."""
    return list(dict.fromkeys(isa for isa, _, _ in _layer.kernel_table()))
