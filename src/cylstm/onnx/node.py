"""What one LSTM node of a graph says: :class:`Found`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..arrays.quantization import QuantizedWeight
from . import quantized
from .convention import ACTIVATIONS, INPUTS, RELATIVES, to_pytorch
from .graph import Scope
from .operators import Unknown


class Found(NamedTuple):
    """An LSTM in a model: the nodes of its layers, and what they say."""

    name: str
    nodes: tuple[str, ...]
    direction: str  # forward, reverse or bidirectional
    layout: int  # 0: X is (T, B, I), 1: (B, T, I)
    hidden_size: int
    parameters: dict[str, Any]  # under PyTorch's names; weights of a quantised node may be a `QuantizedWeight`
    states: dict[str, np.ndarray | str | None]  # initial_h, initial_c, sequence_lens: constant, name, or not there
    transposed: bool  # X is a (B, T, I) array that the model transposes
    refused: str = ""  # why it is not computed; the rest is as far as it is known

    @property
    def input_size(self) -> int:
        """Number of features I of an input row."""
        return self.parameters["weight_ih_l0"].shape[1]

    @property
    def quantized(self) -> bool:
        """Whether it is a quantised node, of int8 or uint8."""
        return isinstance(self.parameters.get("weight_hh_l0"), QuantizedWeight)


def of_node(scope: Scope, node: Any) -> Found:
    """What an LSTM node, or a relative, says; ``refused`` where cylstm does not compute it."""
    name = node.name or next(filter(None, node.output), node.op_type)
    found = Found(name, (node.name,), "forward", 0, 0, {}, {}, False)
    if node.op_type in RELATIVES and not quantized.is_quantized(node):
        return found._replace(refused=f"is a {node.op_type}")
    try:
        return _checked(scope, node, found)
    except Unknown as error:
        return found._replace(refused=f"has weights that the file alone does not tell: {error}")
    except quantized.Unfit as error:
        return found._replace(refused=f"is a {node.op_type} and {error}")
    except _Refused as error:
        return found._replace(refused=str(error))


class _Refused(Exception):
    """What a node asks for and cylstm does not compute."""


def _checked(scope: Scope, node: Any, found: Found) -> Found:
    """What the node says, or the reason why cylstm does not compute it."""
    given = {name: value for name, value in zip(INPUTS, node.input, strict=False) if value}
    direction, layout, hidden_size = _options(scope.attributes_of(node))
    if "P" in given and not scope.is_zero(given["P"]):
        raise _Refused("has peepholes (P)")
    if "W" not in given or "R" not in given or "X" not in given:
        raise _Refused("has no X, W or R")
    if quantized.is_quantized(node):
        parameters = quantized.parameters_of(scope, node, _directions(direction), hidden_size)
    else:
        arrays = _weights(scope, given, direction, hidden_size)
        parameters = to_pytorch(arrays["W"], arrays["R"], arrays.get("B"))
    return found._replace(
        direction=direction,
        layout=layout,
        hidden_size=parameters["weight_hh_l0"].shape[-1],
        parameters=parameters,
        states=_states(scope, given),
        transposed=_is_transposed(scope, given["X"]),
    )


def _options(attributes: dict[str, Any]) -> tuple[str, int, int | None]:
    """Direction, layout and hidden_size, where all other attributes are those of the plain LSTM."""
    direction = attributes.pop("direction", "forward")
    layout = attributes.pop("layout", 0)
    hidden_size = attributes.pop("hidden_size", None)
    attributes.pop("output_sequence", None)  # of opset 1: whether Y is there
    if direction not in ("forward", "reverse", "bidirectional") or layout not in (0, 1):
        raise _Refused(f"has direction={direction!r} and layout={layout!r}, which ONNX does not have")
    if attributes.pop("input_forget", 0):
        raise _Refused("has coupled gates (input_forget=1)")
    if "clip" in attributes:
        raise _Refused(f"has clip={attributes['clip']:g}")
    computed = ACTIVATIONS * _directions(direction)
    activations = attributes.pop("activations", computed)
    if [name.lower() for name in activations] != computed:
        raise _Refused(f"has activations={activations} instead of {', '.join(ACTIVATIONS)}")
    attributes.pop("activation_alpha", None), attributes.pop("activation_beta", None)  # sigmoid and tanh take none
    if attributes:
        raise _Refused(f"has the attribute {next(iter(attributes))!r}")
    return direction, layout, hidden_size


def _directions(direction: str) -> int:
    return 2 if direction == "bidirectional" else 1


def _weights(scope: Scope, given: Mapping[str, str], direction: str, hidden_size: int | None) -> dict[str, np.ndarray]:
    """W, R and, if it is given, B."""
    arrays = {name: scope.value(given[name]) for name in ("W", "R", "B") if name in given}
    W, R, D = arrays["W"], arrays["R"], _directions(direction)
    H = R.shape[-1]
    I = W.shape[-1] if W.ndim else 0
    expected = {"W": (D, 4 * H, I), "R": (D, 4 * H, H), "B": (D, 8 * H)}
    for name, array in arrays.items():
        if array.shape != expected[name] or hidden_size not in (None, H) or not array.size:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
            raise _Refused(f"does not fit together: direction {direction}, hidden_size {hidden_size}, {shapes}")
        if array.dtype != W.dtype or array.dtype.name not in ("float16", "float32", "float64"):
            raise _Refused(f"has {name} of dtype {array.dtype}")
        if array.nbytes > scope.limit:
            raise _Refused(f"has {name} of {array.nbytes} bytes, far more than the file")
    return arrays


def _states(scope: Scope, given: Mapping[str, str]) -> dict[str, np.ndarray | str | None]:
    """sequence_lens, initial_h and initial_c; None where they are zero or not there."""
    states: dict[str, np.ndarray | str | None] = dict.fromkeys(("sequence_lens", "initial_h", "initial_c"))
    for what in states:
        if what in given and not (what != "sequence_lens" and scope.is_zero(given[what])):
            try:
                states[what] = scope.value(given[what])
            except Unknown:
                states[what] = given[what]
    return states


def _is_transposed(scope: Scope, X: str) -> bool:
    owner, node = scope.producer(X)
    return node is not None and node.op_type == "Transpose" and owner.attributes_of(node).get("perm") == [1, 0, 2]
