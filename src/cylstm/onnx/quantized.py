"""The quantised LSTM of ONNX Runtime, ``com.microsoft.DynamicQuantizeLSTM``: both ways between it and frozen modules.

Its inputs are those of ONNX's LSTM but for W (D, I, 4H) and R (D, H, 4H), which are transposed and of int8 or uint8,
and four more: the scales and the zero points of W and of R, (D,) or (D, 4H). The weights keep their integers and scales
here; what enters the products with them is rounded more finely than there: x to bfloat16 instead of 8 bits.

Convention: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays.quantization import QuantizedWeight, quantized
from ..nn.frozen import as_parameters, of_integers
from ..nn.lstm import LSTM as Module
from .convention import _TO_ONNX, INPUTS, _gates, to_pytorch
from .graph import Scope

OPERATOR, DOMAIN = "DynamicQuantizeLSTM", "com.microsoft"
_INPUTS = (*INPUTS, "W_scale", "W_zero_point", "R_scale", "R_zero_point")


class Unfit(Exception):
    """What a node says and cylstm does not compute."""


def is_quantized(node: Any) -> bool:
    """Whether a node is a quantised LSTM."""
    return node.op_type == OPERATOR and node.domain == DOMAIN


def parameters_of(scope: Scope, node: Any, D: int, hidden_size: int | None) -> dict[str, Any]:
    """The parameters of layer 0 under PyTorch's names, weights as they are quantised; see `of_integers`."""
    given = {
        name: scope.value(value) for name, value in zip(_INPUTS, node.input, strict=False) if _is_weight(name, value)
    }
    if len(node.input) > len(_INPUTS):
        raise Unfit(f"has {len(node.input)} inputs, more than the operator has names for")
    if missing := [name for name in _INPUTS if _is_weight(name, name) and name not in given and name != "B"]:
        raise Unfit(f"has no {' and no '.join(missing)}")
    rows: dict[str, np.ndarray] = {}
    scales: dict[str, np.ndarray] = {}
    for name in ("W", "R"):
        rows[name], scales[name] = _rows_and_scales(scope, given, name, D)
    H, B = rows["R"].shape[-1], given.get("B")
    shapes = {name: array.shape for name, array in rows.items()}
    fit = shapes["W"][:2] == shapes["R"][:2] == (D, 4 * H) and shapes["W"][2] > 0 < H and hidden_size in (None, H)
    if not fit or (B is not None and B.shape != (D, 8 * H)):
        there = ", ".join(f"{name} {array.shape}" for name, array in given.items() if name in ("W", "R", "B"))
        raise Unfit(f"does not fit together: {D} directions, hidden_size {hidden_size}, {there}")
    if B is not None and B.dtype != np.float32:
        raise Unfit(f"has B of dtype {B.dtype}")
    found: dict[str, Any] = dict(to_pytorch(rows["W"], rows["R"], B))
    in_order = to_pytorch(scales["W"][..., np.newaxis], scales["R"][..., np.newaxis], None)
    for name, scale in in_order.items():
        found[name] = of_integers(name, found[name], scale[:, 0])
    return found


def to_onnx(module: Module, layer: int) -> dict[str, np.ndarray]:
    """The weights of a layer of a frozen module by the operator's names.

    W that is kept in bfloat16 becomes int8 with a scale of each row.
    """
    suffixes = [f"_l{layer}", f"_l{layer}_reverse"][: 2 if module.bidirectional else 1]
    whole = as_parameters(module.state_dict())
    arrays: dict[str, np.ndarray] = {}
    for name, field in (("W", "weight_ih"), ("R", "weight_hh")):
        weights = [whole[field + suffix] for suffix in suffixes]
        weights = [w if isinstance(w, QuantizedWeight) else quantized(w) for w in weights]
        arrays[name] = np.stack([_gates(w.values, _TO_ONNX).T for w in weights])
        arrays[f"{name}_scale"] = np.stack([_gates(w.scale, _TO_ONNX) for w in weights])
        arrays[f"{name}_zero_point"] = np.zeros_like(arrays[f"{name}_scale"], np.int8)
    if module.bias:
        biases = [[_gates(whole[field + suffix], _TO_ONNX) for field in ("bias_ih", "bias_hh")] for suffix in suffixes]
        arrays["B"] = np.stack([np.concatenate(both) for both in biases])
    return arrays


def inputs_of(X: str, states: list[str], names: dict[str, str]) -> list[str]:
    """The inputs of a node, by the names of what it reads."""
    given = {"X": X, **dict(zip(("initial_h", "initial_c"), states, strict=True)), **names}
    return [given.get(name, "") for name in _INPUTS]


def _is_weight(name: str, value: str) -> bool:
    return bool(value) and (name in ("W", "R", "B") or name.endswith(("_scale", "_zero_point")))


def _rows_and_scales(scope: Scope, given: dict[str, np.ndarray], name: str, D: int) -> tuple[np.ndarray, np.ndarray]:
    """The integers less their zero point (D, 4H, k), and the scales (D, 4H)."""
    weight, scale, zero = given[name], given[f"{name}_scale"], given[f"{name}_zero_point"]
    if weight.dtype not in (np.int8, np.uint8) or zero.dtype != weight.dtype or scale.dtype != np.float32:
        raise Unfit(f"has {name}, its scale and its zero point of dtypes {weight.dtype}, {scale.dtype}, {zero.dtype}")
    per_row = (D, weight.shape[-1]) if weight.ndim == 3 else None
    if weight.ndim != 3 or len(weight) != D or scale.shape not in ((D,), per_row) or zero.shape not in ((D,), per_row):
        raise Unfit(
            f"does not fit together: {D} directions, {name} {weight.shape}, {name}_scale {scale.shape}, "
            f"{name}_zero_point {zero.shape}"
        )
    if 4 * weight.nbytes > scope.limit:
        raise Unfit(f"has {name} of {weight.nbytes} bytes, far more than the file")
    integers = weight.astype(np.int16) - zero.reshape(D, 1, -1)
    return integers.transpose(0, 2, 1), np.broadcast_to(scale.reshape(D, -1), (D, weight.shape[-1]))
