"""LSTMs in ONNX models: find, load, run, export."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..arrays.arguments import as_array
from ..arrays.packed import pack_padded_sequence, pad_packed_sequence
from ..backends.base import Backend
from ..files.container import Contents, Tensor, TensorFileError, replacing
from ..files.modules import as_tensors, make_lstm
from ..nn.lstm import LSTM as Module
from .graph import ONNX, Scope, Unknown, scopes

__all__ = ["LSTM", "Found", "export", "find", "load", "save"]

_INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
_ACTIVATIONS = ["sigmoid", "tanh", "tanh"]
#: Rows of ONNX's gates i, o, f, c in PyTorch's order i, f, g, o, and the other way round.
_TO_PYTORCH, _TO_ONNX = (0, 2, 3, 1), (0, 3, 1, 2)
#: Operators between the nodes of stacked layers.
_BETWEEN = {"Identity", "Dropout", "Squeeze", "Unsqueeze", "Transpose", "Reshape"}
#: Elements of the array with which it is tried whether one node's Y is the other's X.
MAX_PROBE = 1 << 25
#: Quantised and extended relatives of the LSTM in ONNX Runtime.
_RELATIVES = {"DynamicQuantizeLSTM", "AttnLSTM"}


class Found(NamedTuple):
    """An LSTM in a model: the nodes of its layers, and what they say."""

    name: str
    nodes: tuple[str, ...]
    direction: str  # forward, reverse or bidirectional
    layout: int  # 0: X is (T, B, I), 1: (B, T, I)
    hidden_size: int
    parameters: dict[str, np.ndarray]  # under PyTorch's names
    states: dict[str, np.ndarray | str | None]  # initial_h, initial_c, sequence_lens: constant, name, or not there
    transposed: bool  # X is a (B, T, I) array that the model transposes
    refused: str = ""  # why it is not computed; the rest is as far as it is known

    @property
    def input_size(self) -> int:
        """Number of features I of an input row."""
        return self.parameters["weight_ih_l0"].shape[1]


class LSTM:
    """An LSTM as ONNX runs it: its arguments, shapes and results. Made by :func:`load`.

    Attributes
    ----------
    module : cylstm.LSTM
        What computes; ``batch_first`` is False.
    name, direction, layout
        As in the model.
    states : dict
        What the model gives as ``sequence_lens``, ``initial_h`` and ``initial_c``: a constant array, the name of a
        value that it computes or takes as an input, or None.
    """

    def __init__(self, found: Found, module: Module) -> None:
        self.name, self.direction, self.layout = found.name, found.direction, found.layout
        self.module, self.states = module, found.states

    def __repr__(self) -> str:
        more = "" if self.direction != "reverse" else ", direction='reverse'"
        return f"{type(self).__name__}({self.module.extra_repr()}{more}, layout={self.layout})"

    def __call__(
        self, X: Any, sequence_lens: Any = None, initial_h: Any = None, initial_c: Any = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Run the node, or the nodes of stacked layers.

        Parameters
        ----------
        X : array
            (T, B, I), or (B, T, I) with layout 1.
        sequence_lens : array of int, optional
            (B,), from 1 to T.
        initial_h, initial_c : array, optional
            (L * D, B, H), or (B, L * D, H) with layout 1. L is 1 for one node; states of stacked layers follow one
            another. What is not given is the constant that the model holds, or zeros where it has none.

        Returns
        -------
        Y : numpy.ndarray
            (T, D, B, H), or (B, T, D, H) with layout 1; zero behind the end of a sequence.
        Y_h, Y_c : numpy.ndarray
            In the shape of initial_h.

        Raises
        ------
        TypeError
            If the model computes ``sequence_lens``, ``initial_h`` or ``initial_c`` and it is not given, or the first is
            not of integers.
        ValueError, RuntimeError
            If shapes or dtypes do not fit.
        """
        X = as_array(X, "X")
        if X.ndim != 3:
            raise ValueError(f"X must have three dimensions, got the shape {X.shape}")
        lengths = self._given("sequence_lens", sequence_lens)
        h_0, c_0 = self._given("initial_h", initial_h), self._given("initial_c", initial_c)
        if self.layout:
            X = X.swapaxes(0, 1)
            h_0, c_0 = (None if state is None else state.swapaxes(0, 1) for state in (h_0, c_0))
        T, B, _ = X.shape
        if lengths is not None and lengths.shape != (B,):
            raise ValueError(f"sequence_lens must have shape ({B},), got {lengths.shape}")
        if lengths is not None and lengths.dtype.kind not in "iu":
            raise TypeError(f"sequence_lens must be of integers, got {lengths.dtype}: use .astype(numpy.int32)")
        if self.direction == "reverse":
            X = _reversed(X, lengths)
        hx = None
        if h_0 is not None or c_0 is not None:
            D, H = 2 if self.module.bidirectional else 1, self.module.hidden_size
            zeros = np.zeros((self.module.num_layers * D, B, H), self.module.dtype)
            hx = (zeros if h_0 is None else h_0, zeros if c_0 is None else c_0)
        if lengths is None:
            output, (h_n, c_n) = self.module(X, hx)
        else:
            packed, (h_n, c_n) = self.module(pack_padded_sequence(X, lengths, enforce_sorted=False), hx)
            output, _ = pad_packed_sequence(packed, total_length=T)
        if self.direction == "reverse":
            output = _reversed(output, lengths)
        Y = output.reshape(T, B, -1, self.module.hidden_size).swapaxes(1, 2)
        if not self.layout:
            return Y, h_n, c_n
        return Y.transpose(2, 0, 1, 3), h_n.swapaxes(0, 1), c_n.swapaxes(0, 1)

    def _given(self, what: str, value: Any) -> np.ndarray | None:
        stored = self.states[what]
        if value is None and isinstance(stored, str):
            raise TypeError(f"{what} is no constant of the model, which computes it or takes it as {stored!r}: give it")
        value = stored if value is None else value
        return None if value is None else as_array(value, what)


