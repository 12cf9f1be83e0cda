"""Which backend computes: the selection in force, and the one object of each backend.

The selection in force is the first of these that is there::

    backend= argument  >  with use_backend(name):  >  set_backend(name)  >  CYLSTM_BACKEND  >  automatic

A backend is named by a built-in name (``numpy``, ``cython``, ``cupy``), by that of an entry point of the group
``cylstm.backends`` whose value is ``package.module:Class``, or by ``package.module:Class`` itself. Nothing is imported
before it is requested: no backend, no ``importlib.metadata``, and the environment is read when first needed.

An explicit choice works or raises one of the errors below; only the automatic choice passes from ``cython`` to
``numpy``, with one warning that says why, and without it where the compiled one merely lacks the dtype or an option.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..locks import ForkSafe
from .base import Backend, Capabilities, lacking_in_words
from .errors import (
    BackendError,
    BackendLoadError,
    BackendNotAvailableError,
    UnknownBackendError,
    UnsupportedError,
)
from .plugins import (
    AUTOMATIC,
    BUILT_IN,
    availability,
    available_built_in,
    description,
    find,
    load_class,
    safe_error_text,
    why_refused,
)
from .precision import DEFAULT
from .stops import from_outside

VARIABLE = "CYLSTM_BACKEND"


class _Selection(NamedTuple):
    """A backend that was named, or the automatic choice."""

    name: str
    source: str  # who named it, for messages
    backend: Backend | None = None  # where an object was handed over


_UNREAD = "the environment, not read yet"
_AUTOMATIC = "automatic"


class _Made(ForkSafe):
    """The one object of a class. The lock is held while it is made: the constructor may ask for other backends."""

    def __init__(self, cls: type[Backend]) -> None:
        super().__init__()
        self.cls = cls
        self.backend: Backend | None = None


class _State(ForkSafe):
    """Everything the registry remembers in a process. No code but the registry's runs under its lock."""

    def __init__(self) -> None:
        super().__init__()
        self.selected = _Selection("", _UNREAD)
        self.by_name: dict[str, Backend] = {}
        self.by_class: dict[int, _Made] = {}  # by the id of the class, which a metaclass may have made unhashable
        self.passed_over: set[str] = set()  # built-in names that the automatic choice found not to work


_state = _State()
_in_context: contextvars.ContextVar[_Selection | None] = contextvars.ContextVar("cylstm.use_backend", default=None)


# Selection ----------------------------------------------------------------------------------------------------------


def set_backend(backend: str | Backend | None) -> None:
    """Select a backend for the whole process.

    Parameters
    ----------
    backend : str, Backend or None
        A backend's name, ``"package.module:Class"``, or a backend object. None gives the selection back to
        ``CYLSTM_BACKEND``, which is read again, or to the automatic choice.

    Raises
    ------
    UnknownBackendError, BackendNotAvailableError, BackendLoadError, TypeError
        The backend cannot be used; the selection stays as it was.
    """
    if backend is None:
        selection = _Selection("", _UNREAD)  # a new one: what was chosen before is requested again
    else:
        _instance(selection := _selection_of(backend, "set_backend"))
    with _state.lock:
        _state.selected = selection


@contextlib.contextmanager
def use_backend(backend: str | Backend) -> Iterator[None]:
    """Select a backend inside a ``with`` block.

    Blocks nest. The selection belongs to the current context: other threads and other asyncio tasks do not see it.

    Parameters
    ----------
    backend : str or Backend
        A backend's name, ``"package.module:Class"``, or a backend object.

    Raises
    ------
    UnknownBackendError, BackendNotAvailableError, BackendLoadError, TypeError
        The backend cannot be used.
    """
    with selecting(backend, "use_backend"):
        yield


@contextlib.contextmanager
def selecting(backend: str | Backend, source: str) -> Iterator[None]:
    """`use_backend` on behalf of a source, which messages name."""
    selection = _selection_of(backend, source)
    _instance(selection)
    reset = _in_context.set(selection)
    try:
        yield
    finally:
        _in_context.reset(reset)


def get_backend() -> str:
    """Name of the backend in force here; for the automatic choice, the one that float32 goes to.

    Raises
    ------
    UnknownBackendError, BackendNotAvailableError, BackendLoadError
        ``CYLSTM_BACKEND`` names a backend that cannot be used.
    """
    if (selection := _in_force()).source == _AUTOMATIC:
        return choose(dtype="float32").name
    _instance(selection)
    return selection.name


