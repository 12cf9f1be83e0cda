"""The file formats by extension: ``save`` and ``load``.

This module alone knows all of them. A new format is a module that reads and writes, and a line of :data:`FORMATS`. The
bridges to other systems' files are imported when they are needed.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..words import quoted
from . import checkpoint, npz, safetensors, sharded
from .container import Contents, existing
from .modules import Savable, make, parameters_of, put_together
from .names import either


class Format(NamedTuple):
    """How files with one extension are read and written."""

    read: Callable[[Path], Contents]
    save: Callable[[Any, Path], None]
    written: str = ""  # the end of a path that is written; empty where such files are only read


def _saving(write: Callable[[Path, Mapping[str, np.ndarray], Mapping[str, str]], None]) -> Callable[[Any, Path], None]:
    """What writes modules, for a format that holds any names, arrays and metadata."""
    return lambda module, path: write(path, *parameters_of(module))


def _read_onnx(path: Path) -> Contents:
    from ..onnx.reader import read

    return read(path)


def _save_onnx(module: Any, path: Path) -> None:
    from ..onnx.writer import save

    save(module, path)


def _read_keras(path: Path) -> Contents:
    from ..keras.lstms import read

    return read(path)


def _save_keras(module: Any, path: Path) -> None:
    from ..keras.convert import save

    save(module, path)


FORMATS = {
    ".safetensors": Format(safetensors.read, _saving(safetensors.write), ".safetensors"),
    ".npz": Format(npz.read, _saving(npz.write), ".npz"),
    ".onnx": Format(_read_onnx, _save_onnx, ".onnx"),
    ".keras": Format(_read_keras, _save_keras),
    ".h5": Format(_read_keras, _save_keras, ".weights.h5"),
    ".hdf5": Format(_read_keras, _save_keras),
}
#: The usual ones of PyTorch's checkpoints. They have others too, or none: the content tells.
_CHECKPOINTS = {".pt", ".pth", ".ckpt", ".th", ".bin", ".pkl", ".pickle"}


def save(module: Savable | Mapping[str, Savable], path: str | os.PathLike[str]) -> None:
    """Write the parameters of a module to a file, under PyTorch's names.

    The file is written under a temporary name and moved into place: ``path`` never holds half a file. What names and
    shapes do not tell (``batch_first``, ``dropout``, options) goes into the file's metadata, from where :func:`load`
    takes it; ``precision`` does so in ``.safetensors`` and ``.npz``.

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
        (ONNX: ``proj_size``, ``cell_clip``; Keras's weights: all that Keras's own LSTM lacks).

    See Also
    --------
    load
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        endings = either(filter(None, (one.written for one in FORMATS.values())))
        raise ValueError(f"path must end in {endings}, got {str(path)!r}")
    FORMATS[path.suffix.lower()].save(module, path)


def load(
    path: str | os.PathLike[str],
    prefix: str = "",
    *,
    batch_first: bool | None = None,
    dropout: float | None = None,
    backend: object = None,
    precision: str | None = None,
) -> Savable:
    """Make a module from a file of parameters under PyTorch's names.

    ``input_size``, ``hidden_size``, ``num_layers``, ``bias``, ``bidirectional``, ``proj_size`` and the dtype are
    inferred from the names and shapes. Other tensors in the file are no error: the one LSTM among them is taken;
    without an LSTM the one LSTMCell (``weight_ih`` without a layer number); without either the one Linear (``weight``,
    ``bias``).

    Parameters
    ----------
    path : path-like
        ``.safetensors`` or ``.npz``, written by :func:`save`, by ``safetensors.torch.save_file(model.state_dict(),
        path)`` or by ``numpy.savez``; what ``torch.save`` has written (``.pt``, ``.pth``, ``.ckpt``, ``.bin``, another
        extension or none), without PyTorch; the index ``.safetensors.index.json`` of a model in several files;
        ``.onnx``, with the package onnx; ``.keras``, ``.weights.h5``, ``.h5`` or ``.hdf5`` of Keras, with the package
        h5py. Nothing in the file is executed. bfloat16 becomes float32, which holds each of its values exactly; but a
        frozen module comes back frozen, and an LSTM that ONNX Runtime has quantised too. Parameters that PyTorch
        computes from others (``weight_norm``, ``spectral_norm``, ``prune``) are put together.
    prefix : str
        Where the module is, as in the ``state_dict`` of the model: ``"encoder.lstm."`` or ``"encoder.lstm"``. The
        prefix of something that holds exactly one LSTM will do. What stands before it in a checkpoint
        (``"state_dict."``, ``"model."``, ``"module."``) may be left out. In an ONNX file it is the name of the node,
        in a Keras file that of the layer.
    batch_first, dropout : optional
        Options that names and shapes do not tell. By default what :func:`save` has stored, else PyTorch's defaults.
    backend : optional
        As for :class:`LSTM`.
    precision : optional
        As for :class:`LSTM`; by default what :func:`save` has stored of a module that was given one.

    Returns
    -------
    LSTM, LSTMCell or Linear
        In evaluation mode, without dropout: what is loaded is run. ``.train()`` to train it further.

    Warns
    -----
    UserWarning
        If the file does not tell the options of the module, as Keras's files of weights alone do not: it says which are
        taken.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged or of an unknown format, if it holds no LSTM or several, or one inside a pickled module,
        which is code (the message has the lines that convert it), if names, shapes and dtypes do not make a module, or
        if cylstm does not compute what the file asks for (a GRU, say).
    ImportError
        If the package that reads the format is not installed.
    TypeError
        If ``prefix`` is no str, or ``batch_first``, ``dropout`` or ``backend`` is given and the module found does not
        have it.
    """
    path = Path(path)
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be a str, got {quoted(prefix)} of type {type(prefix).__name__}")
    contents = read(path)
    options: dict[str, Any] = {"batch_first": batch_first, "dropout": dropout, "backend": backend}
    module = make(contents, path, prefix, precision=precision, **options)
    if contents.assumed:
        warnings.warn(f"{path}: {contents.assumed}", UserWarning, stacklevel=2)
    return module


def read(path: Path) -> Contents:
    """The tensors and metadata of a file; those that a model computes of others are put together."""
    return put_together(_read(path))


def _read(path: Path) -> Contents:
    """The tensors and metadata of a file, by the reader for its extension or content."""
    path = existing(path)
    extension = path.suffix.lower()
    if path.name.lower().endswith(sharded.ENDING):
        return sharded.read(path, _read)
    if extension in _CHECKPOINTS or (extension not in FORMATS and checkpoint.is_checkpoint(path)):
        return checkpoint.read(path)
    if extension not in FORMATS:
        raise ValueError(
            f"path must end in {either([*FORMATS, *sorted(_CHECKPOINTS), sharded.ENDING])}, or be a checkpoint of "
            f"PyTorch, got {str(path)!r}"
        )
    return FORMATS[extension].read(path)
