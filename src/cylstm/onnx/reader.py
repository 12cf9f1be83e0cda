"""The LSTMs of a model: ``find``, and ``read`` for :func:`cylstm.load`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays.arguments import as_array
from ..files.container import Contents, Tensor, TensorFileError, as_tensors, existing, unreadable
from ..nn.frozen import of_parameters
from .convention import ONNX, import_onnx
from .graph import scopes
from .node import Found
from .stacked import lstms


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
    what = path or "the model"
    if path is None and not isinstance(model, import_onnx().ModelProto):
        raise TypeError(f"model must be a path or an onnx.ModelProto, got {type(model).__name__}")
    known = {name: as_array(value, name) for name, value in (inputs or {}).items()}
    taken: set[str] = set()
    proto, size = (model, model.ByteSize()) if path is None else _parsed(path)
    try:
        others: dict[str, int] = {}
        found: dict[str, Found] = {}
        for scope in scopes(proto, None if path is None else path.parent, size):
            scope.values.update({name: value for name, value in known.items() if name in scope.inputs})
            taken.update(scope.inputs)
            for one in lstms(scope):
                name, count = one.name, 1
                while name in found:
                    count += 1
                    name = f"{one.name}_{count}"
                found[name] = one._replace(name=name)
            for node in scope.nodes:
                kind = node.op_type if node.domain in ONNX else f"{node.domain}.{node.op_type}"
                others[kind] = others.get(kind, 0) + 1
    except (ImportError, FileNotFoundError):
        raise
    except TensorFileError as error:
        raise TensorFileError(f"{what}: {error}") from error
    except Exception as error:  # what damaged files lead to: DecodeError, ValidationError, RecursionError, KeyError …
        raise unreadable(what, "ONNX model", error) from error
    if unknown := known.keys() - taken:
        raise ValueError(
            f"inputs must be among those of {what} ({', '.join(map(repr, sorted(taken))) or 'none'}), "
            f"got {', '.join(map(repr, sorted(unknown)))}"
        )
    if not found:
        there = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items())) or "no node at all"
        raise TensorFileError(f"{what} must hold an LSTM node, got {there}")
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
        arrays = of_parameters(found.parameters) if found.quantized else found.parameters
        tensors |= as_tensors({f"{name}.{field}": array for field, array in arrays.items()})
        metadata[f"{name}.batch_first"] = str(bool(found.layout) or found.transposed).lower()
    return Contents(tensors, metadata, refused)


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