def named_by() -> tuple[str, str]:
    """The name of the selection in force, "" for the automatic choice, and who has named it; nothing is loaded."""
    selection = _in_force()
    return selection.name, selection.source


def selection() -> object:
    """An object that stands for the selection in force.

    As long as it is the same object, ``choose(None, ...)`` with the same needs gives the same backend.
    """
    return _in_context.get() or _state.selected


def choose(
    backend: str | Backend | None = None,
    *,
    dtype: str,
    projection: bool = False,
    training: bool = False,
    device: str = "cpu",
    precision: str = DEFAULT,
    options: frozenset[str] = frozenset(),
) -> Backend:
    """The backend that is to compute.

    Parameters
    ----------
    backend : str, Backend or None
        A name, ``"package.module:Class"``, an object with the methods of :class:`~cylstm.backends.base.Backend`, or
        None for the selection in force.
    dtype : str
        Name of the NumPy dtype.
    projection : bool
        Whether ``proj_size > 0``.
    training : bool
        Whether gradients will be requested.
    device : str
        Such as ``"cpu"``.
    precision : str
        One of `cylstm.backends.precision.PRECISIONS`.
    options : frozenset of str
        What `LayerOptions.needs` says of an LSTM that computes more than PyTorch's.

    Raises
    ------
    UnknownBackendError, BackendNotAvailableError, BackendLoadError
        The backend named cannot be used.
    UnsupportedError
        It cannot do what is needed.
    TypeError
        `backend` is neither a name nor a backend.
    """
    needs = _Needs(dtype, projection, training, device, precision, options)
    if backend is None:
        selection = _in_force()
        if selection.source == _AUTOMATIC and device.partition(":")[0] != "cuda":
            return _automatic(needs)
        if selection.source == _AUTOMATIC:
            selection = _Selection("cupy", f"the device {device!r}")
    else:
        selection = _selection_of(backend, "the argument backend=")
    chosen = _instance(selection)
    unmet = needs.unmet(chosen.capabilities)
    if unmet:
        raise UnsupportedError(
            f"backend {selection.name!r} (named by {selection.source}) cannot compute {' or '.join(unmet)}. "
            f"{_those_that_can(needs)}"
        )
    return chosen if device == "cpu" else chosen.on(device)


def _selection_of(backend: Any, source: str) -> _Selection:
    """The selection of a backend by its name or as an object."""
    if isinstance(backend, str):
        return _Selection(backend, source)
    try:
        problem = "is a class: pass an instance of it" if isinstance(backend, type) else why_refused(backend)
        if not problem:
            return _Selection(backend.name, source, backend)
    except BaseException as error:
        if from_outside(error):
            raise
        problem = f"cannot be asked what it is: {safe_error_text(error)}"
    raise TypeError(
        f"backend must be a name, 'package.module:Class', a backend object or None, "
        f"got {description(backend)}, which {problem}"
    )


class _Needs(NamedTuple):
    """What a backend has to be able to do."""

    dtype: str
    projection: bool
    training: bool
    device: str
    precision: str
    options: frozenset[str]

    def __str__(self) -> str:
        extra = ", with projection" * self.projection + ", with gradients" * self.training
        if self.precision != DEFAULT:
            extra += f", in {self.precision}"
        if self.options:
            extra += f", with {' and '.join(sorted(self.options))}"
        return f"dtype {self.dtype} on device {self.device!r}{extra}"

    def unmet(self, capabilities: Capabilities) -> list[str]:
        """The needs that the capabilities do not meet, in words."""
        unmet = []
        if self.dtype not in capabilities.dtypes:
            unmet.append(f"dtype {self.dtype} (it computes {', '.join(sorted(capabilities.dtypes))})")
        if self.projection and not capabilities.projection:
            unmet.append("projections (proj_size > 0)")
        if self.training and not capabilities.training:
            unmet.append("gradients")
        if self.precision not in capabilities.precisions:
            unmet.append(f"in precision {self.precision} (it computes in {', '.join(capabilities.precisions)})")
        if self.device.partition(":")[0] not in capabilities.devices:
            unmet.append(f"on device {self.device!r} (it computes on {', '.join(capabilities.devices)})")
        return unmet + lacking_in_words(capabilities, self.options, self.training)


