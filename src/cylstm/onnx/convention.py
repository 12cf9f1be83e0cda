"""ONNX's LSTM and PyTorch's: names, the order of the gates, activations.

Convention: https://onnx.ai/onnx/operators/onnx__LSTM.html
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays.activations import ACTIVATIONS, Activation
from ..nn.lstm import LSTM as Module
from ..words import needs, quoted

#: The names of the domain of ONNX's own operators.
ONNX = ("", "ai.onnx")
#: Quantised and extended relatives of the LSTM in ONNX Runtime.
RELATIVES = {"DynamicQuantizeLSTM", "AttnLSTM"}
#: The inputs of an LSTM node, in order.
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
#: ONNX's activations by their names in lower case, as cylstm names them.
_NAMES = {
    "relu": "relu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "affine": "affine",
    "leakyrelu": "leaky_relu",
    "thresholdedrelu": "thresholded_relu",
    "scaledtanh": "scaled_tanh",
    "hardsigmoid": "hard_sigmoid",
    "elu": "elu",
    "softsign": "softsign",
    "softplus": "softplus",
}
_SPELLED = ("Relu", "Tanh", "Sigmoid", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu")
_ONNX_NAMES = {_NAMES[name.lower()]: name for name in (*_SPELLED, "Softsign", "Softplus")}
#: Without a default that all agree on: ONNX Runtime takes 0 where the specification has others, or none.
_MUST_BE_GIVEN = {"affine", "scaled_tanh", "thresholded_relu"}
#: Rows of ONNX's gates i, o, f, c in PyTorch's order i, f, g, o, and the other way round.
_TO_PYTORCH, _TO_ONNX = (0, 2, 3, 1), (0, 3, 1, 2)


def import_onnx() -> Any:
    """The package ``onnx``, if it is installed."""
    try:
        import onnx
    except ImportError as error:
        raise ImportError(needs("ONNX files", "onnx")) from error
    return onnx


def shortest(value: float) -> float:
    """A float32, which attributes are, by the shortest decimals that mean it: 0.2 and not 0.20000000298023224."""
    return float(str(np.float32(value)))


def activations_of(names: list[str], alphas: list[float], betas: list[float]) -> tuple[Any, ...]:
    """The activations that a node names, as `cylstm.LSTM` takes them.

    Alphas and betas are consumed in the order of the activations, by those that take them.

    Raises
    ------
    ValueError
        If a name is unknown, or it is not clear which number belongs to which.
    """
    computed = []
    consumers = [ACTIVATIONS[_NAMES[name.lower()]].parameters for name in names if name.lower() in _NAMES]
    numbers = []
    for at_least, given, what in ((1, alphas, "alpha"), (2, betas, "beta")):
        takes = [count >= at_least for count in consumers]
        by_place = [value for value, taken in zip(given, takes, strict=False) if taken]
        if len(given) > sum(takes) > 0 and by_place != list(given[: sum(takes)]):
            raise ValueError(
                f"has activation_{what}={given}, of which it is not clear what belongs to which activation"
            )
        numbers.append(iter(given))
    for name in names:
        if name.lower() not in _NAMES:
            raise ValueError(f"has the activation {quoted(name)}, which ONNX does not have")
        ours = _NAMES[name.lower()]
        function = ACTIVATIONS[ours]
        values = [next(given, None) for given in numbers[: function.parameters]]
        if None in values and ours in _MUST_BE_GIVEN:
            raise ValueError(f"has the activation {name} without its alpha or beta, for which there is no one default")
        filled = [
            default if value is None else value for value, default in zip(values, function.defaults, strict=False)
        ]
        parameters = values if None not in values else filled
        computed.append("linear" if (ours, *parameters) == ("affine", 1.0, 0.0) else (ours, *parameters))
    return tuple(computed)


def to_activations(activations: tuple[Activation, ...]) -> dict[str, Any]:
    """The attributes of a node with these activations.

    Raises
    ------
    ValueError
        If ONNX does not have one of them.
    """
    names, alphas, betas = [], [], []
    for one in activations:
        one = Activation("affine", 1.0, 0.0) if one.name == "linear" else one
        if one.name not in _ONNX_NAMES:
            raise ValueError(
                f"activations must be those of ONNX ({', '.join(_ONNX_NAMES)}, linear), got {quoted(one.name)}"
            )
        names.append(_ONNX_NAMES[one.name])
        parameters = ACTIVATIONS[one.name].parameters
        alphas += [one.alpha][:parameters]
        betas += [one.beta] * (parameters == 2)
    attributes: dict[str, Any] = {"activations": names}
    if alphas:
        attributes["activation_alpha"] = alphas
    if betas:
        attributes["activation_beta"] = betas
    return attributes


def to_pytorch(W: np.ndarray, R: np.ndarray, B: np.ndarray | None, P: np.ndarray | None) -> dict[str, np.ndarray]:
    """The parameters of layer 0 under PyTorch's names."""
    parameters = {}
    for direction, suffix in zip(range(len(W)), ("_l0", "_l0_reverse"), strict=False):
        parameters[f"weight_ih{suffix}"] = _gates(W[direction], _TO_PYTORCH)
        parameters[f"weight_hh{suffix}"] = _gates(R[direction], _TO_PYTORCH)
        if B is not None:
            of_W, of_R = np.split(B[direction], 2)
            parameters[f"bias_ih{suffix}"] = _gates(of_W, _TO_PYTORCH)
            parameters[f"bias_hh{suffix}"] = _gates(of_R, _TO_PYTORCH)
        if P is not None:
            parameters[f"weight_ch{suffix}"] = P[direction].reshape(3, -1)[[0, 2, 1]].reshape(-1)  # i, o, f
    return parameters


def to_onnx(module: Module, layer: int) -> dict[str, np.ndarray]:
    """W, R, B and P of a layer."""
    suffixes = [f"_l{layer}", f"_l{layer}_reverse"][: 2 if module.bidirectional else 1]
    arrays = module.state_dict()

    def stacked(field: str) -> np.ndarray:
        return np.stack([_gates(arrays[field + suffix], _TO_ONNX) for suffix in suffixes])

    weights = {"W": stacked("weight_ih"), "R": stacked("weight_hh")}
    if module.bias:
        weights["B"] = np.concatenate([stacked("bias_ih"), stacked("bias_hh")], axis=1)
    if module.peephole:
        ours = [arrays[f"weight_ch{suffix}"].reshape(3, -1) for suffix in suffixes]
        weights["P"] = np.stack([rows[[0, 2, 1]].reshape(-1) for rows in ours])
    return weights


def _gates(rows: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    """The rows of the four gates in another order."""
    return rows.reshape(4, -1, *rows.shape[1:])[list(order)].reshape(rows.shape)
