"""The parameters of a module: names, versions, locking.

Parameters never change in place. A change makes a new `Snapshot`, and whatever was computed from the parameters
(packed weights, say) is kept on the snapshot that it was computed from. So it cannot be stale, it is released with the
snapshot, and a call that runs while another thread changes the parameters sees one version from beginning to end.

Each store and each snapshot has a lock of its own. Under that of a store runs no code but cylstm's: what a caller hands
in is turned into arrays before. Under that of a snapshot a backend prepares its weights, and may call other modules.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from ..arrays.arguments import as_array
from ..locks import ForkSafe

#: The key of `Snapshot.derived` under which a function gives the parameters that a backend has on a GPU, or None.
UPLOADED = "uploaded"


class Snapshot(ForkSafe):
    """One version of the parameters.

    Attributes
    ----------
    kept : dict of str to array
        The parameters in PyTorch's order: locked arrays of NumPy, or those that an optimiser left on a GPU. Not to be
        changed.
    version : int
        Grows with each change of the parameters.
    derived : dict
        What has been computed from this version; see `derive`.
    """

    __slots__ = ("derived", "kept", "version")

    def __init__(self, kept: dict[str, Any], version: int) -> None:
        super().__init__()  # with a lock that is held while something is derived: deriving one thing may need another
        self.kept = kept
        self.version = version
        self.derived: dict[Any, Any] = {}

    @property
    def on_gpu(self) -> bool:
        """Whether they are kept on a GPU."""
        return not isinstance(next(iter(self.kept.values())), np.ndarray)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The parameters as locked arrays of NumPy: from a GPU they are copied once per version."""
        if not self.on_gpu:
            return self.kept
        return self.derive("arrays", lambda: {name: _locked(array.get()) for name, array in self.kept.items()})

    def beside(self, array: Any, name: str) -> dict[str, Any]:
        """The parameters where an array on a GPU lies: copied there once per version, unless a backend has done it.

        Raises
        ------
        RuntimeError
            If its device is not the current one.
        """
        there, uploaded = array.device.id, self.derived.get(UPLOADED)
        if self.on_gpu and next(iter(self.kept.values())).device.id == there:
            return self.kept
        arrays = uploaded() if uploaded is not None else None
        if arrays is not None and next(iter(arrays.values())).device.id == there:
            return arrays

        def copied() -> dict[str, Any]:
            arrays: dict[str, Any] = {name: np.asarray(value, like=array) for name, value in self.kept.items()}
            last = next(reversed(arrays.values()))
            if last.device.id != there:
                raise RuntimeError(
                    f"the current device must be cuda:{there}, where {name} lies, got cuda:{last.device.id}: call "
                    f"inside `with cupy.cuda.Device({there}):`, as for CuPy's own functions"
                )
            last.get()  # waits until all have arrived: calls may come in any stream
            return arrays

        return self.derive(f"on {array.device}", copied)

    def derive(self, key: Any, make: Callable[[], Any]) -> Any:
        """``make()``, called once per version and key, whichever thread comes first."""
        try:
            return self.derived[key]
        except KeyError:
            with self.lock:
                if key not in self.derived:
                    self.derived[key] = make()
                return self.derived[key]


