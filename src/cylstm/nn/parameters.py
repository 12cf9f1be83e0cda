"""The parameter store: names, shapes, versions, locking, ``state_dict``; and `Module`, the base of what has parameters.

Parameters never change in place. A change makes a new `Snapshot`, and whatever was computed from the parameters
(packed weights, say) is kept on the snapshot that it was computed from. So it cannot be stale, it is released with the
snapshot, and a call that runs while another thread changes the parameters sees one version from beginning to end.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from ..arrays.arguments import DTYPES, as_array, as_dtype, check_device

#: Held while parameters are replaced, and while something is derived from them. Re-entrant: deriving one thing may need
#: another.
_lock = threading.RLock()


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):  # a lock that another thread held when the process forked is never released
    os.register_at_fork(after_in_child=_renew_lock)


class IncompatibleKeys(NamedTuple):
    """What `Module.load_state_dict` returns, as in PyTorch."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not any(self):
            return "<All keys matched successfully>"
        return f"IncompatibleKeys(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"


class Snapshot:
    """One version of the parameters.

    Attributes
    ----------
    arrays : dict of str to numpy.ndarray
        The parameters in PyTorch's order, locked. Not to be changed.
    version : int
        Grows with each change of the parameters.
    derived : dict
        What has been computed from this version; see `derive`.
    """

    __slots__ = ("arrays", "derived", "version")

    def __init__(self, arrays: dict[str, np.ndarray], version: int) -> None:
        self.arrays = arrays
        self.version = version
        self.derived: dict[Any, Any] = {}

    def derive(self, key: Any, make: Callable[[], Any]) -> Any:
        """``make()``, called once per version and key, whichever thread comes first."""
        try:
            return self.derived[key]
        except KeyError:
            with _lock:
                if key not in self.derived:
                    self.derived[key] = make()
                return self.derived[key]


