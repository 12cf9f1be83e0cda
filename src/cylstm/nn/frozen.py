"""Frozen modules, which keep their parameters as a precision rounds them, and no float32 of them.

A matrix of weights is kept in bfloat16 under its name, or in int8 under ``name_int8`` with the scales of its rows under
``name_scale``. Biases stay float32. The same names and arrays stand in ``state_dict`` and in safetensors files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arrays.arguments import as_array
from ..arrays.quantization import BFLOAT16, QuantizedWeight, bfloat16_bits, dequantized, from_bfloat16_bits, quantized
from ..backends.precision import refuse_training

VALUES, SCALE = "_int8", "_scale"  # ends of names


class FrozenArrays(dict[str, np.ndarray]):
    """The arrays of a frozen module by their names, in PyTorch's order."""


def rounded(arrays: Mapping[str, np.ndarray], precision: str) -> FrozenArrays:
    """Float32 parameters as ``"bfloat16"`` or ``"int8"`` computes with them."""
    found = FrozenArrays()
    for name, array in arrays.items():
        if array.ndim < 2:  # a bias, or peepholes
            found[name] = array
        elif precision == "int8" and name.startswith("weight_hh"):
            found |= of_quantized(name, quantized(array))
        else:
            found[name] = bfloat16_bits(array)
    return found


def of_quantized(name: str, weight: QuantizedWeight) -> dict[str, np.ndarray]:
    """The arrays of a matrix in int8 by their names."""
    return {name + VALUES: weight.values, name + SCALE: weight.scale}


def of_integers(name: str, integers: np.ndarray, scale: np.ndarray) -> Any:
    """The matrix of integers (n, k), less their zero points, with a scale (n,) of each row: other people's weights.

    Integers that int8 does not hold, of unsigned weights with zero points, cannot be kept: of a recurrent matrix they
    are quantised again, others become float32.
    """
    as_int8 = QuantizedWeight(integers.astype(np.int8), scale.astype(np.float32))
    if np.array_equal(as_int8.values, integers):
        return as_int8
    weight = dequantized(QuantizedWeight(integers, as_int8.scale))
    return quantized(weight) if name.startswith("weight_hh") else weight


def of_parameters(parameters: Mapping[str, Any]) -> FrozenArrays:
    """The arrays of parameters under PyTorch's names, of which some are quantised: other weights become bfloat16."""
    found = FrozenArrays()
    for name, parameter in parameters.items():
        if isinstance(parameter, QuantizedWeight):
            found |= of_quantized(name, parameter)
        else:
            found[name] = bfloat16_bits(parameter) if parameter.ndim == 2 else parameter
    return found


def as_parameters(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The parameters under PyTorch's names as backends take them, of a module that is frozen or not."""
    found: dict[str, Any] = {}
    for name, array in arrays.items():
        if name.endswith(VALUES):
            whole = name.removesuffix(VALUES)
            found[whole] = QuantizedWeight(array, arrays[whole + SCALE])
        elif not name.endswith(SCALE):
            found[name] = from_bfloat16_bits(array) if array.dtype == BFLOAT16 else array
    return found


def loaded(value: Any, name: str) -> np.ndarray:
    """A value of a state_dict as a numeric array; tensors of any device and of bfloat16 are fine."""
    if hasattr(value, "detach") and hasattr(value, "cpu"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # unknown to NumPy alone; float32 holds every value of it
            value = value.float()
    array = as_array(value, name)
    if array.dtype.kind not in "biufc" and array.dtype.name != "bfloat16" and array.dtype != BFLOAT16:
        raise TypeError(f"{name} must hold numbers, got an array of dtype {array.dtype}")
    return array


def converted(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The array in another dtype; the bfloat16 of a frozen module by its values."""
    whole = from_bfloat16_bits(array) if array.dtype == BFLOAT16 and dtype != BFLOAT16 else array
    return whole.astype(dtype, copy=False)


def is_frozen(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether these are the arrays of a frozen module."""
    return any(array.dtype == BFLOAT16 or array.dtype == np.int8 for array in arrays.values())


def refuse_gradients(arrays: Mapping[str, np.ndarray], precision: str) -> None:
    """Raise where gradients are requested in a precision that has none: the remedy is another for a frozen module."""
    if is_frozen(arrays):
        refuse_training(precision, "train before you freeze, or make a new module of float32 parameters")
    refuse_training(precision)