class ParameterStore(ForkSafe):
    """Ordered names and locked arrays of one dtype, replaced as a whole.

    Parameters
    ----------
    arrays : mapping of str to array
        The parameters in PyTorch's order. They are copied.
    adopt : bool
        Whether arrays that nobody can write to are taken as they are instead.
    frozen : bool
        Whether they are those of a frozen module (``frozen.py``), which never change again.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], *, adopt: bool = False, frozen: bool = False) -> None:
        super().__init__()  # with a lock that is held while parameters are replaced
        take = _adopted if adopt else _locked
        self.snapshot = Snapshot({name: take(array) for name, array in arrays.items()}, version=0)
        self.frozen = frozen
        self.unlocked_by: int | None = None  # the thread that is inside `unlocked`

    @property
    def version(self) -> int:
        """Grows with each change."""
        return self.snapshot.version

    @property
    def dtype(self) -> np.dtype:
        """The dtype of all parameters; of frozen ones that of what they stand for."""
        if self.frozen:
            return np.dtype(np.float32)
        return next(iter(self.snapshot.kept.values())).dtype

    def __contains__(self, name: object) -> bool:
        return name in self.snapshot.kept

    def __iter__(self) -> Iterator[str]:
        return iter(self.snapshot.kept)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.snapshot.arrays[name]

    def replace(self, arrays: Mapping[str, Any]) -> None:
        """Replace the named parameters, all or none.

        Raises
        ------
        KeyError, TypeError, ValueError
            If a name is unknown, a value is no array or of another dtype, or a shape differs.
        """
        self._refuse_while_unlocked()
        self.refuse_if_frozen()
        changed = self.checked(arrays)
        with self.lock:
            self._refuse_while_unlocked()
            self.change(changed)

    def freeze(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Put the arrays of a frozen module, or others of the same kind, in the place of the parameters."""
        with self.lock:
            self._refuse_while_unlocked()
            self.frozen = True
            self._next({name: _locked(array) for name, array in arrays.items()})

    def astype(self, dtype: np.dtype) -> None:
        """Convert all parameters."""
        with self.lock:
            self._refuse_while_unlocked()
            if dtype != self.dtype:
                self.refuse_if_frozen()
                self._next({name: _locked(array.astype(dtype)) for name, array in self.snapshot.arrays.items()})

    def renew(self) -> None:
        """Give up what has been derived from the parameters, which stay as they are."""
        with self.lock:
            self._refuse_while_unlocked()
            self._next(self.snapshot.arrays)

    @contextmanager
    def unlocked(self) -> Iterator[dict[str, np.ndarray]]:
        """See `Module.unlocked`."""
        with self.lock:
            self._refuse_while_unlocked()
            self.refuse_if_frozen()
            self.unlocked_by = threading.get_ident()
        copies: list[np.ndarray] = []
        try:
            params = {name: array.copy() for name, array in self.snapshot.arrays.items()}
            copies.extend(params.values())
            yield params
            if params.keys() != self.snapshot.arrays.keys():
                raise KeyError(f"parameters must keep the names {list(self)}, got {list(params)}")
            changed = self.checked(params)
            with self.lock:
                self.change(changed)
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

    def refuse_if_frozen(self) -> None:
        """Raise where the parameters are those of a frozen module."""
        if self.frozen:
            raise RuntimeError(
                "the module is frozen: it has rounded parameters alone, which cannot be changed or trained; make a new "
                "module of float32 parameters"
            )

    def _refuse_while_unlocked(self) -> None:
        if self.unlocked_by is not None:
            raise RuntimeError("the parameters are unlocked already: leave the `with ...unlocked()` block first")

    def checked(self, arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Locked copies of what is to take the place of parameters, for `change`. Errors are those of `replace`."""
        changed = {}
        for name, value in arrays.items():
            if name not in self:
                raise KeyError(f"parameter must be one of {list(self)}, got {name!r}")
            array = as_array(value, name)
            self._check(name, array)
            changed[name] = _locked(array)
        return changed

    def _check(self, name: str, array: np.ndarray) -> None:
        old = self.snapshot.kept[name]
        if array.shape != old.shape:
            raise ValueError(f"{name} must have shape {old.shape}, got {array.shape}")
        if array.dtype != old.dtype:
            raise TypeError(f"{name} must have dtype {old.dtype}, got {array.dtype}: use .astype({str(old.dtype)!r})")

    def change(self, changed: dict[str, np.ndarray]) -> None:
        """Let what `checked` returned take its place, inside a `locked` block."""
        for name, array in changed.items():  # once more: the dtype may have been changed meanwhile
            self._check(name, array)
        self._next({**self.snapshot.arrays, **changed})

    def change_on_gpu(self, changed: dict[str, Any]) -> None:
        """Let arrays on a GPU, new ones for all parameters, take their place, inside a `locked` block."""
        self._next(changed)

    def _next(self, kept: dict[str, Any]) -> None:
        self.snapshot = Snapshot(kept, self.snapshot.version + 1)


@contextmanager
def locked(stores: Sequence[ParameterStore], *, frozen: bool = False) -> Iterator[None]:
    """Nobody else changes the parameters of these stores inside the block.

    Raises
    ------
    RuntimeError
        If the parameters of one of them are unlocked; or frozen, but where `frozen` allows it.
    """
    with ExitStack() as stack:
        for store in sorted(stores, key=id):  # in one order, so that nobody waits for what waits for him
            stack.enter_context(store.lock)
            store._refuse_while_unlocked()
            if not frozen:
                store.refuse_if_frozen()
        yield


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
