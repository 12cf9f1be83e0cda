"""The sums of a graph that go into the gates: products of constants with sources, and constants."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .convention import ONNX
from .graph import Scope
from .tensors import Budget

_SEEN_THROUGH = {"Identity", "Cast"}
_FLOATS = {1, 10, 11, 16}  # of TensorProto: float32, float16, float64, bfloat16
#: Operators of a sum on top of each other.
_DEEPEST = 50


class NotPlain(Exception):
    """A sum of another kind."""


class Term(NamedTuple):
    """Some columns of a constant (or the one number of it), or of its product with a source."""

    source: str  # "" of a constant
    weight: str  # the name of the constant
    transposed: bool  # the columns are the rows of the constant
    first: int  # of the columns
    of: str = ""  # of a constant: the source of the product that it came with
    joined: str = ""  # "first" or "second" where the source is that part of the [x, h] that is multiplied


class Sum(NamedTuple):
    """Terms that are added, all of the same width."""

    terms: tuple[Term, ...]
    width: int

    def columns(self, first: int, last: int) -> Sum:
        """Some of its columns."""
        if not 0 <= first < last <= self.width:
            raise NotPlain
        return Sum(tuple(term._replace(first=term.first + first) for term in self.terms), last - first)


def seen_through(scope: Scope, name: str) -> str:
    """The value itself, where copies and conversions between floats stand before a name."""
    for _ in range(_DEEPEST):
        node = scope.producers.get(name)
        if node is None or node.domain not in ONNX or node.op_type not in _SEEN_THROUGH:
            break
        if node.op_type == "Cast" and scope.attributes_of(node).get("to") not in _FLOATS:
            break
        name = node.input[0]
    return name


def made_by(scope: Scope, name: str, kinds: set[str]) -> Any:
    """The node of this scope that makes a value, if it is of these kinds."""
    node = scope.producers.get(seen_through(scope, name))
    return node if node is not None and node.op_type in kinds and node.domain in ONNX else None


class SumReader:
    """The sums of one scope; each is read once."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self._read: dict[str, Sum] = {}
        self._probes: dict[str, Scope] = {}
        self._trials = Budget.of_trials()

    def sum(self, name: str, depth: int = 0) -> Sum:
        """The sum of a name.

        Raises
        ------
        NotPlain
            If it is no such sum.
        """
        name = seen_through(self.scope, name)
        if name not in self._read:
            node = self.scope.producers.get(name)
            read = None if node is None or node.domain not in ONNX else getattr(self, f"_{node.op_type}", None)
            if read is None or depth > _DEEPEST:
                raise NotPlain
            self._read[name] = read(node, name, depth + 1)
        return self._read[name]

    def _Add(self, node: Any, name: str, depth: int) -> Sum:
        constants = [self._constant(one) for one in node.input]
        sums = [self.sum(one, depth) for one, array in zip(node.input, constants, strict=True) if array is None]
        if not sums or any(one.width != sums[0].width for one in sums):
            raise NotPlain
        terms = [term for one in sums for term in one.terms]
        for one, array in zip(node.input, constants, strict=True):
            if array is not None:
                if array.size != 1 and (array.size != sums[0].width or array.shape[-1:] != (array.size,)):
                    raise NotPlain
                sources = {term.source for term in terms if term.source}
                terms.append(Term("", one, False, 0, of=sources.pop() if len(sources) == 1 else ""))
        return Sum(tuple(terms), sums[0].width)

    def _Gemm(self, node: Any, name: str, depth: int) -> Sum:
        attributes = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0} | self.scope.attributes_of(node)
        transposed = attributes.pop("transB")
        if attributes != {"alpha": 1.0, "beta": 1.0, "transA": 0} or transposed not in (0, 1):
            raise NotPlain
        product = self._product(node, bool(transposed))
        if len(node.input) < 3 or not node.input[2]:
            return product
        bias = self._constant(node.input[2])
        if bias is None:  # the other product
            other = self.sum(node.input[2], depth)
            if other.width != product.width:
                raise NotPlain
            return Sum(product.terms + other.terms, product.width)
        if bias.shape not in ((product.width,), (1, product.width)):
            raise NotPlain
        source = product.terms[0].source if len(product.terms) == 1 else ""
        return Sum((*product.terms, Term("", node.input[2], False, 0, of=source)), product.width)

    def _MatMul(self, node: Any, name: str, depth: int) -> Sum:
        return self._product(node, False)

    def _product(self, node: Any, transposed: bool) -> Sum:
        array = self._constant(node.input[1])
        if array is None or array.ndim != 2:
            raise NotPlain
        width = array.shape[0 if transposed else 1]
        joined = made_by(self.scope, node.input[0], {"Concat"})
        if joined is not None and len(joined.input) == 2 and self.scope.attributes_of(joined).get("axis") in (1, -1):
            parts = list(zip(joined.input, ("first", "second"), strict=True))
        else:
            parts = [(node.input[0], "")]
        weight = node.input[1]
        return Sum(
            tuple(Term(seen_through(self.scope, x), weight, transposed, 0, "", part) for x, part in parts), width
        )

    def _Gather(self, node: Any, name: str, depth: int) -> Sum:
        """One step of the sums of all steps."""
        index = self._constant(node.input[1])
        if index is None or index.ndim or self.scope.attributes_of(node).get("axis", 0) not in (0, 1):
            raise NotPlain
        return self.sum(node.input[0], depth)

    def _Transpose(self, node: Any, name: str, depth: int) -> Sum:
        """The sums of all steps, time-major."""
        if self.scope.attributes_of(node).get("perm") != [1, 0, 2]:
            raise NotPlain
        return self.sum(node.input[0], depth)

    def _Squeeze(self, node: Any, name: str, depth: int) -> Sum:
        """The sums of a batch of one."""
        axes = self._constant(node.input[1]) if len(node.input) > 1 else self.scope.attributes_of(node).get("axes")
        whole = self.sum(node.input[0], depth)
        if whole.width == 1 if axes is None else any(axis != 0 for axis in np.asarray(axes).reshape(-1)):
            raise NotPlain
        return whole

    def _Split(self, node: Any, name: str, depth: int) -> Sum:
        attributes, whole = self.scope.attributes_of(node), self.sum(node.input[0], depth)
        if attributes.get("axis", 0) not in (1, 2, -1):
            raise NotPlain
        sizes = attributes.get("split")
        if len(node.input) > 1 and node.input[1]:
            given = self._constant(node.input[1])
            sizes = None if given is None else given.tolist()
        if sizes is None:
            sizes = [whole.width // len(node.output)] * len(node.output)
        if len(sizes) != len(node.output) or sum(sizes) != whole.width or min(sizes) < 0:
            raise NotPlain
        which = list(node.output).index(name)
        first = sum(sizes[:which])
        return whole.columns(first, first + sizes[which])

    def _Slice(self, node: Any, name: str, depth: int) -> Sum:
        whole = self.sum(node.input[0], depth)
        if len(node.input) < 4:
            raise NotPlain
        starts, ends, axes, *steps = (self._setting(one, node.input[0], whole.width) for one in node.input[1:])
        if axes not in (1, 2, -1) or steps not in ([], [1]):
            raise NotPlain
        first, last, _ = slice(starts, ends).indices(whole.width)
        return whole.columns(first, last)

    def _setting(self, name: str, sliced: str, width: int) -> int:
        """A number that says what is cut, also where it is computed from the width."""
        array = self._constant(name)
        if array is None:
            if sliced not in self._probes:
                self._probes[sliced] = self.scope.probe({sliced: np.zeros((1, width), np.float32)}, self._trials)
            array = self._probes[sliced].value(name)
        if array.size != 1:
            raise NotPlain
        return int(array.reshape(()))

    def _constant(self, name: str) -> np.ndarray | None:
        """The value of a constant; what is computed from many values is not looked at."""
        scope, its = self.scope, name
        for _ in range(_DEEPEST):
            scope, its = scope.owner(its)
            if its in scope.initializers or its in scope.values:
                return self.scope.value(name)
            node = scope.producers.get(its)
            if node is None or node.domain not in ONNX or node.op_type not in {"Constant", "Transpose", *_SEEN_THROUGH}:
                return None
            if node.op_type == "Constant":
                return self.scope.value(name)
            its = node.input[0]
        return None
