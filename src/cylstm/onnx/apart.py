"""Cells that were taken apart: an LSTM without an LSTM node, as exporters write LSTMCell, loops and unrolled steps.

A cell is found by its last equations: h' = o * tanh(c'), c' = f * c + i * g, where i, f and o come from sigmoids and g
from a tanh. Its weights are taken where it is the plain one of PyTorch: two Gemm, whose sum is split into four.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import numpy as np

from .convention import ONNX
from .graph import Scope
from .operators import Unknown

_GATES = {"Sigmoid", "HardSigmoid"}
_HELD = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Cell(NamedTuple):
    """A cell: where it is, and its parameters under PyTorch's names where it is the plain one."""

    name: str
    parameters: dict[str, np.ndarray]


class _Sums(NamedTuple):
    """What goes into the activations, by name."""

    i: str
    f: str
    g: str
    o: str


def cells(scope: Scope) -> list[Cell]:
    """The cells of one graph, those with the same weights once."""
    found: dict[tuple[str, ...], Cell] = {}
    for node in scope.nodes:
        sums = _sums(scope, node)
        if sums is None:
            continue
        names: tuple[str, ...] = (node.name or node.output[0],)
        parameters: dict[str, np.ndarray] = {}
        with contextlib.suppress(_NotPlain, Unknown):
            names, parameters = _parameters(scope, sums)
        if names not in found:
            found[names] = Cell(_prefix(names), parameters)
    return list(found.values())


def _producer(scope: Scope, name: str, kinds: set[str]) -> Any:
    """The node of this scope that makes a value, if it is of these kinds."""
    node = scope.producers.get(name)
    return node if node is not None and node.op_type in kinds and node.domain in ONNX else None


def _sums(scope: Scope, node: Any) -> _Sums | None:
    """What goes into the activations of a cell whose h' this node makes, if it does."""
    if node.op_type != "Mul" or node.domain not in ONNX or len(node.input) != 2:
        return None
    for o_name, squashed in (node.input, node.input[::-1]):
        o, h = _producer(scope, o_name, _GATES), _producer(scope, squashed, {"Tanh"})
        c = None if h is None or o is None else _producer(scope, h.input[0], {"Add"})
        products = [] if c is None else [_producer(scope, name, {"Mul"}) for name in c.input]
        if len(products) != 2 or None in products:
            continue
        for kept, new in (products, products[::-1]):
            f = next(filter(None, (_producer(scope, name, _GATES) for name in kept.input)), None)
            i = next(filter(None, (_producer(scope, name, _GATES) for name in new.input)), None)
            g = next(filter(None, (_producer(scope, name, {"Tanh"}) for name in new.input)), None)
            if f is not None and i is not None and g is not None:
                return _Sums(i.input[0], f.input[0], g.input[0], o.input[0])
    return None


class _NotPlain(Exception):
    """A cell whose weights are not taken."""


def _parameters(scope: Scope, sums: _Sums) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """The names in the model and the parameters of a cell as PyTorch's exporters write it."""
    split = _producer(scope, sums.i, {"Split"})
    if split is None or tuple(split.output) != tuple(sums):
        raise _NotPlain
    total = _producer(scope, split.input[0], {"Add"})
    products = [] if total is None else [_producer(scope, name, {"Gemm"}) for name in total.input]
    if len(products) != 2 or None in products:
        raise _NotPlain
    terms = []
    for product in products:
        attributes = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0} | scope.attributes_of(product)
        if attributes != {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1} or len(product.input) not in (2, 3):
            raise _NotPlain
        names = [name for name in product.input[1:] if name]
        terms.append((names, [scope.value(name) for name in names]))
    hidden, given = _in_order(terms)
    H = hidden[1][0].shape[1]
    parts = scope.attributes_of(split).get("axis", 0), [H] * 4
    if len(split.input) > 1:
        parts = parts[0], scope.value(split.input[1]).tolist()
    if parts not in ((1, [H] * 4), (-1, [H] * 4)) or any(_gate_is_hard(scope, name) for name in sums):
        raise _NotPlain
    arrays = [given[1][0], hidden[1][0], *given[1][1:], *hidden[1][1:]]
    shapes = [array.shape for array in arrays]
    if shapes not in ([(4 * H, shapes[0][-1]), (4 * H, H)], [(4 * H, shapes[0][-1]), (4 * H, H), (4 * H,), (4 * H,)]):
        raise _NotPlain
    return (given[0][0], hidden[0][0], *given[0][1:], *hidden[0][1:]), dict(zip(_HELD, arrays, strict=False))


def _in_order(terms: list[Any]) -> tuple[Any, Any]:
    """The term of h and that of x: by the shape of the weights, or else by the names that PyTorch gives them."""
    by_shape = [arrays[0].ndim == 2 and arrays[0].shape[0] == 4 * arrays[0].shape[1] for _, arrays in terms]
    by_name = [names[0].endswith("weight_hh") for names, _ in terms]
    for decides in (by_shape, by_name):
        if sum(decides) == 1:
            first = decides.index(True)
            return terms[first], terms[1 - first]
    raise _NotPlain


def _gate_is_hard(scope: Scope, name: str) -> bool:
    return any(node.op_type == "HardSigmoid" for node in scope.consumers(name))


def _prefix(names: tuple[str, ...]) -> str:
    """``"cell."`` of ``cell.weight_ih``; of other names, a prefix that is made of the first."""
    first = names[0]
    return first.removesuffix("weight_ih") if first.endswith("weight_ih") and len(names) > 1 else f"{first}."
