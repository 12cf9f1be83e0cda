"""PyTorch with and without oneDNN. Without it and in float64 it gives the expected values. Imported when it is used."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from cases import Case, Problem

from .base import Contender, Runner, Values

if TYPE_CHECKING:
    import torch


class Torch(Contender):
    """``torch.nn.LSTM``: in inference mode; in training by forward and ``torch.autograd.grad``."""

    needs = ("torch",)

    def __init__(self, onednn: bool) -> None:
        self.onednn = onednn
        self.name = "torch-onednn" if onednn else "torch-native"

    def instruction_set(self) -> str:
        import torch

        return torch.backends.cpu.get_cpu_capability().lower()

    def prepare(self, case: Case, problem: Problem, threads: int) -> Runner:
        import torch
        from torch.nn.utils.rnn import pack_padded_sequence

        torch.set_num_threads(threads)
        lstm = torch.nn.LSTM(
            case.input_size, case.H, case.layers, bidirectional=case.bidirectional, proj_size=case.proj_size,
            dtype=getattr(torch, case.dtype),
        )  # fmt: skip
        lstm.load_state_dict({name: torch.from_numpy(array) for name, array in problem.parameters.items()})
        input = torch.from_numpy(problem.input.copy())
        lengths = torch.from_numpy(case.lengths)
        pack = (lambda x: pack_padded_sequence(x, lengths, enforce_sorted=False)) if case.shortest else lambda x: x

        @contextlib.contextmanager
        def context():
            mode = contextlib.nullcontext() if case.training else torch.inference_mode()
            tf32 = torch.backends.mkldnn.allow_tf32  # as it is
            with mode, torch.backends.mkldnn.flags(enabled=self.onednn, allow_tf32=tf32), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")
                yield

        if not case.training:
            packed = pack(input)
            return Runner(lambda: lstm(packed), self._output, context)

        packed = pack(input)
        leaf = packed.data.requires_grad_() if case.shortest else packed.requires_grad_()
        grad_output = pack(torch.from_numpy(problem.grad_output))
        grad_output = grad_output.data if case.shortest else grad_output
        names, parameters = zip(*lstm.named_parameters(), strict=True)

        def step():
            output, _ = lstm(packed)
            output = output.data if case.shortest else output
            return torch.autograd.grad(output, (leaf, *parameters), grad_output)

        def gradients(grads: Any) -> Values:
            grad_input = packed._replace(data=grads[0]) if case.shortest else grads[0]
            return {"input": _padded(grad_input), **dict(zip(names, map(_numpy, grads[1:]), strict=True))}

        return Runner(step, gradients, context)

    @staticmethod
    def _output(result: Any) -> Values:
        output, (h_n, c_n) = result
        return {"output": _padded(output), "h_n": _numpy(h_n), "c_n": _numpy(c_n)}


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def _padded(output: Any) -> np.ndarray:
    """The output as (T, B, features), whatever it is."""
    from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

    return _numpy(pad_packed_sequence(output)[0] if isinstance(output, PackedSequence) else output)
