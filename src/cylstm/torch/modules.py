"""The drop-ins, and ``replace`` and ``restore``, which put them into models and take them out."""

from __future__ import annotations

import warnings
from typing import Any, TypeVar

import torch
import torch.onnx
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence

from ..arrays.arguments import as_dtype
from ..backends import registry
from ..backends.base import Backend
from ..backends.precision import DEFAULT, check_precision, in_force
from .derivatives import lstm as _run
from .operator import Arguments, Options, backend_name
from .report import tell, why_left

__all__ = ["LSTM", "LSTMCell", "parameter_names", "replace", "restore"]

AnyModule = TypeVar("AnyModule", bound=nn.Module)


class _OnBackend:
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
        super().__setattr__(name, value)

    def __prepare_scriptable__(self) -> None:
        """Called by ``torch.jit.script``, which compiles Python and knows no backend."""
        raise RuntimeError(
            f"cylstm.torch.{type(self).__name__} cannot be scripted: call cylstm.torch.restore(model) before "
            "torch.jit.script, or use torch.jit.trace"
        )

    def reset_parameters(self) -> None:
        """Draw the parameters anew, as PyTorch does; a backend that cannot compute them raises before."""
        _check_choice(self, self.backend, self.precision)
        super().reset_parameters()  # type: ignore[misc]  # of the class that comes next

    def extra_repr(self) -> str:
        """What PyTorch shows, and the precision where it was chosen."""
        text = super().extra_repr()  # type: ignore[misc]
        return text if self.precision in (None, DEFAULT) else f"{text}, precision={self.precision!r}"


class LSTM(_OnBackend, nn.LSTM):
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
        masks = None
        if (
            self.training and self.dropout > 0 and self.num_layers > 1
        ):  # drawn as torch.nn.LSTM draws them: the same seed drops the same
            ones = data.new_ones(data.shape[:-1].numel(), D * R)
            masks = torch.stack([nn.functional.dropout(ones, self.dropout) for _ in range(1, self.num_layers)])
        output, *state = _run(
            Arguments(data, batch_sizes, sorted_indices, unsorted_indices, hx[0], hx[1], masks, weights),
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
        if packed:
            output = PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices)
        return output, tuple(state)


class LSTMCell(_OnBackend, nn.LSTMCell):
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


def _check_choice(module: nn.Module, backend: str | Backend | None, precision: str | None) -> None:
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
        if torch.is_autocast_enabled("cpu") and tensor.is_floating_point():
            tensors[name] = tensor.to(weight.dtype)
        elif tensor.dtype != weight.dtype:
            raise dtype_error(
                f"{name} must have the dtype of the weights, {weight.dtype}, got {tensor.dtype}: convert the tensor by "
                f".to({weight.dtype}), or the module by .to({tensor.dtype})"
            )
    return tensors["input"], (tensors.get("h_0"), tensors.get("c_0"))


# Models ---------------------------------------------------------------------------------------------------------------

_DROP_INS: dict[type[nn.Module], type[nn.Module]] = {nn.LSTM: LSTM, nn.LSTMCell: LSTMCell}


