"""What one LSTM node of a graph says: :class:`Found`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..arrays.quantization import QuantizedWeight
from ..files.container import TensorFileError
from ..words import named, quoted, with_article
from . import quantized
from .convention import INPUTS, RELATIVES, activations_of, shortest, to_pytorch
from .graph import InputsError, Scope
from .operators import Unknown
from .states import WHAT, Refused, Sizes, state_of


class Found(NamedTuple):
    """An LSTM in a model: the nodes of its layers, and what they say."""

    name: str
    nodes: tuple[str, ...]
    direction: str  # forward, reverse or bidirectional
    layout: int  # 0: X is (T, B, I), 1: (B, T, I)
    hidden_size: int
    parameters: dict[str, Any]  # under PyTorch's names; weights of a quantised node may be a `QuantizedWeight`
    states: dict[str, Any]  # initial_h, initial_c, sequence_lens: see `cylstm.onnx.states`
    transposed: bool  # X is a (B, T, I) array that the model transposes
    refused: str = ""  # why it is not computed; the rest is as far as it is known
    options: Mapping[str, Any] = {}  # arguments of `cylstm.LSTM` beyond PyTorch's, but peephole

    @property
    def input_size(self) -> int:
        """Number of features I of an input row."""
        return self.parameters["weight_ih_l0"].shape[1]

    @property
    def quantized(self) -> bool:
        """Whether it is a quantised node, of int8 or uint8."""
        return isinstance(self.parameters.get("weight_hh_l0"), QuantizedWeight)

    @property
    def directions(self) -> int:
        """Their number D."""
        return directions_of(self.direction)


def name_of(node: Any) -> str:
    """What a node is called: its name, or that of its first output."""
    return node.name or next(filter(None, node.output), node.op_type)


def of_node(scope: Scope, node: Any) -> Found:
    """What an LSTM node, or a relative, says, but its states; ``refused`` where cylstm does not compute it."""
    found = Found(name_of(node), (node.name,), "forward", 0, 0, {}, dict.fromkeys(WHAT), False)
    if node.op_type in RELATIVES and not quantized.is_quantized(node):
        return found._replace(refused=f"is {with_article(node.op_type)}")
    try:
        return _checked(scope, node, found)
    except Unknown as error:
        return found._replace(refused=f"has weights that the file alone does not tell: {error}")
    except quantized.Unfit as error:
        return found._replace(refused=f"is a {named(node.op_type)} and {error}")
    except Refused as error:
        return found._replace(refused=str(error))


def with_states(scope: Scope, node: Any, found: Found, X: str) -> Found:
    """The same with its states. X is the name of the input of the first layer, whose sizes they may depend on."""
    if found.refused:
        return found
    given = given_inputs(node)
    sizes = Sizes(X, found.directions, found.hidden_size, found.input_size, found.layout)
    try:
        return found._replace(
            states={what: state_of(scope, what, given[what], sizes) if what in given else None for what in WHAT}
        )
    except Refused as error:
        return found._replace(refused=str(error))


def given_inputs(node: Any) -> dict[str, str]:
    """The inputs of a node by ONNX's names."""
    return {name: value for name, value in zip(INPUTS, node.input, strict=False) if value}


def _checked(scope: Scope, node: Any, found: Found) -> Found:
    """What the node says, or the reason why cylstm does not compute it."""
    given = given_inputs(node)
    direction, layout, hidden_size, options = _options(scope.attributes_of(node))
    if "W" not in given or "R" not in given or "X" not in given:
        raise Refused("has no X, W or R")
    is_quantized = quantized.is_quantized(node)
    if len(node.input) > len(INPUTS) and not is_quantized:
        raise Refused(f"has {len(node.input)} inputs, more than ONNX has names for")
    zero = "P" in given and scope.is_zero(given["P"])
    if is_quantized:
        if "P" in given and not zero:
            raise Refused("has peepholes (P) beside quantised weights")
        parameters = quantized.parameters_of(scope, node, directions_of(direction), hidden_size)
    else:
        arrays = _weights(
            scope, {name: value for name, value in given.items() if name != "P" or not zero}, direction, hidden_size
        )
        parameters = to_pytorch(arrays["W"], arrays["R"], arrays.get("B"), arrays.get("P"))
    hidden_size = parameters["weight_hh_l0"].shape[-1]
    if zero:
        _check_zero_peepholes(scope, given["P"], (directions_of(direction), 3 * hidden_size))
    return found._replace(
        direction=direction,
        layout=layout,
        hidden_size=hidden_size,
        parameters=parameters,
        transposed=_is_transposed(scope, given["X"]),
        options=options,
    )


