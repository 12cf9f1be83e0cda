"""Between :class:`cylstm.LSTM` and Keras's files: ``from_lstm``, ``save``, and ``read`` for :func:`cylstm.load`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..files.container import Contents, Tensor, as_tensors
from ..nn.lstm import LSTM as Module
from ..nn.options import refuse
from ..words import counted, with_article
from .files.contents import BACKWARD, CELL, FORWARD, OWN, KerasFile, Stored, read_file, weights_path, write_weights
from .layers import LSTM, Bidirectional, Input
from .sequential import Sequential


def from_lstm(lstm: Module) -> Sequential:
    """Keras's layers for an LSTM of cylstm: one per layer, `Bidirectional` for two directions.

    The two biases of PyTorch become one, their sum. Dropout between layers is left out, as in inference.

    Raises
    ------
    TypeError
        If it is no LSTM.
    ValueError
        If Keras has no layer for it (``proj_size``, complex numbers).
    """
    if not isinstance(lstm, Module):
        raise TypeError(f"lstm must be an LSTM, got {type(lstm).__name__}")
    if lstm.frozen:
        raise ValueError("lstm must not be frozen, for Keras has float32 weights, got a frozen one: save it before")
    if lstm.proj_size:
        raise ValueError(f"lstm must have no projection, which Keras lacks, got proj_size={lstm.proj_size}")
    if lstm.dtype.kind == "c":
        raise ValueError(f"lstm must be real, as the LSTM of Keras is, got {lstm.dtype}")
    refuse(lstm._options, "a file of Keras's weights")
    model = Sequential([Input((None, lstm.input_size))])
    for layer in range(lstm.num_layers):
        one = LSTM(
            lstm.hidden_size, use_bias=lstm.bias, return_sequences=True, dtype=lstm.dtype, kernel_initializer="zeros"
        )
        model.add(Bidirectional(one) if lstm.bidirectional else one)
        weights = []
        for suffix in (f"_l{layer}", f"_l{layer}_reverse")[: 2 if lstm.bidirectional else 1]:
            weights += [getattr(lstm, f"weight_ih{suffix}").T, getattr(lstm, f"weight_hh{suffix}").T]
            if lstm.bias:
                weights.append(getattr(lstm, f"bias_ih{suffix}") + getattr(lstm, f"bias_hh{suffix}"))
        model.layers[-1].set_weights(weights)
    return model


def save(module: Module, path: str | os.PathLike[str]) -> None:
    """Write the weights of :func:`from_lstm` to a ``.weights.h5``; what ``cylstm.load`` needs beside them, too.

    Raises
    ------
    TypeError, ValueError
        As :func:`from_lstm` does; ValueError also if the path ends in something else.
    ImportError
        If h5py is not installed.
    """
    path = weights_path(path)
    model = from_lstm(module)
    options = {
        "num_layers": str(module.num_layers),
        "batch_first": str(module.batch_first).lower(),
        "dropout": repr(module.dropout),
    }
    first = model.layers[0].name
    write_weights(path, model.stored(), {f"{first}.{name}": text for name, text in options.items()})


def read(path: Path) -> Contents:
    """The parameters of all LSTMs of a file under ``name.weight_ih_l0`` and so on, for :func:`cylstm.load`.

    Where the file has no configuration (``.weights.h5``), the layers are taken to have Keras's defaults.
    """
    file = read_file(path)
    tensors: dict[str, Tensor] = {}
    refused: dict[str, str] = {}
    metadata = dict(file.metadata)
    joined: dict[str, list[Stored]] = {}  # by the name of the first layer
    for run in _runs(file):
        lstms = [one for one in run if _is_lstm(one)]
        if lstms:
            joined[lstms[0].name] = lstms
    for name, layers in joined.items():
        reasons = [reason for one in layers if (reason := _refused(file, one))]
        if reasons:
            refused[f"{name}."] = reasons[0]
            continue
        for layer, one in enumerate(layers):
            directions = [one.parts[part] for part in (CELL, FORWARD, BACKWARD) if part in one.parts]
            for suffix, arrays in zip((f"_l{layer}", f"_l{layer}_reverse"), directions, strict=False):
                found = {f"weight_ih{suffix}": arrays[0].T, f"weight_hh{suffix}": arrays[1].T}
                if len(arrays) > 2:
                    found |= {f"bias_ih{suffix}": arrays[2], f"bias_hh{suffix}": np.zeros_like(arrays[2])}
                tensors |= as_tensors({f"{name}.{field}": array for field, array in found.items()})
        metadata.setdefault(f"{name}.batch_first", "true")
    others: dict[str, str] = {}
    for one in file.stored.values():
        if _is_lstm(one):
            continue
        if (linear := _linear(file, one)) is not None:
            tensors |= as_tensors({f"{one.name}.{field}": array for field, array in linear.items()})
        else:
            others[f"{one.name}."] = _summary(file, one)
    counts = {one.name: _count(one) for one in file.stored.values()}
    for name, layers in joined.items():  # stacked ones are one
        counts |= {one.name: 0 for one in layers} | {name: sum(counts[one.name] for one in layers)}
    in_file = sorted(file.stored.values(), key=lambda one: one.path)  # without a configuration: as HDF5 sorts them
    order = [name for name in (*file.described, *(one.name for one in in_file)) if name in counts]
    counts = {name: counts[name] for name in dict.fromkeys(order)}
    return Contents(tensors, metadata, refused, others, {f"{name}.": count for name, count in counts.items()})


def _linear(file: KerasFile, layer: Stored) -> dict[str, np.ndarray] | None:
    """The parameters of a Dense without an activation, as those of a Linear."""
    described = file.described.get(layer.name)
    if described is None or described.kind != "Dense" or described.config.get("activation") != "linear":
        return None
    arrays = layer.parts.get(OWN, [])
    if not arrays or arrays[0].ndim != 2:
        return None
    return dict(zip(("weight", "bias"), (arrays[0].T, *arrays[1:]), strict=False))


def _count(layer: Stored) -> int:
    return sum(array.size for arrays in layer.parts.values() for array in arrays)


def _runs(file: KerasFile) -> list[list[Stored]]:
    """The layers of a file, stacked LSTMs together: those of a Sequential model, and those that cylstm has written."""
    todo: list[Stored] = list(file.stored.values())
    runs: list[list[Stored]] = []
    for first, one in file.stored.items():
        count = file.metadata.get(f"{first}.num_layers", "")
        if count.isdecimal():
            above = [f"{first}_{n}" for n in range(1, min(int(count), len(todo) + 1))]
            runs.append([one, *(file.stored[name] for name in above if name in file.stored)])
    if file.kind == "Sequential" and not runs:
        order = [one for one in file.described.values() if one.path.count("/") == 1]
        run: list[Stored] = []
        for described in order:
            layer = file.stored.get(described.name)
            if described.kind in ("Dropout", "InputLayer"):
                continue
            if layer is None or not (run and _stacks(file, run[-1], layer)):
                runs.append(run)
                run = []
            if layer is not None:
                run.append(layer)
        runs.append(run)
    of_runs = {layer.name for run in runs for layer in run}
    return [run for run in runs if run] + [[layer] for layer in todo if layer.name not in of_runs]


def _stacks(file: KerasFile, lower: Stored, upper: Stored) -> bool:
    """Whether two layers that follow one another are layers of one LSTM."""
    if not (_is_lstm(lower) and _is_lstm(upper)) or _refused(file, lower) or _refused(file, upper):
        return False
    states = [[arrays[1].shape for arrays in one.parts.values()] for one in (lower, upper)]
    counts = [[len(arrays) for arrays in one.parts.values()] for one in (lower, upper)]
    config = file.described[lower.name].config
    sequences = config.get("layer", {}).get("config", config).get("return_sequences")
    width = sum(shape[0] for shape in states[0])
    fits = all(arrays[0].shape[0] == width for arrays in upper.parts.values())
    return bool(sequences) and states[0] == states[1] and counts[0] == counts[1] and fits


def _is_lstm(layer: Stored) -> bool:
    """Whether the variables have the shapes of an LSTM's."""
    if set(layer.parts) not in ({CELL}, {FORWARD, BACKWARD}):
        return False
    for arrays in layer.parts.values():
        if not 2 <= len(arrays) <= 3 or arrays[0].ndim != 2 or arrays[1].ndim != 2:
            return False
        rows, columns = arrays[1].shape
        if columns != 4 * rows or any(array.shape[-1] != columns for array in arrays) or not arrays[0].size:
            return False
    return True


