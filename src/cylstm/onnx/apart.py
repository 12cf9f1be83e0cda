"""Cells that were taken apart: an LSTM without an LSTM node, as exporters write LSTMCell, loops and unrolled steps.

A cell is found by its last equations: h' = o * tanh(c'), c' = f * c + i * g, where i, f and o come from sigmoids and g
from a tanh. Its weights are taken where the sums before them are plain: products of constants with two sources, x and
h, and constants, all of which may be cut into the four gates in any order (``sums``).
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, NamedTuple

import numpy as np

from .convention import ONNX
from .graph import Scope
from .lookalike import lookalikes
from .operators import Unknown
from .sums import NotPlain, Sum, SumReader, made_by

_GATES = {"Sigmoid", "HardSigmoid"}
_SQUASHING = {"Tanh", "Relu", "Elu", "Selu", "Softsign", "LeakyRelu", "HardSigmoid"}


class Cell(NamedTuple):
    """A cell: where it is, and its parameters under PyTorch's names where it is the plain one."""

    name: str
    parameters: dict[str, np.ndarray]
    gru: bool = False  # gated as a GRU is


class _Gates(NamedTuple):
    """The sums that go into the activations, by name, and what the cell makes."""

    i: str
    f: str
    g: str
    o: str
    h_new: str
    c_new: str
    plain: bool  # the activations are PyTorch's


#: Weights and their columns: those of another step of the same cell.
_Signature = frozenset[tuple[str, int]]


class _Weights(NamedTuple):
    """The sums of a cell: those of i, f, g and o, and the two sources."""

    gates: _Gates
    sums: tuple[Sum, Sum, Sum, Sum]
    sources: tuple[str, str]

    @property
    def signature(self) -> _Signature:
        """That of its products."""
        return frozenset((term.weight, term.first) for one in self.sums for term in one.terms if term.source)


def cells(scope: Scope) -> list[Cell]:
    """The cells of one graph, those with the same weights once; of those that are not plain, all.

    The first of unrolled steps has lost the product of a state of zeros: it is no cell of its own.
    """
    reader = SumReader(scope)
    plain: list[_Weights] = []
    others: list[_Gates] = []
    for node in scope.nodes:
        gates = _gates(scope, node)
        if gates is None:
            continue
        try:
            plain.append(_weights(reader, gates))
        except (NotPlain, Unknown):
            others.append(gates)
    made_here = {one.gates.h_new: one.signature for one in plain}
    found: dict[_Signature, list[_Weights]] = {}
    for one in plain:
        found.setdefault(one.signature, []).append(one)
    cells: dict[str, Cell] = {}
    known = set[tuple[str, int]]()
    for signature, steps in found.items():
        try:
            name, parameters = _parameters(scope, steps, made_here)
        except NotPlain:
            others += [step.gates for step in steps]
            continue
        while name in cells:
            name = f"{name}_."
        cells[name] = Cell(name, parameters)
        known |= signature
    unknown = {gates.c_new: gates.h_new for gates in others if not _weights_of(reader, gates) & known}
    read = {one.gates.c_new for one in plain} | {gates.c_new for gates in others} - unknown.keys()
    return [*cells.values(), *(Cell(f"{one.name}.", {}, one.gru) for one in lookalikes(scope, read, unknown))]


def _gates(scope: Scope, node: Any) -> _Gates | None:
    """What goes into the activations of a cell whose h' this node makes, if it does."""
    if node.op_type != "Mul" or node.domain not in ONNX or len(node.input) != 2:
        return None
    for o_name, squashed in (node.input, node.input[::-1]):
        o, h = made_by(scope, o_name, _GATES), made_by(scope, squashed, _SQUASHING)
        c = None if h is None or o is None else made_by(scope, h.input[0], {"Add"})
        products = [] if c is None else [made_by(scope, name, {"Mul"}) for name in c.input]
        if c is None or len(products) != 2 or None in products:
            continue
        for kept, new in (products, products[::-1]):
            f = next(filter(None, (made_by(scope, name, _GATES) for name in kept.input)), None)
            i = next(filter(None, (made_by(scope, name, _GATES) for name in new.input)), None)
            g = next((one for one in (made_by(scope, n, _SQUASHING) for n in new.input) if one not in (None, i)), None)
            if f is not None and i is not None and g is not None:
                plain = {one.op_type for one in (i, f, o)} == {"Sigmoid"} and {g.op_type, h.op_type} == {"Tanh"}
                return _Gates(i.input[0], f.input[0], g.input[0], o.input[0], node.output[0], c.output[0], plain)
    return None