def replace(
    model: AnyModule,
    *,
    backend: str | Backend | None = None,
    precision: str | None = None,
    back: bool = False,
    verbose: bool = False,
) -> AnyModule:
    """Turn each ``torch.nn.LSTM`` and ``torch.nn.LSTMCell`` of a model into the drop-in, in place.

    The modules stay the objects that they are, with their parameters, hooks and mode; only their class changes. So
    optimisers, other references and shared weights go on as before. Modules of a subclass of ``torch.nn.LSTM`` are
    left alone, for their ``forward`` may be their own; so are quantised and scripted ones, those in bfloat16, and those
    with a ``forward`` of their own. A warning names each that was left and why, and says where there was none at all.

    Parameters
    ----------
    model : torch.nn.Module
        The model, which may be an LSTM itself.
    backend : str or Backend, optional
        The backend of the drop-ins, those that were there before too; None for the selection in force at each call,
        and for drop-ins that were there before the one that they have.
    precision : {"float32", "bfloat16", "int8"}, optional
        That of the drop-ins, as for `LSTM`; those that were there before keep theirs where it is None.
    back : bool
        The other way round: turn the drop-ins into PyTorch's modules.
    verbose : bool
        Print what was done with each LSTM, and how many there are, instead of the warning.

    Returns
    -------
    torch.nn.Module
        The model itself.

    Raises
    ------
    TypeError
        If it is no model.
    ValueError
        If a backend or a precision is named for the way back, or parameters do not have the precision.
    BackendError
        If the backend cannot compute one of the modules. None of them has changed then.

    Examples
    --------
    >>> import torch, cylstm.torch
    >>> model = torch.nn.Sequential(torch.nn.LSTM(10, 20))
    >>> type(cylstm.torch.replace(model)[0])
    <class 'cylstm.torch.LSTM'>
    >>> type(cylstm.torch.restore(model)[0])
    <class 'torch.nn.modules.rnn.LSTM'>
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if back and backend is not None:
        raise ValueError(f"backend must be None where back is True, got {backend!r}: leave it out")
    if back and precision is not None:
        raise ValueError(f"precision must be None where back is True, got {precision!r}: leave it out")
    names = {module: name for name, module in model.named_modules()}
    kinds = {module: parametrize.type_before_parametrizations(module) for module in names}
    left = {module: why for module in names if (why := why_left(module, tuple(_DROP_INS), (LSTM, LSTMCell)))}
    theirs = [module for module, kind in kinds.items() if kind in _DROP_INS and module not in left]
    ours = [module for module, kind in kinds.items() if kind in _DROP_INS.values()]
    if back:
        classes = {new: old for old, new in _DROP_INS.items()}
        for module in ours:
            module.__class__ = _class_in_place_of(type(module), classes)
            vars(module).pop("backend", None)
            vars(module).pop("precision", None)
        tell("restored", [names[module] for module in ours], {}, verbose)
        return model
    check_precision(precision, "float32")  # what is wrong is wrong without an LSTM too
    if backend is not None and not (theirs or ours):
        registry.choose(backend, dtype="float32", precision=precision or DEFAULT)
    given = {name: value for name, value in (("backend", backend), ("precision", precision)) if value is not None}
    choices: dict[nn.Module, dict[str, Any]]
    choices = {module: {"backend": None, "precision": None, **given} for module in theirs}
    if given:
        choices |= {module: {"backend": module.backend, "precision": module.precision, **given} for module in ours}
    for module, choice in choices.items():
        _check_choice(module, **choice)
    for module in theirs:
        module.__class__ = _class_in_place_of(type(module), _DROP_INS)
    for module, choice in choices.items():
        for name, value in choice.items():
            setattr(module, name, value)
    if not (theirs or left or any(isinstance(module, _OnBackend) for module in names)):
        warnings.warn("cylstm.torch.replace has found no torch.nn.LSTM and no LSTMCell in the model", stacklevel=2)
    tell("replaced", [names[module] for module in theirs], {names[module]: left[module] for module in left}, verbose)
    return model


def restore(model: AnyModule) -> AnyModule:
    """Turn each `LSTM` and `LSTMCell` of a model into PyTorch's own, in place: ``replace(model, back=True)``."""
    return replace(model, back=True)


def _class_in_place_of(cls: type, classes: dict[type[nn.Module], type[nn.Module]]) -> type:
    """The other class; for a parametrised module, whose class is made for it, one like its own on top of the other."""
    if cls in classes:
        return classes[cls]
    own = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    return type(cls.__name__, (classes[cls.__bases__[0]],), own)


def parameter_names(module: nn.Module) -> list[str]:
    """The names of the parameters of an LSTM or LSTMCell in PyTorch's order."""
    if isinstance(module, nn.LSTM):
        return [name for of_layer in module._all_weights for name in of_layer]
    return ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if module.bias else [])]
