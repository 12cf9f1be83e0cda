"""Modules in files: ``save`` and ``load``. Sizes and options are inferred from the parameters' names and shapes."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays.arguments import DTYPES
from ..nn.cell import LSTMCell
from ..nn.linear import Linear
from ..nn.lstm import LSTM
from .container import (
    Contents,
    Tensor,
    read_npz,
    read_safetensors,
    write_npz,
    write_safetensors,
)

Module = LSTM | LSTMCell | Linear

#: Readers by extension: path → tensors under PyTorch's names, and metadata.
READERS: dict[str, Callable[[Path], Contents]] = {".safetensors": read_safetensors, ".npz": read_npz}
#: Writers by extension: path, names and arrays, metadata.
WRITERS: dict[str, Callable[[Path, Mapping[str, np.ndarray], Mapping[str, str]], None]] = {
    ".safetensors": write_safetensors,
    ".npz": write_npz,
}
#: Extensions whose bridge reads and writes, with its functions ``read`` and ``save``; imported when it is needed.
BRIDGES = {".onnx": "cylstm.onnx", ".keras": "cylstm.keras", ".h5": "cylstm.keras"}
_PICKLES = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"}

# How PyTorch names the parameters of each kind of module, after the prefix.
_NAMES = {
    "LSTM": re.compile(r"(.*?)((?:weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)_l\d{1,6}(?:_reverse)?)", re.DOTALL),
    "LSTMCell": re.compile(r"(.*?)(weight_ih|weight_hh|bias_ih|bias_hh)", re.DOTALL),
    "Linear": re.compile(r"(|.*\.)(weight|bias)", re.DOTALL),
}


def save(module: Module | Mapping[str, Module], path: str | os.PathLike[str]) -> None:
    """Write the parameters of a module to a file, under PyTorch's names.

    The file is written under a temporary name and moved into place: ``path`` never holds half a file. What names and
    shapes do not tell (``batch_first``, ``dropout``) goes into the file's metadata, from where :func:`load` takes it.

    Parameters
    ----------
    module : LSTM, LSTMCell, Linear, or a mapping of names to them
        With a mapping such as ``{"lstm": lstm, "head": linear}`` the parameters are named ``lstm.weight_ih_l0`` and
        so on, as in the ``state_dict`` of a PyTorch module that has these attributes.
    path : path-like
        ``.safetensors`` (``safetensors.torch.load_file`` reads it) or ``.npz`` (``numpy.load`` reads it). For one LSTM
        also ``.onnx`` (see :func:`cylstm.onnx.save`) or ``.weights.h5`` (see :func:`cylstm.keras.save`).

    Raises
    ------
    ValueError
        If the extension is another one, or the format does not know the dtype (safetensors: complex128) or the option
        (ONNX and Keras: ``proj_size``).

    See Also
    --------
    load
    """
    path = Path(path)
    if bridge := BRIDGES.get(path.suffix.lower()):
        importlib.import_module(bridge).save(module, path)
        return
    if path.suffix.lower() not in WRITERS:
        raise ValueError(
            f"expected a path that ends in {_either((*WRITERS, '.onnx', '.weights.h5'))}, got {str(path)!r}"
        )
    modules = {f"{name}.": one for name, one in module.items()} if isinstance(module, Mapping) else {"": module}
    tensors: dict[str, np.ndarray] = {}
    metadata: dict[str, str] = {}
    for prefix, one in modules.items():
        if not isinstance(one, Module):
            raise TypeError(f"expected an LSTM, LSTMCell or Linear, or names and these, got {type(one).__name__}")
        tensors |= {prefix + name: array for name, array in one.state_dict().items()}
        if isinstance(one, LSTM):
            metadata[f"{prefix}batch_first"] = str(one.batch_first).lower()
            metadata[f"{prefix}dropout"] = repr(float(one.dropout))
    WRITERS[path.suffix.lower()](path, tensors, metadata)


def load(
    path: str | os.PathLike[str],
    prefix: str = "",
    *,
    batch_first: bool | None = None,
    dropout: float | None = None,
    backend: object = None,
) -> Module:
    """Make a module from a file of parameters under PyTorch's names.

    ``input_size``, ``hidden_size``, ``num_layers``, ``bias``, ``bidirectional``, ``proj_size`` and the dtype are
    inferred from the names and shapes. Other tensors in the file are no error: the one LSTM among them is taken;
    without an LSTM the one LSTMCell (``weight_ih`` without a layer number); without either the one Linear (``weight``,
    ``bias``).

    Parameters
    ----------
    path : path-like
        ``.safetensors`` or ``.npz``, written by :func:`save`, by ``safetensors.torch.save_file(model.state_dict(),
        path)`` or by ``numpy.savez``; ``.onnx``, with the package onnx; ``.keras`` or ``.weights.h5``, with the package
        h5py. Nothing in the file is executed. bfloat16 becomes float32, which holds each of its values exactly.
    prefix : str
        Where the module is, as in the ``state_dict`` of the model: ``"encoder.lstm."`` or ``"encoder.lstm"``. The
        prefix of something that holds exactly one LSTM will do. In an ONNX file it is the name of the node, in a Keras
        file that of the layer.
    batch_first, dropout : optional
        Options that names and shapes do not tell. By default what :func:`save` has stored, else PyTorch's defaults.
    backend : optional
        As for :class:`LSTM`.

    Returns
    -------
    LSTM, LSTMCell or Linear
        In training mode, as each new module.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, of an unknown format or a pickle (``.pt``), if it holds no LSTM or several, if names,
        shapes and dtypes do not make a module, or if cylstm does not compute what the file asks for (other
        activations, say).
    ImportError
        If the package that reads the format is not installed.
    TypeError
        If ``prefix`` is no str, or ``batch_first``, ``dropout`` or ``backend`` is given and the module found does not
        have it.
    """
    path = Path(path)
    if not isinstance(prefix, str):
        raise TypeError(f"expected prefix to be a str, got {prefix!r} of type {type(prefix).__name__}")
    return make(read(path), path, prefix, batch_first=batch_first, dropout=dropout, backend=backend)


def make(
    contents: Contents,
    path: Path,
    prefix: str = "",
    *,
    batch_first: bool | None = None,
    dropout: float | None = None,
    backend: object = None,
) -> Module:
    """:func:`load` of what :func:`read` has read from the path."""
    kind, prefix, names = _choose(contents, prefix, path)
    tensors = {name: contents.tensors[prefix + name] for name in names}
    options: dict[str, object] = {"dtype": _dtype(tensors, path)}
    if kind == "LSTM":
        stored = _stored_options(contents.metadata, prefix, path)
        options["batch_first"] = stored.get("batch_first", False) if batch_first is None else batch_first
        options["dropout"] = stored.get("dropout", 0.0) if dropout is None else dropout
    elif batch_first is not None or dropout is not None:
        raise TypeError(f"batch_first and dropout are for an LSTM, and {path} holds a {kind} {_at(prefix)}")
    if backend is not None:
        if kind == "Linear":
            raise TypeError(f"backend is for an LSTM or LSTMCell, and {path} holds a Linear {_at(prefix)}")
        options["backend"] = backend
    return _make(kind, tensors, options, f"{path}: the {kind} {_at(prefix)}")


def read(path: Path) -> Contents:
    """The tensors and metadata of a file, by the reader for its extension."""
    if not path.exists():
        raise FileNotFoundError(f"no such file: {str(path)!r}")
    extension = path.suffix.lower()
    if extension in _PICKLES:
        raise ValueError(
            f"{path} is a pickle, which can run any code when it is read, so cylstm does not read it. Convert it once, "
            f"where PyTorch is: from safetensors.torch import save_file; "
            f"save_file(torch.load({path.name!r}, weights_only=True), {path.stem + '.safetensors'!r})"
        )
    if bridge := BRIDGES.get(extension):
        contents: Contents = importlib.import_module(bridge).read(path)
        return contents
    if extension not in READERS:
        raise ValueError(f"expected a file that ends in {_either((*READERS, *BRIDGES))}, got {str(path)!r}")
    return READERS[extension](path)


def find_modules(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, list[str]]]:
    """What could be made from the tensors: kind → prefix → names after the prefix.

    The kinds are LSTM, LSTMCell and Linear; "other" are recurrent layers that are not LSTMs.
    """
    found: dict[str, dict[str, list[str]]] = {kind: {} for kind in (*_NAMES, "other")}
    for full_name in tensors:
        for kind, pattern in _NAMES.items():
            if match := pattern.fullmatch(full_name):
                found[kind].setdefault(match[1], []).append(match[2])
    for kind, suffix in (("LSTM", "_l0"), ("LSTMCell", "")):
        for prefix, names in list(found[kind].items()):
            if f"weight_hr{suffix}" not in names and _gate_count(tensors.get(f"{prefix}weight_hh{suffix}")) in (1, 3):
                found["other"][prefix] = found[kind].pop(prefix)  # an RNN or a GRU
    for prefix in list(found["Linear"]):
        weight = tensors.get(f"{prefix}weight")
        if weight is None or len(weight.shape) != 2:  # a convolution, a norm …
            del found["Linear"][prefix]
    return found


def _gate_count(weight_hh: Tensor | None) -> int | None:
    """4 for an LSTM without projection, 3 for a GRU, 1 for an RNN."""
    if weight_hh is None or len(weight_hh.shape) != 2:
        return None
    rows, columns = weight_hh.shape
    return rows // columns if columns and rows % columns == 0 else None


def _choose(contents: Contents, prefix: str, path: Path) -> tuple[str, str, list[str]]:
    """Kind, prefix and names of the one module that is meant."""
    found = find_modules(contents.tensors)
    exact, inside = {prefix, f"{prefix}."}, prefix if prefix.endswith(".") or not prefix else f"{prefix}."
    found["LSTM"] |= {refused: [] for refused in contents.refused}
    for kind in _NAMES:
        candidates = {p: names for p, names in found[kind].items() if p in exact}
        candidates = candidates or {p: names for p, names in found[kind].items() if p.startswith(inside)}
        if len(candidates) > 1:
            prefixes = _listed(map(repr, candidates))
            raise ValueError(f"{path} holds {len(candidates)} {kind}s: give the prefix of one of them: {prefixes}")
        if candidates:
            [(found_prefix, names)] = candidates.items()
            if found_prefix in contents.refused:
                raise ValueError(f"{path}: the LSTM {_at(found_prefix)} {contents.refused[found_prefix]}")
            return kind, found_prefix, names
    there = [f"{kind} {_at(p)}" for kind in _NAMES for p in found[kind]]
    there += [f"an RNN or GRU, not an LSTM, {_at(p)}" for p in found["other"]]
    there += [f"{what}, {_at(p)}" for p, what in contents.others.items()]
    if not there:
        there = [f"{name} {tensor.shape}" for name, tensor in contents.tensors.items()]
    where = f" under the prefix {prefix!r}" if prefix else ""
    raise ValueError(f"{path} holds no LSTM, LSTMCell or Linear{where}. What is there: {_listed(there) or 'nothing'}")


def _stored_options(metadata: Mapping[str, str], prefix: str, path: Path) -> dict[str, object]:
    """batch_first and dropout from the metadata that ``save`` writes, of those that are there."""
    options: dict[str, object] = {}
    if (text := metadata.get(f"{prefix}batch_first")) is not None:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{path}: expected {prefix}batch_first to be true or false, got {text!r:.50}")
        options["batch_first"] = text.lower() == "true"
    if (text := metadata.get(f"{prefix}dropout")) is not None:
        try:
            options["dropout"] = float(text)
        except ValueError:
            raise ValueError(f"{path}: expected {prefix}dropout to be a number, got {text!r:.50}") from None
    return options


def _dtype(tensors: Mapping[str, Tensor], path: Path | str) -> str:
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if len(dtypes) > 1:
        raise ValueError(f"{path}: expected parameters of one dtype, got {_listed(sorted(dtypes))}: convert them first")
    [dtype] = dtypes
    if dtype not in DTYPES:
        raise ValueError(f"{path}: expected parameters of {_either(DTYPES)}, got {dtype}")
    return dtype


def _make(kind: str, tensors: Mapping[str, Tensor], options: Mapping[str, Any], what: str) -> Module:
    """The module of these parameters. Everything is checked before anything is allocated."""
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    cls, infer = {
        "LSTM": (LSTM, _lstm_from_shapes),
        "LSTMCell": (LSTMCell, _cell_from_shapes),
        "Linear": (Linear, _linear_from_shapes),
    }[kind]
    try:
        sizes, expected = infer(shapes)
    except (KeyError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else "weights must have two dimensions"
        raise ValueError(f"{what} cannot be sized: {reason}. What is there: {_listed(_shown(shapes))}") from None
    if shapes != expected:
        wrong = {name: shape for name, shape in shapes.items() if expected.get(name) != shape}
        wanted = {name: shape for name, shape in expected.items() if shapes.get(name) != shape}
        raise ValueError(
            f"{what} does not fit together. With {_listed(f'{name}={size}' for name, size in sizes.items())}, "
            f"expected {_listed(_shown(wanted)) or 'nothing more'}; got {_listed(_shown(wrong)) or 'none of them'}"
        )
    if not all(all(shape) for shape in shapes.values()):
        raise ValueError(f"{what} is empty: {_listed(_shown(shapes))}")
    return cls._of(((name, tensors[name].read()) for name in expected), **sizes, **options)


def as_tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Arrays as tensors of a file."""
    return {name: Tensor(array.dtype.name, array.shape, partial(np.asarray, array)) for name, array in arrays.items()}


