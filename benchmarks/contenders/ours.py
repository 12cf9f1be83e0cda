"""cylstm's backends, by call and by stream."""

from __future__ import annotations

from typing import Any

import numpy as np
from cases import Case, Problem

import cylstm
from cylstm.backends import registry

from .base import Contender, Runner, Values


class CyLSTM(Contender):
    """A backend of cylstm, by a call of the module; in training by ``vjp`` and the pullback."""

    peer = False

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.name = f"cylstm-{backend}"
        self.skips_zeros = backend == "cython"

    def supports(self, case: Case) -> bool:
        try:
            registry.choose(
                self.backend, dtype=case.dtype, projection=case.proj_size > 0, training=case.training, device="cpu"
            )
        except cylstm.BackendError:  # it lacks what the case needs, or does not work
            return False
        return True

    def instruction_set(self) -> str:
        told = getattr(registry.choose(self.backend, dtype="float32"), "instruction_set", None)
        return told() if callable(told) else ""

    def module(self, case: Case, problem: Problem, threads: int) -> cylstm.LSTM:
        cylstm.set_num_threads(threads)
        lstm = cylstm.LSTM(
            case.input_size, case.H, case.layers, bidirectional=case.bidirectional, proj_size=case.proj_size,
            dtype=case.dtype, backend=self.backend,
        )  # fmt: skip
        lstm.load_state_dict(problem.parameters)
        return lstm

    def prepare(self, case: Case, problem: Problem, threads: int) -> Runner:
        lstm = self.module(case, problem, threads)
        input, grad_output = problem.input, problem.grad_output
        if case.shortest:
            input = cylstm.pack_padded_sequence(input, case.lengths, enforce_sorted=False)
            if grad_output is not None:
                grad_output = cylstm.pack_padded_sequence(grad_output, case.lengths, enforce_sorted=False)
        if case.training:
            return Runner(lambda: lstm.vjp(input)[2](grad_output), self._gradients)
        return Runner(lambda: lstm(input), self._output)

    @staticmethod
    def _output(result: Any) -> Values:
        output, (h_n, c_n) = result
        return {"output": _padded(output), "h_n": h_n, "c_n": c_n}

    @staticmethod
    def _gradients(grads: Any) -> Values:
        return {"input": _padded(grads.input), **grads.parameters}


class CyLSTMStream(CyLSTM):
    """The same backend by ``stream``: for cases of one step."""

    def __init__(self, backend: str) -> None:
        super().__init__(backend)
        self.name += "-stream"
        self.skips_zeros = False

    def supports(self, case: Case) -> bool:
        return super().supports(case) and case.T == 1 and not case.bidirectional and not case.training

    def prepare(self, case: Case, problem: Problem, threads: int) -> Runner:
        stream = self.module(case, problem, threads).stream(case.B)
        x_t = problem.input[0]

        def values(output: np.ndarray) -> Values:
            stream.reset()
            output = stream(x_t)
            h, c = stream.state
            return {"output": output[None], "h_n": h, "c_n": c}

        return Runner(lambda: stream(x_t), values)


def _padded(output: Any) -> np.ndarray:
    """The output as (T, B, features), whatever it is."""
    return cylstm.pad_packed_sequence(output)[0] if isinstance(output, cylstm.PackedSequence) else output


def ours() -> list[Contender]:
    """Every backend of cylstm that is available here, by call and by stream."""
    names = [info.name for info in cylstm.available_backends() if info.status == "available"]
    return [kind(name) for name in names for kind in (CyLSTM, CyLSTMStream)]