def load(
    model: Any,
    name: str = "",
    *,
    inputs: Mapping[str, Any] | None = None,
    backend: str | Backend | None = None,
) -> LSTM:
    """Read an LSTM from a model, to be run as ONNX runs it.

    ``cylstm.load("model.onnx")`` gives a plain :class:`cylstm.LSTM` instead, where it can compute the same.

    Parameters
    ----------
    model : path-like or onnx.ModelProto
        Nothing in it is executed.
    name : str
        The name of the node, where there are several; of stacked layers the first node. See :func:`find`.
    inputs : mapping, optional
        Arrays for weights that the model takes as inputs, by name.
    backend : optional
        As for :class:`cylstm.LSTM`.

    Returns
    -------
    LSTM

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If the package ``onnx`` is not installed.
    TypeError
        If ``model`` is neither a path nor a ModelProto, or an array in ``inputs`` is none.
    ValueError
        If the file is damaged, holds no LSTM, several of them, or one that cylstm does not compute; if the model takes
        no input of a name in ``inputs``.
    """
    found = find(model, inputs=inputs)
    chosen = [found[name]] if name in found else list(found.values()) if not name else []
    if not chosen:
        raise ValueError(f"no LSTM has the name {name!r}; there are {', '.join(map(repr, found))}")
    if len(chosen) > 1:
        raise ValueError(f"the model holds {len(found)} LSTMs: give the name of one: {', '.join(map(repr, found))}")
    if chosen[0].refused:
        raise ValueError(f"the LSTM {chosen[0].name!r} {chosen[0].refused}")
    return LSTM(chosen[0], make_lstm(chosen[0].parameters, f"the LSTM {chosen[0].name!r}", backend=backend))


