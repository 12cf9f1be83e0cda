"""ONNX's LSTM and PyTorch's: names, the order of the gates, activations.

Convention: https://onnx.ai/onnx/operators/onnx__LSTM.html
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..nn.lstm import LSTM as Module
from ..words import needs

#: The names of the domain of ONNX's own operators.
ONNX = ("", "ai.onnx")
#: Quantised and extended relatives of the LSTM in ONNX Runtime.
RELATIVES = {"DynamicQuantizeLSTM", "AttnLSTM"}
#: The inputs of an LSTM node, in order.
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
#: Those of one direction: of the gates, of g, of the state.
ACTIVATIONS = ["sigmoid", "tanh", "tanh"]
#: Rows of ONNX's gates i, o, f, c in PyTorch's order i, f, g, o, and the other way round.
_TO_PYTORCH, _TO_ONNX = (0, 2, 3, 1), (0, 3, 1, 2)


def import_onnx() -> Any:
    """The package ``onnx``, if it is installed."""
    try:
        import onnx
    except ImportError as error:
        raise ImportError(needs("ONNX files", "onnx")) from error
    return onnx


def to_pytorch(W: np.ndarray, R: np.ndarray, B: np.ndarray | None) -> dict[str, np.ndarray]:
    """The parameters of layer 0 under PyTorch's names."""
    parameters = {}
    for direction, suffix in zip(range(len(W)), ("_l0", "_l0_reverse"), strict=False):
        parameters[f"weight_ih{suffix}"] = _gates(W[direction], _TO_PYTORCH)
        parameters[f"weight_hh{suffix}"] = _gates(R[direction], _TO_PYTORCH)
        if B is not None:
            of_W, of_R = np.split(B[direction], 2)
            parameters[f"bias_ih{suffix}"] = _gates(of_W, _TO_PYTORCH)
            parameters[f"bias_hh{suffix}"] = _gates(of_R, _TO_PYTORCH)
    return parameters


def to_onnx(module: Module, layer: int) -> dict[str, np.ndarray]:
    """W, R and B of a layer."""
    suffixes = [f"_l{layer}", f"_l{layer}_reverse"][: 2 if module.bidirectional else 1]
    arrays = module.state_dict()

    def stacked(field: str) -> np.ndarray:
        return np.stack([_gates(arrays[field + suffix], _TO_ONNX) for suffix in suffixes])

    weights = {"W": stacked("weight_ih"), "R": stacked("weight_hh")}
    if module.bias:
        weights["B"] = np.concatenate([stacked("bias_ih"), stacked("bias_hh")], axis=1)
    return weights


def _gates(rows: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    """The rows of the four gates in another order."""
    return rows.reshape(4, -1, *rows.shape[1:])[list(order)].reshape(rows.shape)
