"""One time step at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from ..arrays.arguments import as_array, check_place
from ..arrays.homes import at_home, lent
from ..arrays.layout import Layout, contiguous
from ..backends import registry
from ..backends.base import Stepper
from ..backends.cython_backend.threads import get_num_threads
from .dispatch import Choice
from .parameters import ParameterStore, Snapshot
from .stack import Stack


class Streamable(Protocol):
    """What a stream needs of the LSTM whose steps it takes."""

    bidirectional: bool
    dropout: float
    training: bool
    _stack: Stack
    _store: ParameterStore

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the parameters."""

    def _choice(self, snapshot: Snapshot, *, training: bool) -> Choice: ...

    def _masks(self, rows: np.ndarray) -> Iterable[np.ndarray]: ...


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
    hx : tuple of two arrays, optional
        The state (h, c) from which to go on, as `state` takes it. Zeros by default.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        If batch_size is no positive int, hx is no state of this module, or the module is bidirectional: its second
        direction begins at the end.

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

    def __init__(self, lstm: Streamable, batch_size: int = 1, *, hx: tuple[Any, Any] | None = None) -> None:
        if not isinstance(batch_size, (int, np.integer)) or isinstance(batch_size, bool):
            raise TypeError(f"batch_size must be an int, got {batch_size!r} of type {type(batch_size).__name__}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be greater than zero, got {batch_size}")
        if lstm.bidirectional:
            raise ValueError(
                "bidirectional must be False for a stream, got True, and the second direction begins at the last step: "
                "call the module on whole sequences"
            )
        self.batch_size = int(batch_size)
        self._lstm = lstm
        self._layout = Layout(1, self.batch_size)
        B, I, R = self.batch_size, lstm._stack.input_size, lstm._stack.output_size
        self._shapes = {(B, I): (B, R), (I,): (R,)} if B == 1 else {(B, I): (B, R)}  # of x_t: of the output
        # With what the last step was taken: parameters (a module's attributes are found slowly), backend, its stepper
        self._store: ParameterStore | None = None
        self._version = -1
        self._choice: Any = None
        self._selection: object = None
        self._stepper: Stepper | None = None  # holds the state, where the backend has one
        self.reset()
        if hx is not None:
            self._assign(hx, "hx")

    def __repr__(self) -> str:
        return f"Stream({self._lstm!r}, batch_size={self.batch_size})"

    def __getstate__(self) -> dict[str, Any]:
        """Module and state alone, for pickle and copy: the stepper is made anew at the next step."""
        h, c = self.state
        made_anew = dict.fromkeys(("_store", "_choice", "_selection", "_stepper"))
        return {**self.__dict__, **made_anew, "_h": h, "_c": c}

    def __call__(self, x_t: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Take one step.

        Parameters
        ----------
        x_t : array
            (B, I), or (I,) where B is 1; of the module's dtype. Where it lies on a GPU, so do the output and, from
            then on, the state.
        out : numpy.ndarray, optional
            Where to write the output, of its shape and dtype; where the input lies.

        Returns
        -------
        numpy.ndarray
            The output of the last layer, (B, R), or (R,) for an input (I,). It is `out`, or else a new array.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            If x_t or out has another shape or dtype than expected. The state is as before then.
        """
        store = self._store
        if (
            store is None
            or store.snapshot.version != self._version
            or store.unlocked_by is not None
            or registry.selection() is not self._selection
        ):
            self._refresh()
        stepper = self._stepper
        if stepper is not None and not (self._lstm.dropout > 0 and self._lstm.training):
            h_t = stepper.step(x_t, out, 1 if stepper.serial else get_num_threads())
            if h_t is not None:
                return h_t
        return self._step_checked(x_t, out)

    @at_home
    def _step_checked(self, x_t: Any, out: np.ndarray | None) -> np.ndarray:
        """Check and convert the arrays, then take the step."""
        lstm, choice, stepper = self._lstm, self._choice, self._stepper
        if type(x_t) is not np.ndarray:
            x_t = as_array(x_t, "x_t", choice.cuda)
        shape = self._shapes.get(x_t.shape)
        if shape is None:
            raise RuntimeError(f"x_t must have shape {' or '.join(map(str, self._shapes))}, got {x_t.shape}")
        if x_t.dtype != choice.dtype:
            x_t = as_array(x_t, "x_t", choice.cuda)  # in native byte order
        if x_t.dtype != choice.dtype:
            raise ValueError(
                f"x_t dtype ({x_t.dtype}) does not match weight dtype ({choice.dtype}): "
                f"use .astype({choice.dtype.name!r})"
            )
        if out is not None:
            self._check_out(out, shape, choice.dtype, type(x_t))
        if stepper is None or (lstm.training and lstm.dropout > 0):
            x_t = contiguous(x_t.reshape(self.batch_size, lstm._stack.input_size))
            h, c = self._state_beside(x_t)
            masks = lstm._masks(x_t)
            rows, h, c, _ = lstm._stack.forward(choice, self._layout.batch_sizes, x_t, h, c, "nothing", masks)
            self._begin_with(h.copy(), c.copy())  # h may be a part of the rows, which the caller gets
            h_t = rows.reshape(shape)
        else:
            result = stepper.step(contiguous(x_t), None, get_num_threads())
            if result is None:
                raise RuntimeError(f"the stepper of backend {choice.backend.name!r} refuses x_t of shape {x_t.shape}")
            h_t = result
        if out is None:
            return h_t
        out[...] = h_t
        return out

    def _refresh(self) -> None:
        """Take the state along to the parameters and the backend that are in force now."""
        store = self._lstm._store
        snapshot = store.snapshot
        choice = self._lstm._choice(snapshot, training=False)
        if choice is not self._choice:
            if self._dtype != choice.dtype:
                raise RuntimeError(
                    f"state must have the module's dtype {choice.dtype}, got {self._dtype}: call reset(), or set state"
                )
            h, c = self.state
            stepper = choice.backend.stepper(choice.layers, batch_size=self.batch_size)
            if stepper is not None:
                _set_state(stepper, h, c)
            # The new stepper has the state: only now it takes over, the choice last.
            self._h, self._c = h, c
            self._stepper = stepper
            self._choice, self._selection = choice, choice.selection
        self._store, self._version = store, snapshot.version

    @property
    def state(self) -> tuple[np.ndarray, np.ndarray]:
        """(h, c) after the last step, (L, B, R) and (L, B, H), as copies. Assign a pair to go on from there.

        Where B is 1, the axis B may be left out, as in the states of an unbatched call.
        """
        if self._stepper is None:
            return self._h.copy(), self._c.copy()
        if hasattr(self._stepper, "state"):  # a `DeviceStepper`, which knows on which side the frames lie
            return self._stepper.state()
        h, c = np.empty_like(self._h), np.empty_like(self._c)
        self._stepper.get_state(h, c)
        return h, c

    @state.setter
    def state(self, hx: Any) -> None:
        self._assign(hx, "state")

    def _state_beside(self, x_t: Any) -> tuple[Any, Any]:
        """The state where a frame lies; it stays there for the steps that follow."""
        on_gpu, stepper = not isinstance(x_t, np.ndarray), self._stepper
        if stepper is not None and hasattr(stepper, "state"):
            return stepper.state(on_gpu)
        h, c = self.state
        return (h, c) if on_gpu != isinstance(h, np.ndarray) else (_moved(h, x_t), _moved(c, x_t))

    def _assign(self, hx: Any, name: str) -> None:
        """Go on from a pair of arrays, which messages call by this name."""
        if not isinstance(hx, (tuple, list)) or len(hx) != 2:
            got = f"{len(hx)} of them" if isinstance(hx, (tuple, list)) else type(hx).__name__
            raise TypeError(f"{name} must be a tuple of two arrays (h, c), got {got}")
        with lent(hx):
            self._begin_with_copies(hx, name)

    def _begin_with_copies(self, hx: Any, name: str) -> None:
        lstm = self._lstm
        cuda = lstm._choice(lstm._store.snapshot, training=False).cuda
        h, c = as_array(hx[0], f"{name}[0]", cuda), as_array(hx[1], f"{name}[1]", cuda)
        if self.batch_size == 1 and h.ndim == c.ndim == 2:
            h, c = h[:, np.newaxis], c[:, np.newaxis]
        h_shape, c_shape = lstm._stack.state_shapes(self._layout)
        if (h.shape, c.shape) != (h_shape, c_shape) or h.dtype != lstm.dtype or c.dtype != lstm.dtype:
            raise RuntimeError(
                f"{name} must be h of shape {h_shape} and c of shape {c_shape}, of dtype {lstm.dtype}, for a stream of "
                f"batch_size={self.batch_size}, got shapes {h.shape} and {c.shape}, dtypes {h.dtype} and {c.dtype}"
            )
        if cuda:
            check_place(c, "c", not isinstance(h, np.ndarray))
        self._begin_with(h.copy(), c.copy())

    def reset(self) -> None:
        """Set the state to zeros, as at the beginning of a sequence."""
        h_shape, c_shape = self._lstm._stack.state_shapes(self._layout)
        dtype = self._lstm.dtype
        self._begin_with(np.zeros(h_shape, dtype), np.zeros(c_shape, dtype))

    def _begin_with(self, h: np.ndarray, c: np.ndarray) -> None:
        """Take over a state in the dtype that the module has now."""
        if self._choice is not None and self._choice.dtype != h.dtype:
            self._store = self._choice = self._stepper = None
        if self._stepper is not None:
            _set_state(self._stepper, h, c)
        self._dtype, self._h, self._c = h.dtype, h, c

    @staticmethod
    def _check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype, kind: Any) -> None:
        if not isinstance(out, kind):
            raise TypeError(f"out must be a {kind.__module__}.{kind.__name__}, got {type(out).__name__}")
        writeable = kind is not np.ndarray or out.flags.writeable  # CuPy's always are
        if out.shape != shape or out.dtype != dtype or not writeable:
            access = "writable" if writeable else "read-only"
            raise ValueError(
                f"out must be a writable array of shape {shape} and dtype {dtype}, "
                f"got a {access} one of shape {out.shape} and dtype {out.dtype}"
            )


def _set_state(stepper: Stepper, h: Any, c: Any) -> None:
    """Set the state of a stepper from arrays of either side, which only a `DeviceStepper` reads as they are."""
    if not isinstance(h, np.ndarray):
        if hasattr(stepper, "state"):
            stepper.set_state(h, c)
            return
        h, c = h.get(), c.get()
    stepper.set_state(np.array(h, order="C"), np.array(c, order="C"))


def _moved(state: Any, x_t: Any) -> Any:
    """The state on the other side, where a frame lies."""
    return state.get() if isinstance(x_t, np.ndarray) else np.asarray(state, like=x_t)