def find(model: Any, *, inputs: Mapping[str, Any] | None = None) -> dict[str, Found]:
    """All LSTMs of a model, those in subgraphs and functions too, by name. Stacked layers are one.

    Parameters
    ----------
    model, inputs
        As for :func:`load`.

    Returns
    -------
    dict of str to Found
        Those that cylstm does not compute have the reason in ``refused``.

    Raises
    ------
    FileNotFoundError, ImportError, TypeError, ValueError
        As :func:`load` does; ValueError also if there is no LSTM.
    """
    path = Path(model) if isinstance(model, (str, os.PathLike)) else None
    if path is None and not isinstance(model, _onnx().ModelProto):
        raise TypeError(f"expected a path or an onnx.ModelProto, got {type(model).__name__}")
    known = {name: as_array(value, name) for name, value in (inputs or {}).items()}
    taken: set[str] = set()
    try:
        proto, size = (model, model.ByteSize()) if path is None else _parsed(path)
        others: dict[str, int] = {}
        found: dict[str, Found] = {}
        for scope in scopes(proto, None if path is None else path.parent, size):
            scope.values.update({name: value for name, value in known.items() if name in scope.inputs})
            taken.update(scope.inputs)
            for one in _of_scope(scope):
                name, count = one.name, 1
                while name in found:
                    count += 1
                    name = f"{one.name}_{count}"
                found[name] = one._replace(name=name)
            for node in scope.nodes:
                kind = node.op_type if node.domain in ONNX else f"{node.domain}.{node.op_type}"
                others[kind] = others.get(kind, 0) + 1
    except (ImportError, FileNotFoundError, TensorFileError):
        raise
    except Exception as error:  # what damaged files lead to: DecodeError, ValidationError, RecursionError, KeyError …
        what = path or "the model"
        raise TensorFileError(f"{what}: not a readable ONNX model ({type(error).__name__}: {error})") from error
    if unknown := known.keys() - taken:
        raise ValueError(
            f"{path or 'the model'} takes no input {', '.join(map(repr, sorted(unknown)))}; "
            f"it takes {', '.join(map(repr, sorted(taken))) or 'none'}"
        )
    if not found:
        there = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items())) or "no node at all"
        raise TensorFileError(f"{path or 'the model'} holds no LSTM node; it holds {there}")
    return found


def read(path: Path) -> Contents:
    """The parameters of all LSTMs of a file under ``name.weight_ih_l0`` and so on, for :func:`cylstm.load`."""
    proto, _ = _parsed(path)
    tensors: dict[str, Tensor] = {}
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    refused: dict[str, str] = {}
    for name, found in find(path).items():
        reason = found.refused
        if found.direction == "reverse":
            reason = reason or "runs in reverse alone"
        for what, state in found.states.items():
            if isinstance(state, np.ndarray):
                reason = reason or f"has a constant {what}"
        if reason:
            remedy = "" if found.refused else f": use cylstm.onnx.load, with the name {name!r}"
            refused[f"{name}."] = reason + remedy
            continue
        tensors |= as_tensors({f"{name}.{field}": array for field, array in found.parameters.items()})
        metadata[f"{name}.batch_first"] = str(bool(found.layout) or found.transposed).lower()
    return Contents(tensors, metadata, refused)


