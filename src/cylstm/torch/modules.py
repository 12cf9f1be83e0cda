"""The drop-ins: PyTorch's modules on a backend of cylstm."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.onnx
from torch import Tensor, fx, nn
from torch.nn.utils.rnn import PackedSequence

from ..arrays.arguments import as_dtype
from ..backends import registry
from ..backends.base import Backend
from ..backends.precision import DEFAULT, check_precision, in_force
from .derivatives import lstm as _run
from .operator import Arguments, Options, backend_name
from .tensors import on_gpu

__all__ = ["LSTM", "LSTMCell", "OnBackend", "check_choice", "parameter_names"]


class OnBackend:
    """What the drop-ins add to PyTorch's classes beside ``forward``."""

    backend: str | Backend | None = None
    precision: str | None = None  # the caller's choice

    def __init__(
        self,
        *args: Any,
        device: Any = None,
        backend: str | Backend | None = None,
        precision: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.backend = backend
        self.precision = precision
        if device is not None:  # named in the signature, where torch.nn.utils.skip_init looks for it
            kwargs["device"] = device
        super().__init__(*args, **kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "qconfig":  # each of PyTorch's quantisations sets it, on the modules too that it will leave
            warnings.warn(
                f"{type(self).__name__} stays in the dtype of its parameters, for PyTorch's quantisation does not know "
                "cylstm.torch: call cylstm.torch.restore(model) before it, to quantise this module too",
                stacklevel=2,
            )
        if name == "backend":
            backend_name(value)  # known from now on: compiled code does not make it known before it calls the operator
        super().__setattr__(name, value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[misc]  # of the class that comes next
        backend_name(self.backend)

    def __prepare_scriptable__(self) -> None:
        """Called by ``torch.jit.script``, which compiles Python and knows no backend."""
        raise RuntimeError(
            f"cylstm.torch.{type(self).__name__} cannot be scripted: call cylstm.torch.restore(model) before "
            "torch.jit.script, or use torch.jit.trace"
        )

    def reset_parameters(self) -> None:
        """Draw the parameters anew, as PyTorch does; a backend that cannot compute them raises before."""
        check_choice(self, self.backend, self.precision)
        super().reset_parameters()  # type: ignore[misc]  # of the class that comes next

    def extra_repr(self) -> str:
        """What PyTorch shows, and the precision where it was chosen."""
        text = super().extra_repr()  # type: ignore[misc]
        return text if self.precision in (None, DEFAULT) else f"{text}, precision={self.precision!r}"


class LSTM(OnBackend, nn.LSTM):
    """``torch.nn.LSTM`` on a backend of cylstm.

    Parameters
    ----------
    *args, **kwargs
        Those of ``torch.nn.LSTM``.
    backend : str or Backend, optional
        The backend; None for the selection in force at each call, see `cylstm.set_backend`.
    precision : {"float32", "bfloat16", "int8"}, optional
        How float32 parameters are prepared and computed, see `cylstm.LSTM`; an attribute too. The last two are for
        inference only.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As ``torch.nn.LSTM`` does for the same arguments; for the backend, as `cylstm.LSTM` does.

    Notes
    -----
    ``autocast`` leaves it in the dtype of its parameters. Second derivatives raise a RuntimeError.

    Examples
    --------
    >>> import torch, cylstm.torch
    >>> lstm = cylstm.torch.LSTM(10, 20)
    >>> output, (h_n, c_n) = lstm(torch.randn(7, 2, 10))
    >>> output.sum().backward()
    >>> lstm.weight_ih_l0.grad.shape
    torch.Size([80, 10])
    """

    def forward(self, input: Any, hx: tuple[Tensor, Tensor] | None = None) -> Any:
        """Run the LSTM, as ``torch.nn.LSTM`` does.

        Parameters
        ----------
        input : Tensor or PackedSequence
            (T, B, I), or (B, T, I) with batch_first, or (T, I) unbatched.
        hx : tuple of two tensors, optional
            h_0 (L * D, B, R) and c_0 (L * D, B, H), without B for unbatched input. Zeros by default.

        Returns
        -------
        output : Tensor or PackedSequence
            (T, B, D * R), or as the input lies.
        (h_n, c_n) : tuple of Tensor
            In the shapes of h_0 and c_0.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As ``torch.nn.LSTM`` does for the same mistake.
        """
        if _exporting_to_onnx():  # the exporters know the LSTM that is PyTorch's own
            return super().forward(input, hx)
        if (tracer := _tracer_of(input, hx)) is not None:
            return _as_leaf(self, tracer, input, hx)
        weights = _weights(self)
        packed = isinstance(input, PackedSequence)
        data, batch_sizes, sorted_indices, unsorted_indices = input if packed else (input, None, None, None)
        data, hx = _checked(data, hx, weights[0], RuntimeError if packed else ValueError)
        D, H, R = 1 + bool(self.bidirectional), self.hidden_size, self.proj_size or self.hidden_size
        if batch_sizes is not None and hx[0] is None:
            leading = self.num_layers * D, batch_sizes[0]  # no int: a trace follows it
            hx = data.new_zeros(*leading, R), data.new_zeros(*leading, H)
        there = on_gpu(data)
        if there and packed:  # the indices lie there too: PyTorch puts the states in order, as torch.nn.LSTM does
            hx = tuple(_ordered(state, sorted_indices) for state in hx)
        masks = None
        if (
            self.training and self.dropout > 0 and self.num_layers > 1
        ):  # drawn as torch.nn.LSTM draws them: the same seed drops the same
            ones = data.new_ones(data.shape[:-1].numel(), D * R)
            masks = torch.stack([nn.functional.dropout(ones, self.dropout) for _ in range(1, self.num_layers)])
        order = (None, None) if there else (sorted_indices, unsorted_indices)
        output, *state = _run(
            Arguments(data, batch_sizes, *order, hx[0], hx[1], masks, weights),
            Options(
                self.num_layers,
                self.bias,
                self.batch_first,
                bool(self.bidirectional),
                self.proj_size,
                backend_name(self.backend),
                self.precision,
            ),
        )
        if there and packed:
            state = [_ordered(each, unsorted_indices) for each in state]
        if packed:
            output = PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices)
        return output, tuple(state)


class LSTMCell(OnBackend, nn.LSTMCell):
    """``torch.nn.LSTMCell`` on a backend of cylstm.

    Parameters
    ----------
    *args, **kwargs
        Those of ``torch.nn.LSTMCell``.
    backend : str or Backend, optional
        The backend; None for the selection in force at each call, see `cylstm.set_backend`.
    precision : {"float32", "bfloat16", "int8"}, optional
        How float32 parameters are prepared and computed, see `cylstm.LSTM`; an attribute too. The last two are for
        inference only.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As ``torch.nn.LSTMCell`` does for the same arguments; for the backend, as `cylstm.LSTM` does.
    """

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Take one step, as ``torch.nn.LSTMCell`` does.

        Parameters
        ----------
        input : Tensor (B, I), or (I,) unbatched
        hx : tuple of two tensors, optional
            h_0 and c_0, each (B, H), or (H,) unbatched. Zeros by default.

        Returns
        -------
        h_1, c_1 : Tensor
            In the shapes of h_0 and c_0.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As ``torch.nn.LSTMCell`` does for the same mistake.
        """
        if _exporting_to_onnx():
            return super().forward(input, hx)
        if (tracer := _tracer_of(input, hx)) is not None:
            return _as_leaf(self, tracer, input, hx)
        weights = _weights(self)
        data, hx = _checked(input, hx, weights[0], RuntimeError)
        if not torch.jit.is_tracing():  # a trace runs with other sizes, which the operator checks
            self._check_shapes(data, hx)
        h_0, c_0 = (None if state is None else state.unsqueeze(0) for state in hx)
        arguments = Arguments(data.unsqueeze(0), None, None, None, h_0, c_0, None, weights)
        options = Options(1, bool(self.bias), False, False, 0, backend_name(self.backend), self.precision)
        _, h_1, c_1 = _run(arguments, options)
        return h_1.squeeze(0), c_1.squeeze(0)

    def _check_shapes(self, data: Tensor, hx: tuple[Tensor | None, Tensor | None]) -> None:
        if data.dim() not in (1, 2):
            raise ValueError(f"input must be 1-D (input_size,) or 2-D (B, input_size), got shape {tuple(data.shape)}")
        if data.shape[-1] != self.input_size:
            raise RuntimeError(f"input.shape[-1] must be input_size = {self.input_size}, got {data.shape[-1]}")
        expected = (*data.shape[:-1], self.hidden_size)
        for name, state in zip(("h_0", "c_0"), hx, strict=True):
            if state is not None and state.shape != expected:
                error = RuntimeError if state.dim() in (1, 2) else ValueError
                raise error(f"{name} must have shape {expected}, got {tuple(state.shape)}")


@torch.compiler.assume_constant_result  # the compiler, by which PyTorch exports too, takes it for False
def _exporting_to_onnx() -> bool:
    return torch.onnx.is_in_onnx_export()


def _tracer_of(*values: Any) -> fx.Tracer | None:
    """The tracer of ``torch.fx`` where one of the values stands for a tensor of a later call."""
    for value in values:
        tracer = (
            _tracer_of(*value)
            if isinstance(value, (tuple, list))
            else value.tracer
            if isinstance(value, fx.Proxy)
            else None
        )
        if tracer is not None:
            return tracer
    return None


def _as_leaf(module: nn.Module, tracer: fx.Tracer, input: Any, hx: Any) -> fx.Proxy:
    """One call of the module in the graph, as the tracer makes of PyTorch's own modules."""
    arguments = (input,) if hx is None else (input, hx)
    return tracer.create_proxy("call_module", tracer.path_of_module(module), arguments, {})


def _weights(module: nn.Module) -> list[Tensor]:
    """The weights in PyTorch's order, as hooks and parametrisations compute them."""
    weights = [getattr(module, name) for name in parameter_names(module)]
    if any(type(weight).__name__ == "ExpandedWeight" for weight in weights):
        raise NotImplementedError(
            "cylstm has no expanded weights (call_for_per_sample_grads): use torch.func.vmap(torch.func.grad(...)) for "
            "the gradients of each sample, or torch.nn.LSTM, which cylstm.torch.restore(model) puts back"
        )
    return weights


def check_choice(module: nn.Module, backend: str | Backend | None, precision: str | None) -> None:
    """An explicit choice works or raises, here rather than at the first call."""
    if backend is not None or precision is not None:
        dtype = as_dtype(next(module.parameters()).dtype)
        precision = in_force(check_precision(precision, dtype), dtype)
        if backend is not None:
            projection = getattr(module, "proj_size", 0) > 0
            registry.choose(backend, dtype=dtype.name, projection=projection, precision=precision)


def _checked(
    input: Any, hx: Any, weight: Tensor, dtype_error: type[Exception]
) -> tuple[Tensor, tuple[Tensor | None, Tensor | None]]:
    """Input and states, found to be tensors of the device and dtype of the weights."""
    if hx is not None:
        if not isinstance(hx, (tuple, list)):
            raise TypeError(f"hx must be a tuple of two tensors (h_0, c_0), got {type(hx).__name__}")
        if len(hx) != 2:  # torch.nn.LSTM leaks an IndexError for too few
            error = ValueError if len(hx) < 2 else RuntimeError
            raise error(f"hx must be a tuple of two tensors (h_0, c_0), got {len(hx)} of them")
    tensors = {"input": input} if hx is None else {"input": input, "h_0": hx[0], "c_0": hx[1]}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
        if tensor.is_nested or tensor.layout is not torch.strided:
            kind, remedy = f"one of layout {tensor.layout}", "call .to_dense()"
            if tensor.is_nested:
                kind, remedy = "a nested one", "use torch.nn.utils.rnn.pack_sequence(input.unbind(), False)"
            raise RuntimeError(f"{name} must be a dense tensor, got {kind}: {remedy}")
        if tensor.device != weight.device:
            raise RuntimeError(
                f"{name} must lie on {weight.device}, as the weights do, got {tensor.device}: move one of them"
            )
        if torch.is_autocast_enabled("cuda" if on_gpu(weight) else "cpu") and tensor.is_floating_point():
            tensors[name] = tensor.to(weight.dtype)
        elif tensor.dtype != weight.dtype:
            raise dtype_error(
                f"{name} must have the dtype of the weights, {weight.dtype}, got {tensor.dtype}: convert the tensor by "
                f".to({weight.dtype}), or the module by .to({tensor.dtype})"
            )
    return tensors["input"], (tensors.get("h_0"), tensors.get("c_0"))


def _ordered(state: Tensor, indices: Tensor | None) -> Tensor:
    return state if indices is None else state.index_select(1, indices)


def parameter_names(module: nn.Module) -> list[str]:
    """The names of the parameters of an LSTM or LSTMCell in PyTorch's order."""
    if isinstance(module, nn.LSTM):
        return [name for of_layer in module._all_weights for name in of_layer]
    return ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if module.bias else [])]
