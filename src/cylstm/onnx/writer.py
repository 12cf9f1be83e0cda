"""ONNX models of an LSTM: ``export`` and ``save``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from ..files.container import replacing
from ..nn.lstm import LSTM as Module
from ..nn.options import refuse
from . import quantized
from .convention import import_onnx, to_onnx


def export(module: Module, *, name: str = "lstm", states: bool = False, opset_version: int = 17) -> Any:
    """Make an ONNX model of an LSTM: one node per layer, of ONNX Runtime's DynamicQuantizeLSTM for a frozen module.

    The model has the input ``input`` and the outputs ``output``, ``h_n`` and ``c_n``, in the module's shapes; the
    number of steps and the batch size are free. It is the module in evaluation mode: without dropout.

    Parameters
    ----------
    module : LSTM
    name : str
        Of the first node; ``name_1`` and so on are those of the layers above.
    states : bool
        Whether the model takes ``h_0`` and ``c_0`` as inputs too. Without them they are zero.
    opset_version : int
        14 or higher.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    ImportError
        If the package ``onnx`` is not installed.
    TypeError
        If it is no LSTM.
    ValueError
        If ONNX has no node for the module (``proj_size``, complex numbers; bfloat16 below opset 22, or frozen), or no
        such opset.
    """
    onnx = import_onnx()
    from onnx import helper

    _check(module, opset_version, onnx.defs.onnx_opset_version())
    graph = _Graph(name)
    _add_layers(graph, module, states)
    opset = helper.make_opsetid("", opset_version)
    opsets = [opset, helper.make_opsetid(quantized.DOMAIN, 1)] if module.frozen else [opset]
    model = helper.make_model(graph.finished(module, states), opset_imports=opsets, producer_name="cylstm")
    model.ir_version = helper.find_min_ir_version_for([opset])
    helper.set_model_props(model, {f"{name}.dropout": repr(module.dropout)})
    size, most = model.ByteSize(), onnx.checker.MAXIMUM_PROTOBUF
    if size > most:
        raise ValueError(f"the model must have at most {most:,} bytes, as each ONNX file, got {size:,}")
    return model


def save(module: Module, path: str | os.PathLike[str], **options: Any) -> None:
    """Write :func:`export` of a module, with the same options, to a file. Half a file is never seen under its name."""
    content = export(module, **options).SerializeToString(deterministic=True)
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(content)


def _check(module: object, opset_version: int, newest: int) -> None:
    """Raise where the opset has no node for the module."""
    if not isinstance(module, Module):
        raise TypeError(f"module must be an LSTM, got {type(module).__name__}")
    if module.proj_size:
        raise ValueError(f"module must have no projection, which ONNX lacks, got proj_size={module.proj_size}")
    refuse(module._options, "the export")
    if module.dtype.kind == "c":
        raise ValueError(f"module must be real, as the LSTM of ONNX is, got {module.dtype}")
    if module.frozen and module.precision != "int8":
        raise ValueError(f"a frozen module must be in int8 for ONNX, got {module.precision!r}: export it before")
    if not 14 <= opset_version <= newest:
        raise ValueError(f"opset_version must be from 14 to {newest}, got {opset_version}")
    if module.dtype.name == "bfloat16" and opset_version < 22:
        raise ValueError(
            f"opset_version must be 22 or more for an LSTM of bfloat16, got {opset_version}: give opset_version=22, "
            "or convert the module by module.to('float32')"
        )


class _Graph:
    """The nodes and constants of a graph in the making."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}

    def constant(self, array: Any, name: str) -> str:
        """The name of a constant, which is added where it is not there."""
        from onnx import numpy_helper

        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def node(self, kind: str, inputs: list[str], outputs: list[str], name: str = "", **attributes: Any) -> str:
        """Add a node; the name of its first output."""
        from onnx import helper

        name = name or f"{self.name}/{outputs[0]}"
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=name, **attributes))
        return outputs[0]

    def finished(self, module: Module, states: bool) -> Any:
        """The GraphProto, with the inputs and outputs of the module."""
        from onnx import helper

        element = helper.np_dtype_to_tensor_dtype(module.dtype)
        D, H = 2 if module.bidirectional else 1, module.hidden_size
        axes = ["B", "T"] if module.batch_first else ["T", "B"]
        state = [module.num_layers * D, "B", H]
        inputs = {"input": [*axes, module.input_size]} | ({"h_0": state, "c_0": state} if states else {})
        outputs = {"output": [*axes, D * H], "h_n": state, "c_n": state}
        given, returned = (
            [helper.make_tensor_value_info(key, element, shape) for key, shape in shapes.items()]
            for shapes in (inputs, outputs)
        )
        return helper.make_graph(self.nodes, self.name, given, returned, list(self.initializers.values()))


def _add_layers(graph: _Graph, module: Module, states: bool) -> None:
    """The nodes from ``input``, ``h_0`` and ``c_0`` to ``output``, ``h_n`` and ``c_n``."""
    constant, node = graph.constant, graph.node
    D, H, L = 2 if module.bidirectional else 1, module.hidden_size, module.num_layers
    direction = "bidirectional" if module.bidirectional else "forward"
    rows = node("Transpose", ["input"], ["time_major"], perm=[1, 0, 2]) if module.batch_first else "input"
    ends = {s: [f"{s}_n"] if L == 1 else [f"{s}_n_l{layer}" for layer in range(L)] for s in "hc"}
    for layer in range(L):
        first = ["", ""]
        if states and L == 1:
            first = ["h_0", "c_0"]
        elif states:
            part = [constant(np.array([n]), f"part_{n}") for n in (layer * D, (layer + 1) * D, 0)]
            first = [node("Slice", [f"{s}_0", *part], [f"{s}_0_l{layer}"]) for s in "hc"]
        weights = quantized.to_onnx(module, layer) if module.frozen else to_onnx(module, layer)
        names = {field: constant(array, f"{graph.name}.{field}_l{layer}") for field, array in weights.items()}
        inputs = [rows, names["W"], names["R"], names.get("B", ""), "", *first]
        while not inputs[-1]:
            inputs.pop()
        outputs = [f"Y_l{layer}", ends["h"][layer], ends["c"][layer]]
        called = graph.name if layer == 0 else f"{graph.name}_{layer}"
        if module.frozen:
            inputs, kind = quantized.inputs_of(rows, first, names), {"domain": quantized.DOMAIN}
            Y = node(quantized.OPERATOR, inputs, outputs, called, hidden_size=H, direction=direction, **kind)
        else:
            Y = node("LSTM", inputs, outputs, called, hidden_size=H, direction=direction)
        result = "output" if layer == L - 1 and not module.batch_first else f"output_l{layer}"
        if D == 1:
            rows = node("Squeeze", [Y, constant(np.array([1]), "directions")], [result])
        else:
            beside = node("Transpose", [Y], [f"beside_l{layer}"], perm=[0, 2, 1, 3])
            rows = node("Reshape", [beside, constant(np.array([0, 0, D * H]), "joined")], [result])
    if module.batch_first:
        node("Transpose", [rows], ["output"], perm=[1, 0, 2])
    if L > 1:
        for s in "hc":
            node("Concat", ends[s], [f"{s}_n"], axis=0)
