"""The command ``cylstm``: errors, warnings, signals and the exit status."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from ..words import printable
from .parser import make_parser


class _Signalled(BaseException):
    """Raised by SIGTERM and SIGHUP, so that temporary files are removed on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status. Errors are one line on stderr."""
    parsed = make_parser().parse_args(arguments)
    try:
        with _signals(), _warnings(), _current_folder(parsed):
            status: int = parsed.command(parsed)
            sys.stdout.flush()
            return status
    except BrokenPipeError:  # the reader of our output has gone, as in `cylstm info | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _fail("interrupted", 128 + signal.SIGINT)
    except _Signalled as error:
        return _fail("terminated", 128 + error.number)
    except MemoryError:
        return _fail("not enough memory: try a smaller --chunk or --batch-chunk", 2)
    except FileNotFoundError as error:
        return _fail(f"no such file: {str(error.filename)!r}" if error.filename else str(error), 2)
    except OSError as error:
        reason = error.strerror or str(error)
        return _fail(f"{error.filename}: {reason}" if error.filename and error.strerror else reason, 2)
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        return _fail(str(error), 2)


def _fail(message: str, status: int) -> int:
    print(printable(f"cylstm: {' '.join(message.split())}"), file=sys.stderr)
    return status


@contextmanager
def _current_folder(parsed: argparse.Namespace) -> Iterator[None]:
    """Where a backend is named as ``module:Class``, the current folder is searched too, after all others."""
    given = (getattr(parsed, "backend", None), getattr(parsed, "name", None), os.environ.get("CYLSTM_BACKEND"))
    named = [name for one in given if one for name in ([one] if isinstance(one, str) else one)]
    if not any(":" in name for name in named):
        yield
        return
    folder = os.getcwd()
    sys.path.append(folder)
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(folder)


@contextmanager
def _warnings() -> Iterator[None]:
    """Warnings as one line on stderr."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"cylstm: warning: {' '.join(str(message).split())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@contextmanager
def _signals() -> Iterator[None]:
    """Raise where these signals would end the process at once and leave temporary files."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise _Signalled(number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    old = {number: signal.signal(number, handle) for number in numbers if signal.getsignal(number) == signal.SIG_DFL}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
