"""How the operators are differentiated and mapped: autograd, ``torch.func``, ``vmap``.

What is not obvious:

- **torch.func** (``grad``, ``vjp``, ``jacrev``) does not take the autograd of an operator, only that of an
  ``autograd.Function`` with ``setup_context``. So there is one around each operator, for the time that a transform is
  active. Both ways of autograd have the same formulas.
- **vmap** makes one larger batch of the sequences of all its entries, where they have the weights in common. Gradients,
  which each entry has for itself, and whatever does not fold are computed one entry after the other.
- Where a forward pass has kept nothing, the backward pass runs it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..backends.precision import check_precision
from . import operator
from .operator import Arguments, Options

__all__ = ["lstm"]

_N = len(Arguments._fields)
_M = len(Options._fields)
_FUNCTIONALIZE, _VMAP = torch._C._functorch.TransformType.Functionalize, torch._C._functorch.TransformType.Vmap


def lstm(a: Arguments, options: Options) -> tuple[Tensor, Tensor, Tensor]:
    """Output, h_n and c_n, differentiable. What the backward pass needs is kept where there can be one."""
    differentiable = [tensor for tensor in (a.input, a.h_0, a.c_0, *a.weights) if tensor is not None]
    if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in differentiable):
        _refuse_forward_mode()  # an operator without a rule for it would give tangents of zero
    if not isinstance(options.precision, str):
        check_precision(options.precision, "float32")  # the operator would name itself, not the attribute
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in differentiable)
    if torch.jit.is_tracing():  # the graph is to be the same with gradients and without
        keep = False
    if _is_transformed():
        return _Lstm.apply(options, keep, *_flat(a))[:3]
    return operator.lstm(*a, *options, keep)[:3]


def _lstm_backward(
    grads: Sequence[Tensor | None], workspace: Tensor, a: Arguments, options: Options
) -> tuple[Tensor, Tensor, Tensor, Sequence[Tensor]]:
    """The gradients of input, h_0, c_0 and the weights."""
    if any(map(_is_batched, grads)):
        return _for_batched_gradients(grads, workspace, a, options)
    if _is_transformed():
        grad_input, grad_h_0, grad_c_0, *grad_weights = _LstmBackward.apply(options, *grads, workspace, *_flat(a))
        return grad_input, grad_h_0, grad_c_0, grad_weights
    return operator.lstm_backward(*grads, workspace, *a, *options)


def _is_transformed() -> bool:
    """Whether a transform of torch.func is the next that needs an ``autograd.Function``: all but functionalize do."""
    if not torch._C._are_functorch_transforms_active():
        return False
    if torch.compiler.is_compiling():  # which functionalises by itself, and does not look at transforms as Python does
        return True
    *outer, following = (one.key() for one in torch._C._functorch.get_interpreter_stack())
    if _FUNCTIONALIZE not in (*outer, following):
        return True
    if following != _FUNCTIONALIZE or not {_FUNCTIONALIZE, _VMAP}.issuperset(outer):
        raise NotImplementedError(
            "cylstm is not differentiated or mapped together with torch.func.functionalize: leave it out, for the "
            "operator changes nothing in place, or use torch.nn.LSTM, which cylstm.torch.restore(model) puts back"
        )
    return False


# Both ways of autograd ------------------------------------------------------------------------------------------------


def _flat(a: Arguments) -> tuple[Tensor | None, ...]:
    return (*a[:-1], *a.weights)


def _unflat(tensors: Sequence[Any]) -> Arguments:
    return Arguments._make([*tensors[: _N - 1], list(tensors[_N - 1 :])])


def _save(ctx: Any, a: Arguments, options: Options, workspace: Tensor) -> None:
    ctx.options = options
    ctx.save_for_backward(workspace, *_flat(a))
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, grads: Sequence[Tensor | None]) -> Arguments:
    """The gradient of each argument, in its place."""
    workspace, *tensors = ctx.saved_tensors
    a = _unflat(tensors)
    grad_input, grad_h_0, grad_c_0, grad_weights = _lstm_backward(grads[:3], workspace, a, ctx.options)
    if a.h_0 is None:
        grad_h_0 = grad_c_0 = None
    return Arguments(grad_input, None, None, None, grad_h_0, grad_c_0, None, list(grad_weights))


def _refuse_second_derivatives(ctx: Any, *grads: Any) -> None:
    raise RuntimeError(
        "cylstm has no second derivatives of the LSTM: where they are needed (a gradient penalty, gradgradcheck), use "
        "torch.nn.LSTM; cylstm.torch.restore(model) puts it back"
    )


def _refuse_forward_mode(*_: Any) -> None:
    raise NotImplementedError(
        "cylstm has no forward-mode derivatives (jvp, jacfwd, hessian): use reverse mode, or torch.nn.LSTM, which "
        "cylstm.torch.restore(model) puts back"
    )


# Autograd of the operators --------------------------------------------------------------------------------------------


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _save(ctx, Arguments(*inputs[:_N]), Options(*inputs[_N:-1]), output[-1])


def _differentiate(ctx: Any, *grads: Any) -> tuple[Any, ...]:
    return (*_gradients(ctx, grads), *[None] * _M, None)


operator.lstm.register_autograd(_differentiate, setup_context=_setup_context)
operator.lstm_backward.register_autograd(_refuse_second_derivatives)


# Autograd under the transforms of torch.func --------------------------------------------------------------------------


class _Lstm(torch.autograd.Function):
    """``cylstm::lstm`` of options, keep and the tensors."""

    generate_vmap_rule = True

    @staticmethod
    def forward(options: Options, keep: bool, *tensors: Any) -> Any:
        return operator.lstm(*_unflat(tensors), *options, keep)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        options, _, *tensors = inputs
        _save(ctx, _unflat(tensors), options, output[-1])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return (None, None, *_flat(_gradients(ctx, grads)))

    jvp = staticmethod(_refuse_forward_mode)


class _LstmBackward(torch.autograd.Function):
    """``cylstm::lstm_backward`` of options, three gradients, the workspace and the tensors."""

    generate_vmap_rule = True

    @staticmethod
    def forward(options: Options, *tensors: Any) -> Any:
        *results, weights = operator.lstm_backward(*tensors[:4], *_unflat(tensors[4:]), *options)
        return (*results, *weights)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    backward = staticmethod(_refuse_second_derivatives)
    jvp = staticmethod(_refuse_forward_mode)


# Batches of calls -----------------------------------------------------------------------------------------------------


@operator.lstm.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
    a, dims = Arguments(*args[:_N]), Arguments(*in_dims[:_N])
    options = Options(*args[_N:-1])
    if a.batch_sizes is None and a.masks is None and all(dim is None for dim in dims.weights):
        return _one_batch(a, dims, options, info.batch_size)
    results = [operator.lstm(*_entry(args[:-1], in_dims, v), False) for v in range(info.batch_size)]
    return (*_stacked(results, 3), results[0][-1]), (0, 0, 0, None)


@operator.lstm_backward.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
    results = [operator.lstm_backward(*_entry(args, in_dims, v)) for v in range(info.batch_size)]
    grad_weights = [torch.stack(grads) for grads in zip(*(result[-1] for result in results), strict=True)]
    return (*_stacked(results, 3), grad_weights), (0, 0, 0, [0] * len(grad_weights))


def _entry(args: Sequence[Any], dims: Sequence[Any], v: int) -> list[Any]:
    """The arguments of one call of a batch of calls."""
    return [
        _entry(arg, dim if isinstance(dim, (list, tuple)) else [dim] * len(arg), v)
        if isinstance(arg, (list, tuple))
        else arg
        if dim is None
        else arg.select(dim, v)
        for arg, dim in zip(args, dims, strict=False)
    ]


def _stacked(results: list[Any], n: int) -> list[Tensor]:
    return [torch.stack([result[i] for result in results]) for i in range(n)]


def _one_batch(a: Arguments, dims: Arguments, options: Options, V: int) -> tuple[Any, Any]:
    """V calls with the same weights as one call: V * B sequences, or V of them where the calls are unbatched."""
    batched = a.input.dim() - (dims.input is not None) == 3
    place = 0 if options.batch_first and batched else 1  # of the batch, in input and output

    def folded(tensor: Tensor | None, dim: int | None, place: int) -> Tensor | None:
        if tensor is None:
            return None
        if dim is None:
            tensor = tensor.unsqueeze(place).expand(*tensor.shape[:place], V, *tensor.shape[place:])
        else:
            tensor = tensor.movedim(dim, place)
        return tensor.flatten(place, place + 1) if batched else tensor

    whole = a._replace(
        input=folded(a.input, dims.input, place), h_0=folded(a.h_0, dims.h_0, 1), c_0=folded(a.c_0, dims.c_0, 1)
    )
    options = options._replace(batch_first=options.batch_first and batched)
    output, h_n, c_n, workspace = operator.lstm(*whole, *options, False)
    if batched:
        B = output.shape[place] // V
        output, h_n, c_n = output.unflatten(place, (V, B)), h_n.unflatten(1, (V, B)), c_n.unflatten(1, (V, B))
    return (output, h_n, c_n, workspace), (place, 1, 1, None)


# Batches of gradients: torch.autograd.grad(..., is_grads_batched=True), which maps without torch.func ----------------


def _is_batched(grad: Tensor | None) -> bool:
    return grad is not None and torch._C._functorch.is_legacy_batchedtensor(grad)


def _for_batched_gradients(
    grads: Sequence[Tensor | None], workspace: Tensor, a: Arguments, options: Options
) -> tuple[Tensor, Tensor, Tensor, Sequence[Tensor]]:
    """One backward pass for each entry; the forward pass is the same for all."""
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    V = next(torch._remove_batch_dim(grad, level, 1, 0) for grad in grads if _is_batched(grad)).shape[0]
    entries = [None if grad is None else torch._remove_batch_dim(grad, level, V, 0) for grad in grads]
    results = [
        operator.lstm_backward(*(None if e is None else e[v] for e in entries), workspace, *a, *options)
        for v in range(V)
    ]
    stacked = [torch._add_batch_dim(result, 0, level) for result in _stacked(results, 3)]
    grad_weights = [torch.stack(of_one) for of_one in zip(*(result[-1] for result in results), strict=True)]
    return (*stacked, [torch._add_batch_dim(grad, 0, level) for grad in grad_weights])