def _weights_of(reader: SumReader, gates: _Gates) -> set[tuple[str, int]]:
    """The weights in the sum of a gate, where it is one."""
    with contextlib.suppress(NotPlain, Unknown):
        return {(term.weight, term.first) for term in reader.sum(gates.i).terms if term.source}
    return set()


def _weights(reader: SumReader, gates: _Gates) -> _Weights:
    """The sums of a cell with PyTorch's activations."""
    if not gates.plain:
        raise NotPlain
    sums = (reader.sum(gates.i), reader.sum(gates.f), reader.sum(gates.g), reader.sum(gates.o))
    sources = {term.source: None for one in sums for term in one.terms if term.source}
    if len(sources) != 2 or len({one.width for one in sums}) != 1:
        raise NotPlain
    first, second = sources
    return _Weights(gates, sums, (first, second))


def _parameters(
    scope: Scope, steps: list[_Weights], made_here: dict[str, _Signature]
) -> tuple[str, dict[str, np.ndarray]]:
    """The name and the parameters of a cell that is found in one or more steps."""
    step, h = _hidden(scope, steps, made_here)
    x = next(source for source in step.sources if source != h)
    H = step.sums[0].width
    weight_ih = np.concatenate([_product(scope, one, x, -H) for one in step.sums])
    weight_hh = np.concatenate([_product(scope, one, h, H) for one in step.sums])
    if weight_hh.shape != (4 * H, H):
        raise NotPlain
    parameters = {"weight_ih": weight_ih, "weight_hh": weight_hh}
    of_h = [_constants(scope, one, lambda term: term.of == h) for one in step.sums]
    of_others = [_constants(scope, one, lambda term: term.of != h) for one in step.sums]
    if any(part is not None for part in (*of_h, *of_others)):
        zeros = np.zeros(H, weight_hh.dtype)
        for name, parts in (("bias_ih", of_others), ("bias_hh", of_h)):
            parameters[name] = np.concatenate([zeros if part is None else part for part in parts])
    if any(array.dtype != weight_ih.dtype for array in parameters.values()):
        raise NotPlain
    names = [term.weight for source in (x, h) for one in step.sums for term in one.terms if term.source == source]
    return _prefix(names), parameters


def _hidden(scope: Scope, steps: list[_Weights], made_here: dict[str, _Signature]) -> tuple[_Weights, str]:
    """A step, and which of its sources is h.

    It is what another step of the cell has made; else what no other cell has made, what fits by its shape, what a loop
    carries, or what has PyTorch's name.
    """
    tests = (
        lambda step, source: made_here.get(source) == step.signature,
        lambda step, source: made_here.get(source, step.signature) == step.signature,
        lambda step, source: all(_product(scope, one, source, 0).shape[1] == one.width for one in step.sums),
        lambda step, source: scope.parent is not None and source in scope.inputs,
        lambda step, source: any(
            term.source == source and term.weight.endswith("weight_hh") for term in step.sums[0].terms
        ),
    )
    for is_hidden in tests:
        for step in steps:
            found = [source for source in step.sources if is_hidden(step, source)]
            if len(found) == 1:
                return step, found[0]
    raise NotPlain


def _product(scope: Scope, one: Sum, source: str, columns: int) -> np.ndarray:
    """The rows (H, K) that multiply a source.

    Where the product is one of [x, h], they have so many columns; if negative, so many fewer than both together.
    """
    found = [term for term in one.terms if term.source == source]
    if len(found) != 1:
        raise NotPlain
    [term] = found
    array = scope.value(term.weight)
    rows = (array if term.transposed else array.T)[term.first : term.first + one.width]
    if not term.joined:
        return rows
    width = columns if columns > 0 else rows.shape[1] + columns
    return rows[:, :width] if term.joined == "first" else rows[:, rows.shape[1] - width :]


def _constants(scope: Scope, one: Sum, chosen: Any) -> np.ndarray | None:
    """The sum of some of the constants (H,), or None where there are none."""
    found = [term for term in one.terms if not term.source and chosen(term)]
    if not found:
        return None
    arrays = [scope.value(term.weight).reshape(-1) for term in found]
    parts = [
        np.full(one.width, array) if array.size == 1 else array[term.first : term.first + one.width]
        for term, array in zip(found, arrays, strict=True)
    ]
    return np.sum(parts, axis=0, dtype=parts[0].dtype)


def _prefix(names: list[str]) -> str:
    """``"cell."`` of ``cell.weight_ih`` and ``cell.weight_hh``: what the names of the weights have in common."""
    shared = os.path.commonprefix(names)  # noqa: RUF071 - names, not paths
    shared = shared[: max(shared.rfind("."), shared.rfind("/")) + 1].rstrip("./")
    if not shared:
        return "" if names[0] == "weight_ih" else f"{names[0]}."
    return f"{shared}."
