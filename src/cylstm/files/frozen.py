"""Frozen modules in files: int8 with scales, and bfloat16 that stays as it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ..arrays.quantization import bfloat16_bits, from_bfloat16_bits
from ..nn.frozen import SCALE, VALUES, FrozenArrays
from ..words import listed, quoted
from .container import Tensor


def is_stored(metadata: str | None, tensors: Mapping[str, Tensor], what: str) -> bool:
    """Whether the parameters are those of a frozen module, by what the metadata say of it, and the names."""
    by_name = any(name.endswith((VALUES, SCALE)) for name in tensors)
    if metadata is not None and metadata.lower() not in ("true", "false"):
        raise ValueError(f"{what} must be frozen or not, true or false, got {quoted(metadata)}")
    if by_name and metadata is not None and metadata.lower() == "false":
        raise ValueError(f"{what} must be frozen where it has arrays of int8, got frozen = false")
    return by_name or (metadata is not None and metadata.lower() == "true")


def precision(stored: str | None, given: str | None, tensors: Mapping[str, Tensor], what: str) -> str:
    """The precision of a frozen module: what it was rounded to."""
    own = "int8" if any(name.endswith((VALUES, SCALE)) for name in tensors) else "bfloat16"
    for source, value in (("stored", stored), ("given", given)):
        if value not in (None, own):
            raise ValueError(
                f"{what} must have precision {own!r}, in which it is frozen, got {quoted(value)}, {source}"
            )
    return own


def shapes(tensors: Mapping[str, Tensor], what: str) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters under PyTorch's names; all arrays are found to be what a frozen module has."""
    found: dict[str, tuple[int, ...]] = {}
    for name, tensor in tensors.items():
        if name.endswith(SCALE):
            values = tensors.get(name.removesuffix(SCALE) + VALUES)
            if values is None or values.shape[:1] != tensor.shape:
                other = "nothing" if values is None else values.shape
                raise ValueError(
                    f"{what} must have {name.removesuffix(SCALE) + VALUES} with a row for each of {name} "
                    f"{tensor.shape}, got {other}"
                )
            expected, is_right = "float32", tensor.dtype == "float32" and tensor.bits is None
        elif name.endswith(VALUES):
            if name.removesuffix(VALUES) + SCALE not in tensors or name.removesuffix(VALUES) in tensors:
                there = listed(other for other in tensors if other.startswith(name.removesuffix(VALUES)))
                raise ValueError(f"{what} must have {name} and its {SCALE[1:]} alone, got {there}")
            if not name.startswith(("weight_ih", "weight_hh")):
                raise ValueError(f"{what} must have weight_ih and weight_hh alone in int8, got {name}")
            found[name.removesuffix(VALUES)] = tensor.shape
            expected, is_right = "int8", tensor.dtype == "int8"
        elif len(tensor.shape) > 1:  # a matrix; biases and peepholes are not rounded
            found[name] = tensor.shape
            expected, is_right = "bfloat16", tensor.dtype == "float32"  # which holds it; looked at when it is read
        else:
            found[name] = tensor.shape
            expected, is_right = "float32", tensor.dtype == "float32" and tensor.bits is None
        if not is_right:
            got = tensor.dtype if tensor.bits is None else "bfloat16"
            raise ValueError(f"{what} must have {name} of dtype {expected}, for it is frozen, got {got}")
    return found


def arrays(tensors: Mapping[str, Tensor], names: Iterable[str], what: str) -> FrozenArrays:
    """The arrays in the order of PyTorch's names; memory-mapped where the file is."""
    found = FrozenArrays()
    for name in names:
        for stored in (name, name + VALUES, name + SCALE):
            if (tensor := tensors.get(stored)) is not None:
                is_matrix = stored == name and len(tensor.shape) > 1
                found[stored] = _bits(tensor, name, what) if is_matrix else tensor.read()
    return found


def _bits(tensor: Tensor, name: str, what: str) -> np.ndarray:
    """A matrix in bfloat16; formats that have no such dtype, or none that is kept, give it as float32."""
    if tensor.bits is not None:
        return tensor.bits()
    widened = tensor.read()
    bits = bfloat16_bits(widened)
    if not np.array_equal(from_bfloat16_bits(bits), widened, equal_nan=True):
        raise ValueError(f"{what} must have {name} of dtype bfloat16, for it is frozen, got float32")
    return bits
