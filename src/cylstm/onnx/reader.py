"""The LSTMs of a model: ``find``, and ``read`` for :func:`cylstm.load`."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..arrays.arguments import as_array
from ..files.container import Contents, Tensor, TensorFileError, as_tensors, existing, unreadable
from ..nn.frozen import of_parameters
from ..nn.options import checked_options, to_metadata
from ..words import counted, listed, named, quoted
from .apart import Cell, cells
from .convention import ONNX, import_onnx
from .graph import Scope, scopes
from .node import Found, name_of
from .stacked import lstms
from .states import Computed


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
    found = _everything(model, inputs)
    if not found.lstms:
        raise TensorFileError(f"{found.what} must hold an LSTM node, got {found.there}")
    return found.lstms


class _Everything(NamedTuple):
    """What is in a model."""

    what: Path | str  # for messages
    lstms: dict[str, Found]
    cells: list[Cell]  # looked for where there is no LSTM node
    there: str  # for messages: the other nodes
    others: dict[str, str]  # recurrent layers that are not LSTMs, by name: what they are


def _everything(model: Any, inputs: Mapping[str, Any] | None = None) -> _Everything:
    """The LSTMs of a model, and what else there is."""
    path = Path(model) if isinstance(model, (str, os.PathLike)) else None
    what = path or "the model"
    if path is None and not isinstance(model, import_onnx().ModelProto):
        raise TypeError(f"model must be a path or an onnx.ModelProto, got {type(model).__name__}")
    known = {name: as_array(value, name) for name, value in (inputs or {}).items()}
    taken: set[str] = set()
    proto, size = (model, model.ByteSize()) if path is None else _parsed(path)
    others, used = dict[str, int](), dict[str, int]()
    found: dict[str, Found] = {}
    relatives: list[tuple[str, str]] = []
    visited: list[Scope] = []
    apart: list[Cell] = []
    try:
        for scope in scopes(proto, None if path is None else path.parent, size):
            scope.values.update({name: value for name, value in known.items() if name in scope.inputs})
            taken.update(scope.inputs)
            visited.append(scope)
            for one in lstms(scope):
                name = _unused(one.name, found, used)
                found[name] = one._replace(name=name)
            for node in scope.nodes:
                kind = node.op_type if node.domain in ONNX else f"{node.domain}.{node.op_type}"
                others[kind] = others.get(kind, 0) + 1
                if kind in ("GRU", "RNN"):
                    relatives.append((name_of(node), _described(scope, node)))
        if not found:
            apart = _distinct([cell for scope in visited for cell in cells(scope)])
    except (ImportError, FileNotFoundError):
        raise
    except TensorFileError as error:
        raise TensorFileError(f"{what}: {error}") from error
    except Exception as error:  # what damaged files lead to: DecodeError, ValidationError, RecursionError, KeyError …
        raise unreadable(what, "ONNX model", error) from error
    if unknown := known.keys() - taken:
        raise ValueError(
            f"inputs must be among those of {what} ({listed(map(repr, sorted(taken))) or 'none'}), "
            f"got {listed(map(repr, sorted(unknown)))}"
        )
    there = listed(f"{count} {kind}" for kind, count in sorted(others.items())) or "no node at all"
    if apart:
        there += _looks(apart)
    names: dict[str, Any] = dict(found)
    for name, layer in relatives:
        names[_unused(name, names, used)] = layer
    return _Everything(what, found, apart, there, {name: names[name] for name in names if name not in found})


def _looks(apart: list[Cell]) -> str:
    """What to say of a model without an LSTM node that has cells, and what to do."""
    kind = ", gated as those of a GRU" if all(cell.gru for cell in apart) else ""
    read = any(cell.parameters for cell in apart)
    do = (
        "cylstm.load gives a plain cell by its prefix. For sequences export a torch.nn.LSTM in the place of the cells "
        "and loops over them, or load the weights from the model that was exported"
    )
    if not read:
        do = (
            "Where the equations are PyTorch's, export a torch.nn.LSTM in the place of cells and loops over them, or "
            "load the weights from the model that was exported. Others are not computed: run the file in ONNX Runtime"
        )
    return (
        f": no LSTM node, but a graph that looks like one, with {counted(len(apart), 'cell')} made of single operators"
        f"{kind}. {do}"
    )


def _distinct(found: list[Cell]) -> list[Cell]:
    """Cells of several graphs, those with the same weights once: a step before a loop, and the loop's."""
    distinct: dict[Any, Cell] = {}
    for cell in found:
        key = tuple((name, array.shape, array.tobytes()) for name, array in cell.parameters.items())
        distinct.setdefault(key or cell.name, cell)
    return list(distinct.values())


