"""PyTorch's modules and the drop-ins, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.utils import rnn

import cylstm
import cylstm.torch
from cylstm.backends.numpy_backend import NumpyBackend

KINDS = {"LSTM": (torch.nn.LSTM, cylstm.torch.LSTM), "LSTMCell": (torch.nn.LSTMCell, cylstm.torch.LSTMCell)}


def both(*args: Any, kind: str = "LSTM", seed: int = 0, backend: str | None = None, **kwargs: Any) -> list[Any]:
    """PyTorch's module and the drop-in from the same seed."""
    theirs, ours = KINDS[kind]
    torch.manual_seed(seed)
    first = theirs(*args, **kwargs)
    torch.manual_seed(seed)
    return [first, ours(*args, backend=backend, **kwargs)]


def close(actual: torch.Tensor, expected: torch.Tensor, factor: float = 100) -> bool:
    """Equal but for roundings, on the scale of the largest element."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    if not expected.numel():
        return True
    scale = max(1.0, float(expected.detach().abs().max()))
    return float((actual - expected).detach().abs().max()) <= factor * torch.finfo(expected.dtype).eps * scale


def flat(result: Any) -> list[torch.Tensor]:
    output, state = result
    return [output.data, *state] if isinstance(output, rnn.PackedSequence) else [output, *state]


def gradients(module: torch.nn.Module, run: Callable[[torch.nn.Module], list[torch.Tensor]]) -> list[Any]:
    """Of the parameters, for random gradients of the results, always the same."""
    results = run(module)
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(r.shape, generator=generator, dtype=torch.float64).to(r.dtype) for r in results]
    return list(torch.autograd.grad(results, list(module.parameters()), grads))


def leaves_of(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from leaves_of(part)


class Counting(NumpyBackend):
    """Counts what it prepares, and how often it keeps something."""

    name = "counting"

    def __init__(self) -> None:
        self.prepared = 0
        self.kept = 0

    def prepare(self, layer_parameters: Any) -> Any:
        self.prepared += 1
        return super().prepare(layer_parameters)

    def forward(self, prepared: Any, **kwargs: Any) -> Any:
        self.kept += kwargs["keep"] != "nothing"
        return super().forward(prepared, **kwargs)
