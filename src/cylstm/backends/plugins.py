"""What backends there are: built-in ones, entry points of other distributions, and how their classes are loaded.

A class is named by its path, ``package.module:Class``. Whatever a plugin does wrong, when its metadata are read, when
it is imported or when it is asked whether it is available, becomes one of the errors of `cylstm.backends.errors`; it
harms no other backend. Their messages continue "backend 'name' ...".
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import re
from collections.abc import Callable, Set
from typing import Any, NamedTuple

from ..words import error_text, quoted
from .base import API_VERSION, Backend, Capabilities
from .errors import BackendError, BackendLoadError, BackendNotAvailableError, UnknownBackendError
from .stops import from_outside

#: The group of entry points.
GROUP = "cylstm.backends"

#: Built-in backends.
BUILT_IN = {
    "cython": "cylstm.backends.cython_backend:CythonBackend",
    "numpy": "cylstm.backends.numpy_backend:NumpyBackend",
    "cupy": "cylstm.backends.cupy_backend:CupyBackend",
}
#: Those of the automatic choice, best first.
AUTOMATIC = ("cython", "numpy")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_PATH = re.compile(r"(?P<module>\w+(\.\w+)*):(?P<attribute>\w+(\.\w+)*)")


# Entry points -------------------------------------------------------------------------------------------------------


class Candidate(NamedTuple):
    """A name for a class, and who gives it."""

    name: str
    path: str
    distribution: str
    refused: str  # why it is not used; "" if it is


def declared() -> list[Candidate]:
    """All entry points of the group, one per name. Raises nothing, whatever the installed metadata look like.

    ``importlib.metadata.entry_points`` fails as a whole on one malformed file of any distribution, so each
    distribution is read by itself.
    """
    from importlib import metadata  # 30 ms, and only needed for names that are not built in

    distributions: dict[str, None] = {}
    for distribution in metadata.distributions():
        with contextlib.suppress(Exception):
            if GROUP in (distribution.read_text("entry_points.txt") or ""):
                distributions[distribution.metadata["Name"]] = None
    found: dict[str, set[tuple[str, str]]] = {}  # name: {(path, distribution)}
    unreadable = []
    for name in distributions:
        try:
            # By name once more: of two copies on sys.path only the first counts.
            for entry in metadata.distribution(name).entry_points.select(group=GROUP):
                found.setdefault(entry.name, set()).add((entry.value.partition("[")[0].strip(), name))
        except Exception as error:
            reason = f"its entry points cannot be read: {safe_error_text(error)}"
            unreadable.append(Candidate("", "", str(name), reason))
    return [_candidate(name, sources) for name, sources in sorted(found.items())] + unreadable


def _candidate(name: str, sources: set[tuple[str, str]]) -> Candidate:
    """The entry points of one name, each a path and a distribution."""
    paths, owners = zip(*sorted(sources), strict=True)
    if name in BUILT_IN:
        refused = "the name is that of a built-in backend and cannot be taken"
    elif not _NAME.fullmatch(name):
        refused = "the name is not made of letters, digits, '-', '_' and '.'"
    elif len(sources) > 1:
        refused = f"several claim the name: uninstall all but one, or name the class itself: {', '.join(paths)}"
    else:
        refused = ""
    return Candidate(name, paths[0], ", ".join(dict.fromkeys(owners)), refused)


def find(name: str) -> Candidate:
    """The entry point of this name.

    Raises
    ------
    UnknownBackendError
        There is none.
    """
    candidates = declared()
    for candidate in candidates:
        if candidate.name == name:
            return candidate
    names = [*BUILT_IN, *(c.name for c in candidates if not c.refused)]
    nearest = difflib.get_close_matches(name.lower(), names, 1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise UnknownBackendError(
        f"is unknown.{hint} Known: {', '.join(names)}. Others come with a distribution that has an entry point of the "
        f"group {GROUP!r}, or are named as 'package.module:Class'."
    )


# Classes ------------------------------------------------------------------------------------------------------------


def load_class(path: str) -> type[Backend]:
    """The class at ``package.module:Class``.

    Raises
    ------
    BackendNotAvailableError
        A module that it needs is not installed.
    BackendLoadError
        There is no such class, importing it failed, or it is not a backend of this version.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        raise BackendLoadError(f"cannot be loaded: {path!r} is not of the form 'package.module:Class'.")
    try:
        found: Any = importlib.import_module(match["module"])
        for attribute in match["attribute"].split("."):
            found = getattr(found, attribute)
        problem = _problem_of_class(found, path)
    except BaseException as error:  # also SystemExit: a plugin must not end the program
        if from_outside(error):
            raise
        raise _import_error(path, error) from error
    if problem:
        raise BackendLoadError(problem)
    return found


def _problem_of_class(found: Any, path: str) -> str:
    """Why what was found at a path is not a backend of this version; "" if it is."""
    if not isinstance(found, type):
        return f"cannot be loaded: {path!r} is not a class but {description(found)}."
    if problem := shortcoming(found):
        return f"is not a backend: {path!r} {problem}; see cylstm.backends.base.Backend."
    return other_version(found)


