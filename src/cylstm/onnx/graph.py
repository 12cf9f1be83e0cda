"""What stands in an ONNX file: its graphs, subgraphs and functions, and the values that do not depend on an input.

Weights reach an LSTM node through other nodes. Those of ``operators.OPERATORS`` are evaluated; whatever else is in the
way is named.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..files.container import TensorFileError
from ..words import error_text, named, quoted
from .convention import ONNX
from .operators import OPERATORS, VIEWS, Unknown, by_reference
from .tensors import Budget, array_of

#: Graphs, subgraphs and calls of functions in one model, and nodes in them beyond those in the file.
MAX_SCOPES, MAX_MORE_NODES = 2_000, 100_000
#: A node with names that no other has is no shorter, where there are more than a few. As objects, nodes take far more.
BYTES_OF_NODE, FEW_NODES = 16, 1_000
#: Elements of a shape, of axes, of sizes of parts.
MAX_SETTINGS = 100_000
_MOVING = {"Identity", "Dropout", "Squeeze", "Unsqueeze", "Transpose", "Reshape", "Cast", "Expand", "Slice", "Tile"}
#: What is zero where the first input is zero, where all are, where one is (the numbers of a model are finite).
_ZERO_OF_FIRST = _MOVING | {"CastLike", "Neg", "Abs", "Split", "Gather", "Flatten"}
_PARTS = {"Slice", "Split", "Gather"}
_ZERO_OF_ALL, _ZERO_OF_ANY = {"Concat", "Add", "Sub", "Sum"}, {"Mul"}


class InputsError(TensorFileError):
    """Constants that do not fit an operator."""


class Scope:
    """One graph, subgraph or call of a function: who makes a value, and what it is.

    Parameters
    ----------
    graph : onnx.GraphProto or onnx.FunctionProto
    parent : Scope, optional
        Of a subgraph: where names are looked up that it does not have.
    inputs : mapping
        Of a function: its inputs by name, each the scope and name of what the call passes.
    attributes : mapping
        Of a function: the attributes of the call.
    folder : Path, optional
        Where the files with external data are.
    budget, trials : Budget
        What the values of the model may take, and those of trials.
    opset : int
        The version of ONNX's operators in it.
    """

    def __init__(
        self,
        graph: Any,
        *,
        parent: Scope | None = None,
        inputs: Mapping[str, tuple[Scope, str] | None] | None = None,
        attributes: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        budget: Budget,
        trials: Budget,
        opset: int,
    ) -> None:
        self.nodes = list(graph.node)
        self.parent = parent
        self.attributes = attributes or {}
        self.folder, self.budget, self.trials, self.opset = folder, budget, trials, opset
        self.producers = {name: node for node in self.nodes for name in node.output if name}
        self.initializers = {tensor.name: tensor for tensor in getattr(graph, "initializer", ())}
        self.inputs: dict[str, tuple[Scope, str] | None] = dict(inputs or {})
        if inputs is None:
            self.inputs = {value.name: None for value in graph.input if value.name not in self.initializers}
        self.declared = {value.name: _sizes(value) for value in getattr(graph, "input", ()) if hasattr(value, "type")}
        self.outputs = {value if isinstance(value, str) else value.name for value in graph.output}
        self.values: dict[str, np.ndarray] = {}
        self._zeros: dict[str, bool] = {}
        self._consumers: dict[str, list[Any]] | None = None

    def probe(self, values: Mapping[str, np.ndarray], trials: Budget | None = None) -> Scope:
        """The same scope and those around it, with some of its values set, for a trial."""
        at: dict[Scope, dict[str, np.ndarray]] = {}
        for name, value in values.items():
            owner, its_name = self.owner(name)
            at.setdefault(owner, {})[its_name] = value
        return self._copied(at, self.trials if trials is None else trials)

    def _copied(self, values: Mapping[Scope, Mapping[str, np.ndarray]], budget: Budget) -> Scope:
        copy = object.__new__(Scope)
        copy.__dict__.update(self.__dict__, values={**self.values, **values.get(self, {})}, budget=budget, _zeros={})
        copy.parent = None if self.parent is None else self.parent._copied(values, budget)
        return copy

    def owner(self, name: str) -> tuple[Scope, str]:
        """The scope in which a name is made, and its name there."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values or name in scope.initializers or name in scope.producers:
                return scope, name
            if name in scope.inputs:
                passed = scope.inputs[name]
                return (scope, name) if passed is None else passed[0].owner(passed[1])
            scope = scope.parent
        raise TensorFileError(f"{quoted(name)} must be made where it is used, got no node or input that makes it")

    def producer(self, name: str) -> tuple[Scope, Any]:
        """The scope and node that make a value; no node for initializers and inputs."""
        scope, name = self.owner(name)
        return scope, None if name in scope.values else scope.producers.get(name)

    def consumers(self, name: str) -> list[Any]:
        """The nodes of this scope that read a value, those with a subgraph that does included."""
        if self._consumers is None:
            self._consumers = {}
            for node in self.nodes:
                for read in {*node.input, *_captured(node)}:
                    self._consumers.setdefault(read, []).append(node)
        return self._consumers.get(name, [])

    def attributes_of(self, node: Any) -> dict[str, Any]:
        """The attributes of a node by name. Text is decoded; a reference in a function's body is followed."""
        from onnx import helper

        found = {}
        for attribute in node.attribute:
            if attribute.ref_attr_name:
                if attribute.ref_attr_name in self.attributes:
                    found[attribute.name] = self.attributes[attribute.ref_attr_name]
            else:
                found[attribute.name] = _decoded(helper.get_attribute_value(attribute))
        return found

    def value(self, name: str) -> np.ndarray:
        """The value of a name, where the file tells it.

        Raises
        ------
        Unknown
            If it depends on an input, or on an operator that is not evaluated here.
        ValueError
            If the file is damaged.
        """
        scope, name = self.owner(name)
        if scope is not self:
            return scope.value(name)
        if name not in self.values:
            if name in self.initializers:
                self.values[name] = self._array(self.initializers[name])
            elif name in self.inputs:
                raise Unknown(f"{quoted(name)} is an input of the graph")
            else:
                self._evaluate(self.producers[name])
        return self.values[name]

    def is_zero(self, name: str) -> bool:
        """Whether all elements are known to be zero, also where the shape is not known."""
        scope, name = self.owner(name)
        if name not in scope._zeros:
            scope._zeros[name] = scope._is_zero(name)
        return scope._zeros[name]

    def _is_zero(self, name: str) -> bool:
        node = None if name in self.values else self.producers.get(name)
        kind = "" if node is None or node.domain not in ONNX else node.op_type
        if node is not None and kind in _ZERO_OF_FIRST and (self.is_zero(node.input[0]) or kind not in _PARTS):
            return self.is_zero(node.input[0])
        if node is not None and kind in _ZERO_OF_ALL | _ZERO_OF_ANY:
            if (all if kind in _ZERO_OF_ALL else any)(map(self.is_zero, node.input)):
                return True
        elif node is not None and kind == "ConstantOfShape":
            fill = self.attributes_of(node).get("value")
            return fill is None or not has_nonzero(self._array(fill))
        try:
            return not has_nonzero(self.value(name))
        except Unknown:
            return False

    def _evaluate(self, node: Any) -> None:
        if node.domain not in ONNX:
            raise Unknown(f"{quoted(node.output[0])} is computed by {named(f'{node.domain}.{node.op_type}')}")
        inputs = [self.value(name) if name else None for name in node.input]
        evaluate, most = OPERATORS.get(node.op_type), self.budget.limit
        if node.op_type in VIEWS | {"Reshape"}:
            settings = inputs if node.op_type == "ConstantOfShape" else inputs[1:]
            if any(array is not None and array.size > MAX_SETTINGS for array in settings):
                raise TensorFileError(f"{named(node.op_type)} must have at most {MAX_SETTINGS} axes or parts, got more")
        wide = 16 if node.op_type in ("Cast", "CastLike") else 1
        if node.op_type not in VIEWS and sum(a.size * max(a.itemsize, wide) for a in inputs if a is not None) > most:
            raise TensorFileError(
                f"{quoted(node.output[0])} must have at most {most} bytes, got more from {named(node.op_type)}: "
                "compute it once and store it as an initializer"
            )
        try:
            if evaluate is None:
                results = by_reference(node, inputs, self.opset, most)
            else:
                results = evaluate(self._attributes_with_arrays(node), *inputs)
        except Unknown:
            raise
        except (TypeError, ValueError, IndexError, KeyError, OverflowError, ArithmeticError, RuntimeError) as error:
            raise InputsError(
                f"the inputs of {named(node.op_type)} must give {quoted(node.output[0])}, got {error_text(error)}"
            ) from error
        results = results if isinstance(results, list) else [results]
        for name, array in zip(node.output, results, strict=False):
            if name:
                if node.op_type not in VIEWS:
                    self.budget.take(array.nbytes, name)
                self.values[name] = array

    def _attributes_with_arrays(self, node: Any) -> dict[str, Any]:
        attributes = self.attributes_of(node)
        if attributes.get("num_outputs", len(node.output)) != len(node.output):
            raise ValueError(f"num_outputs must be the number of outputs, got {attributes['num_outputs']}")
        if node.op_type in ("Constant", "ConstantOfShape") and "value" in attributes:
            attributes["value"] = self._array(attributes["value"])
        return attributes

    def _array(self, tensor: Any) -> np.ndarray:
        return array_of(tensor, self.folder, self.budget)


