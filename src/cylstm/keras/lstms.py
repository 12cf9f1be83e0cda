"""The LSTMs and Dense layers of a file of Keras, for :func:`cylstm.load`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..files.container import Contents, Tensor, as_tensors, unreadable
from ..words import quoted
from .files.config import layers_in
from .files.contents import BACKWARD, CELL, FORWARD
from .files.model import LayerPath, StoredModel, read_model
from .files.weights import Found
from .options import REMEDY, activations_of, described, why_not_bidirectional, why_not_lstm
from .reading import why_not

Parts = list[list[np.ndarray]]  # of each direction: kernel, recurrent_kernel, bias


class _Layer(NamedTuple):
    """A layer of a file that is an LSTM, a Linear, or something else."""

    name: str
    kind: str  # its class, "LSTM" also of a Bidirectional; empty where the file does not tell it
    parts: Parts  # of an LSTM, or the one of a Dense layer
    refused: str = ""  # why an LSTM is not computed
    config: Mapping[str, Any] = {}
    activations: tuple[Any, ...] | None = None
    number: int = 0  # of parameters
    text: str = ""  # what else it is called
    row: int | None = None  # its place among the layers of a Sequential
    stopped: str = ""  # why load_model does not compute it


def read(path: Path) -> Contents:
    """The parameters of all LSTMs of a file under ``name.weight_ih_l0`` and so on, and of Dense layers."""
    model = read_model(path)
    try:
        return _contents(model)
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:  # of a configuration
        raise unreadable(path, "Keras file", error) from error


def _contents(model: StoredModel) -> Contents:
    layers = _unique([*_described(model), *_undescribed(model)])
    tensors: dict[str, Tensor] = {}
    metadata = dict(model.metadata)
    refused: dict[str, str] = {}
    others: dict[str, str] = {}
    options: dict[str, str] = {}
    counts: dict[str, int] = {}
    parts: dict[str, str] = {}
    joined = _joined(model, layers)
    above = {one.name: (first, n) for first, run in joined.items() for n, one in enumerate(run) if n}
    for one in layers:
        prefix = f"{one.name}."
        options[prefix] = described(one.config) + (
            f"; not for load_model: {one.stopped}" if one.stopped and not one.refused else ""
        )
        run = joined.get(one.name)
        counts[prefix] = sum(each.number for each in run or [one])
        if one.name in above:
            parts[prefix] = "LSTM, layer {1} of '{0}.'".format(*above[one.name])
        elif one.kind == "LSTM" and one.refused:
            refused[prefix] = one.refused
        elif one.kind == "LSTM" and run:
            tensors |= as_tensors(_parameters(one.name, run))
            metadata.setdefault(f"{prefix}batch_first", "true")
            if one.activations:
                metadata[f"{prefix}activations"] = json.dumps(one.activations)
        elif one.kind == "Dense" and not one.refused:
            weight, *bias = one.parts[0]
            tensors |= as_tensors({f"{prefix}weight": weight.T} | ({f"{prefix}bias": bias[0]} if bias else {}))
        else:
            number = f", {one.number:,} parameters" if one.number or not one.config else ""
            others[prefix] = (
                f"{one.text or one.kind or 'another layer'}{one.refused and f' that {one.refused}'}{number}"
            )
    return Contents(tensors, metadata, refused, others, counts, parts, options, _assumed(model, layers))


def _unique(layers: list[_Layer]) -> list[_Layer]:
    """The layers with names of their own: layers of somebody's own class may be called alike in a file."""
    used: set[str] = set()
    found = []
    for one in layers:
        name, n = one.name, 1
        while name in used:
            name, n = f"{one.name}_{n}", n + 1
        used.add(name)
        found.append(one._replace(name=name))
    return found


def _parameters(name: str, layers: list[_Layer]) -> dict[str, np.ndarray]:
    """The parameters of stacked layers under PyTorch's names."""
    found: dict[str, np.ndarray] = {}
    for n, layer in enumerate(layers):
        for suffix, arrays in zip((f"_l{n}", f"_l{n}_reverse"), layer.parts, strict=False):
            found |= {f"{name}.weight_ih{suffix}": arrays[0].T, f"{name}.weight_hh{suffix}": arrays[1].T}
            if len(arrays) > 2:
                found |= {f"{name}.bias_ih{suffix}": arrays[2], f"{name}.bias_hh{suffix}": np.zeros_like(arrays[2])}
    return found


