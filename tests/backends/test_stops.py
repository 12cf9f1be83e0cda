"""Ctrl-C and signal handlers stop the program; a plugin that raises what they raise has failed."""

from __future__ import annotations

import _thread
import asyncio
import functools
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cylstm
from cylstm.backends import registry
from cylstm.backends.stops import from_outside


@pytest.fixture
def signals() -> Iterator[None]:
    """The handlers are put back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def raised_by(function: Callable[[], Any]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        function()
    return caught.value


def loop() -> None:
    _thread.interrupt_main()
    for _ in range(10**6):
        pass


def reraised() -> None:
    try:
        loop()
    except KeyboardInterrupt:
        raise


def replaced() -> None:
    try:
        loop()
    except KeyboardInterrupt:
        raise KeyboardInterrupt("seen") from None


def of_a_task() -> None:
    async def work() -> None:
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(60)

    asyncio.run(work())


STOPS: dict[str, Callable[[], Any]] = {
    "in a loop": loop,
    "in a call": lambda: signal.raise_signal(signal.SIGINT),
    "raised again": reraised,
    "replaced": replaced,
    "of a task": of_a_task,
}


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize("name", STOPS)
def test_ctrl_c(name: str) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    error = raised_by(STOPS[name])
    assert isinstance(error, KeyboardInterrupt)
    assert from_outside(error)


class Handlers:
    def method(self, number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    def __call__(self, number: int, frame: Any) -> None:
        sys.exit(7)


def with_more(more: int, number: int, frame: Any) -> None:
    raise LookupError


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize(
    "handler", [Handlers().method, Handlers(), functools.partial(with_more, 1), lambda *_: [][1]], ids=str
)
def test_what_a_handler_raises(handler: Any) -> None:
    signal.signal(signal.SIGUSR1, handler)
    assert from_outside(raised_by(lambda: signal.raise_signal(signal.SIGUSR1)))


def raises(error: BaseException) -> None:
    raise error


class Interrupt(KeyboardInterrupt):
    pass


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Interrupt(), SystemExit(0), ValueError()], ids=repr)
def test_what_code_raises(error: BaseException) -> None:
    assert not from_outside(raised_by(lambda: raises(error)))


@pytest.mark.usefixtures("signals", "new_registry")
@pytest.mark.parametrize("use", [registry.load, lambda name: cylstm.available_backends()], ids=["load", "list"])
def test_ctrl_c_while_a_plugin_is_imported(use: Callable[[str], Any], install: Callable[..., Path]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    source = "import signal\nsignal.raise_signal(signal.SIGINT)"
    install("stopped", "stopped = stopped_backend:Plugin", stopped_backend=source)
    try:
        with pytest.raises(KeyboardInterrupt):
            use("stopped")
    finally:
        sys.modules.pop("stopped_backend", None)


@pytest.mark.usefixtures("new_registry")
def test_a_plugin_that_raises_it_in_another_thread(install: Callable[..., Path]) -> None:
    install("late", "late = late_backend:Plugin", late_backend="raise KeyboardInterrupt")
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(cylstm.available_backends()))
    thread.start()
    thread.join()
    assert next(info.status for info in found if info.name == "late") == "broken"
