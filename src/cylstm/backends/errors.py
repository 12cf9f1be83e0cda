"""The errors about backends. Callers find them in ``cylstm``, and tracebacks say so."""

from __future__ import annotations


class BackendError(Exception):
    """Base of the errors about backends."""

    __module__ = "cylstm"


class UnknownBackendError(BackendError, ValueError):
    """No backend has this name."""

    __module__ = "cylstm"


class BackendNotAvailableError(BackendError, ImportError):
    """The backend is known, but something it needs is not here; the message says what to install."""

    __module__ = "cylstm"


class BackendLoadError(BackendError, ImportError):
    """The backend is known, but loading it failed; the message names distribution and entry point."""

    __module__ = "cylstm"


class UnsupportedError(BackendError, ValueError):
    """The backend works, but cannot do what is asked of it; the message names the backends that can."""

    __module__ = "cylstm"


class BackendFailedError(BackendError, RuntimeError):
    """A backend raised an error, tried to end the program, or returned what it must not; the message names it."""

    __module__ = "cylstm"