def load(name: str, source: str = "the argument name") -> Backend:
    """The one object of the backend of this name in this process, whatever it can do; messages name the source.

    Raises
    ------
    UnknownBackendError, BackendNotAvailableError, BackendLoadError
        The backend cannot be used.
    """
    return _instance(_Selection(name, source))


def _in_force() -> _Selection:
    """The selection in force; the environment is read where nothing else was said."""
    selection = _in_context.get() or _state.selected
    if selection.source == _UNREAD:
        with _state.lock:
            if _state.selected.source == _UNREAD:
                name = os.environ.get(VARIABLE, "").strip()
                # A new one each time: who holds that of before learns that it was read again.
                _state.selected = _Selection(name, VARIABLE if name else _AUTOMATIC)
            selection = _state.selected
    return selection


def _automatic(needs: _Needs) -> Backend:
    """The best built-in backend that meets the needs."""
    for name in AUTOMATIC:
        if name in _state.passed_over:
            continue
        path = BUILT_IN[name]
        try:
            if not needs.unmet((_state.by_name.get(name) or load_class(path)).capabilities):
                return _instance_of(name, path)
        except BackendError as error:
            with _state.lock:
                first = name not in _state.passed_over
                _state.passed_over.add(name)
            if first:
                warnings.warn(
                    f"backend {name!r} {error} The automatic choice goes on without it, which is slower. "
                    f"To choose the numpy backend without this warning, set {VARIABLE}=numpy.",
                    RuntimeWarning,
                    stacklevel=_levels_to_caller(),
                )
    raise UnsupportedError(f"no built-in backend computes {needs}. {_those_that_can(needs)}")


def _those_that_can(needs: _Needs) -> str:
    """A sentence that names the backends that meet the needs: built-in ones and those in use. No other is loaded."""
    able = {name for name, backend in list(_state.by_name.items()) if not needs.unmet(backend.capabilities)}
    for name in AUTOMATIC:
        with contextlib.suppress(BackendError):
            if not needs.unmet(_instance(_Selection(name, "")).capabilities):
                able.add(name)
    return f"Backends that can: {', '.join(sorted(able)) or 'none of those loaded'}."


# Lookup -------------------------------------------------------------------------------------------------------------


def _instance(selection: _Selection) -> Backend:
    """The one backend object of this name in this process. All errors about loading are raised here."""
    name = selection.name
    if selection.backend is not None:
        return selection.backend
    if not isinstance(name, str):
        raise TypeError(f"backend must be named by a str, got {description(name)}")
    if name in _state.by_name:
        return _state.by_name[name]
    origin = ""
    try:
        if name in BUILT_IN or ":" in name:
            path = BUILT_IN.get(name, name)
        else:
            candidate = find(name)
            path = candidate.path
            origin = f" of distribution {candidate.distribution!r} (entry point {candidate.name} = {path})"
            if candidate.refused:
                raise BackendLoadError(f"is refused: {candidate.refused}.")
        return _instance_of(name, path)
    except BackendError as error:
        message = f"backend {name!r}{origin}, named by {selection.source}, {error}"
        if not isinstance(error, UnknownBackendError):
            message += f" Backends available here: {', '.join(available_built_in())}."
        raise type(error)(message) from error.__cause__


def _instance_of(name: str, path: str) -> Backend:
    """The one object of the class at this path, made when first needed. Errors continue "backend 'name' ..."."""
    if name in _state.by_name:
        return _state.by_name[name]
    cls = load_class(path)
    available, reason = availability(cls)
    if not available:
        raise BackendNotAvailableError(f"is not available: {reason.rstrip('.')}.")
    with _state.lock:
        made = _state.by_class.setdefault(id(cls), _Made(cls))
    with made.lock:
        if made.backend is None:
            try:
                backend = cls()
                problem = why_refused(backend)
            except BaseException as error:
                if from_outside(error):
                    raise
                raise BackendLoadError(f"failed in its constructor: {safe_error_text(error)}.") from error
            if problem:
                raise BackendLoadError(f"is not a backend: what its constructor made {problem}.")
            made.backend = backend
        return _state.by_name.setdefault(name, made.backend)


def _levels_to_caller() -> int:
    """The ``stacklevel`` at which a warning points to the code that called cylstm."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "cylstm":
        level, frame = level + 1, frame.f_back
    return level