# Layers with a configuration ----------------------------------------------------------------------------------------


def _described(model: StoredModel) -> Iterator[_Layer]:
    """The layers of the configuration, in its order; of nested models the layers inside."""
    if "layers" in model.config:
        whole = {"class_name": model.class_name, "name": "", "config": model.config}
        yield from _inside(model, whole, (), "")


def _inside(model: StoredModel, layer: dict[str, Any], path: LayerPath, around: str) -> Iterator[_Layer]:
    for n, one in enumerate(layers_in(layer)):
        kind, config, name = one["class_name"], one["config"], around + one["name"]
        where = (*path, n)
        if "layers" in config or (layers_in(one) and kind not in ("Bidirectional", "RNN")):
            yield _Layer(name, kind, [], config=config, text=kind)
            yield from _inside(model, one, where, f"{name}.")
            continue
        row = n if not path and model.class_name == "Sequential" else None
        yield _one(model, one, where, name)._replace(row=row, stopped=why_not(one))


def _one(model: StoredModel, layer: dict[str, Any], path: LayerPath, name: str) -> _Layer:
    """One layer of a configuration."""
    kind, config = layer["class_name"], layer["config"]
    try:
        arrays = model.weights(path)
    except ValueError:
        return _Layer(name, kind, [], "has weights that the file does not hold, or not in a known order", config)
    number = sum(array.size for array in arrays)
    if kind == "LSTM":
        reason = why_not_lstm(config) or _wrong_weights([arrays])
        activations = None if reason else activations_of(config)
        return _Layer(name, kind, [arrays], reason, config, activations, number)
    if kind == "Bidirectional":
        reason = why_not_bidirectional(config)
        if not reason.startswith("is Bidirectional, of"):
            halves = [model.weights((*path, n)) for n in (0, 1)]
            reason = reason or _wrong_weights(halves)
            return _Layer(name, "LSTM", halves, reason, config, None if reason else _both(config), number, kind)
        return _Layer(name, "LSTM", [], reason, config, None, number, kind)
    if kind == "RNN" and "LSTMCell" in str(config.get("cell", ""))[:10_000]:
        return _Layer(name, "LSTM", [], f"is an RNN of LSTM cells{REMEDY}", config, None, number, kind)
    if kind == "Dense":
        reason = _why_not_linear(config)
        return _Layer(name, kind, [arrays], reason, config, None, number)
    return _Layer(name, kind, [], "", config, None, number)


