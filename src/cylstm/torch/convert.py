"""Copies between PyTorch's modules and those that live without PyTorch."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ..arrays.arguments import as_array
from ..backends.base import Backend
from ..nn.cell import LSTMCell
from ..nn.dispatch import ComputedModule
from ..nn.linear import Linear
from ..nn.lstm import LSTM
from ..nn.module import Module
from ..nn.options import refuse
from . import modules, quantized
from .modules import parameter_names
from .report import has_own_forward

__all__ = ["from_torch", "to_torch"]


class _Conversion(NamedTuple):
    theirs: type[nn.Module]
    ours: type[Module]
    sizes: tuple[str, ...]  # arguments beside bias, which are attributes too


_CONVERSIONS = (
    _Conversion(
        nn.LSTM,
        LSTM,
        ("input_size", "hidden_size", "num_layers", "batch_first", "dropout", "bidirectional", "proj_size"),
    ),
    _Conversion(nn.LSTMCell, LSTMCell, ("input_size", "hidden_size")),
    _Conversion(nn.Linear, Linear, ("in_features", "out_features")),
)


def from_torch(module: nn.Module, *, backend: str | Backend | None = None) -> Module:
    """A cylstm module with the options, a copy of the parameters, and the mode of one of PyTorch's.

    Parameters
    ----------
    module : torch.nn.LSTM, torch.nn.LSTMCell or torch.nn.Linear
        On any device; a drop-in too. Weights that a parametrisation or the older hooks (``weight_norm``,
        ``spectral_norm``, ``prune``) compute are taken as the next call of the module would compute them. The module
        stays as it is. And what ``torch.ao.quantization.quantize_dynamic`` makes: LSTM and LSTMCell of qint8 become
        frozen modules with their integers and scales; those of float16, and a Linear, become float32, which holds
        their values.
    backend : str or Backend, optional
        The backend of an LSTM or LSTMCell; by default that of a drop-in.

    Returns
    -------
    cylstm.LSTM, cylstm.LSTMCell or cylstm.Linear

    Raises
    ------
    TypeError
        If the module is another one or has a forward of its own, or a backend is named for a Linear.
    RuntimeError
        If its dtype is none of cylstm's, it has no data yet, its weights are quantised by columns, or an unknown hook
        may compute one of its weights.
    """
    if (convert := quantized.conversion(module)) is not None:
        if backend is not None and type(module).__name__ == "Linear":
            raise TypeError(f"backend must be None for a Linear, got {backend!r}: leave it out")
        return convert(module, **({} if backend is None else {"backend": backend}))
    conversion = next((c for c in _CONVERSIONS if isinstance(module, c.theirs)), None)
    if conversion is None:
        raise TypeError(f"module must be a torch.nn.LSTM, LSTMCell or Linear, got {type(module).__name__}")
    if has_own_forward(module, (conversion.theirs, modules.LSTM, modules.LSTMCell)):
        raise TypeError(
            f"module must have the forward of torch.nn.{conversion.theirs.__name__}, got a {type(module).__name__} "
            "with a forward of its own: where the parameters alone are wanted, copy them by load_state_dict"
        )
    if conversion.ours is Linear:
        if backend is not None:
            raise TypeError(f"backend must be None for a Linear, got {backend!r}: leave it out")
        names, chosen = ["weight", "bias"], dict[str, Any]()
    else:
        names = parameter_names(module)
        chosen = {
            "backend": backend or getattr(module, "backend", None),
            "precision": getattr(module, "precision", None),
        }
    tensors = _weights(module, names)
    arrays = ((name, as_array(tensor.cpu(), name)) for name, tensor in tensors.items())
    arguments = {name: getattr(module, name) for name in conversion.sizes}
    copied = conversion.ours._of(arrays, **arguments, **chosen, bias=_has_bias(module), dtype=tensors[names[0]].dtype)
    return copied.train(module.training)


def to_torch(module: Module) -> nn.Module:
    """One of PyTorch's own modules with the options, a copy of the parameters, and the mode of a cylstm module.

    Parameters
    ----------
    module : cylstm.LSTM, cylstm.LSTMCell or cylstm.Linear
        PyTorch's module has no backend; `replace` makes the drop-in of it.

    Returns
    -------
    torch.nn.LSTM, torch.nn.LSTMCell or torch.nn.Linear

    Raises
    ------
    TypeError
        If it is none of cylstm's modules.
    ValueError
        If it has an option that PyTorch's module does not have, such as peepholes.
    RuntimeError
        If it is frozen.
    """
    conversion = next((c for c in _CONVERSIONS if isinstance(module, c.ours)), None)
    if conversion is None:
        raise TypeError(f"module must be a cylstm.LSTM, LSTMCell or Linear, got {type(module).__name__}")
    if isinstance(module, ComputedModule):
        refuse(module._options, "PyTorch")
    module._store.refuse_if_frozen()
    state = {name: _tensor(array) for name, array in module.named_parameters()}
    arguments = {name: getattr(module, name) for name in conversion.sizes}
    dtype = next(iter(state.values())).dtype
    copied = conversion.theirs(**arguments, bias=_has_bias(module), dtype=dtype, device="meta").to_empty(device="cpu")
    copied.load_state_dict(state)
    return copied.train(module.training)


def _weights(module: nn.Module, names: list[str]) -> dict[str, Tensor]:
    """The weights as the next call of the module would use them, without those that are None."""
    for name, parameter in module.named_parameters():
        if is_lazy(parameter) or parameter.is_meta:
            where = "that is not initialised yet" if is_lazy(parameter) else "on the meta device"
            raise RuntimeError(f"{name} must hold data, got a parameter {where}: initialise or load it first")
    hooks = list(module._forward_pre_hooks.values())
    computing = [hook for hook in hooks if isinstance(hook, (WeightNorm, SpectralNorm, BasePruningMethod))]
    by_hooks = {getattr(hook, "_tensor_name", None) or hook.name for hook in computing}
    plain = [name for name in names if name in vars(module)]  # neither a parameter nor parametrised
    if len(hooks) > len(computing) and (unknown := set(plain) - by_hooks):
        raise RuntimeError(
            f"{min(unknown)} must be a parameter, got a tensor that a forward_pre_hook may compute anew at each call: "
            "make it a parameter, and remove the hook"
        )
    attributes = {name: vars(module)[name] for name in plain}
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]  # spectral_norm iterates when it is looked at
    try:
        with torch.no_grad():
            for hook in computing:
                hook(module, ())
            weights = {name: weight.detach() for name in names if (weight := getattr(module, name)) is not None}
    finally:
        for name, attribute in attributes.items():
            setattr(module, name, attribute)
        for buffer, before in buffers:
            buffer.detach().copy_(before)
    return weights


def _tensor(array: np.ndarray) -> Tensor:
    """A tensor with a copy of the array."""
    if array.dtype.name == "bfloat16":  # torch.from_numpy does not know it
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def _has_bias(module: Any) -> bool:
    """`bias` is an option of an LSTM and a parameter of a Linear, which is None where there is none."""
    return bool(module.bias) if isinstance(module.bias, (bool, int)) else module.bias is not None