def export(module: Module, *, name: str = "lstm", states: bool = False, opset_version: int = 17) -> Any:
    """Make an ONNX model of an LSTM: one node per layer.

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
        If ONNX has no node for the module (``proj_size``, complex numbers; bfloat16 below opset 22), or no such opset.
    """
    onnx = _onnx()
    from onnx import helper, numpy_helper

    if not isinstance(module, Module):
        raise TypeError(f"expected an LSTM, got {type(module).__name__}")
    if module.proj_size:
        raise ValueError(f"an LSTM with proj_size={module.proj_size} cannot be exported: ONNX has no projection")
    if module.dtype.kind == "c":
        raise ValueError(f"an LSTM of {module.dtype} cannot be exported: the LSTM of ONNX is real")
    newest = onnx.defs.onnx_opset_version()
    if not 14 <= opset_version <= newest:
        raise ValueError(f"expected an opset_version from 14 to {newest}, got {opset_version}")
    if module.dtype.name == "bfloat16" and opset_version < 22:
        raise ValueError(
            f"an LSTM of bfloat16 cannot be exported to opset {opset_version}: ONNX has it from opset 22 on; give that "
            "as opset_version, or convert the module by module.to('float32')"
        )

    D, H, dtype = 2 if module.bidirectional else 1, module.hidden_size, module.dtype
    nodes: list[Any] = []
    initializers: list[Any] = []

    def constant(array: Any, called: str) -> str:
        if called not in [tensor.name for tensor in initializers]:
            initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), called))
        return called

    def node(kind: str, inputs: list[str], outputs: list[str], called: str = "", **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, outputs, name=called or f"{name}/{outputs[0]}", **attributes))
        return outputs[0]

    rows = node("Transpose", ["input"], ["time_major"], perm=[1, 0, 2]) if module.batch_first else "input"
    ends: dict[str, list[str]] = {"h": [], "c": []}
    for layer in range(module.num_layers):
        first = ["", ""]
        if states and module.num_layers == 1:
            first = ["h_0", "c_0"]
        elif states:
            part = [constant(np.array([n]), f"part_{n}") for n in (layer * D, (layer + 1) * D, 0)]
            first = [node("Slice", [f"{s}_0", *part], [f"{s}_0_l{layer}"]) for s in "hc"]
        weights = [constant(array, f"{name}.{field}_l{layer}") for field, array in _to_onnx(module, layer).items()] + (
            [] if module.bias else [""]
        )
        last = layer == module.num_layers - 1
        ends["h"].append("h_n" if module.num_layers == 1 else f"h_n_l{layer}")
        ends["c"].append("c_n" if module.num_layers == 1 else f"c_n_l{layer}")
        inputs = [rows, *weights, "", *first]
        while not inputs[-1]:
            inputs.pop()
        outputs = [f"Y_l{layer}", ends["h"][-1], ends["c"][-1]]
        called = name if layer == 0 else f"{name}_{layer}"
        direction = "bidirectional" if module.bidirectional else "forward"
        node("LSTM", inputs, outputs, called, hidden_size=H, direction=direction)
        result = "output" if last and not module.batch_first else f"output_l{layer}"
        if D == 1:
            rows = node("Squeeze", [f"Y_l{layer}", constant(np.array([1]), "directions")], [result])
        else:
            beside = node("Transpose", [f"Y_l{layer}"], [f"beside_l{layer}"], perm=[0, 2, 1, 3])
            rows = node("Reshape", [beside, constant(np.array([0, 0, D * H]), "joined")], [result])
    if module.batch_first:
        node("Transpose", [rows], ["output"], perm=[1, 0, 2])
    if module.num_layers > 1:
        for s in "hc":
            node("Concat", ends[s], [f"{s}_n"], axis=0)

    element = helper.np_dtype_to_tensor_dtype(dtype)
    axes = ["B", "T"] if module.batch_first else ["T", "B"]
    state = [module.num_layers * D, "B", H]
    shapes = {"input": [*axes, module.input_size], "h_0": state, "c_0": state}
    shapes |= {"output": [*axes, D * H], "h_n": state, "c_n": state}
    values = {key: helper.make_tensor_value_info(key, element, shape) for key, shape in shapes.items()}
    graph = helper.make_graph(
        nodes,
        name,
        [values[key] for key in ("input", "h_0", "c_0")[: 3 if states else 1]],
        [values[key] for key in ("output", "h_n", "c_n")],
        initializers,
    )
    opset = helper.make_opsetid("", opset_version)
    model = helper.make_model(graph, opset_imports=[opset], producer_name="cylstm")
    model.ir_version = helper.find_min_ir_version_for([opset])
    helper.set_model_props(model, {f"{name}.dropout": repr(module.dropout)})
    if model.ByteSize() > onnx.checker.MAXIMUM_PROTOBUF:
        raise ValueError(f"the model has {model.ByteSize():,} bytes, more than an ONNX file can have")
    return model