class ParameterStore:
    """Ordered names and locked arrays of one dtype, replaced as a whole.

    Parameters
    ----------
    arrays : mapping of str to array
        The parameters in PyTorch's order. They are copied.
    adopt : bool
        Whether arrays that nobody can write to are taken as they are instead.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], *, adopt: bool = False) -> None:
        take = _adopted if adopt else _locked
        self.snapshot = Snapshot({name: take(array) for name, array in arrays.items()}, version=0)
        self.unlocked_by: int | None = None  # the thread that is inside `unlocked`

    @property
    def version(self) -> int:
        """Grows with each change."""
        return self.snapshot.version

    @property
    def dtype(self) -> np.dtype:
        """The dtype of all parameters."""
        return next(iter(self.snapshot.arrays.values())).dtype

    def __contains__(self, name: object) -> bool:
        return name in self.snapshot.arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self.snapshot.arrays)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.snapshot.arrays[name]

    def replace(self, arrays: Mapping[str, Any]) -> None:
        """Replace the named parameters, all or none.

        Raises
        ------
        KeyError, TypeError, ValueError
            If a name is unknown, a value is no array or of another dtype, or a shape differs.
        """
        with _lock:
            self._refuse_while_unlocked()
            self._replace(arrays)

    def astype(self, dtype: np.dtype) -> None:
        """Convert all parameters."""
        with _lock:
            self._refuse_while_unlocked()
            if dtype != self.dtype:
                self._next({name: _locked(array.astype(dtype)) for name, array in self.snapshot.arrays.items()})

    def renew(self) -> None:
        """Give up what has been derived from the parameters, which stay as they are."""
        with _lock:
            self._refuse_while_unlocked()
            self._next(self.snapshot.arrays)

    @contextmanager
    def unlocked(self) -> Iterator[dict[str, np.ndarray]]:
        """See `Module.unlocked`."""
        with _lock:
            self._refuse_while_unlocked()
            self.unlocked_by = threading.get_ident()
        params = {name: array.copy() for name, array in self.snapshot.arrays.items()}
        copies = list(params.values())
        try:
            yield params
            if params.keys() != self.snapshot.arrays.keys():
                raise KeyError(f"parameters cannot be added or removed; expected {list(self)}, got {list(params)}")
            with _lock:
                self._replace(params)
        finally:
            self.unlocked_by = None
            for array in copies:
                array.flags.writeable = False  # a later write shall fail, not be lost

    def refuse_inside_unlocked(self) -> None:
        """Raise where this thread is inside `unlocked`: a call there would not see the changes."""
        if self.unlocked_by == threading.get_ident():
            raise RuntimeError(
                "the parameters are unlocked and their changes take effect when the `with ...unlocked()` block ends: "
                "call the module after the block"
            )

    def refuse_after_change(self, snapshot: Snapshot) -> None:
        """Raise where the parameters are no longer those of `snapshot`, with which a forward pass was run."""
        if self.snapshot is not snapshot:
            raise RuntimeError(
                f"the parameters have been changed since the forward pass (version {snapshot.version} then, "
                f"{self.version} now): run vjp again"
            )

    def _refuse_while_unlocked(self) -> None:
        if self.unlocked_by is not None:
            raise RuntimeError("the parameters are unlocked already: leave the `with ...unlocked()` block first")

    def _replace(self, arrays: Mapping[str, Any]) -> None:
        changed = {}
        for name, value in arrays.items():
            if name not in self:
                raise KeyError(f"no parameter {name!r}; there are {list(self)}")
            array, old = as_array(value, name), self[name]
            if array.shape != old.shape:
                raise ValueError(f"{name} must have shape {old.shape}, got {array.shape}")
            if array.dtype != old.dtype:
                raise TypeError(
                    f"{name} must have dtype {old.dtype}, got {array.dtype}: use .astype({str(old.dtype)!r})"
                )
            changed[name] = _locked(array)
        self._next({**self.snapshot.arrays, **changed})

    def _next(self, arrays: dict[str, np.ndarray]) -> None:
        self.snapshot = Snapshot(arrays, self.snapshot.version + 1)


class Module:
    """What LSTM, LSTMCell and Linear have in common: parameters by PyTorch's names, and a training mode.

    A subclass sets its own attributes, then calls ``super().__init__``; it defines ``_initial_parameters`` and
    ``extra_repr``, and names in ``_fixed`` the attributes that cannot change once the parameters have their shapes.

    Parameters
    ----------
    device : None, str or torch.device
        The CPU.
    dtype : dtype, optional
        float16, bfloat16 (with ml_dtypes), float32 (default), float64, complex64 or complex128: NumPy or PyTorch dtype,
        name or type.
    """

    training: bool
    _device: str  # that computes; the parameters are on the CPU
    _devices: ClassVar[tuple[str, ...]] = ("cpu",)  # the kinds of it that the module knows
    _fixed: ClassVar[frozenset[str]] = frozenset()
    _store: ParameterStore

    def __init__(self, *, device: Any = None, dtype: Any = None) -> None:
        self._device = check_device(device, self._devices)
        self.training = True
        dtype = as_dtype(dtype)
        given = self.__dict__.pop("_given", None)
        arrays = self._initial_parameters(dtype) if given is None else dict(given)
        self._store = ParameterStore({name: array.astype(dtype, copy=False) for name, array in arrays.items()})

    @classmethod
    def _of(cls, arrays: Mapping[str, np.ndarray] | Iterable[tuple[str, np.ndarray]], **options: Any) -> Self:
        """A module with the parameters of `arrays`, in PyTorch's order. No random number is drawn.

        The options are the arguments of the constructor, which checks them before it takes an array from an iterator.
        """
        module = cls.__new__(cls)
        module.__dict__["_given"] = arrays
        cls.__init__(module, **options)
        return module

    def _initial_parameters(self, dtype: np.dtype) -> dict[str, np.ndarray]:
        """Freshly drawn parameters in PyTorch's order."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """What stands between the parentheses of the ``repr``."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the parameters."""
        return self._store.dtype

    def __getattr__(self, name: str) -> np.ndarray:
        store = self.__dict__.get("_store")
        if store is not None and name in store:
            return store[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        store = self.__dict__.get("_store")
        if store is not None and name in store:
            store.replace({name: value})
        elif store is not None and name in self._fixed:
            raise AttributeError(
                f"{name} is fixed, for the parameters have their shapes: make a new {type(self).__name__}"
            )
        else:
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._store]

    def __getstate__(self) -> dict[str, Any]:
        """Configuration and arrays alone, for pickle and copy."""
        return {**self.__dict__, "_store": dict(self._store.snapshot.arrays)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the arrays as they are where nobody can write to them (read-only memory maps, say), else copies."""
        self.__dict__.update(state, _store=ParameterStore(state["_store"], adopt=True))

    def parameters(self) -> Iterator[np.ndarray]:
        """The parameters in PyTorch's order, as locked arrays."""
        return iter(self._store.snapshot.arrays.values())

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
        """Names and parameters; with a prefix, the names are ``prefix.name``."""
        dot = f"{prefix}." if prefix else ""
        return ((dot + name, array) for name, array in self._store.snapshot.arrays.items())

    def state_dict(self) -> dict[str, np.ndarray]:
        """The parameters by name, as locked arrays, which a later change of the module leaves as they are."""
        return dict(self._store.snapshot.arrays)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Replace the parameters by those of a mapping, converted to the module's dtype.

        Parameters
        ----------
        state_dict : mapping of str to array
            NumPy arrays, PyTorch tensors (of any device) or other arrays.
        strict : bool
            Whether missing and unexpected keys are errors. Wrong shapes always are.

        Returns
        -------
        IncompatibleKeys
            ``missing_keys`` and ``unexpected_keys``.

        Raises
        ------
        TypeError
            If it is no mapping.
        RuntimeError
            If keys are missing or unexpected, or shapes or values do not fit: all of them in one message. Nothing is
            loaded then.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"expected state_dict to be a mapping of names to arrays, got {type(state_dict).__name__}")
        missing = [name for name in self._store if name not in state_dict]
        unexpected = [name for name in state_dict if name not in self._store]
        errors, arrays = [], {}
        if strict and missing:
            errors.append(f"Missing key(s) in state_dict: {', '.join(map(repr, missing))}.")
        if strict and unexpected:
            errors.append(f"Unexpected key(s) in state_dict: {', '.join(map(repr, unexpected))}.")
        for name, old in self._store.snapshot.arrays.items():
            if name in state_dict:
                try:
                    array = _loaded(state_dict[name], name)
                except TypeError as error:
                    errors.append(str(error))
                    continue
                if array.shape != old.shape:
                    errors.append(f"size mismatch for {name}: expected shape {old.shape}, got {array.shape}.")
                else:
                    arrays[name] = array.astype(old.dtype, copy=False)
        if errors:
            listed = "\n\t".join(errors)
            raise RuntimeError(
                f"Error(s) in loading state_dict for {type(self).__name__}, nothing was loaded:\n\t{listed}"
            )
        self._store.replace(arrays)
        return IncompatibleKeys(missing, unexpected)

    @contextmanager
    def unlocked(self) -> Iterator[dict[str, np.ndarray]]:
        """Writable copies of the parameters by name, which become the parameters when the block ends.

        An exception inside the block leaves the parameters as they were. The module cannot be called inside the block
        by the same thread, for it would not see the changes yet.

        Examples
        --------
        >>> with lstm.unlocked() as params:  # doctest: +SKIP
        ...     params["bias_ih_l0"][:] = 0
        """
        with self._store.unlocked() as params:
            yield params

    def reset_parameters(self) -> None:
        """Draw the parameters anew, as PyTorch does."""
        with exclusively([self]):  # refused before anything is drawn where the parameters are unlocked
            self._store.replace(self._initial_parameters(self.dtype))

    @classmethod
    def from_torch(cls, module: Any, *, backend: Any = None) -> Self:
        """A module with the options, a copy of the parameters, and the mode of PyTorch's module of the same name.

        Parameters
        ----------
        module : torch.nn.Module
            On any device; parametrised or a drop-in of `cylstm.torch` too.
        backend : str or Backend, optional
            The backend of an LSTM or LSTMCell.

        Raises
        ------
        TypeError
            If it is another module, or a backend is named for a Linear.
        RuntimeError
            If its dtype is none of cylstm's.
        """
        from ..torch.modules import from_torch

        converted = from_torch(module, backend=backend)
        if not isinstance(converted, cls):
            raise TypeError(f"expected a torch.nn.{cls.__name__}, got {type(module).__name__}")
        return converted

    def to_torch(self) -> Any:
        """PyTorch's module of the same name with the options, a copy of the parameters, and the mode of this one."""
        from ..torch.modules import to_torch

        return to_torch(self)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode, in which dropout is applied."""
        if not isinstance(mode, bool):
            raise ValueError(f"training mode is expected to be boolean, got {type(mode).__name__}")
        self.training = mode
        return self

    def eval(self) -> Self:
        """Leave the training mode."""
        return self.train(False)

    def to(self, *args: Any, device: Any = None, dtype: Any = None) -> Self:
        """Convert the parameters: ``to(dtype)``, ``to(device)``, ``to(device, dtype)``, ``to(array)`` as in PyTorch.

        Raises
        ------
        TypeError
            If the dtype is not floating point or complex.
        RuntimeError
            If the device is not the CPU.
        """
        for value in args:
            if _means_dtype(value):
                dtype = value
            elif hasattr(value, "dtype"):
                dtype = value.dtype
            else:
                device = value
        if dtype is not None:
            try:
                dtype = as_dtype(dtype)
            except RuntimeError as error:
                raise TypeError(str(error)) from None
        if device is not None and (name := check_device(device, self._devices)) != self._device:
            self._move(name)
        if dtype is not None:
            self._store.astype(dtype)
        return self

    def _move(self, device: str) -> None:
        """Compute on another device, of those that the module knows."""
        with exclusively([self]):
            self._device = device
            self._store.renew()

    def half(self) -> Self:
        """Convert the parameters to float16."""
        return self.to(dtype=np.float16)

    def bfloat16(self) -> Self:
        """Convert the parameters to bfloat16, which needs the package ml_dtypes."""
        return self.to(dtype="bfloat16")

    def float(self) -> Self:
        """Convert the parameters to float32."""
        return self.to(dtype=np.float32)

    def double(self) -> Self:
        """Convert the parameters to float64."""
        return self.to(dtype=np.float64)


@contextmanager
def exclusively(modules: Sequence[Module]) -> Iterator[list[dict[str, np.ndarray]]]:
    """The parameters of each module, which nobody else changes inside the block; for an optimiser.

    Raises
    ------
    RuntimeError
        If the parameters of one of them are unlocked.
    """
    with _lock:
        for module in modules:
            module._store._refuse_while_unlocked()
        yield [module._store.snapshot.arrays for module in modules]


def _locked(array: np.ndarray) -> np.ndarray:
    """A copy on immutable memory: its WRITEABLE flag cannot be turned on."""
    return np.ndarray(array.shape, array.dtype, buffer=array.tobytes())


def _adopted(array: np.ndarray) -> np.ndarray:
    """The array itself where its memory is fit for parameters and nobody can write to it, else a locked copy."""
    flags = array.flags
    fit = flags.c_contiguous and flags.aligned and array.dtype.isnative
    return np.asarray(array) if fit and _is_immutable(array) else _locked(array)


def _is_immutable(array: np.ndarray) -> bool:
    """Whether nobody in this process can write to the memory of an array.

    A flag says little: that of an array which owns its memory can be turned on again, and what is read-only here may
    be a view of a bytearray that somebody else fills anew. So the owner of the memory must be read-only by its nature:
    ``bytes``, a memory map opened for reading (a file that changes under a map is beyond this), any other exporter of
    read-only buffers.
    """
    owner: Any = array
    while True:
        if isinstance(owner, np.ndarray):
            if owner.flags.writeable:
                return False
            owner = owner.base  # None where it owns its memory, which is no buffer
            continue
        try:
            view = memoryview(owner)
        except (TypeError, ValueError, BufferError):
            return False
        if not view.readonly or view.obj is owner:
            return view.readonly
        owner = view.obj


def _means_dtype(value: Any) -> bool:
    return isinstance(value, (np.dtype, type)) or type(value).__name__ == "dtype" or value in DTYPES


def _loaded(value: Any, name: str) -> np.ndarray:
    """A value of a state_dict as a numeric array; tensors of any device and of bfloat16 are fine."""
    if hasattr(value, "detach") and hasattr(value, "cpu"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # unknown to NumPy alone; float32 holds every value of it
            value = value.float()
    array = as_array(value, name)
    if array.dtype.kind not in "biufc" and array.dtype.name != "bfloat16":
        raise TypeError(f"{name} must hold numbers, got an array of dtype {array.dtype}")
    return array
