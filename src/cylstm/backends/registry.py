"""Which backend computes: names, selection, entry points, environment, errors.

The selection in force is the first of these that is there::

    backend= argument  >  with use_backend(name):  >  set_backend(name)  >  CYLSTM_BACKEND  >  automatic

A backend is named by a built-in name (``numpy``, ``cython``), by the name of an entry point of the group
``cylstm.backends`` whose value is ``package.module:Class``, or by ``package.module:Class`` itself. Nothing is imported
before it is asked for: no backend, no ``importlib.metadata``, and the environment is read when first needed.

An explicit choice works or raises one of the errors below; only the automatic choice passes from ``cython`` to
``numpy``, with one warning that says why (none where the compiled backend is there and merely lacks the dtype).
"""

from __future__ import annotations

import contextlib
import contextvars
import difflib
import importlib
import os
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..locks import ForkSafe
from .base import API_VERSION, Backend, Capabilities

GROUP = "cylstm.backends"
VARIABLE = "CYLSTM_BACKEND"

#: Built-in backends, best first: the order of the automatic choice.
_BUILT_IN = {
    "cython": "cylstm.backends.cython_backend:CythonBackend",
    "numpy": "cylstm.backends.numpy_backend:NumpyBackend",
}
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_PATH = re.compile(r"(?P<module>\w+(\.\w+)*):(?P<attribute>\w+(\.\w+)*)")


class BackendError(Exception):
    """Base of the errors about backends."""


class UnknownBackendError(BackendError, ValueError):
    """No backend has this name."""


class BackendNotAvailableError(BackendError, ImportError):
    """The backend is known, but something it needs is not here; the message says what to install."""


class BackendLoadError(BackendError, ImportError):
    """The backend is known, but loading it failed; the message names distribution and entry point."""


class UnsupportedError(BackendError, ValueError):
    """The backend works, but cannot do what is asked of it; the message names the backends that can."""


class BackendInfo(NamedTuple):
    """One row of :func:`available_backends`."""

    name: str
    distribution: str  # the installed distribution it comes from
    status: str  # "available", "unavailable" (something is missing), "broken" (fails to load), "refused" (its name)
    reason: str  # why it is not available and what to do; "" where it is