def other_version(backend: Any) -> str:
    """What to say of a class or an object of another version of the interface; "" of one of this version."""
    version = backend.api_version
    if type(version) is not int or version != API_VERSION:
        return (
            f"has version {safely_quoted(version)} of the backend interface, and this cylstm has version "
            f"{API_VERSION}: install versions of both that go together."
        )
    return ""


def _import_error(path: str, error: BaseException) -> BackendError:
    """What an error in the import of a class means for its backend."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        if path in BUILT_IN.values():
            return BackendNotAvailableError(
                f"is not available: this installation lacks {error.name}. Install it anew: from a wheel file, "
                "or by `pip install --force-reinstall .` in the folder of its sources, where there is a C compiler."
            )
        if error.name.partition(".")[0] != path.partition(":")[0].partition(".")[0]:
            return BackendNotAvailableError(
                f"is not available: it needs the module {error.name!r}, which is not installed."
            )
    return BackendLoadError(f"failed to load from {path!r}: {safe_error_text(error)}.")


def why_refused(backend: Any) -> str:
    """Why an object is no backend of this version; "" if it is one."""
    return shortcoming(backend) or other_version(backend)


def shortcoming(backend: Any) -> str:
    """What of the contract a class or an object does not have, or has in another form, in words; "" if nothing."""
    names = ["name", "api_version", "capabilities", "is_available", "prepare", "forward"]
    capabilities = getattr(backend, "capabilities", None)
    if getattr(capabilities, "training", False) is True:
        names.append("backward")
    missing = [name for name in names if not hasattr(backend, name)]
    if capabilities is not None:
        missing += [f"capabilities.{name}" for name in Capabilities._fields if not hasattr(capabilities, name)]
    if missing:
        return f"lacks {', '.join(missing)}"
    if not isinstance(backend.name, str):
        return f"has a name that must be a str, got {safely_quoted(backend.name)}"
    for field, expected in _EXPECTED.items():
        value = getattr(capabilities, field, None)
        if not _FITS[expected](value):
            return f"has capabilities.{field} that must be {expected}, got {safely_quoted(value)}"
    return ""


_FITS: dict[str, Callable[[Any], bool]] = {
    "a set of names": lambda value: isinstance(value, Set) and all(isinstance(name, str) for name in value),
    "a tuple of names": lambda value: isinstance(value, tuple) and all(isinstance(name, str) for name in value),
    "True or False": lambda value: isinstance(value, bool),
}
#: The form of each field of `Capabilities`.
_EXPECTED = {
    "dtypes": "a set of names",
    "training": "True or False",
    "projection": "True or False",
    "devices": "a tuple of names",
    "precisions": "a tuple of names",
    "options": "a set of names",
}


def availability(cls: type[Backend]) -> tuple[bool, str]:
    """Whether a backend can run here, and why not.

    Raises
    ------
    BackendLoadError
        Its own answer is an error.
    """
    try:
        available, reason = cls.is_available()
        return bool(available), str(reason)
    except BaseException as error:
        if from_outside(error):
            raise
        raise BackendLoadError(f"cannot tell whether it is available: {safe_error_text(error)}.") from error


def available_built_in() -> list[str]:
    """The names of the backends of the automatic choice that can run here."""
    names = []
    for name in AUTOMATIC:
        with contextlib.suppress(BackendError):
            if availability(load_class(BUILT_IN[name]))[0]:
                names.append(name)
    return names


# The table of all ---------------------------------------------------------------------------------------------------


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


def available_backends() -> BackendTable:
    """Every known backend, built in or declared by an installed distribution, and whether it works here.

    Imports all of them to find out. Never raises, whatever a plugin does.

    Returns
    -------
    BackendTable
        A tuple of :class:`BackendInfo` (name, distribution, status, reason) that prints as a table.
    """
    built_in = [Candidate(name, path, "cylstm", "") for name, path in BUILT_IN.items()]
    return BackendTable(map(_info, [*built_in, *declared()]))


def _info(candidate: Candidate) -> BackendInfo:
    name, path, distribution, refused = candidate
    if refused:
        return BackendInfo(name, distribution, "refused", refused)
    try:
        available, reason = availability(load_class(path))
        return BackendInfo(name, distribution, "available" if available else "unavailable", "" if available else reason)
    except BackendNotAvailableError as error:
        return BackendInfo(name, distribution, "unavailable", str(error).removeprefix("is not available: "))
    except BackendLoadError as error:
        return BackendInfo(name, distribution, "broken", str(error))
    except Exception as error:
        return BackendInfo(name, distribution, "broken", safe_error_text(error))


# Words for messages -------------------------------------------------------------------------------------------------


def safe_error_text(error: BaseException) -> str:
    """The type and message of an error, whose own ``__str__`` may fail."""
    return _tried(error_text, error) or type(error).__name__


def description(value: object) -> str:
    """What a value is that was expected to be something else."""
    return safely_quoted(value) if isinstance(value, type) else f"an object of type {type(value).__name__}"


def safely_quoted(value: object) -> str:
    """The ``repr`` of a value, which may fail."""
    return _tried(quoted, value) or f"an object of type {type(value).__name__}"


def _tried(words: Callable[[Any], str], value: Any) -> str:
    try:
        return words(value)
    except BaseException as failure:
        if from_outside(failure):
            raise
        return ""
