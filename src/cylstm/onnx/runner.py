"""An LSTM of a model, run as ONNX runs it: ``LSTM`` and ``load``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arrays.arguments import as_array
from ..arrays.packing import pack_padded_sequence, pad_packed_sequence
from ..backends.base import Backend
from ..files.modules import make_lstm
from ..files.names import not_computed
from ..nn.lstm import LSTM as Module
from .node import Found
from .reader import find


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
            raise ValueError(f"X must have three dimensions, got {X.ndim} of shape {X.shape}")
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
        if lengths is not None and B and not 1 <= lengths.min() <= lengths.max() <= T:
            raise RuntimeError(f"sequence_lens must be from 1 to T = {T}, the steps of X, got {lengths}")
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
            raise TypeError(f"{what} must be an array, got None: give what the model computes, or takes, as {stored!r}")
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
        raise ValueError(f"name must be that of an LSTM ({', '.join(map(repr, found))}), got {name!r}")
    if len(chosen) > 1:
        raise ValueError(
            f"the model must hold one LSTM, got {len(found)}: give the name of one: {', '.join(map(repr, found))}"
        )
    if chosen[0].refused:
        raise ValueError(not_computed(repr(chosen[0].name), chosen[0].refused))
    return LSTM(chosen[0], make_lstm(chosen[0].parameters, f"the LSTM {chosen[0].name!r}", backend=backend))


def _reversed(x: np.ndarray, lengths: np.ndarray | None) -> np.ndarray:
    """Each sequence (T, B, ...) from its own end; what is behind the end stays."""
    if lengths is None:
        return x[::-1]
    t = np.arange(len(x))[:, np.newaxis]
    return np.take_along_axis(x, np.where(t < lengths, lengths - 1 - t, t)[..., np.newaxis], axis=0)