def _sizes(value: Any) -> tuple[int | None, ...]:
    """The shape that a graph declares for an input; None for a free size."""
    return tuple(d.dim_value if d.dim_value > 0 else None for d in value.type.tensor_type.shape.dim)


def has_nonzero(array: np.ndarray) -> bool:
    """Whether an element is not zero. Along an axis that is broadcast, one is as good as all."""
    if not array.size:
        return False
    return bool(array[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in array.strides)].any())


def scopes(model: Any, folder: Path | None, size: int) -> Iterator[Scope]:
    """The graph of a model, its subgraphs, and the functions that it calls, outer ones first."""
    functions = {(function.domain, function.name): function for function in model.functions}
    shared: dict[str, Any] = {"folder": folder, "budget": Budget.of_file(size), "trials": Budget.of_trials()}
    todo = deque([(Scope(model.graph, opset=_opset(model.opset_import), **shared), frozenset[Any]())])
    count, nodes = 1, len(model.graph.node)
    inside = nodes + sum(len(function.node) for function in model.functions)
    if inside > FEW_NODES + size // BYTES_OF_NODE:
        raise TensorFileError(f"a node must have {BYTES_OF_NODE} bytes or more, got {inside} nodes in {size} bytes")
    most = inside + MAX_MORE_NODES
    while todo:
        scope, calling = todo.popleft()
        _check_text(scope.nodes)
        yield scope
        for node in scope.nodes:
            for graph in _subgraphs(node):
                inner = Scope(graph, parent=scope, attributes=scope.attributes, opset=scope.opset, **shared)
                inner.inputs.update(_unchanged(scope, node, graph))
                todo.append((inner, calling))
                count, nodes = count + 1, nodes + len(graph.node)
            key = (node.domain, node.op_type)
            if function := functions.get(key):
                if key in calling:
                    raise TensorFileError(f"functions must not call themselves, got {quoted(node.op_type)}, which does")
                passed: dict[str, tuple[Scope, str] | None] = dict.fromkeys(function.input)
                passed |= {
                    name: (scope, given) for name, given in zip(function.input, node.input, strict=False) if given
                }
                its: dict[str, Any] = {"attributes": scope.attributes_of(node), "opset": _opset(function.opset_import)}
                called = Scope(function, inputs=passed, **its, **shared)
                todo.append((called, calling | {key}))
                count, nodes = count + 1, nodes + len(function.node)
            if count > MAX_SCOPES or nodes > most:
                raise TensorFileError(
                    f"a model must have at most {MAX_SCOPES} graphs and calls of functions, with {most} nodes, got more"
                )