def save(module: Module, path: str | os.PathLike[str], **options: Any) -> None:
    """Write :func:`export` of a module, with the same options, to a file. Half a file is never seen under its name."""
    content = export(module, **options).SerializeToString(deterministic=True)
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(content)


# Reading ------------------------------------------------------------------------------------------------------------


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise ImportError("ONNX files need the package onnx: pip install 'cylstm[onnx]'") from error
    return onnx


def _parsed(path: Path) -> tuple[Any, int]:
    """The model in a file, without what is in other files, and the size of all of them."""
    onnx = _onnx()
    if not path.exists():
        raise FileNotFoundError(f"no such file: {str(path)!r}")
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file")
    try:
        proto = onnx.load(path, load_external_data=False)
    except Exception as error:  # DecodeError and others, by the version of protobuf
        raise TensorFileError(f"{path}: not a readable ONNX model ({type(error).__name__}: {error})") from error
    beside = path.with_name(f"{path.name}.data")
    return proto, path.stat().st_size + (beside.stat().st_size if beside.is_file() else 0)


def _of_scope(scope: Scope) -> Iterator[Found]:
    """The LSTMs of one graph, stacked layers as one."""
    layers: dict[str, Found] = {}  # by the name of Y
    order: list[Found] = []
    for node in scope.nodes:
        if node.op_type in _RELATIVES:
            order.append(_empty(node)._replace(refused=f"is a {node.op_type}, which cylstm does not compute"))
        if node.op_type != "LSTM" or node.domain not in ONNX:
            continue
        one = _of_node(scope, node)
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


def _empty(node: Any) -> Found:
    name = node.name or next(filter(None, node.output), node.op_type)
    return Found(name, (node.name,), "forward", 0, 0, {}, {}, False)


def _of_node(scope: Scope, node: Any) -> Found:
    """What one node says; ``refused`` where cylstm does not compute it."""
    found = _empty(node)
    try:
        return _checked(scope, node, found)
    except Unknown as error:
        return found._replace(refused=f"has weights that the file alone does not tell: {error}")
    except _Refused as error:
        return found._replace(refused=str(error))


class _Refused(Exception):
    """What a node asks for and cylstm does not compute."""


def _checked(scope: Scope, node: Any, found: Found) -> Found:
    given = {name: value for name, value in zip(_INPUTS, node.input, strict=False) if value}
    attributes = scope.attributes_of(node)
    direction = attributes.pop("direction", "forward")
    layout = attributes.pop("layout", 0)
    hidden_size = attributes.pop("hidden_size", None)
    attributes.pop("output_sequence", None)  # of opset 1: whether Y is there
    if direction not in ("forward", "reverse", "bidirectional") or layout not in (0, 1):
        raise _Refused(f"has direction={direction!r} and layout={layout!r}, which ONNX does not have")
    D = 2 if direction == "bidirectional" else 1
    if attributes.pop("input_forget", 0):
        raise _Refused("has input_forget=1, coupled gates, which cylstm does not compute")
    if "clip" in attributes:
        raise _Refused(f"has clip={attributes['clip']:g}, which cylstm does not compute")
    activations = attributes.pop("activations", _ACTIVATIONS * D)
    if [name.lower() for name in activations] != _ACTIVATIONS * D:
        raise _Refused(f"has activations={activations}, and cylstm computes {', '.join(_ACTIVATIONS)} alone")
    attributes.pop("activation_alpha", None), attributes.pop("activation_beta", None)  # sigmoid and tanh take none
    if attributes:
        raise _Refused(f"has the attribute {next(iter(attributes))!r}, which cylstm does not know")
    if "P" in given and not scope.is_zero(given["P"]):
        raise _Refused("has peepholes (P), which cylstm does not compute")
    if "W" not in given or "R" not in given or "X" not in given:
        raise _Refused("has no X, W or R")

    W, R = scope.value(given["W"]), scope.value(given["R"])
    H = R.shape[-1]
    I = W.shape[-1] if W.ndim else 0
    B = scope.value(given["B"]) if "B" in given else None
    expected = {"W": (D, 4 * H, I), "R": (D, 4 * H, H), "B": (D, 8 * H)}
    arrays = {"W": W, "R": R} | ({} if B is None else {"B": B})
    for name, array in arrays.items():
        if array.shape != expected[name] or hidden_size not in (None, H) or not array.size:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
            raise _Refused(f"does not fit together: direction {direction}, hidden_size {hidden_size}, {shapes}")
        if array.dtype != W.dtype or array.dtype.name not in ("float16", "float32", "float64"):
            raise _Refused(f"has {name} of dtype {array.dtype}, which cylstm does not read")
        if array.nbytes > scope.limit:
            raise _Refused(f"has {name} of {array.nbytes} bytes, far more than the file")
    states: dict[str, np.ndarray | str | None] = dict.fromkeys(("sequence_lens", "initial_h", "initial_c"))
    for what in states:
        if what in given and not (what != "sequence_lens" and scope.is_zero(given[what])):
            try:
                states[what] = scope.value(given[what])
            except Unknown:
                states[what] = given[what]
    return found._replace(
        direction=direction,
        layout=layout,
        hidden_size=H,
        parameters=_to_pytorch(W, R, B),
        states=states,
        transposed=_is_transposed(scope, given["X"]),
    )


