"""Cells of other kinds: what looks like an LSTM taken apart, and is not PyTorch's.

A graph that holds one is told so, instead of only that it has no LSTM node. What counts is how products are gated:

- LSTM: c' = f * c + i * g, with more or fewer products, and h' = o * (something of c'). Normalisations, peepholes,
  other activations and coupled gates may stand anywhere in it.
- GRU: h' = (1 - z) * n + z * h, where n has a product with another gate r.

Nothing is computed from it.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from .convention import ONNX
from .graph import Scope

_ACTIVATIONS = {
    *("Sigmoid", "HardSigmoid", "Tanh", "Relu", "LeakyRelu", "ThresholdedRelu", "PRelu", "Elu", "Celu", "Selu"),
    *("Softsign", "Softplus", "Softmax", "Exp", "Clip", "Erf", "Gelu", "Mish", "Swish", "HardSwish"),
}
_PRODUCTS = {"MatMul", "Gemm", "Conv", "Einsum"}
#: Nodes and inputs looked at from one node, and all looks in a graph: more are not a cell, or not worth the time.
_NEAR, _ALL = 60, 300_000


class _EnoughError(Exception):
    """Too many looks."""


class Lookalike(NamedTuple):
    """A cell of another kind."""

    name: str  # of what it makes
    sum: str  # the name of its sum of gated products
    gru: bool


class _Gate(NamedTuple):
    """A factor that an activation makes, and what lies on the way to it."""

    activation: str
    way: frozenset[str]


class _Finder:
    """The cells of one scope."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.left = _ALL
        self._constants: dict[str, bool] = {}
        self._gates: dict[str, _Gate | None] = {}
        self._summing: dict[str, bool] = {}

    def cells(self, known: set[str]) -> Iterator[tuple[Lookalike, frozenset[str]]]:
        """Each step of each cell, those that are known too, and the weights that it is made of."""
        sums = set(known)
        for kinds, find in (({"Mul"}, self._lstm), ({"Add", "Sum"}, self._gru)):
            gru = find == self._gru
            for node in self.scope.nodes:
                found = find(node) if self._is(node, kinds) else ""
                if found and not (gru and found in sums):
                    sums.add(found)
                    yield Lookalike(node.output[0], found, gru), self.weights(found)

    def _lstm(self, node: Any) -> str:
        """The name of c' where a node makes h', else an empty one."""
        gates = [self._gate(name) for name in node.input]
        if not any(gates) or any(self._sums_products(one) for one in self.scope.consumers(node.output[0])):
            return ""  # of the latter, it is the product f * c of a next step
        for gate, squashed in zip(gates, reversed(node.input), strict=True):
            if gate is None or squashed in gate.way:
                continue
            for one in self._near(squashed):
                if self._sums_products(one) and len({gate.activation, *self._activations(one)}) >= 3:
                    return str(one.output[0])
        return ""

    def _gru(self, node: Any) -> str:
        """The name of h' where a node makes (1 - z) * n + z * h, however it is written, else an empty one."""
        if not self._sums_products(node):
            return ""
        gates = {gate.activation for _, gate in self._gated(node)}
        h = {other for other, _ in self._gated(node)}
        h |= {name for one in map(self._maker, h) if self._is(one, {"Sub"}) for name in one.input}
        h = {name for name in h if not self._constant(name) and self._gate(name) is None}
        for one in self._near(node.output[0]):
            if self._is(one, _ACTIVATIONS):
                for inner in self._near(one.input[0], products=1):
                    for other, reset in self._gated_by(inner):
                        if reset.activation not in gates and (other in h or self._reaches(other, h)):
                            return str(node.output[0])
        return ""

    def _reaches(self, name: str, wanted: set[str]) -> bool:
        """Whether a value is made of one of these, by a product with constants at most."""
        return any(set(node.input) & wanted for node in self._near(name, products=1))

    def _sums_products(self, node: Any) -> bool:
        """Whether a node adds a product of a gate to another, or to what an activation makes."""
        if not self._is(node, {"Add", "Sum", "Sub"}):
            return False
        name = node.output[0]
        if name not in self._summing:
            terms = list(self._terms(node))
            products = sum(any(True for _ in self._gated_by(self._maker(term))) for term in terms)
            self._summing[name] = products > 0 and products + sum(self._gate(term) is not None for term in terms) > 1
        return self._summing[name]

    def _terms(self, node: Any, depth: int = 0) -> Iterator[str]:
        """What a sum is made of, sums in it taken apart."""
        for name in node.input[:_NEAR]:
            maker = self._maker(name)
            if self._is(maker, {"Add", "Sum"}) and depth < 4:
                yield from self._terms(maker, depth + 1)
            else:
                yield name

    def _gated(self, node: Any) -> Iterator[tuple[str, _Gate]]:
        """The products of gates in a sum: the other factor, and the gate."""
        for name in self._terms(node):
            yield from self._gated_by(self._maker(name))

    def _gated_by(self, node: Any) -> Iterator[tuple[str, _Gate]]:
        """Where a node is a product with a gate: the other factor, and the gate. Not x * sigmoid(x)."""
        if self._is(node, {"Mul"}) and len(node.input) == 2:
            for name, other in (node.input, node.input[::-1]):
                gate = self._gate(name)
                if gate is not None and other not in gate.way and not self._constant(other):
                    yield other, gate

    def _activations(self, node: Any) -> set[str]:
        """Those that make the factors and terms of a sum."""
        found = {gate.activation for _, gate in self._gated(node)}
        others = [other for other, _ in self._gated(node)] + list(self._terms(node))
        return found | {gate.activation for gate in map(self._gate, others) if gate is not None}

    def _gate(self, name: str) -> _Gate | None:
        """The activation that makes a value, with constants, shapes and normalisations on the way."""
        if name not in self._gates:
            self._gates[name] = self._found_gate(name)
        return self._gates[name]

    def _found_gate(self, name: str) -> _Gate | None:
        way, activation = [name], ""
        for _ in range(_NEAR):
            node = self._maker(way[-1])
            if node is None or self._is(node, _PRODUCTS):
                break
            activation = activation or (node.output[0] if self._is(node, _ACTIVATIONS) else "")
            inputs = [one for one in node.input[:_NEAR] if one and not self._constant(one)]
            if len(inputs) != 1:
                break
            way.append(inputs[0])
        return _Gate(activation, frozenset(way)) if activation else None

    def _near(self, name: str, products: int | None = None) -> Iterator[Any]:
        """The nodes that make a value, the nearest first, up to products with constants.

        With `products` up to activations, through so many products.
        """
        todo, seen = deque([(name, products or 0)]), {name}
        while todo and len(seen) < _NEAR:
            at, more = todo.popleft()
            node = self._maker(at)
            if node is None:
                continue
            yield node
            if products is not None and self._is(node, _ACTIVATIONS):
                continue
            if self._is(node, _PRODUCTS) and any(map(self._constant, node.input[1:])):
                more -= 1
                if more < 0:
                    continue
            for one in node.input[:_NEAR]:
                if one and one not in seen and not self._constant(one):
                    seen.add(one)
                    todo.append((one, more))

    def weights(self, name: str) -> frozenset[str]:
        """The constants in the products before a sum; they tell cells from each other."""
        found = set[str]()
        for node in self._near(name):
            if self._is(node, _PRODUCTS):
                found.update(node.input[1:2])
        return frozenset(found)

    def _maker(self, name: str) -> Any:
        self._look()
        return self.scope.producers.get(name)

    def _look(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise _EnoughError

    def _is(self, node: Any, kinds: set[str]) -> bool:
        return node is not None and node.op_type in kinds and node.domain in ONNX

    def _constant(self, name: str) -> bool:
        """Whether a value is stored in the file, copies and transposes of it included."""
        if name not in self._constants:
            self._constants[name] = self._stored(name)
        return self._constants[name]

    def _stored(self, name: str) -> bool:
        scope = self.scope
        for _ in range(_NEAR):
            self._look()
            scope, name = scope.owner(name)
            if name in scope.initializers or name in scope.values:
                return True
            node = scope.producers.get(name)
            if node is None or node.domain not in ONNX:
                return False
            if node.op_type == "Constant":
                return True
            if node.op_type not in {"Identity", "Cast", "Transpose", "Unsqueeze", "Squeeze", "Reshape"}:
                return False
            name = node.input[0]
        return False


def lookalikes(scope: Scope, plain: set[str], others: Mapping[str, str]) -> list[Lookalike]:
    """The cells of other kinds in one graph, those with weights in common once.

    Parameters
    ----------
    scope : Scope
    plain : set of str
        The names of c' of the cells that are read.
    others : mapping
        Of cells with the last equations of a plain one that are not read: the name of h' by that of c'.
    """
    finder = _Finder(scope)
    found: list[Lookalike] = []
    used = set[str]()
    with contextlib.suppress(_EnoughError):
        for c, h in others.items():
            weights = finder.weights(c)
            if not weights & used:
                found.append(Lookalike(h, c, False))
            used |= weights
        for cell, weights in finder.cells(plain | others.keys()):
            if cell.sum not in plain | others.keys() and not weights & used:
                found.append(cell)
            used |= weights
    return found
