"""Whether an exception stops the program, or belongs to the code that ran at that moment."""

from __future__ import annotations

import functools
import opcode
import signal
from collections.abc import Iterator
from types import CodeType, TracebackType
from typing import Any


def from_outside(error: BaseException) -> bool:
    """Whether the user or the system stopped the program, which says nothing about the code that ran meanwhile.

    That is whatever a signal handler raised, and a KeyboardInterrupt of Python's own handler. The latter shows itself
    between two instructions or in a call, while one of the code's making comes from a ``raise`` statement.
    """
    handlers = {_code(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    entries = list(_entries(error))
    if any(entry.tb_frame.f_code in handlers for entry in entries):
        return True
    if not isinstance(error, KeyboardInterrupt):
        return False
    before = error.__cause__ or error.__context__
    if isinstance(before, KeyboardInterrupt):  # `except KeyboardInterrupt: raise KeyboardInterrupt`
        return from_outside(before)
    return not (entries and _is_raise(entries[-1]))


def _entries(error: BaseException) -> Iterator[TracebackType]:
    """Of its traceback, the place where it was raised last."""
    entry = error.__traceback__
    while entry is not None:
        yield entry
        entry = entry.tb_next


def _is_raise(entry: TracebackType) -> bool:
    """Whether it stands at a ``raise`` statement; that of ``asyncio.run`` passes a Ctrl-C on."""
    code, place = entry.tb_frame.f_code.co_code, entry.tb_lasti
    if entry.tb_frame.f_globals.get("__name__") == "asyncio.runners":
        return False
    return 0 <= place < len(code) and opcode.opname[code[place]] == "RAISE_VARARGS"


def _code(handler: Any) -> CodeType | None:
    """The code of a handler: a function, a method, an object that can be called, or a partial of one."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    for function in (handler, getattr(handler, "__func__", None), vars(type(handler)).get("__call__")):
        if isinstance(code := getattr(function, "__code__", None), CodeType):
            return code
    return None