def _both(config: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """The activations of both directions."""
    other = config.get("backward_layer") or config["layer"]
    one, other = activations_of(config["layer"]["config"]), activations_of(other["config"])
    plain = ("sigmoid", "tanh", "tanh")
    return one if one == other else (*(one or plain), *(other or plain))


def _wrong_weights(parts: Parts) -> str:
    """Why weights cannot be an LSTM's; empty where they can."""
    shapes = [[array.shape for array in arrays] for arrays in parts]
    if shapes[0] != shapes[-1]:
        return f"has the weights {shapes[0]} in one direction and {shapes[-1]} in the other"
    if not all(array.size for arrays in parts for array in arrays):
        return f"has the weights {shapes[0]}"
    return ""


def _why_not_linear(config: Mapping[str, Any]) -> str:
    """Why a Linear does not compute a Dense layer; empty where it does."""
    if config.get("activation") not in (None, "linear"):
        return f"has activation={quoted(config['activation'])}, which a Linear does not apply{REMEDY}"
    if isinstance(config.get("dtype"), dict) or config.get("quantization_config") or config.get("lora_rank"):
        return f"is quantised or has LoRA{REMEDY}"
    return ""


# Layers without -----------------------------------------------------------------------------------------------------


def _undescribed(model: StoredModel) -> Iterator[_Layer]:
    """The variables that no configuration describes: LSTMs by their shapes, and others."""
    unsure = "is not described by the configuration (it is inside a layer or model of somebody's own): its options are "
    unsure += "not known: save its weights alone with save_weights('m.weights.h5'), and Keras's defaults are taken"
    for one in model.undescribed:
        number = sum(array.size for arrays in one.parts.values() for array in arrays)
        if not is_lstm(one):
            yield _Layer(one.name, "", [], number=number)
            continue
        parts = [one.parts[part] for part in (CELL, FORWARD, BACKWARD) if part in one.parts]
        reason = unsure if model.class_name else ""
        activations = None
        if not reason and _hard_sigmoid(model):
            activations = (("hard_sigmoid", 0.2, 0.5), "tanh", "tanh")
        yield _Layer(one.name, "LSTM", parts, reason or _wrong_weights(parts), {}, activations, number)


def is_lstm(found: Found) -> bool:
    """Whether variables have the shapes of an LSTM's."""
    if set(found.parts) not in ({CELL}, {FORWARD, BACKWARD}):
        return False
    for arrays in found.parts.values():
        if not 2 <= len(arrays) <= 3 or arrays[0].ndim != 2 or arrays[1].ndim != 2:
            return False
        rows, columns = arrays[1].shape
        if columns != 4 * rows or any(array.shape[-1] != columns for array in arrays) or not arrays[0].size:
            return False
    return True


def _hard_sigmoid(model: StoredModel) -> bool:
    """Whether hard_sigmoid was the default for recurrent_activation: before Keras 2.3, and in tf.keras before 2.2."""
    number, _, of_tensorflow = model.keras_version.partition("-")
    first = [int(part) for part in number.split(".")[:2] if part.isdecimal()]
    return len(first) == 2 and first < ([2, 2] if of_tensorflow else [2, 3])


def _assumed(model: StoredModel, layers: list[_Layer]) -> str:
    """What is taken for granted of LSTMs without a configuration."""
    if model.class_name or model.metadata or not any(one.kind == "LSTM" and not one.refused for one in layers):
        return ""
    version = f"Keras {model.keras_version}" if model.keras_version else "Keras since 2.3"
    gates = "hard_sigmoid" if _hard_sigmoid(model) else "sigmoid"
    doubt = " (hard_sigmoid if TensorFlow 1 wrote it)" if model.keras_version.startswith("2.2.4-tf") else ""
    merged = ", merge_mode='concat'" if any(len(one.parts) > 1 for one in layers if one.kind == "LSTM") else ""
    return (
        f"the file has no configuration, so LSTMs are taken to have the defaults of {version}: activation='tanh', "
        f"recurrent_activation={gates!r}{doubt}{merged}, not go_backwards"
    )


# Stacked layers -----------------------------------------------------------------------------------------------------


def _joined(model: StoredModel, layers: list[_Layer]) -> dict[str, list[_Layer]]:
    """LSTMs by the name of the first: those of a Sequential that are stacked, and those that cylstm has written."""
    lstms = {one.name: one for one in layers if one.kind == "LSTM"}
    joined: dict[str, list[_Layer]] = {}
    below: _Layer | None = None
    inner: set[str] = set()
    for name, one in lstms.items():
        count = model.metadata.get(f"{name}.num_layers", "")
        if count.isdecimal():
            above = [f"{name}_{n}" for n in range(1, min(int(count), len(lstms)))]
            joined[name] = [one, *(lstms[other] for other in above if other in lstms)]
            inner.update(other for other in above if other in lstms)
    if joined:
        return joined | {name: [one] for name, one in lstms.items() if name not in joined and name not in inner}
    for one in layers:
        if one.row is not None and one.kind in ("Dropout", "InputLayer"):
            continue
        if one.kind != "LSTM":
            below = None
            continue
        if below is not None and one.row is not None and _stacks(below, one):
            joined[next(reversed(joined))].append(one)
        else:
            joined[one.name] = [one]
        below = one if one.row is not None else None
    return joined


def _stacks(lower: _Layer, upper: _Layer) -> bool:
    """Whether two layers that follow one another are layers of one LSTM."""
    if lower.refused or upper.refused or lower.activations != upper.activations:
        return False
    inner = lower.config.get("layer")
    config = inner["config"] if isinstance(inner, dict) else lower.config
    states = [[arrays[1].shape for arrays in one.parts] for one in (lower, upper)]
    counts = [[len(arrays) for arrays in one.parts] for one in (lower, upper)]
    width = sum(shape[0] for shape in states[0])
    fits = all(arrays[0].shape[0] == width for arrays in upper.parts)
    return bool(config.get("return_sequences")) and states[0] == states[1] and counts[0] == counts[1] and fits