def _summary(file: KerasFile, layer: Stored) -> str:
    """What a layer that is no LSTM is: its class if the file says it, and its size."""
    described = file.described.get(layer.name)
    kind = described.kind if described else "another layer"
    activation = described.config.get("activation") if described else None
    if kind == "Dense" and activation != "linear":
        kind = f"a Dense with activation={activation!r}, which cylstm.keras.load_model computes"
    return f"{kind}, {counted(_count(layer), 'parameter')}"


def _refused(file: KerasFile, layer: Stored) -> str:
    """Why a plain LSTM does not compute what this layer does; empty where it does, or nothing is known of it."""
    described = file.described.get(layer.name)
    if described is None:
        return ""
    kind, config = described.kind, described.config
    if kind not in ("LSTM", "Bidirectional"):
        return f"is {with_article(kind)}"
    remedy = ": use cylstm.keras.load_model"
    one, other = config, config
    if kind == "Bidirectional":
        one, other = config["layer"], config.get("backward_layer") or config["layer"]
        if (one["class_name"], other["class_name"]) != ("LSTM", "LSTM"):
            return f"is Bidirectional, of {one['class_name']} and {other['class_name']}"
        one, other = one["config"], other["config"]
        if config.get("merge_mode") != "concat":
            return f"is Bidirectional with merge_mode={config.get('merge_mode')!r}{remedy}"
    for part in (one, other):
        for option, computed in (("activation", "tanh"), ("recurrent_activation", "sigmoid")):
            if part.get(option) != computed:
                return f"has {option}={part.get(option)!r} instead of {computed!r}"
        if part.get("time_major"):
            return "has time_major=True"
    if one.get("go_backwards"):
        return f"has go_backwards=True{remedy}"
    return ""