def _is_transposed(scope: Scope, X: str) -> bool:
    owner, node = scope.producer(X)
    return node is not None and node.op_type == "Transpose" and owner.attributes_of(node).get("perm") == [1, 0, 2]


def _to_pytorch(W: np.ndarray, R: np.ndarray, B: np.ndarray | None) -> dict[str, np.ndarray]:
    """The parameters of layer 0 under PyTorch's names."""
    parameters = {}
    for direction, suffix in zip(range(len(W)), ("_l0", "_l0_reverse"), strict=False):
        parameters[f"weight_ih{suffix}"] = _gates(W[direction], _TO_PYTORCH)
        parameters[f"weight_hh{suffix}"] = _gates(R[direction], _TO_PYTORCH)
        if B is not None:
            of_W, of_R = np.split(B[direction], 2)
            parameters[f"bias_ih{suffix}"] = _gates(of_W, _TO_PYTORCH)
            parameters[f"bias_hh{suffix}"] = _gates(of_R, _TO_PYTORCH)
    return parameters


def _to_onnx(module: Module, layer: int) -> dict[str, np.ndarray]:
    """W, R and B of a layer."""
    suffixes = [f"_l{layer}", f"_l{layer}_reverse"][: 2 if module.bidirectional else 1]
    arrays = module.state_dict()

    def stacked(field: str) -> np.ndarray:
        return np.stack([_gates(arrays[field + suffix], _TO_ONNX) for suffix in suffixes])

    weights = {"W": stacked("weight_ih"), "R": stacked("weight_hh")}
    if module.bias:
        weights["B"] = np.concatenate([stacked("bias_ih"), stacked("bias_hh")], axis=1)
    return weights


def _gates(rows: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    """The rows of the four gates in another order."""
    return rows.reshape(4, -1, *rows.shape[1:])[list(order)].reshape(rows.shape)


def _reversed(x: np.ndarray, lengths: np.ndarray | None) -> np.ndarray:
    """Each sequence (T, B, ...) from its own end; what is behind the end stays."""
    if lengths is None:
        return x[::-1]
    t = np.arange(len(x))[:, np.newaxis]
    return np.take_along_axis(x, np.where(t < lengths, lengths - 1 - t, t)[..., np.newaxis], axis=0)


# Stacked layers -----------------------------------------------------------------------------------------------------


def _layer_below(scope: Scope, node: Any) -> Any:
    """The LSTM node of the same graph whose Y becomes this node's X, by moving values alone."""
    name = node.input[0]
    for _ in range(16):
        owner, producer = scope.producer(name)
        if owner is not scope or producer is None:
            return None
        if producer.op_type == "LSTM" and producer.output[0] == name:
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
