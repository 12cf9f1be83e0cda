"""Keras's Functional models: layers that take the output of any others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..words import quoted
from .files.model import Node, Source
from .layers.base import InputLayer, Layer, Recurrent
from .layers.identity import Masking
from .layers.merging import Merge
from .layers.operations import Operation
from .model import Model, checked_input


class Call(NamedTuple):
    """One call of a layer in a model."""

    layer: Layer
    node: int
    inputs: Any  # a Source, or a list of them and of numbers
    mask: Source | None
    initial_state: Any
    masked: bool = True  # whether the layer is passed the mask of its input, where the call names no mask


class Functional(Model):
    """Layers that are connected as a configuration says. It is made by :func:`cylstm.keras.load_model`.

    Parameters
    ----------
    layers : sequence of Layer
    nodes : sequence of sequence of Node
        The calls of each layer.
    input_layers, output_layers : sequence of Source
    name : str

    Raises
    ------
    ValueError
        If the layers are connected in a circle, or called with an argument that is not known.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        nodes: Sequence[Sequence[Node]],
        input_layers: Sequence[Source],
        output_layers: Sequence[Source],
        *,
        name: str = "functional",
        **options: Any,
    ) -> None:
        super().__init__(name=name, **options)
        self.layers = list(layers)
        self._by_name = {layer.name: layer for layer in self.layers}
        if len(self._by_name) < len(self.layers):
            raise ValueError("layers must have names of their own, got one twice")
        self._input_layers, self._output_layers = list(input_layers), list(output_layers)
        if not self._output_layers or not all(isinstance(layer, InputLayer) for layer in self.inputs):
            raise ValueError(f"input_layers must be inputs, and outputs there, got {self._input_layers}")
        self._calls = self._ordered(nodes)

    def _ordered(self, nodes: Sequence[Sequence[Node]]) -> list[Call]:
        """The calls that the outputs need, each behind those whose output it takes."""
        known = {
            (layer.name, n): _call(layer, n, node)
            for layer, of_layer in zip(self.layers, nodes, strict=True)
            for n, node in enumerate(of_layer)
            if not isinstance(layer, InputLayer)
        }
        given = {(one.layer, one.node) for one in self._input_layers}
        done: dict[tuple[str, int], Call | None] = dict.fromkeys(given)
        begun: set[tuple[str, int]] = set()
        todo = [(one.layer, one.node) for one in reversed(self._output_layers)]
        while todo:
            key = todo[-1]
            if key in done:
                todo.pop()
                continue
            if key not in known:
                raise ValueError(f"layers must be connected to the inputs, got {quoted(key[0])}, which is not")
            missing = [(s.layer, s.node) for s in _sources(known[key]) if (s.layer, s.node) not in done]
            if not missing:
                done[key] = known[key]
                todo.pop()
            elif key in begun:
                raise ValueError(f"layers must not be connected in a circle, got one through {quoted(key[0])}")
            else:
                begun.add(key)
                todo += reversed(missing)
        return [call for call in done.values() if call is not None]

    @property
    def inputs(self) -> list[InputLayer]:
        """The inputs."""
        found = [self._by_name.get(one.layer) for one in self._input_layers]
        return [layer for layer in found if isinstance(layer, InputLayer)] if None not in found else []

    @property
    def input_shape(self) -> Any:
        """The shape of the input with the batch, or a list of shapes."""
        shapes = [layer.batch_shape for layer in self.inputs]
        return shapes if len(shapes) > 1 else shapes[0]

    @property
    def built(self) -> bool:
        """Whether all weights are there."""
        return all(layer.built for layer in self.layers)

    @built.setter
    def built(self, value: bool) -> None:
        """The layers say it."""

    def build(self, input_shape: Any = None, weights: Iterator[np.ndarray] | None = None) -> None:
        """Make the weights of all layers for input of this shape; by default that of the inputs."""
        if weights is not None:
            raise ValueError(f"weights of {self.name} must be given to its layers, got them for the whole")
        found = self._shapes(self.input_shape if input_shape is None else input_shape, build=True)
        for one in self._output_layers:
            _part(found, one)  # which must be there

    def _shapes(self, input_shape: Any, build: bool = False) -> dict[tuple[str, int], Any]:
        shapes = list(input_shape) if isinstance(input_shape, list) else [input_shape]
        found: dict[tuple[str, int], Any] = {
            (one.layer, one.node): tuple(shape) for one, shape in zip(self._input_layers, shapes, strict=True)
        }
        for call in self._calls:
            inputs = _mapped(call.inputs, lambda one: _part(found, one))
            sequence = inputs[0] if isinstance(inputs, list) and _takes_one(call.layer) else inputs
            if build and not call.layer.built:
                call.layer.build(sequence)
            found[call.layer.name, call.node] = call.layer.compute_output_shape(sequence)
        return found

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the output, or a list of shapes."""
        found = self._shapes(input_shape)
        shapes = [_part(found, one) for one in self._output_layers]
        return shapes if len(shapes) > 1 else shapes[0]

    def get_config(self) -> dict[str, Any]:
        """The layers and how they are connected, as configurations of Keras 3 have them.

        Raises
        ------
        ValueError
            If the model is of Keras 2 and passes a mask beside initial states, which Keras 3 does not.
        """
        if _makes_masks(self) and (passed := [c for c in self._calls if c.initial_state and c.masked and not c.mask]):
            raise ValueError(
                f"{passed[0].layer.name} must be called without initial_state in a model with masks, got it from "
                "Keras 2, where the mask goes with it; in Keras 3 it does not: keep the file of Keras 2"
            )
        shapes = self._shapes(self.input_shape)
        numbers: dict[tuple[str, int], int] = {(one.layer, one.node): 0 for one in self._input_layers}
        nodes: dict[str, list[dict[str, Any]]] = {layer.name: [] for layer in self.layers}

        def history(one: Source) -> list[Any]:
            return [one.layer, numbers[one.layer, one.node], one.tensor]

        def tensor(one: Source) -> dict[str, Any]:
            config = {"shape": _part(shapes, one), "dtype": "float32", "keras_history": history(one)}
            return {"class_name": "__keras_tensor__", "config": config}

        for call in self._calls:
            args = _mapped(call.inputs, tensor)
            options = {"mask": call.mask, "initial_state": call.initial_state}
            kwargs = {name: _mapped(one, tensor) for name, one in options.items() if one is not None}
            numbers[call.layer.name, call.node] = len(nodes[call.layer.name])
            nodes[call.layer.name].append(
                {"args": args if isinstance(call.layer, Operation) else [args], "kwargs": kwargs}
            )
        return {
            "name": self.name,
            "layers": [one.described() | {"name": one.name, "inbound_nodes": nodes[one.name]} for one in self.layers],
            "input_layers": _alone([history(one) for one in self._input_layers]),
            "output_layers": _alone([self._output(history(one)) for one in self._output_layers]),
        }

    def _output(self, history: list[Any]) -> list[Any]:
        """Where an output comes from; for it alone Keras 3 counts a call that is not there of Functional models."""
        name, node, tensor = history
        return [name, node + isinstance(self._by_name[name], Functional), tensor]

    def _described(self) -> dict[str, Any]:
        return {"name": self.name, "layers": [layer.described() for layer in self.layers]}

    def _rows(self) -> list[tuple[Layer, Any]]:
        found = self._shapes(self.input_shape)
        first = {layer: shape for (layer, _), shape in reversed(found.items())}
        return [(layer, first[layer.name]) for layer in self.layers if layer.name in first]

    def run(self, x: Any, mask: Any = None) -> tuple[Any, Any]:
        """The output, or a tuple of outputs, and the masks that go with them."""
        arrays = self._separate(x)
        masks = list(mask) if isinstance(mask, list | tuple) else [mask] * len(arrays)
        found: dict[tuple[str, int], Any] = {}
        following: dict[tuple[str, int], Any] = {}
        for one, layer, array, of_it in zip(self._input_layers, self.inputs, arrays, masks, strict=True):
            found[one.layer, one.node] = checked_input(self, array, layer.batch_shape)
            following[one.layer, one.node] = of_it
        if not self.built:
            self.build()
        for call in self._calls:
            inputs = _mapped(call.inputs, lambda one: _part(found, one))
            of_inputs = _mapped(call.inputs, lambda one: _part(following, one, several=False), numbers=False)
            if call.mask is not None:
                of_inputs = _part(found, call.mask)
            elif isinstance(of_inputs, list) and not isinstance(call.layer, Merge | Model):
                of_inputs = of_inputs[0]
            options = {}
            if call.initial_state is not None:
                options["initial_state"] = _mapped(call.initial_state, lambda one: _part(found, one))
            key = call.layer.name, call.node
            found[key], following[key] = call.layer.run(inputs, of_inputs if call.masked else None, **options)
            if not call.masked:
                following[key] = call.layer.compute_mask(inputs, of_inputs)
        outputs = tuple(_part(found, one) for one in self._output_layers)
        of_outputs = [_part(following, one, several=False) for one in self._output_layers]
        return (outputs, of_outputs) if len(outputs) > 1 else (outputs[0], of_outputs[0])

    def _separate(self, x: Any) -> list[Any]:
        names = [layer.name for layer in self.inputs]
        if isinstance(x, Mapping):
            if set(x) != set(names):
                raise ValueError(f"x must have the inputs {', '.join(names)}, got {', '.join(map(str, x))}")
            return [x[name] for name in names]
        if len(names) == 1 and not (isinstance(x, list | tuple) and len(x) == 1 and np.ndim(x[0]) > 1):
            return [x]
        if not isinstance(x, list | tuple) or len(x) != len(names):
            got = len(x) if isinstance(x, list | tuple) else f"a {type(x).__name__}"
            raise ValueError(f"x must be a list of {len(names)} arrays, for {', '.join(names)}, got {got}")
        return list(x)


def _call_of_operation(layer: Operation, n: int, args: list[Any], kwargs: dict[str, Any]) -> Call:
    """The call of an operation: arrays and an index are its input, all else are options."""
    args += [kwargs.pop(name) for name in ("y", "slice_spec") if name in kwargs]  # of TensorFlow
    options = {"axes" if name == "perm" else name: value for name, value in kwargs.items() if value is not None}
    if list(_sources(list(options.values()))) or (options and n):
        raise ValueError(f"{layer.name} must be called once, with numbers as options, got {', '.join(options)}")
    layer.options |= options
    return Call(layer, n, args, None, None)


def _call(layer: Layer, n: int, node: Node) -> Call:
    """What a node says, if all of it is known."""
    args, kwargs = list(node.args), dict(node.kwargs)
    if kwargs.pop("training", None):
        raise ValueError(f"{layer.name} must be called for inference, got training=True: use Keras")
    mask, state = kwargs.pop("mask", None), kwargs.pop("initial_state", None)
    if mask is not None and not isinstance(mask, Source):
        raise ValueError(f"mask of {layer.name} must be the output of a layer, got {quoted(mask)}")
    if isinstance(layer, Operation):
        return _call_of_operation(layer, n, args, kwargs)
    if isinstance(layer, Recurrent) and not isinstance(layer, Model) and len(args) == 2 and state is None:
        state = args.pop()
    if state is not None and not isinstance(layer, Recurrent):
        raise ValueError(f"{layer.name} must be called with its input alone, got initial_state")
    kwargs = {name: value for name, value in kwargs.items() if value is not None}
    if kwargs or len(args) != 1 or not list(_sources(args[0])):
        raise ValueError(f"{layer.name} must be called with its input alone, got {len(args)} and {', '.join(kwargs)}")
    # Keras 3 passes the mask of an array on where the array is the only one of the call.
    masked = node.major < 3 or state is None or mask is not None
    return Call(layer, n, args[0], mask, list(state) if isinstance(state, tuple) else state, masked)


def _makes_masks(model: Model) -> bool:
    """Whether a layer of the model, or of one in it, makes a mask."""
    return any(
        _makes_masks(layer)
        if isinstance(layer, Model)
        else isinstance(layer, Masking) or getattr(layer, "mask_zero", False)
        for layer in model.layers
    )


def _alone(several: list[Any]) -> Any:
    """The only one, or all."""
    return several[0] if len(several) == 1 else several


def _takes_one(layer: Layer) -> bool:
    """Whether a list is the sequence and its initial states."""
    return isinstance(layer, Recurrent) and not isinstance(layer, Model)


def _sources(value: Any) -> Iterator[Source]:
    """The sources in a call, or in a part of one."""
    if isinstance(value, Source):
        yield value
    elif isinstance(value, Call):
        yield from _sources([value.inputs, value.mask, value.initial_state])
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _sources(one)


def _mapped(value: Any, function: Any, numbers: bool = True) -> Any:
    """The value with what the function makes of each source; numbers as they are, or None."""
    if isinstance(value, Source):
        return function(value)
    if isinstance(value, list | tuple):
        return [_mapped(one, function, numbers) for one in value]
    return value if numbers else None


def _part(found: Mapping[tuple[str, int], Any], source: Source, several: bool = True) -> Any:
    """The output that is meant, of one or several."""
    value = found[source.layer, source.node]
    is_several = isinstance(value, list) or (isinstance(value, tuple) and value and isinstance(value[0], np.ndarray))
    if is_several:
        if not 0 <= source.tensor < len(value):
            raise ValueError(f"{source.layer} must have an output {source.tensor}, got {len(value)}")
        return value[source.tensor]
    if several and source.tensor:
        raise ValueError(f"{source.layer} must have an output {source.tensor}, got one")
    return value
