"""One time step at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._arguments import as_array
from .layout import Layout, contiguous

if TYPE_CHECKING:
    from .lstm import LSTM


class Stream:
    """An LSTM fed one time step at a time; made by `LSTM.stream`.

    ``h = stream(x_t)`` gives what ``lstm(x, state)`` gives for that step, and carries the state to the next call. A
    change of the module's parameters is seen by the next step. A stream belongs to one thread at a time.

    Parameters
    ----------
    lstm : LSTM
        Not bidirectional.
    batch_size : int
        Number B of sequences that run side by side.

    Raises
    ------
    TypeError, ValueError
        If batch_size is no positive int, or the module is bidirectional: its second direction begins at the end.

    Examples
    --------
    >>> import cylstm
    >>> stream = cylstm.LSTM(input_size=3, hidden_size=5).stream()
    >>> for x_t in cylstm.randn(7, 3):
    ...     h = stream(x_t)
    >>> h.shape
    (5,)
    """

    _h: np.ndarray  # (L, B, R)
    _c: np.ndarray  # (L, B, H)

    def __init__(self, lstm: LSTM, batch_size: int = 1) -> None:
        if not isinstance(batch_size, (int, np.integer)) or isinstance(batch_size, bool):
            raise TypeError(f"batch_size must be an int, got {batch_size!r} of type {type(batch_size).__name__}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be greater than zero, got {batch_size}")
        if lstm.bidirectional:
            raise ValueError(
                "a bidirectional LSTM cannot run one step at a time, for its second direction begins at the last step: "
                "call the module on whole sequences"
            )
        self.batch_size = int(batch_size)
        self._lstm = lstm
        self._layout = Layout(1, self.batch_size)
        self.reset()

    def __repr__(self) -> str:
        return f"Stream({self._lstm!r}, batch_size={self.batch_size})"

    def __call__(self, x_t: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Take one step.

        Parameters
        ----------
        x_t : array
            (B, I), or (I,) where B is 1; of the module's dtype.
        out : numpy.ndarray, optional
            Where to write the output, of its shape and dtype.

        Returns
        -------
        numpy.ndarray
            The output of the last layer, (B, R), or (R,) for an input (I,). It is `out`, or else a new array.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            If x_t or out has another shape or dtype than expected. The state is as before then.
        """
        lstm = self._lstm
        plan = lstm._plan(lstm._store.snapshot, training=False)
        if type(x_t) is not np.ndarray or x_t.dtype != plan.dtype:
            x_t = as_array(x_t, "x_t")
        B, I = self.batch_size, lstm.input_size
        if x_t.shape != (B, I) and not (B == 1 and x_t.shape == (I,)):
            raise RuntimeError(f"x_t must have shape {(B, I)}{f' or {(I,)}' if B == 1 else ''}, got {x_t.shape}")
        if x_t.dtype != plan.dtype:
            raise ValueError(
                f"x_t dtype ({x_t.dtype}) does not match weight dtype ({plan.dtype}): use .astype({plan.dtype.name!r})"
            )
        if self._h.dtype != plan.dtype:
            raise RuntimeError(
                f"the module's dtype is now {plan.dtype}, but the state has {self._h.dtype}: call reset(), or set state"
            )
        shape = (*x_t.shape[:-1], self._h.shape[2])
        if out is not None:
            self._check_out(out, shape, plan.dtype)
        rows, h_n, c_n, _ = lstm._run(
            plan, self._layout.batch_sizes, contiguous(x_t.reshape(B, I)), self._h, self._c, "nothing"
        )
        self._h, self._c = h_n, c_n
        if out is None:
            return rows.reshape(shape)
        out[...] = rows.reshape(shape)
        return out

    @property
    def state(self) -> tuple[np.ndarray, np.ndarray]:
        """(h, c) after the last step, (L, B, R) and (L, B, H), as copies. Assign a pair to go on from there."""
        return self._h.copy(), self._c.copy()

    @state.setter
    def state(self, hx: Any) -> None:
        lstm = self._lstm
        h, c = lstm._checked_states(hx, self._layout, lstm.dtype)
        self._h, self._c = h.copy(), c.copy()

    def reset(self) -> None:
        """Set the state to zeros, as at the beginning of a sequence."""
        h_shape, c_shape = self._lstm._state_shapes(self._layout)
        self._h, self._c = np.zeros(h_shape, self._lstm.dtype), np.zeros(c_shape, self._lstm.dtype)

    @staticmethod
    def _check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype) -> None:
        if not isinstance(out, np.ndarray):
            raise TypeError(f"out must be a numpy.ndarray, got {type(out).__name__}")
        if out.shape != shape or out.dtype != dtype or not out.flags.writeable:
            access = "writable" if out.flags.writeable else "read-only"
            raise ValueError(
                f"out must be a writable array of shape {shape} and dtype {dtype}, "
                f"got a {access} one of shape {out.shape} and dtype {out.dtype}"
            )
