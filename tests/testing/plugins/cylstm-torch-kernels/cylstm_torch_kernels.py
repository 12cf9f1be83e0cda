"""A backend for cylstm that runs each layer with PyTorch's own LSTM kernels, gradients by autograd.

It is also the example of a third party's backend: one class, one entry point in pyproject.toml, nothing else.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from cylstm.backends.base import (
    Backend,
    Capabilities,
    DirectionParameters,
    Keep,
    LayerGradients,
    LayerOutput,
    LayerParameters,
)

if TYPE_CHECKING:
    import torch


class Prepared(NamedTuple):
    """The parameters as torch has them: weight_ih, weight_hh, bias_ih, bias_hh, weight_hr, forward then reverse."""

    flat: list[torch.Tensor]
    directions: int
    bias: bool
    sizes: tuple[int, int]  # H, R


class Workspace(NamedTuple):
    """An autograd graph: its leaves and its results."""

    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # input, h_0, c_0
    flat: list[torch.Tensor]
    outputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # output, h_n, c_n


class TorchBackend(Backend):
    """``torch.lstm``, the function under ``torch.nn.LSTM``, on packed rows."""

    name: ClassVar[str] = "torch-kernels"
    capabilities: ClassVar[Capabilities] = Capabilities(
        dtypes=frozenset({"float32", "float64", "complex64", "complex128"}), training=True
    )

    @classmethod
    def is_available(cls) -> tuple[bool, str]:
        if importlib.util.find_spec("torch") is None:
            return False, "PyTorch is not installed: pip install torch"
        return True, ""

    def prepare(self, layer_parameters: LayerParameters) -> Prepared:
        first = layer_parameters[0]
        flat = [_tensor(p) for direction in layer_parameters for p in direction if p is not None]
        sizes = first.weight_ih.shape[0] // 4, first.weight_hh.shape[1]
        return Prepared(flat, len(layer_parameters), first.bias_ih is not None, sizes)

    def forward(
        self,
        prepared: Prepared,
        *,
        input: np.ndarray,
        batch_sizes: np.ndarray,
        h_0: np.ndarray | None,
        c_0: np.ndarray | None,
        keep: Keep = "nothing",
    ) -> LayerOutput:
        import torch

        # The leaves of the graph: detached, so that every call has gradients of its own.
        flat = [p.detach() for p in prepared.flat]
        x, shape = _tensor(input), (prepared.directions, int(batch_sizes[0]))
        inputs = tuple(
            x.new_zeros((*shape, size)) if state is None else _tensor(state)
            for state, size in ((h_0, prepared.sizes[1]), (c_0, prepared.sizes[0]))
        )
        leaves = (x, *inputs)
        for leaf in (*leaves, *flat):
            leaf.requires_grad_(keep != "nothing")
        with torch.set_grad_enabled(keep != "nothing"):
            outputs = self._lstm(prepared, flat, leaves, batch_sizes)
        workspace = None if keep == "nothing" else Workspace(leaves, flat, outputs)
        # Copies: the graph keeps its own results, the caller may write to ours.
        return LayerOutput(*(t.detach().numpy().copy() for t in outputs), workspace)

    def _lstm(self, prepared: Prepared, flat: Any, leaves: Any, batch_sizes: np.ndarray) -> Any:
        import torch

        x, h_0, c_0 = leaves
        options = prepared.bias, 1, 0.0, False, prepared.directions == 2
        if batch_sizes[0] == 0:  # torch refuses packed data of an empty batch, and takes the padded form
            padded = x.reshape(len(batch_sizes), 0, x.shape[1])
            output, h_n, c_n = torch.lstm(padded, (h_0, c_0), flat, *options, False)
            return output.reshape(0, output.shape[2]), h_n, c_n
        return torch.lstm(x, torch.from_numpy(batch_sizes.copy()), (h_0, c_0), flat, *options)

    def backward(
        self,
        prepared: Prepared,
        workspace: Workspace,
        *,
        grad_output: np.ndarray | None,
        grad_h_n: np.ndarray | None,
        grad_c_n: np.ndarray | None,
    ) -> LayerGradients:
        import torch

        inputs, flat, outputs = workspace
        leaves = [*inputs, *flat]
        given = [
            (t, _tensor(g)) for t, g in zip(outputs, (grad_output, grad_h_n, grad_c_n), strict=True) if g is not None
        ]
        grads = (
            torch.autograd.grad(
                [t for t, _ in given], leaves, [g for _, g in given], retain_graph=True, materialize_grads=True
            )
            if given
            else [torch.zeros_like(leaf) for leaf in leaves]
        )
        # clone: autograd gives bias_ih and bias_hh one and the same array
        arrays = [grad.clone().numpy() for grad in grads]
        count = len(flat) // prepared.directions
        names = [name for name in DirectionParameters._fields if prepared.bias or not name.startswith("bias")]
        parameters = tuple(
            DirectionParameters(**dict(zip(names[:count], arrays[3 + d * count : 3 + (d + 1) * count], strict=True)))
            for d in range(prepared.directions)
        )
        return LayerGradients(*arrays[:3], parameters)


def _tensor(array: np.ndarray) -> torch.Tensor:
    """A tensor with numbers of its own: torch cannot share read-only arrays."""
    import torch

    return torch.from_numpy(np.array(array))
