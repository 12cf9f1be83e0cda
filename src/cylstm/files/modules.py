"""Modules and the names and shapes of their parameters: sizes and options are inferred from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays.arguments import DTYPES
from ..arrays.quantization import QuantizedWeight
from ..backends.precision import PRECISIONS
from ..nn.cell import LSTMCell
from ..nn.frozen import of_parameters
from ..nn.linear import Linear
from ..nn.lstm import LSTM
from ..nn.options import from_metadata, to_metadata
from ..nn.reparametrised import Recipe, recipes
from ..nn.stack import Stack
from ..words import listed, named, quoted, with_article
from . import frozen
from .container import Contents, Tensor, as_tensors
from .names import at, choose, either

#: The modules that can be written to a file.
Savable = LSTM | LSTMCell | Linear


def parameters_of(module: Savable | Mapping[str, Savable]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The parameters of one module, or of several by name, and the metadata of a file for what they do not tell."""
    modules = {f"{name}.": one for name, one in module.items()} if isinstance(module, Mapping) else {"": module}
    parameters: dict[str, np.ndarray] = {}
    metadata: dict[str, str] = {}
    for prefix, one in modules.items():
        if not isinstance(one, Savable):
            raise TypeError(
                f"module must be an LSTM, LSTMCell or Linear, or a mapping of names to them, got {type(one).__name__}"
            )
        parameters |= {prefix + name: array for name, array in one.state_dict().items()}
        if isinstance(one, LSTM):
            metadata[f"{prefix}batch_first"] = str(one.batch_first).lower()
            metadata[f"{prefix}dropout"] = repr(float(one.dropout))
        if one._precision is not None:
            metadata[f"{prefix}precision"] = one._precision
        if not isinstance(one, Linear):
            metadata |= {prefix + option: text for option, text in to_metadata(one._options).items()}
        if one.frozen:
            metadata[f"{prefix}frozen"] = "true"
    return parameters, metadata


def put_together(contents: Contents) -> Contents:
    """The contents with the parameters that PyTorch would compute of what is stored; see `nn.reparametrised`."""
    tensors = dict(contents.tensors)
    for name, recipe in recipes({name: tensor.shape for name, tensor in tensors.items()}).items():
        parts = [tensors.pop(part) for part in recipe.parts]
        refused = next((part.refused for part in parts if part.refused), "")
        refused = refused or recipe.refused_of([part.dtype for part in parts])
        dtype = parts[0].dtype if parts else "unknown"
        tensors[name] = Tensor(dtype, recipe.shape, partial(_computed, recipe, parts), refused=refused)
    return contents._replace(tensors=tensors)


def _computed(recipe: Recipe, parts: Sequence[Tensor]) -> np.ndarray:
    return recipe.compute(*(part.read() for part in parts))


def make(
    contents: Contents,
    path: Path,
    prefix: str = "",
    *,
    batch_first: bool | None = None,
    dropout: float | None = None,
    backend: object = None,
    precision: str | None = None,
) -> Savable:
    """The module that is meant among the contents of a file; the options are those of :func:`cylstm.load`."""
    kind, prefix, names = choose(contents, prefix, path)
    tensors = {name: contents.tensors[prefix + name] for name in names}
    for name, tensor in tensors.items():
        if tensor.refused:
            raise ValueError(f"{path}: {named(prefix + name)} must be a plain tensor, got {tensor.refused}")
    what = f"{path}: the {kind} {at(prefix)}"
    is_frozen = frozen.is_stored(contents.metadata.get(f"{prefix}frozen"), tensors, what)
    if is_frozen and kind == "Linear":
        raise ValueError(f"{what} must not be frozen, which LSTM and LSTMCell alone can be, got frozen = true")
    if is_frozen:
        stored_precision = contents.metadata.get(f"{prefix}precision")
        options: dict[str, object] = {"precision": frozen.precision(stored_precision, precision, tensors, what)}
    else:
        options = {"dtype": _dtype(tensors, path), "precision": precision}
        if precision is None:
            options["precision"] = _stored_precision(contents.metadata, prefix, path)
    if kind == "LSTM":
        stored = _stored_options(contents.metadata, prefix, path)
        options["batch_first"] = stored.get("batch_first", False) if batch_first is None else batch_first
        options["dropout"] = stored.get("dropout", 0.0) if dropout is None else dropout
    elif batch_first is not None or dropout is not None:
        raise TypeError(
            f"batch_first and dropout must be None for {with_article(kind)}, which {path} holds {at(prefix)}: "
            "leave them out"
        )
    if kind != "Linear":
        options |= _more_options(contents.metadata, prefix, names, path)
    if backend is not None:
        if kind == "Linear":
            raise TypeError(f"backend must be None for a Linear, which {path} holds {at(prefix)}: leave it out")
        options["backend"] = backend
    return _make(kind, tensors, options, what, is_frozen).eval()


