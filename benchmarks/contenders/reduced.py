"""Contenders in reduced precision, cylstm's and their peers', beside those in float32."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import Case, Problem

import cylstm
from cylstm.backends import registry

from .base import Contender, Runner
from .onnx_runtime import OnnxRuntime, onnx_model
from .ours import CyLSTM, CyLSTMStream
from .pytorch import Torch


class _Precise:
    """A contender of ours in a precision."""

    precision = "float32"

    def _in_precision(self, precision: str) -> None:
        self.precision = precision
        self.name = f"cylstm-{precision}" + "-stream" * self.name.endswith("-stream")  # type: ignore[has-type]

    def supports(self, case: Case) -> bool:
        backend = registry.load(self.backend)  # type: ignore[attr-defined]
        return super().supports(case) and self.precision in backend.capabilities.precisions  # type: ignore[misc]

    def module(self, case: Case, problem: Problem, threads: int) -> cylstm.LSTM:
        lstm = super().module(case, problem, threads)  # type: ignore[misc]
        lstm.precision = self.precision
        return lstm


class OurCall(_Precise, CyLSTM):
    """The cython backend in a precision, by a call of the module."""

    def __init__(self, precision: str, backend: str = "cython") -> None:
        super().__init__(backend)
        self._in_precision(precision)


class OurStream(_Precise, CyLSTMStream):
    """The same by ``stream``: for cases of one step."""

    def __init__(self, precision: str, backend: str = "cython") -> None:
        super().__init__(backend)
        self._in_precision(precision)


class TorchBfloat16(Torch):
    """``torch.nn.LSTM`` in bfloat16, by oneDNN: input, states and output are bfloat16 too."""

    precision = "bfloat16"

    def __init__(self) -> None:
        super().__init__(onednn=True)
        self.name = "torch-bfloat16"

    def prepare(self, case: Case, problem: Problem, threads: int) -> Runner:
        torch.set_num_threads(threads)
        lstm = torch.nn.LSTM(case.input_size, case.H, case.layers, bidirectional=case.bidirectional)
        lstm.load_state_dict({name: torch.from_numpy(array) for name, array in problem.parameters.items()})
        lstm.bfloat16()
        input = torch.from_numpy(problem.input).bfloat16()
        return Runner(lambda: lstm(input), _widened, torch.inference_mode)


class TorchInt8(Torch):
    """What ``torch.ao.quantization.quantize_dynamic`` makes of ``torch.nn.LSTM``."""

    precision = "int8"

    def __init__(self) -> None:
        super().__init__(onednn=True)
        self.name = "torch-int8"

    def prepare(self, case: Case, problem: Problem, threads: int) -> Runner:
        torch.set_num_threads(threads)
        lstm = torch.nn.LSTM(case.input_size, case.H, case.layers, bidirectional=case.bidirectional)
        lstm.load_state_dict({name: torch.from_numpy(array) for name, array in problem.parameters.items()})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it will move to another package
            model = torch.nn.Sequential(lstm)
            quantized = torch.ao.quantization.quantize_dynamic(model, {torch.nn.LSTM}, dtype=torch.qint8)[0]
        input = torch.from_numpy(problem.input.copy())
        return Runner(lambda: quantized(input), _widened, torch.inference_mode)


class OnnxRuntimeInt8(OnnxRuntime):
    """ONNX Runtime on what its ``quantize_dynamic`` makes: DynamicQuantizeLSTM nodes."""

    name = "onnxruntime-int8"
    precision = "int8"

    def model(self, case: Case, problem: Problem) -> bytes:
        import logging

        from onnxruntime.quantization import QuantType, quantize_dynamic

        logging.getLogger().setLevel(logging.ERROR)  # it recommends to prepare the model, which this one is
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "float32.onnx"), Path(folder, "int8.onnx")
            source.write_bytes(onnx_model(case, problem.parameters))
            quantize_dynamic(source, target, weight_type=QuantType.QInt8)
            return target.read_bytes()


def _widened(result: Any) -> dict[str, np.ndarray]:
    output, (h_n, c_n) = result
    return {name: t.detach().float().numpy() for name, t in (("output", output), ("h_n", h_n), ("c_n", c_n))}


def reduced() -> list[Contender]:
    """All of them, those in float32 first; ours in each precision."""
    ours = [kind(precision) for precision in ("float32", "bfloat16", "int8") for kind in (OurCall, OurStream)]
    peers = [Torch(onednn=True), OnnxRuntime(), TorchBfloat16(), TorchInt8(), OnnxRuntimeInt8()]
    return [*ours, *peers]
