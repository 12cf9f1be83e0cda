"""From :class:`cylstm.LSTM` to Keras's layers and files: ``from_lstm`` and ``save``."""

from __future__ import annotations

import os

from ..nn.lstm import LSTM as Module
from ..nn.options import refuse
from .files.contents import weights_path, write_weights
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
