"""Nodes that are layers of one LSTM: what exporters write for stacked layers becomes one LSTM again."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from .convention import ONNX, RELATIVES
from .graph import Scope
from .node import Found, of_node
from .operators import Unknown

#: Operators between the nodes of stacked layers.
_BETWEEN = {"Identity", "Dropout", "Squeeze", "Unsqueeze", "Transpose", "Reshape"}
#: Elements of the array with which it is tried whether one node's Y is the other's X.
MAX_PROBE = 1 << 25


def lstms(scope: Scope) -> Iterator[Found]:
    """The LSTMs of one graph, stacked layers as one."""
    layers: dict[str, Found] = {}  # by the name of Y
    order: list[Found] = []
    for node in scope.nodes:
        if node.op_type not in RELATIVES and (node.op_type != "LSTM" or node.domain not in ONNX):
            continue
        one = of_node(scope, node)
        below = None if one.refused else _layer_below(scope, node)
        if below is not None and below.output[0] in layers:
            lower = layers[below.output[0]]
            if _stacks(lower, one, below, node) and _only_use(scope, lower, below, node):
                joined = _joined(lower, one)
                order[order.index(lower)] = joined
                layers[node.output[0]] = joined
                continue
        order.append(one)
        if node.output and node.output[0]:
            layers[node.output[0]] = one
    yield from order


def _layer_below(scope: Scope, node: Any) -> Any:
    """The LSTM node of the same graph whose Y becomes this node's X, by moving values alone."""
    name = node.input[0]
    for _ in range(16):
        owner, producer = scope.producer(name)
        if owner is not scope or producer is None:
            return None
        if producer.op_type in ("LSTM", "DynamicQuantizeLSTM") and producer.output[0] == name:
            return producer
        if producer.op_type not in _BETWEEN:
            return None
        name = producer.input[0]
    return None


def _stacks(lower: Found, upper: Found, below: Any, node: Any) -> bool:
    """Whether one module can be both, by what the nodes say."""
    return (
        not lower.refused
        and lower.direction == upper.direction != "reverse"
        and lower.layout == upper.layout
        and lower.hidden_size == upper.hidden_size
        and lower.quantized == upper.quantized
        and lower.parameters["weight_ih_l0"].dtype == upper.parameters["weight_ih_l0"].dtype
        and ("bias_ih_l0" in lower.parameters) == ("bias_ih_l0" in upper.parameters)
        and list(below.input)[4:5] == list(node.input)[4:5]  # sequence_lens
        and not any(isinstance(one.states[what], np.ndarray) for one in (lower, upper) for what in one.states)
        and all((lower.states[what] is None) == (upper.states[what] is None) for what in lower.states)
    )


def _only_use(scope: Scope, lower: Found, below: Any, node: Any) -> bool:
    """Whether Y of the node below goes into X of the other alone, as the features of all directions side by side."""
    name, reader = node.input[0], node
    sizes = [7, 11]  # of T and B, where the model leaves them free
    while True:
        if [one for one in scope.consumers(name) if one.op_type != "Shape"] != [reader] or name in scope.outputs:
            return False
        if name == below.output[0]:
            break
        reader = scope.producers[name]
        if reader.op_type == "Reshape":
            with contextlib.suppress(Unknown):
                fixed = scope.value(reader.input[1]).tolist()
                sizes = [given if given > 0 else free for given, free in zip(fixed, sizes, strict=False)]
        name = reader.input[0]
    D, H = 2 if lower.direction == "bidirectional" else 1, lower.hidden_size
    if len(sizes) < 2 or math.prod(sizes) * D * H > MAX_PROBE:
        return False
    T, B = sizes
    side_by_side = np.arange(float(T * B * D * H)).reshape(T, B, D * H)
    Y = side_by_side.reshape(T, B, D, H)
    if not lower.layout:
        Y = Y.swapaxes(1, 2)
    try:
        return np.array_equal(scope.probe({name: Y}).value(node.input[0]), side_by_side)
    except ValueError:
        return False


def _joined(lower: Found, upper: Found) -> Found:
    """One LSTM of the layers of the first and the layer of the second."""
    layer = len(lower.nodes)
    parameters = {name.replace("_l0", f"_l{layer}"): array for name, array in upper.parameters.items()}
    states: dict[str, np.ndarray | str | None] = {
        what: name if name is None or what == "sequence_lens" else f"{name}, {upper.states[what]}"
        for what, name in lower.states.items()
    }
    return lower._replace(nodes=(*lower.nodes, *upper.nodes), parameters=lower.parameters | parameters, states=states)
