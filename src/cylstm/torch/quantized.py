"""Modules that ``torch.ao.quantization.quantize_dynamic`` made, as cylstm's: with their own integers and scales."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..arrays.quantization import QuantizedWeight
from ..nn.cell import LSTMCell
from ..nn.frozen import of_integers, of_parameters
from ..nn.linear import Linear
from ..nn.lstm import LSTM
from ..nn.module import Module

_FOLDERS = ("torch.ao.nn.quantized.dynamic", "torch.nn.quantized.dynamic")
_SIZES = ("input_size", "hidden_size", "num_layers", "batch_first", "dropout", "bidirectional")


def conversion(module: nn.Module) -> Callable[..., Module] | None:
    """What converts a dynamically quantised module of PyTorch; None for any other."""
    if not type(module).__module__.startswith(_FOLDERS):
        return None
    kinds: dict[str, Callable[..., Module]] = {"LSTM": _lstm, "LSTMCell": _cell, "Linear": _linear}
    return kinds.get(type(module).__name__)


def _lstm(module: Any, **chosen: Any) -> LSTM:
    arguments = {name: getattr(module, name) for name in _SIZES}
    return _made(LSTM, module, **arguments, **chosen)


def _cell(module: Any, **chosen: Any) -> LSTMCell:
    return _made(LSTMCell, module, input_size=module.input_size, hidden_size=module.hidden_size, **chosen)


def _made(cls: Any, module: Any, **options: Any) -> Any:
    """A frozen module of qint8 weights; of float16 ones a module of float32, which holds each of their values."""
    given = {**module.get_weight(), **module.get_bias()}
    found = {name: _parameter(name, tensor) for name, tensor in given.items() if tensor is not None}
    names = [name for name in found if name.startswith("weight_ih")]
    order = [field + name.removeprefix("weight_ih") for name in names for field in _fields(module.bias)]
    parameters = {name: found[name] for name in order}
    bias = bool(module.bias)
    if any(isinstance(parameter, QuantizedWeight) for parameter in parameters.values()):
        return cls._of(of_parameters(parameters), bias=bias, precision="int8", **options).train(module.training)
    return cls._of(parameters, bias=bias, **options).train(module.training)


def _fields(bias: Any) -> list[str]:
    return ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if bias else [])]


def _linear(module: Any) -> Linear:
    """A Linear of float32, which has the values that the integers and scales stand for."""
    tensors = {"weight": module.weight(), "bias": module.bias()}
    arrays = {
        name: (tensor.dequantize() if tensor.is_quantized else tensor).detach().float().numpy()
        for name, tensor in tensors.items()
        if tensor is not None
    }
    sizes = {"in_features": module.in_features, "out_features": module.out_features}
    return Linear._of(arrays, **sizes, bias="bias" in arrays).train(module.training)


def _parameter(name: str, tensor: Tensor) -> Any:
    if not tensor.is_quantized:
        return tensor.detach().float().numpy()
    if tensor.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric):
        if tensor.q_per_channel_axis() != 0:
            raise RuntimeError(f"{name} must have scales by output row, got them by axis {tensor.q_per_channel_axis()}")
        scale, zero = tensor.q_per_channel_scales().numpy(), tensor.q_per_channel_zero_points().numpy()
    else:
        scale, zero = np.array(tensor.q_scale()), np.array(tensor.q_zero_point())
    integers = tensor.int_repr().numpy().astype(np.int16)
    zero, scale = (np.broadcast_to(a, len(integers)) for a in (zero, scale))
    return of_integers(name, integers - zero[:, np.newaxis], scale)