def _check_zero_peepholes(scope: Scope, P: str, wanted: tuple[int, ...]) -> None:
    """Zeros are the plain LSTM, if they have the shape of P, as far as it is known."""
    with contextlib.suppress(Unknown):
        if (shape := scope.value(P).shape) != wanted:
            raise Refused(f"has P of shape {shape}, which must be {wanted}")


def _options(attributes: dict[str, Any]) -> tuple[str, int, int | None, dict[str, Any]]:
    """Direction, layout, hidden_size, and the options beyond PyTorch's."""
    direction = attributes.pop("direction", "forward")
    layout = attributes.pop("layout", 0)
    hidden_size = attributes.pop("hidden_size", None)
    attributes.pop("output_sequence", None)  # of opset 1: whether Y is there
    if direction not in ("forward", "reverse", "bidirectional") or layout not in (0, 1):
        raise Refused(f"has direction={quoted(direction)} and layout={quoted(layout)}, which ONNX does not have")
    options: dict[str, Any] = {}
    coupled = attributes.pop("input_forget", 0)
    if coupled not in (0, 1):
        raise Refused(f"has input_forget={quoted(coupled)}, which must be 0 or 1")
    if coupled:
        options["input_forget"] = True
    if "clip" in attributes:
        clip = attributes.pop("clip")
        if not isinstance(clip, float) or not 0 < clip < math.inf:
            raise Refused(f"has clip={quoted(clip)}, which must be a positive number")
        options["clip"] = shortest(clip)
    D = directions_of(direction)
    names = attributes.pop("activations", ["Sigmoid", "Tanh", "Tanh"] * D)
    alphas, betas = (list(map(shortest, attributes.pop(f"activation_{what}", []))) for what in ("alpha", "beta"))
    if not isinstance(names, list) or len(names) != 3 * D or not all(isinstance(name, str) for name in names):
        raise Refused(f"has activations={quoted(names)}, which must be {3 * D}")
    try:
        options["activations"] = activations_of(names, alphas, betas)
    except ValueError as error:
        raise Refused(str(error)) from None
    if attributes:
        raise Refused(f"has the attribute {quoted(next(iter(attributes)))}")
    return direction, layout, hidden_size, options


def directions_of(direction: str) -> int:
    """The number D of directions."""
    return 2 if direction == "bidirectional" else 1


def _weights(scope: Scope, given: Mapping[str, str], direction: str, hidden_size: int | None) -> dict[str, np.ndarray]:
    """W, R and, where they are given, B and P."""
    arrays = {name: _weight(scope, name, given[name]) for name in ("W", "R", "B", "P") if name in given}
    W, R, D = arrays["W"], arrays["R"], directions_of(direction)
    H = R.shape[-1] if R.ndim else 0
    I = W.shape[-1] if W.ndim else 0
    expected = {"W": (D, 4 * H, I), "R": (D, 4 * H, H), "B": (D, 8 * H), "P": (D, 3 * H)}
    for name, array in arrays.items():
        if array.shape != expected[name] or hidden_size not in (None, H) or not array.size:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
            raise Refused(f"does not fit together: direction {direction}, hidden_size {hidden_size}, {shapes}")
        if array.dtype != W.dtype or array.dtype.name not in ("float16", "float32", "float64"):
            raise Refused(f"has {name} of dtype {array.dtype}")
        scope.budget.take(array.nbytes, given[name])  # it will be copied
    return arrays


def _weight(scope: Scope, name: str, given: str) -> np.ndarray:
    """The array of W, R, B or P."""
    try:
        return scope.value(given)
    except InputsError as error:
        raise TensorFileError(
            f"{error}, on the way to {name} of an LSTM. PyTorch's exporter writes this for proj_size, which "
            "ONNX's operator does not have: save the state_dict instead"
        ) from error


def _is_transposed(scope: Scope, X: str) -> bool:
    owner, node = scope.producer(X)
    return node is not None and node.op_type == "Transpose" and owner.attributes_of(node).get("perm") == [1, 0, 2]
