"""What stands in an ONNX file: its graphs, subgraphs and functions, and the values that do not depend on an input.

Weights reach an LSTM node through other nodes. Those of ``operators.OPERATORS`` are evaluated; whatever else is in the
way is named.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..files.container import TensorFileError, expansion_limit
from .convention import ONNX
from .operators import OPERATORS, VIEWS, Unknown

#: Graphs, subgraphs and calls of functions in one model.
MAX_SCOPES = 2_000
_MOVING = {"Identity", "Dropout", "Squeeze", "Unsqueeze", "Transpose", "Reshape", "Cast"}


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
    limit : int
        The largest size of a value in bytes.
    """

    def __init__(
        self,
        graph: Any,
        *,
        parent: Scope | None = None,
        inputs: Mapping[str, tuple[Scope, str] | None] | None = None,
        attributes: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        limit: int,
    ) -> None:
        self.nodes = list(graph.node)
        self.parent = parent
        self.attributes = attributes or {}
        self.folder, self.limit = folder, limit
        self.producers = {name: node for node in self.nodes for name in node.output if name}
        self.initializers = {tensor.name: tensor for tensor in getattr(graph, "initializer", ())}
        self.inputs: dict[str, tuple[Scope, str] | None] = dict(inputs or {})
        if inputs is None:
            self.inputs = {value.name: None for value in graph.input if value.name not in self.initializers}
        self.outputs = {value if isinstance(value, str) else value.name for value in graph.output}
        self.values: dict[str, np.ndarray] = {}

    def probe(self, values: Mapping[str, np.ndarray]) -> Scope:
        """The same scope with some values set, for a trial."""
        copy = object.__new__(Scope)
        copy.__dict__.update(self.__dict__, values={**self.values, **values})
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
        raise TensorFileError(f"{name!r} must be made where it is used, got no node or input that makes it")

    def producer(self, name: str) -> tuple[Scope, Any]:
        """The scope and node that make a value; no node for initializers and inputs."""
        scope, name = self.owner(name)
        return scope, None if name in scope.values else scope.producers.get(name)

    def consumers(self, name: str) -> list[Any]:
        """The nodes of this scope that read a value, those with a subgraph that does included."""
        return [node for node in self.nodes if name in node.input or name in _captured(node)]

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
                raise Unknown(f"{name!r} is an input of the graph")
            else:
                self._evaluate(self.producers[name])
        return self.values[name]

    def is_zero(self, name: str) -> bool:
        """Whether all elements are known to be zero, also where the shape is not known."""
        scope, name = self.owner(name)
        try:
            return not scope.value(name).any()
        except Unknown:
            _, node = scope.producer(name)
        if node is None:
            return False
        if node.op_type == "ConstantOfShape":
            fill = scope.attributes_of(node).get("value")
            return fill is None or not self._array(fill).any()
        if node.op_type == "Concat":
            return all(map(scope.is_zero, node.input))
        return node.op_type in _MOVING | {"Expand", "Slice", "Tile"} and scope.is_zero(node.input[0])

    def _evaluate(self, node: Any) -> None:
        evaluate = OPERATORS.get(node.op_type) if node.domain in ONNX else None
        if evaluate is None:
            raise Unknown(f"{node.output[0]!r} is computed by {node.op_type}")
        attributes = self.attributes_of(node)
        if node.op_type == "Constant":
            attributes = {name: self._array(v) if name == "value" else v for name, v in attributes.items()}
        if node.op_type == "ConstantOfShape" and "value" in attributes:
            attributes["value"] = self._array(attributes["value"])
        inputs = [self.value(name) if name else None for name in node.input]
        if node.op_type not in VIEWS and sum(array.nbytes for array in inputs if array is not None) > self.limit:
            raise TensorFileError(
                f"{node.output[0]!r} must have at most {self.limit} bytes, got more from {node.op_type}: "
                "compute it once and store it as an initializer"
            )
        try:
            results = evaluate(attributes, *inputs)
        except Unknown:
            raise
        except (TypeError, ValueError, IndexError, KeyError, OverflowError) as error:
            raise TensorFileError(
                f"the inputs of {node.op_type} must give {node.output[0]!r}, got {type(error).__name__}: {error}"
            ) from error
        results = results if isinstance(results, list) else [results]
        for name, array in zip(node.output, results, strict=False):
            if name:
                self.values[name] = array

    def _array(self, tensor: Any) -> np.ndarray:
        """The array of a TensorProto, from a file beside the model if it is there; bfloat16 becomes float32."""
        from onnx import TensorProto, external_data_helper, numpy_helper

        if not isinstance(tensor, TensorProto):
            raise Unknown("a sparse constant")
        if external_data_helper.uses_external_data(tensor):
            if self.folder is None:
                raise TensorFileError(
                    f"{tensor.name!r} must be in the model, got one that is in another file: give the path of the model"
                )
            location = external_data_helper.ExternalDataInfo(tensor).location
            if not (self.folder / location).exists():
                raise TensorFileError(
                    f"{tensor.name!r} must be in the file {location!r}, got no such file: copy it along"
                )
            loaded = TensorProto()
            loaded.CopyFrom(tensor)
            external_data_helper.load_external_data_for_tensor(loaded, str(self.folder))
            tensor = loaded
        if min(tensor.dims, default=0) < 0 or math.prod(tensor.dims) > 2**40:
            raise TensorFileError(
                f"{tensor.name!r} must have sizes of 0 or more and at most 2**40 elements, got {tuple(tensor.dims)}"
            )
        array = numpy_helper.to_array(tensor)
        return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def scopes(model: Any, folder: Path | None, size: int) -> Iterator[Scope]:
    """The graph of a model, its subgraphs, and the functions that it calls, outer ones first."""
    functions = {(function.domain, function.name): function for function in model.functions}
    main = Scope(model.graph, folder=folder, limit=expansion_limit(size))
    todo, count = [main], 0
    while todo:
        scope = todo.pop(0)
        yield scope
        shared: dict[str, Any] = {"folder": folder, "limit": scope.limit}
        for node in scope.nodes:
            todo += [Scope(graph, parent=scope, attributes=scope.attributes, **shared) for graph in _subgraphs(node)]
            if function := functions.get((node.domain, node.op_type)):
                passed: dict[str, tuple[Scope, str] | None] = dict.fromkeys(function.input)
                passed |= {
                    name: (scope, given) for name, given in zip(function.input, node.input, strict=False) if given
                }
                todo.append(Scope(function, inputs=passed, attributes=scope.attributes_of(node), **shared))
        count += 1
        if count + len(todo) > MAX_SCOPES:
            raise TensorFileError(f"a model must have at most {MAX_SCOPES} graphs and calls of functions, got more")


def _subgraphs(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


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
