"""Nodes that are layers of one LSTM: what exporters write for stacked layers becomes one LSTM again."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from . import quantized
from .convention import ONNX, RELATIVES
from .graph import Scope
from .node import Found, given_inputs, of_node, with_states
from .operators import Unknown
from .states import WHAT, Sizes, in_order, joined

#: Operators between the nodes of stacked layers, and how many of them.
_BETWEEN = {
    *("Identity", "Dropout", "Cast", "Squeeze", "Unsqueeze", "Transpose", "Reshape", "Slice", "Split", "Gather"),
    "Concat",
}
_MOST_BETWEEN = 32
#: Elements of the array with which it is tried whether one node's Y is the other's X.
MAX_PROBE = 1 << 23  # of which float32 tells the thirds apart


class _Layer(NamedTuple):
    """A node and what it says."""

    node: Any
    found: Found


class _Between(NamedTuple):
    """The way from one node's Y to another's X."""

    below: Any  # the node
    names: set[str]  # of the values on the way
    nodes: list[Any]  # on the way, and the one above


def lstms(scope: Scope) -> Iterator[Found]:
    """The LSTMs of one graph, stacked layers as one."""
    chains: list[list[_Layer]] = []
    by_output: dict[str, list[_Layer]] = {}  # by the name of Y of the last layer
    for node in scope.nodes:
        if node.op_type not in RELATIVES and (node.op_type != "LSTM" or node.domain not in ONNX):
            continue
        found = of_node(scope, node)
        between = None if found.refused else _way_from_below(scope, node)
        chain = by_output.get(between.below.output[0]) if between is not None else None
        if chain is not None and between is not None:
            upper = _Layer(node, with_states(scope, node, found, chain[0].node.input[0]))
            if _stacks(scope, chain, upper) and _is_layer_above(scope, chain[-1].found, between, node):
                chain.append(upper)
                by_output[node.output[0]] = chain
                continue
        chain = [_Layer(node, with_states(scope, node, found, node.input[0]) if not found.refused else found)]
        chains.append(chain)
        if node.output and node.output[0]:
            by_output[node.output[0]] = chain
    for chain in chains:
        yield _as_one(chain)


def _way_from_below(scope: Scope, node: Any) -> _Between | None:
    """The way to this node's X from the Y of one LSTM node of the same graph, by moving values alone."""
    below, names, nodes, todo = None, set[str](), [node], [node.input[0]]
    while todo:
        name = todo.pop()
        if name in names:
            continue
        names.add(name)
        producer = scope.producers.get(name)
        if producer is None or len(nodes) > _MOST_BETWEEN:
            return None
        if quantized.is_quantized(producer) or (producer.op_type == "LSTM" and producer.domain in ONNX):
            if producer.output[0] != name or below not in (None, producer):
                return None
            below = producer
            continue
        if producer.domain not in ONNX or producer.op_type not in _BETWEEN:
            return None
        if not any(producer is one for one in nodes):
            nodes.append(producer)
        todo += producer.input if producer.op_type == "Concat" else producer.input[:1]
    return None if below is None else _Between(below, names, nodes)


def _stacks(scope: Scope, chain: list[_Layer], upper: _Layer) -> bool:
    """Whether one module can be all of them, by what the nodes say."""
    first, lower, above = chain[0].found, chain[-1].found, upper.found
    below_inputs, inputs = given_inputs(chain[-1].node), given_inputs(upper.node)
    if (
        lower.refused
        or above.refused
        or first.direction != above.direction
        or first.quantized != above.quantized
        or first.direction == "reverse"
        or (first.layout, first.hidden_size, first.options) != (above.layout, above.hidden_size, above.options)
        or first.parameters["weight_ih_l0"].dtype != above.parameters["weight_ih_l0"].dtype
        or any((name in first.parameters) != (name in above.parameters) for name in ("bias_ih_l0", "weight_ch_l0"))
        or below_inputs.get("sequence_lens") != inputs.get("sequence_lens")
    ):
        return False
    layers = [*chain, upper]
    sizes = Sizes("", first.directions, first.hidden_size, first.input_size, first.layout)
    for what in WHAT[1:]:
        try:
            joined([layer.found.states[what] for layer in (chain[0], upper)], what)
        except Unknown:
            return False
        if isinstance(above.states[what], str):
            names = [given_inputs(layer.node)[what] for layer in layers]
            if len(layers) > MAX_ORDERED or not in_order(scope, names, sizes):
                return False
    return True


def _is_layer_above(scope: Scope, lower: Found, between: _Between, node: Any) -> bool:
    """Whether Y of the node below goes into X of the other alone, as the features of all directions side by side."""
    sizes = [7, 11]  # of T and B, where the model leaves them free
    for name in between.names:
        readers = [one for one in scope.consumers(name) if one.op_type != "Shape"]
        if name in scope.outputs or not all(any(one is known for known in between.nodes) for one in readers):
            return False
    for one in between.nodes:
        if one.op_type == "Reshape":
            with contextlib.suppress(Unknown):
                fixed = scope.value(one.input[1]).tolist()
                sizes = [given if given > 0 else free for given, free in zip(fixed, sizes, strict=False)]
    D, H = lower.directions, lower.hidden_size
    if len(sizes) < 2 or math.prod(sizes) * D * H > MAX_PROBE:
        return False
    T, B = sizes
    side_by_side = np.arange(T * B * D * H, dtype=np.float32).reshape(T, B, D * H) / np.float32(3)  # a Cast rounds
    Y = side_by_side.reshape(T, B, D, H)
    if not lower.layout:
        Y = Y.swapaxes(1, 2)
    try:
        return np.array_equal(scope.probe({between.below.output[0]: Y}).value(node.input[0]), side_by_side)
    except ValueError:
        return False


#: Layers whose states are looked for in one input: each is compared with all below it.
MAX_ORDERED = 64


def _as_one(chain: list[_Layer]) -> Found:
    """One LSTM of all the layers."""
    first = chain[0].found
    if len(chain) == 1:
        return first
    parameters = {
        name.replace("_l0", f"_l{layer}"): array
        for layer, (_, found) in enumerate(chain)
        for name, array in found.parameters.items()
    }
    return first._replace(
        nodes=tuple(found.nodes[0] for _, found in chain),
        parameters=parameters,
        states={what: joined([found.states[what] for _, found in chain], what) for what in WHAT},
    )