def make_lstm(parameters: Mapping[str, Any], what: str, **options: object) -> LSTM:
    """The LSTM of these parameters under PyTorch's names, frozen where they are quantised.

    ``what`` it is stands in the message of a ValueError.
    """
    if any(isinstance(parameter, QuantizedWeight) for parameter in parameters.values()):
        lstm = _make("LSTM", as_tensors(of_parameters(parameters)), {"precision": "int8", **options}, what, True)
        assert isinstance(lstm, LSTM)
        return lstm
    tensors = as_tensors(parameters)
    lstm = _make("LSTM", tensors, {"dtype": _dtype(tensors, what), **options}, what)
    assert isinstance(lstm, LSTM)
    return lstm


def _stored_options(metadata: Mapping[str, str], prefix: str, path: Path) -> dict[str, object]:
    """batch_first and dropout from the metadata that ``save`` writes, of those that are there."""
    options: dict[str, object] = {}
    what = f"{path}: {named(prefix)}"
    if (text := metadata.get(f"{prefix}batch_first")) is not None:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{what}batch_first must be true or false, got {quoted(text)}: give batch_first")
        options["batch_first"] = text.lower() == "true"
    if (text := metadata.get(f"{prefix}dropout")) is not None:
        try:
            options["dropout"] = float(text)
        except ValueError:
            raise ValueError(f"{what}dropout must be a number, got {quoted(text)}: give dropout") from None
    return options


def _stored_precision(metadata: Mapping[str, str], prefix: str, path: Path) -> str | None:
    """The precision from the metadata, None where they name none."""
    precision = metadata.get(f"{prefix}precision")
    if precision not in (None, *PRECISIONS):
        raise ValueError(
            f"{path}: {named(prefix)}precision must be {either(PRECISIONS)}, got {quoted(precision)}: give precision"
        )
    return precision