def _unused(name: str, names: Mapping[str, Any], used: dict[str, int]) -> str:
    """The name, with a number where it is among the names; `used` keeps the last number of each."""
    unused = name
    while unused in names:
        used[name] = used.get(name, 1) + 1
        unused = f"{name}_{used[name]}"
    return unused


def _described(scope: Scope, node: Any) -> str:
    """A recurrent layer that is not an LSTM: its operator, and its number of parameters where they are constants."""
    count = 0
    try:
        for name in filter(None, node.input[1:4]):  # W, R, B
            owner, its_name = scope.owner(name)
            count += math.prod(owner.initializers[its_name].dims)
    except (KeyError, TensorFileError):
        return str(node.op_type)
    return f"{named(node.op_type)}, {counted(count, 'parameter')}"


def read(path: Path) -> Contents:
    """The parameters of all LSTMs of a file under ``name.weight_ih_l0`` and so on, for :func:`cylstm.load`.

    Without an LSTM node, those of the cells that are taken apart, under ``weight_ih`` and so on.
    """
    proto, _ = _parsed(path)
    tensors: dict[str, Tensor] = {}
    metadata = {key: text for key, text in _properties(proto) if key.endswith(".dropout")}
    refused: dict[str, str] = {}
    everything = _everything(path)
    for cell in everything.cells:
        if not cell.parameters:
            refused[cell.name] = (
                "is a cell made of single operators, and not PyTorch's: load its weights from the source"
            )
        tensors |= as_tensors({f"{cell.name}{field}": array for field, array in cell.parameters.items()})
    if not everything.lstms and not tensors and not everything.others:
        raise TensorFileError(f"{path} must hold an LSTM node, got {everything.there}")
    for name, found in everything.lstms.items():
        if reason := found.refused or _more_than_a_module(name, found):
            refused[f"{name}."] = reason
            continue
        arrays = of_parameters(found.parameters) if found.quantized else found.parameters
        tensors |= as_tensors({f"{name}.{field}": array for field, array in arrays.items()})
        metadata[f"{name}.batch_first"] = str(bool(found.layout) or found.transposed).lower()
        options = checked_options(directions=found.directions, projection=False, **found.options)
        metadata |= {f"{name}.{option}": text for option, text in to_metadata(options).items()}
    others = {f"{name}.": layer for name, layer in everything.others.items()}
    return Contents(tensors, metadata, refused, others)


def _properties(proto: Any) -> list[tuple[str, str]]:
    """The model's metadata, of which what is not UTF-8 comes as bytes."""
    pairs = [(entry.key, entry.value) for entry in proto.metadata_props]
    return [(key, text) for key, text in pairs if isinstance(key, str) and isinstance(text, str)]


def _more_than_a_module(name: str, found: Found) -> str:
    """What the nodes do that `cylstm.LSTM` does not, and the runner does; empty where there is nothing."""
    reason = "runs in reverse alone" if found.direction == "reverse" else ""
    for what, state in found.states.items():
        if isinstance(state, Computed):
            reason = reason or f"has its {what} computed by {state.by}"
        elif state is not None and not isinstance(state, str):
            kind = "a constant" if isinstance(state, np.ndarray) else "its own"
            reason = reason or f"has {kind} {what}"
    return f"{reason}: use cylstm.onnx.load, with the name {quoted(name)}" if reason else ""


def _parsed(path: Path) -> tuple[Any, int]:
    """The model in a file, without what is in other files, and the size of all of them."""
    onnx = import_onnx()
    size = existing(path).stat().st_size
    try:
        proto = onnx.load(path, load_external_data=False)
    except Exception as error:  # DecodeError and others, by the version of protobuf
        raise unreadable(path, "ONNX model", error) from error
    beside = path.with_name(f"{path.name}.data")
    return proto, size + (beside.stat().st_size if beside.is_file() else 0)
