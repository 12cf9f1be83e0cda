"""The operators ``cylstm::lstm`` and ``cylstm::lstm_backward`` of PyTorch; `cylstm.torch` puts modules around them.

They are the layer stack of `cylstm.LSTM` on the memory of tensors: layouts, checks, stacking and dispatch are its own,
and nothing is computed here. PyTorch sees two opaque operators with known shapes, so that ``torch.compile`` works as
for its own; `derivatives` says how they are differentiated and mapped.

What is not obvious:

- **Prepared weights** on the CPU are kept with a copy of the bytes they were made of, for as long as the memory of the
  first weight lives. Each call compares all bytes. So every change is seen, those too that PyTorch's version counters
  do not count (``weight.data.mul_(0.9)``, a write through ``weight.numpy()``), at a few percent of the price of
  preparing. The weak reference is to the memory, for PyTorch can exchange two tensors only where none refers to them.
  On a GPU each call prepares them anew, there: for a comparison the CPU would have to wait.
- **The workspace** of a backend may be any Python object, and an operator returns tensors. So it hangs on the memory of
  a tensor of one byte and is freed with it. Where PyTorch hands another tensor to the backward pass (a hook has copied
  it, say), the forward pass is run again.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..arrays.arguments import as_dtype
from ..arrays.layout import Layout, contiguous
from ..arrays.packed import PackedSequence
from ..backends import registry
from ..backends.base import Backend
from ..backends.precision import check_precision, in_force, refuse_training
from ..nn.dispatch import Choice, choose
from ..nn.parameters import Snapshot
from ..nn.stack import LayerKept, Stack
from .tensors import array_of, device_of, on_gpu, tensor_of, where_it_lies

#: Backends that are objects, under the names that the operators know them by. There are few, and they live on.
_objects: dict[str, Backend] = {}


def backend_name(backend: str | Backend | None) -> str | None:
    """The name by which the operators know a backend."""
    if backend is None or isinstance(backend, str):
        return backend
    name = f"<{type(backend).__qualname__} object at {id(backend):#x}>"
    _objects[name] = backend
    return name


class Arguments(NamedTuple):
    """The tensors that go into the operators, in their order."""

    input: Tensor  # (T, B, I), (B, T, I) with batch_first, (T, I) unbatched; (N, I): the data of a PackedSequence
    batch_sizes: Tensor | None  # (T,), None unless packed
    sorted_indices: Tensor | None  # (B,)
    unsorted_indices: Tensor | None  # (B,)
    h_0: Tensor | None  # (L * D, B, R), without B for unbatched input; None for zeros unless packed
    c_0: Tensor | None  # (L * D, B, H)
    masks: Tensor | None  # (L - 1, N, D * R), of the dropout on the inputs of layers 1 ... L - 1
    weights: list[Tensor]  # in PyTorch's order


class Options(NamedTuple):
    """The options of the operators, in their order."""

    num_layers: int
    bias: bool
    batch_first: bool
    bidirectional: bool
    proj_size: int
    backend: str | None  # see `backend_name`
    precision: str | None = None  # the caller's choice


_ARGUMENTS = (
    "Tensor input, Tensor? batch_sizes, Tensor? sorted_indices, Tensor? unsorted_indices, Tensor? h_0, Tensor? c_0, "
    "Tensor? masks, Tensor[] weights"
)
_OPTIONS = (
    "int num_layers, bool bias, bool batch_first, bool bidirectional, int proj_size, str? backend, str? precision"
)
_N = len(Arguments._fields)


class _Problem(NamedTuple):
    """What the sizes and the options of a call say."""

    stack: Stack
    dtype: np.dtype
    batch_first: bool
    backend: str | Backend | None
    precision: str
    device: str


@functools.lru_cache(maxsize=256)
def _problem(input_size: int, hidden_size: int, dtype: torch.dtype, device: str, options: Options) -> _Problem:
    if (
        dtype == torch.bfloat16 and device == "cpu"
    ):  # as_dtype knows it where ml_dtypes is, but torch.from_numpy does not
        raise RuntimeError("tensors must be of one of float16, float32, float64, complex64, complex128, got bfloat16")
    num_layers, bias, batch_first, bidirectional, proj_size, backend, precision = options
    stack = Stack(input_size, hidden_size, num_layers, bias, bidirectional, proj_size)
    chosen = None if backend is None else _objects.get(backend, backend)
    of_weights = as_dtype(dtype)
    precision = in_force(check_precision(precision, of_weights), of_weights)
    return _Problem(stack, of_weights, batch_first, chosen, precision, device)


class _Prepared(NamedTuple):
    """One version of the weights, and under it all that backends derive from it."""

    problem: _Problem
    copies: list[bytearray]  # a bytearray, because its == is memcmp
    snapshot: Snapshot


#: The memory of the first weight → its place there → `_Prepared`. Modules may lie side by side in one memory.
_prepared: WeakIdKeyDictionary = WeakIdKeyDictionary()
_MOST_PLACES = 64  # the latest; a loop may take its weights from ever other parts of one tensor


def _snapshot(problem: _Problem, weights: Sequence[Tensor]) -> Snapshot:
    """The weights as the stack takes them: what was made of the same bytes before, or anew."""
    shapes = problem.stack.shapes()
    arrays = {name: contiguous(array_of(w, name)) for name, w in zip(shapes, weights, strict=True)}
    if problem.device != "cpu":  # to compare bytes there, the CPU would have to wait
        _check(arrays, problem)
        return Snapshot(arrays, version=0)
    memory, place = weights[0].untyped_storage(), weights[0].storage_offset()
    held = _prepared.get(memory, {}).get(place)
    if held is not None and held.problem is problem and all(map(_same, held.copies, arrays.values())):
        return held.snapshot
    _check(arrays, problem)
    copies = [bytearray(array) for array in arrays.values()]
    copied = {
        name: np.frombuffer(copy, array.dtype).reshape(array.shape)
        for (name, array), copy in zip(arrays.items(), copies, strict=True)
    }
    snapshot = Snapshot(copied, version=0)
    places = _prepared.setdefault(memory, {})
    places[place] = _Prepared(problem, copies, snapshot)
    if len(places) > _MOST_PLACES:
        places.pop(next(iter(list(places))), None)
    return snapshot


def _check(arrays: dict[str, Any], problem: _Problem) -> None:
    for name, shape in problem.stack.shapes().items():
        array = arrays[name]
        if array.shape != shape or array.dtype != problem.dtype:
            expected = f"shape {shape} and dtype {problem.dtype}"
            raise RuntimeError(f"{name} must have {expected}, got shape {array.shape} and dtype {array.dtype}")


def _same(copy: bytearray, array: np.ndarray) -> bool:
    return copy == array.data


class _Saved(NamedTuple):
    """What the backward pass of one run needs. Shares no memory with tensors: compiled code may use theirs again."""

    stack: Stack
    choice: Choice
    layout: Layout
    layers: list[LayerKept]


class _Memory(np.ndarray):
    """The memory of a workspace tensor. PyTorch holds the array as long as any tensor shares it."""

    kept: _Saved


_workspaces: weakref.WeakValueDictionary[int, _Memory] = weakref.WeakValueDictionary()  # by address


def _as_workspace(kept: _Saved) -> Tensor:
    memory = np.zeros(1, np.uint8).view(_Memory)
    memory.kept = kept
    workspace = torch.from_numpy(memory)
    _workspaces[workspace.data_ptr()] = memory
    return workspace


def _run(a: Arguments, options: Options, keep: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, _Saved]:
    """The forward pass: output, h_n and c_n in the caller's form, and what is kept."""
    first = a.weights[0]
    problem = _problem(first.shape[1], first.shape[0] // 4, first.dtype, device_of(first), options)
    if keep:
        remedy = "call it inside torch.inference_mode() or torch.no_grad(), or set precision = 'float32'"
        refuse_training(problem.precision, remedy)
    stack, snapshot = problem.stack, _snapshot(problem, a.weights)
    choice = snapshot.derived.get(keep)
    if choice is None or choice.selection is not registry.selection():
        choice = choose(
            snapshot,
            stack.layers,
            problem.backend,
            training=keep,
            device=problem.device,
            precision=problem.precision,
        )
    packed = a.batch_sizes is not None
    data = array_of(a.input, "input")
    value = PackedSequence(data, a.batch_sizes, a.sorted_indices, a.unsorted_indices) if packed else data
    hx = None if a.h_0 is None else (array_of(a.h_0, "h_0"), array_of(a.c_0, "c_0"))
    layout, rows, h_0, c_0 = stack.enter(value, hx, problem.batch_first, choice.dtype, problem.device != "cpu")
    if keep and np.may_share_memory(rows, data):
        rows = rows.copy()
    output, h_n, c_n, layers = stack.forward(
        choice, layout.batch_sizes, rows, h_0, c_0, "gates" if keep else "nothing", _masks(a)
    )
    output = layout.from_rows(output)
    kept = _Saved(stack, choice, layout, [layer._replace(mask=None) for layer in layers])
    return output.data if packed else output, layout.from_state(h_n), layout.from_state(c_n), kept


def _masks(a: Arguments) -> list[np.ndarray]:
    if a.masks is None:
        return []
    masks = array_of(a.masks, "masks")
    return [masks[k] for k in range(len(masks))]


@torch.library.custom_op(
    "cylstm::lstm",
    mutates_args=(),
    schema=f"({_ARGUMENTS}, {_OPTIONS}, bool keep) -> (Tensor, Tensor, Tensor, Tensor)",
)
def lstm(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run an LSTM on `Arguments`, `Options` and `keep`: output, h_n, c_n, and the workspace, empty without `keep`."""
    a, options, keep = Arguments(*args[:_N]), Options(*args[_N:-1]), args[-1]
    with where_it_lies(a.input):
        *arrays, kept = _run(a, options, keep)
        workspace = _as_workspace(kept) if keep else torch.empty(0, dtype=torch.uint8)
        return (*map(tensor_of, arrays), workspace)


@torch.library.custom_op(
    "cylstm::lstm_backward",
    mutates_args=(),
    schema="(Tensor? grad_output, Tensor? grad_h_n, Tensor? grad_c_n, Tensor workspace, "
    f"{_ARGUMENTS}, {_OPTIONS}) -> (Tensor, Tensor, Tensor, Tensor[])",
)
def lstm_backward(
    grad_output: Any, grad_h_n: Tensor | None, grad_c_n: Tensor | None, workspace: Tensor, *args: Any
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """The gradients of input, h_0, c_0 and the weights."""
    a, options = Arguments(*args[:_N]), Options(*args[_N:])
    with where_it_lies(a.input):
        return _run_backward((grad_output, grad_h_n, grad_c_n), workspace, a, options)


def _run_backward(
    grads: tuple[Any, ...], workspace: Tensor, a: Arguments, options: Options
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    memory = _workspaces.get(workspace.data_ptr())
    stack, choice, layout, layers = _run(a, options, True)[-1] if memory is None else memory.kept
    if a.masks is not None:
        layers = [layer._replace(mask=mask) for layer, mask in zip(layers, [None, *_masks(a)], strict=True)]
    there = on_gpu(a.input)
    if there:
        grads = tuple(None if grad is None else array_of(grad, "grad") for grad in grads)
    grad_output, *grad_hx = grads
    if grad_output is not None and a.batch_sizes is not None:
        grad_output = PackedSequence(grad_output, layout.batch_sizes)
    entered = stack.enter_gradients(layout, grad_output, tuple(grad_hx), choice.dtype, there)
    result = stack.backward(choice, layout, layers, *entered)
    grad_input = result.input if a.batch_sizes is None else result.input.data
    grad_weights = [tensor_of(contiguous(grad)) for grad in result.parameters.values()]
    return (*map(tensor_of, (grad_input, *result.hx)), grad_weights)


# What PyTorch needs to know about the operators -----------------------------------------------------------------------


def _empty_rows(a: Arguments, options: Options, features: int) -> Tensor:
    """As output and grad_input lie."""
    if a.input.dim() == 3 and options.batch_first:
        B, T = a.input.shape[:2]
        return a.input.new_empty(T, B, features).transpose(0, 1)
    return a.input.new_empty(*a.input.shape[:-1], features)


def _empty_states(a: Arguments, options: Options) -> tuple[Tensor, Tensor]:
    """As h and c lie."""
    LD, H = options.num_layers * (1 + options.bidirectional), a.weights[0].shape[0] // 4
    if a.h_0 is not None:
        batch = a.h_0.shape[1:-1]
    else:
        batch = () if a.input.dim() == 2 else (a.input.shape[0 if options.batch_first else 1],)
    return a.input.new_empty(LD, *batch, options.proj_size or H), a.input.new_empty(LD, *batch, H)


@lstm.register_fake
def _(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    a, options, keep = Arguments(*args[:_N]), Options(*args[_N:-1]), args[-1]
    h_n, c_n = _empty_states(a, options)
    output = _empty_rows(a, options, (1 + options.bidirectional) * h_n.shape[-1])
    device = "cpu" if on_gpu(a.input) else a.input.device  # of what stands for Python's objects
    return output, h_n, c_n, a.input.new_empty(int(keep), dtype=torch.uint8, device=device)


@lstm_backward.register_fake
def _(
    grad_output: Any, grad_h_n: Any, grad_c_n: Any, workspace: Any, *args: Any
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    a, options = Arguments(*args[:_N]), Options(*args[_N:])
    grad_weights = [weight.new_empty(weight.shape) for weight in a.weights]
    return (_empty_rows(a, options, a.input.shape[-1]), *_empty_states(a, options), grad_weights)