class BackendTable(tuple[BackendInfo, ...]):
    """A tuple of :class:`BackendInfo` that prints as a table."""

    __slots__ = ()

    def __repr__(self) -> str:
        rows = [BackendInfo._fields, *(tuple(" ".join(str(cell).split()) for cell in row) for row in self)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


class _Selection(NamedTuple):
    name: str
    source: str  # who named it, for messages


_UNREAD = "the environment, not read yet"
_AUTOMATIC = _Selection("", "automatic")


class _State(ForkSafe):
    """Everything the registry remembers in a process."""

    def __init__(self) -> None:
        super().__init__()  # its lock is re-entrant: a backend's constructor may ask for another backend
        self.selected = _Selection("", _UNREAD)
        self.by_name: dict[str, Backend] = {}
        self.by_class: dict[type, Backend] = {}
        self.passed_over: set[str] = set()  # built-in names that the automatic choice found not to work


_state = _State()
_in_context: contextvars.ContextVar[_Selection | None] = contextvars.ContextVar("cylstm.use_backend", default=None)


# Selection ----------------------------------------------------------------------------------------------------------


def set_backend(name: str | None) -> None:
    """Select a backend for the whole process.

    Parameters
    ----------
    name : str or None
        A backend's name or ``"package.module:Class"``. None gives the selection back to ``CYLSTM_BACKEND``, which is
        read again, or to the automatic choice.

    Raises
    ------
    UnknownBackendError, BackendNotAvailableError, BackendLoadError
        The backend cannot be used; the selection stays as it was.
    """
    if name is None:
        selection = _Selection("", _UNREAD)  # a new one: what was chosen before is asked for again
    else:
        selection = _Selection(name, "set_backend")
        _instance(selection)
    with _state.lock:
        _state.selected = selection


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Select a backend inside a ``with`` block.

    Blocks nest. The selection belongs to the current context: other threads and other asyncio tasks do not see it.

    Parameters
    ----------
    name : str
        A backend's name or ``"package.module:Class"``.

    Raises
    ------
    UnknownBackendError, BackendNotAvailableError, BackendLoadError
        The backend cannot be used.
    """
    selection = _Selection(name, "use_backend")
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
    selection = _in_force()
    if selection is _AUTOMATIC:
        return choose(dtype="float32").name
    _instance(selection)
    return selection.name


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
        Whether gradients will be asked for.
    device : str
        Such as ``"cpu"``.

    Raises
    ------
    UnknownBackendError, BackendNotAvailableError, BackendLoadError
        The backend named cannot be used.
    UnsupportedError
        It cannot do what is needed.
    TypeError
        `backend` is neither a name nor a backend.
    """
    needs = _Needs(dtype, projection, training, device)
    if backend is None:
        selection = _in_force()
        if selection is _AUTOMATIC and device.partition(":")[0] != "cuda":
            return _automatic(needs)
        if selection is _AUTOMATIC:
            selection = _Selection("cupy", f"the device {device!r}")
    elif isinstance(backend, str):
        selection = _Selection(backend, "the argument backend=")
    else:
        lacking = _lacking(backend)
        if isinstance(backend, type) or lacking:
            why = "is a class: pass an instance of it" if isinstance(backend, type) else f"lacks {', '.join(lacking)}"
            raise TypeError(
                f"backend must be a name, 'package.module:Class', a backend object or None; {_shown(backend)} {why}"
            )
        selection = _Selection(backend.name, "the argument backend=")
    chosen = _instance(selection) if backend is None or isinstance(backend, str) else backend
    unmet = needs.unmet(chosen.capabilities)
    if unmet:
        raise UnsupportedError(
            f"backend {selection.name!r} (named by {selection.source}) cannot compute {' or '.join(unmet)}. "
            f"{_those_that_can(needs)}"
        )
    return chosen if device == "cpu" else chosen.on(device)


class _Needs(NamedTuple):
    dtype: str
    projection: bool
    training: bool
    device: str

    def __str__(self) -> str:
        extra = ", with projection" * self.projection + ", with gradients" * self.training
        return f"dtype {self.dtype} on device {self.device!r}{extra}"

    def unmet(self, capabilities: Capabilities) -> list[str]:
        """What of it the capabilities do not give, in words."""
        unmet = []
        if self.dtype not in capabilities.dtypes:
            unmet.append(f"dtype {self.dtype} (it computes {', '.join(sorted(capabilities.dtypes))})")
        if self.projection and not capabilities.projection:
            unmet.append("projections (proj_size > 0)")
        if self.training and not capabilities.training:
            unmet.append("gradients")
        if self.device.partition(":")[0] not in capabilities.devices:
            unmet.append(f"on device {self.device!r} (it computes on {', '.join(capabilities.devices)})")
        return unmet


def load(name: str) -> Backend:
    """The one object of the backend of this name in this process, whatever it can do.

    Raises
    ------
    UnknownBackendError, BackendNotAvailableError, BackendLoadError
        The backend cannot be used.
    """
    return _instance(_Selection(name, "the argument name"))


def _in_force() -> _Selection:
    selection = _in_context.get() or _state.selected
    if selection.source == _UNREAD:
        with _state.lock:
            if _state.selected.source == _UNREAD:
                name = os.environ.get(VARIABLE, "").strip()
                _state.selected = _Selection(name, VARIABLE) if name else _AUTOMATIC
            selection = _state.selected
    return selection


def _automatic(needs: _Needs) -> Backend:
    for name, path in _BUILT_IN.items():
        if name in _state.passed_over:
            continue
        try:
            if not needs.unmet((_state.by_name.get(name) or _imported(path)).capabilities):
                return _made(name, path)
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
    """A sentence that names them, among the built-in backends and those in use: no other is loaded to find out."""
    able = {name for name, backend in list(_state.by_name.items()) if not needs.unmet(backend.capabilities)}
    for name in _BUILT_IN:
        with contextlib.suppress(BackendError):
            if not needs.unmet(_instance(_Selection(name, "")).capabilities):
                able.add(name)
    return f"Backends that can: {', '.join(sorted(able)) or 'none of those loaded'}."


# Lookup -------------------------------------------------------------------------------------------------------------


def _instance(selection: _Selection) -> Backend:
    """The one backend object of this name in this process. All errors about loading are raised here."""
    name = selection.name
    if not isinstance(name, str):
        raise TypeError(f"a backend is named by a str, got {_shown(name)}")
    if name in _state.by_name:
        return _state.by_name[name]
    origin = ""
    try:
        if name in _BUILT_IN or ":" in name:
            path = _BUILT_IN.get(name, name)
        else:
            candidate = _find(name)
            path = candidate.value
            origin = f" of distribution {candidate.distribution!r} (entry point {candidate.name} = {path})"
            if candidate.refused:
                raise BackendLoadError(f"is refused: {candidate.refused}.")
        return _made(name, path)
    except BackendError as error:
        message = f"backend {name!r}{origin}, named by {selection.source}, {error}"
        if not isinstance(error, UnknownBackendError):
            message += f" Backends available here: {', '.join(filter(_works, _BUILT_IN))}."
        raise type(error)(message) from error.__cause__


def _find(name: str) -> _Candidate:
    candidates = _candidates()
    for candidate in candidates:
        if candidate.name == name:
            return candidate
    names = [*_BUILT_IN, *(c.name for c in candidates if not c.refused)]
    nearest = difflib.get_close_matches(name.lower(), names, 1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise UnknownBackendError(
        f"is unknown.{hint} Known: {', '.join(names)}. Others come with a distribution that has an entry point of the "
        f"group {GROUP!r}, or are named as 'package.module:Class'."
    )


def _made(name: str, path: str) -> Backend:
    """The one object of the class at this path, made when first needed. Errors continue "backend 'name' ..."."""
    if name in _state.by_name:
        return _state.by_name[name]
    cls = _imported(path)
    available, reason = _availability(cls)
    if not available:
        raise BackendNotAvailableError(f"is not available: {reason.rstrip('.')}.")
    with _state.lock:
        if cls not in _state.by_class:
            try:
                _state.by_class[cls] = cls()
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                raise BackendLoadError(f"failed in its constructor: {_said(error)}.") from error
        return _state.by_name.setdefault(name, _state.by_class[cls])


def _imported(path: str) -> type[Backend]:
    """The class at ``package.module:Class``, looked over; whatever importing it does wrong is one of our errors."""
    match = _PATH.fullmatch(path)
    if match is None:
        raise BackendLoadError(f"cannot be loaded: {path!r} is not of the form 'package.module:Class'.")
    try:
        found: Any = importlib.import_module(match["module"])
        for attribute in match["attribute"].split("."):
            found = getattr(found, attribute)
        lacking, version = _lacking(found), getattr(found, "api_version", None)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also SystemExit: a plugin must not end the program
        if isinstance(error, ModuleNotFoundError) and error.name:
            if path in _BUILT_IN.values():
                raise BackendNotAvailableError(
                    f"is not available: this installation lacks {error.name}. Install a wheel (pip install "
                    "--force-reinstall cylstm), or build it where there is a C compiler."
                ) from error
            if error.name.partition(".")[0] != match["module"].partition(".")[0]:
                raise BackendNotAvailableError(
                    f"is not available: it needs the module {error.name!r}, which is not installed."
                ) from error
        raise BackendLoadError(f"failed to load from {path!r}: {_said(error)}.") from error
    if not isinstance(found, type):
        raise BackendLoadError(f"cannot be loaded: {path!r} is not a class but {_shown(found)}.")
    if lacking:
        raise BackendLoadError(
            f"is not a backend: {path!r} lacks {', '.join(lacking)}; see cylstm.backends.base.Backend."
        )
    if version != API_VERSION:
        raise BackendLoadError(
            f"has version {version} of the backend interface, and this cylstm has version {API_VERSION}: "
            "install versions of both that go together."
        )
    return found


def _availability(cls: type[Backend]) -> tuple[bool, str]:
    try:
        available, reason = cls.is_available()
        return bool(available), str(reason)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise BackendLoadError(f"cannot tell whether it is available: {_said(error)}.") from error


def _works(name: str) -> bool:
    try:
        return _availability(_imported(_BUILT_IN[name]))[0]
    except BackendError:
        return False


def _lacking(backend: Any) -> list[str]:
    """What of the contract a class or an object does not have, by name."""
    names = ["name", "api_version", "capabilities", "is_available", "prepare", "forward"]
    capabilities = getattr(backend, "capabilities", None)
    if getattr(capabilities, "training", False):
        names.append("backward")
    lacking = [name for name in names if not hasattr(backend, name)]
    if capabilities is not None:
        lacking += [f"capabilities.{name}" for name in Capabilities._fields if not hasattr(capabilities, name)]
    return lacking


class _Candidate(NamedTuple):
    """An entry point of our group."""

    name: str
    value: str
    distribution: str
    refused: str  # why it is not used; "" if it is


def _candidates() -> list[_Candidate]:
    """All entry points of the group, one per name. Raises nothing, whatever the installed metadata look like.

    ``importlib.metadata.entry_points`` fails as a whole on one malformed file of any distribution, so each
    distribution is read by itself.
    """
    from importlib import metadata  # 30 ms, and only needed for names that are not built in

    distributions: dict[str, str] = {}  # name: refused
    for distribution in metadata.distributions():
        with contextlib.suppress(Exception):
            if GROUP in (distribution.read_text("entry_points.txt") or ""):
                distributions[distribution.metadata["Name"]] = ""
    found: dict[str, set[tuple[str, str]]] = {}  # name: {(value, distribution)}
    unreadable = []
    for name in distributions:
        try:
            # By name once more: of two copies on sys.path only the first counts.
            for entry in metadata.distribution(name).entry_points.select(group=GROUP):
                found.setdefault(entry.name, set()).add((entry.value.partition("[")[0].strip(), name))
        except Exception as error:
            unreadable.append(_Candidate("", "", str(name), f"its entry points cannot be read: {_said(error)}"))
    candidates = []
    for name, sources in sorted(found.items()):
        values, owners = zip(*sorted(sources), strict=True)
        if name in _BUILT_IN:
            refused = "the name is that of a built-in backend and cannot be taken"
        elif not _NAME.fullmatch(name):
            refused = "the name is not made of letters, digits, '-', '_' and '.'"
        elif len(sources) > 1:
            refused = f"several claim the name: uninstall all but one, or name the class itself: {', '.join(values)}"
        else:
            refused = ""
        candidates.append(_Candidate(name, values[0], ", ".join(dict.fromkeys(owners)), refused))
    return candidates + unreadable


def available_backends() -> BackendTable:
    """Every known backend, built in or declared by an installed distribution, and whether it works here.

    Imports all of them to find out. Never raises, whatever a plugin does.

    Returns
    -------
    BackendTable
        A tuple of :class:`BackendInfo` (name, distribution, status, reason) that prints as a table.
    """
    rows = [_info(_Candidate(name, path, "cylstm", "")) for name, path in _BUILT_IN.items()]
    return BackendTable([*rows, *map(_info, _candidates())])


def _info(candidate: _Candidate) -> BackendInfo:
    name, path, distribution, refused = candidate
    if refused:
        return BackendInfo(name, distribution, "refused", refused)
    try:
        available, reason = _availability(_imported(path))
        return BackendInfo(name, distribution, "available" if available else "unavailable", "" if available else reason)
    except BackendNotAvailableError as error:
        return BackendInfo(name, distribution, "unavailable", str(error).removeprefix("is not available: "))
    except BackendLoadError as error:
        return BackendInfo(name, distribution, "broken", str(error))


def _levels_to_caller() -> int:
    """The ``stacklevel`` at which a warning points to the code that called cylstm."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "cylstm":
        level, frame = level + 1, frame.f_back
    return level


def _said(error: BaseException) -> str:
    """The type and message of an error, whose own ``__str__`` may fail."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def _shown(value: object) -> str:
    return f"{value!r}" if isinstance(value, type) else f"an object of type {type(value).__name__}"