def _more_options(metadata: Mapping[str, str], prefix: str, names: Iterable[str], path: Path) -> dict[str, object]:
    """The options beyond PyTorch's from the metadata that ``save`` writes, but peepholes, which show in the names."""
    try:
        return from_metadata(
            metadata,
            prefix,
            directions=2 if any(name.endswith("_reverse") for name in names) else 1,
            projection=any(name.startswith("weight_hr") for name in names),
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _dtype(tensors: Mapping[str, Tensor], path: Path | str) -> str:
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if len(dtypes) > 1:
        raise ValueError(f"{path}: parameters must have one dtype, got {listed(sorted(dtypes))}: convert them first")
    [dtype] = dtypes
    if dtype not in DTYPES:
        raise ValueError(f"{path}: parameters must be {either(DTYPES)}, got {dtype}: convert them first")
    return dtype


def _make(
    kind: str, tensors: Mapping[str, Tensor], options: Mapping[str, Any], what: str, is_frozen: bool = False
) -> Savable:
    """The module of these parameters. Everything is checked before anything is allocated."""
    shapes = frozen.shapes(tensors, what) if is_frozen else {name: tensor.shape for name, tensor in tensors.items()}
    cls: type[LSTM] | type[LSTMCell] | type[Linear]
    cls, infer = {
        "LSTM": (LSTM, _lstm_from_shapes),
        "LSTMCell": (LSTMCell, _cell_from_shapes),
        "Linear": (Linear, _linear_from_shapes),
    }[kind]
    try:
        sizes, expected = infer(shapes)
    except (KeyError, ValueError) as error:
        must = f"have {error}" if isinstance(error, KeyError) else "have weights of two dimensions"
        raise ValueError(f"{what} must {must}, got {listed(_shown(shapes))}") from None
    if shapes != expected:
        wrong = {name: shape for name, shape in shapes.items() if expected.get(name) != shape}
        wanted = {name: shape for name, shape in expected.items() if shapes.get(name) != shape}
        raise ValueError(
            f"{what} must have {listed(_shown(wanted)) or 'nothing more'} for "
            f"{listed(f'{name}={size}' for name, size in sizes.items())}, got {listed(_shown(wrong)) or 'none of them'}"
        )
    if not all(all(shape) for shape in shapes.values()):
        raise ValueError(f"{what} must have sizes of 1 or more, got {listed(_shown(shapes))}")
    if is_frozen:
        return cls._of(frozen.arrays(tensors, expected, what), **sizes, **options)
    return cls._of(((name, tensors[name].read()) for name in expected), **sizes, **options)


Shapes = Mapping[str, tuple[int, ...]]


def _lstm_from_shapes(shapes: Shapes) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Arguments of an LSTM, and the shapes that its parameters have then."""
    _, input_size = shapes["weight_ih_l0"]
    rows, columns = shapes["weight_hh_l0"]
    layers = {int(name.removesuffix("_reverse").rpartition("_l")[2]) for name in shapes}
    sizes: dict[str, Any] = {
        "input_size": input_size,
        "hidden_size": rows // 4,
        "num_layers": min(max(layers) + 1, len(shapes)),  # a number that leaves a gap shows as a name too many
        "bias": any(name.startswith("bias") for name in shapes),
        "bidirectional": any(name.endswith("_reverse") for name in shapes),
        "proj_size": columns if any(name.startswith("weight_hr") for name in shapes) else 0,
    }
    sizes["peephole"] = any(name.startswith("weight_ch") for name in shapes)
    return sizes, Stack(**sizes).shapes()


def _cell_from_shapes(shapes: Shapes) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Arguments of an LSTMCell, and the shapes that its parameters have then."""
    _, input_size = shapes["weight_ih"]
    rows, _ = shapes["weight_hh"]
    hidden_size, bias = rows // 4, "bias_ih" in shapes or "bias_hh" in shapes
    expected: dict[str, tuple[int, ...]] = {
        "weight_ih": (4 * hidden_size, input_size),
        "weight_hh": (4 * hidden_size, hidden_size),
    }
    if bias:
        expected |= {"bias_ih": (4 * hidden_size,), "bias_hh": (4 * hidden_size,)}
    peephole = "weight_ch" in shapes
    if peephole:
        expected["weight_ch"] = (3 * hidden_size,)
    return {"input_size": input_size, "hidden_size": hidden_size, "bias": bias, "peephole": peephole}, expected


def _linear_from_shapes(shapes: Shapes) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Arguments of a Linear, and the shapes that its parameters have then."""
    out_features, in_features = shapes["weight"]
    expected: dict[str, tuple[int, ...]] = {"weight": (out_features, in_features)}
    if "bias" in shapes:
        expected["bias"] = (out_features,)
    return {"in_features": in_features, "out_features": out_features, "bias": "bias" in shapes}, expected


def _shown(shapes: Shapes) -> Iterable[str]:
    return (f"{name} {shape}" for name, shape in shapes.items())