def _opset(imported: Any) -> int:
    """The version of ONNX's own operators."""
    return int(next((one.version for one in imported if one.domain in ONNX), 1))


def _check_text(nodes: list[Any]) -> None:
    """Names that are not UTF-8 come as bytes."""
    for node in nodes:
        for text in (node.op_type, node.domain, node.name, *node.input, *node.output):
            if not isinstance(text, str):
                raise TensorFileError(f"the names in nodes must be UTF-8, got {quoted(text)}")


def _subgraphs(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _unchanged(scope: Scope, node: Any, graph: Any) -> dict[str, tuple[Scope, str]]:
    """What a loop passes on from step to step as it is, weights say: where it comes from, by its name in the body."""
    if node.op_type != "Loop" or node.domain not in ONNX:
        return {}
    carried = zip(graph.input[2:], graph.output[1:], node.input[2:], strict=False)
    return {
        inside.name: (scope, given) for inside, passed_on, given in carried if inside.name == passed_on.name and given
    }


def _captured(node: Any) -> set[str]:
    """The names that the subgraphs of a node read."""
    names: set[str] = set()
    for graph in _subgraphs(node):
        names.update(output.name for output in graph.output)
        for inner in graph.node:
            names.update(inner.input)
            names |= _captured(inner)
    return names


def _decoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return [_decoded(one) for one in value] if isinstance(value, list) else value