def make_lstm(parameters: Mapping[str, np.ndarray], what: str, **options: object) -> LSTM:
    """The LSTM of these parameters under PyTorch's names; ``what`` it is stands in the message of a ValueError."""
    tensors = as_tensors(parameters)
    lstm = _make("LSTM", tensors, {"dtype": _dtype(tensors, what), **options}, what)
    assert isinstance(lstm, LSTM)
    return lstm


Shapes = Mapping[str, tuple[int, ...]]


def _lstm_from_shapes(shapes: Shapes) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Arguments of an LSTM, and the shapes that its parameters have then."""
    _, input_size = shapes["weight_ih_l0"]
    rows, columns = shapes["weight_hh_l0"]
    hidden_size = rows // 4
    projection = any(name.startswith("weight_hr") for name in shapes)
    recurrent_size = columns if projection else hidden_size
    layers = {int(name.removesuffix("_reverse").rpartition("_l")[2]) for name in shapes}
    sizes = {
        "input_size": input_size,
        "hidden_size": hidden_size,
        "num_layers": min(max(layers) + 1, len(shapes)),  # a number that leaves a gap shows as a name too many
        "bias": any(name.startswith("bias") for name in shapes),
        "bidirectional": any(name.endswith("_reverse") for name in shapes),
        "proj_size": recurrent_size if projection else 0,
    }
    suffixes = ["", "_reverse"] if sizes["bidirectional"] else [""]
    expected: dict[str, tuple[int, ...]] = {}
    for layer in range(sizes["num_layers"]):
        of_layer = input_size if layer == 0 else recurrent_size * len(suffixes)
        for suffix in suffixes:
            expected[f"weight_ih_l{layer}{suffix}"] = (4 * hidden_size, of_layer)
            expected[f"weight_hh_l{layer}{suffix}"] = (4 * hidden_size, recurrent_size)
            if sizes["bias"]:
                expected[f"bias_ih_l{layer}{suffix}"] = expected[f"bias_hh_l{layer}{suffix}"] = (4 * hidden_size,)
            if projection:
                expected[f"weight_hr_l{layer}{suffix}"] = (recurrent_size, hidden_size)
    return sizes, expected


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
    return {"input_size": input_size, "hidden_size": hidden_size, "bias": bias}, expected


def _linear_from_shapes(shapes: Shapes) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Arguments of a Linear, and the shapes that its parameters have then."""
    out_features, in_features = shapes["weight"]
    expected: dict[str, tuple[int, ...]] = {"weight": (out_features, in_features)}
    if "bias" in shapes:
        expected["bias"] = (out_features,)
    return {"in_features": in_features, "out_features": out_features, "bias": "bias" in shapes}, expected


def _shown(shapes: Shapes) -> Iterable[str]:
    return (f"{name} {shape}" for name, shape in shapes.items())


def _either(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def _listed(texts: Iterable[str], at_most: int = 20) -> str:
    texts = list(texts)
    return ", ".join(texts[:at_most]) + (f" and {len(texts) - at_most} more" if len(texts) > at_most else "")


def _at(prefix: str) -> str:
    return f"under the prefix {prefix!r}" if prefix else "without a prefix"
