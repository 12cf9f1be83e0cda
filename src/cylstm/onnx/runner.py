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
from ..words import listed, quoted
from .node import Found
from .reader import find
from .states import Computed, resolved


class LSTM:
    """An LSTM as ONNX runs it: its arguments, shapes and results. Made by :func:`load`.

    Attributes
    ----------
    module : cylstm.LSTM
        What computes; ``batch_first`` is False.
    name, direction, layout
        As in the model.
    states : dict
        What the model gives as ``sequence_lens``, ``initial_h`` and ``initial_c``: None, a constant array, something
        that it derives from the sizes of X, the name of an input, or what it computes; of stacked nodes a tuple.
    """

    def __init__(self, found: Found, module: Module) -> None:
        self.name, self.direction, self.layout = found.name, found.direction, found.layout
        self.module, self.states = module, found.states

    def __repr__(self) -> str:
        more = "" if self.direction != "reverse" else ", direction='reverse'"
        inner = repr(self.module).partition("(")[2].removesuffix(")")
        return f"{type(self).__name__}({inner}{more}, layout={self.layout})"

    def __call__(
        self, X: Any, sequence_lens: Any = None, initial_h: Any = None, initial_c: Any = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Run the node, or the nodes of stacked layers.

        Parameters
        ----------
        X : array
            (T, B, I), or (B, T, I) with layout 1.
        sequence_lens : array of int, optional
            (B,), from 0 to T. What comes of a sequence without a step is zero.
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
        states = self._states(X.shape, sequence_lens, initial_h, initial_c)
        lengths, h_0, c_0 = states["sequence_lens"], states["initial_h"], states["initial_c"]
        if self.layout:
            X = X.swapaxes(0, 1)
            h_0, c_0 = (None if state is None else state.swapaxes(0, 1) for state in (h_0, c_0))
        T, B, _ = X.shape
        if lengths is not None:
            _check_lengths(lengths, T, B)
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
            output, h_n, c_n = self._of_lengths(X, lengths, hx)
        if self.direction == "reverse":
            output = _reversed(output, lengths)
        Y = output.reshape(T, B, -1, self.module.hidden_size).swapaxes(1, 2)
        if not self.layout:
            return Y, h_n, c_n
        return Y.transpose(2, 0, 1, 3), h_n.swapaxes(0, 1), c_n.swapaxes(0, 1)

    def _of_lengths(self, X: np.ndarray, lengths: np.ndarray, hx: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Output, h_n and c_n. Those of a sequence without a step are zero, as ONNX Runtime gives them."""
        T, B, _ = X.shape
        some = lengths > 0
        D, H, L = 2 if self.module.bidirectional else 1, self.module.hidden_size, self.module.num_layers
        output = np.zeros((T, B, D * H), self.module.dtype)
        h_n, c_n = (np.zeros((L * D, B, H), self.module.dtype) for _ in "hc")
        if not some.any():
            return output, h_n, c_n
        rows, its_hx = X[:, some], None if hx is None else (hx[0][:, some], hx[1][:, some])
        packed, (h_some, c_some) = self.module(pack_padded_sequence(rows, lengths[some], enforce_sorted=False), its_hx)
        output[:, some], _ = pad_packed_sequence(packed, total_length=T)
        h_n[:, some], c_n[:, some] = h_some, c_some
        return output, h_n, c_n

    def _states(self, shape: tuple[int, ...], *given: Any) -> dict[str, np.ndarray | None]:
        """The states of a call: those given, or the model's own for an X of this shape."""
        names = ("sequence_lens", "initial_h", "initial_c")
        D, H, L = 2 if self.module.bidirectional else 1, self.module.hidden_size, self.module.num_layers
        B = shape[0 if self.layout else 1]
        axis = 1 if self.layout else 0
        states: dict[str, np.ndarray | None] = {}
        for what, value in zip(names, given, strict=True):
            stored = self.states[what]
            if value is None and isinstance(stored, (str, Computed)):
                name = stored if isinstance(stored, str) else stored.name
                raise TypeError(
                    f"{what} must be an array, got None: give what the model computes, or takes, as {quoted(name)}"
                )
            if value is None and isinstance(stored, tuple):
                zeros = np.zeros((B, D, H) if self.layout else (D, B, H), self.module.dtype)
                each = [zeros if one is None else resolved(one, shape) for one in stored]
                if wrong := next((one.shape for one in each if one.shape != zeros.shape), None):
                    raise RuntimeError(
                        f"{what} of each layer must have shape {zeros.shape}, got {wrong} from the model"
                    )
                value = np.concatenate(each, axis)
            elif value is None:
                value = resolved(stored, shape)
            states[what] = None if value is None else as_array(value, what)
            wanted = (B, L * D, H) if self.layout else (L * D, B, H)
            if what != "sequence_lens" and value is not None and states[what].shape != wanted:  # type: ignore[union-attr]
                raise RuntimeError(f"{what} must have shape {wanted}, got {states[what].shape}")  # type: ignore[union-attr]
        return states


def _check_lengths(lengths: np.ndarray, T: int, B: int) -> None:
    if lengths.shape != (B,):
        raise ValueError(f"sequence_lens must have shape ({B},), got {lengths.shape}")
    if lengths.dtype.kind not in "iu":
        raise TypeError(f"sequence_lens must be of integers, got {lengths.dtype}: use .astype(numpy.int32)")
    if B and not (lengths.min() >= 0 and lengths.max() <= T):
        raise ValueError(f"sequence_lens must be from 0 to {T}, the steps of X, got {lengths.min()} to {lengths.max()}")


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
        raise ValueError(f"name must be that of an LSTM ({listed(map(repr, found))}), got {quoted(name)}")
    if len(chosen) > 1:
        raise ValueError(
            f"the model must hold one LSTM, got {len(found)}: give the name of one: {listed(map(repr, found))}"
        )
    if chosen[0].refused:
        raise ValueError(not_computed(repr(chosen[0].name), chosen[0].refused))
    [one] = chosen
    return LSTM(one, make_lstm(one.parameters, f"the LSTM {quoted(one.name)}", backend=backend, **one.options))


def _reversed(x: np.ndarray, lengths: np.ndarray | None) -> np.ndarray:
    """Each sequence (T, B, ...) from its own end; what is behind the end stays."""
    if lengths is None:
        return x[::-1]
    t = np.arange(len(x))[:, np.newaxis]
    return np.take_along_axis(x, np.where(t < lengths, lengths - 1 - t, t)[..., np.newaxis], axis=0)
