"""Arrays of other libraries on a GPU: what comes from PyTorch or JAX goes back there, in the order of their own work.

CuPy queues work in its current stream, PyTorch in its own. Where these differ, PyTorch might give the memory of an
input that was freed to others while it is still being read. So a call with its tensors runs in its stream; where the
results stay CuPy's, it runs in CuPy's, and PyTorch's stream waits for it.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, TypeVar

import numpy as np

from .packed import PackedSequence

Method = TypeVar("Method", bound=Callable[..., Any])
Function = TypeVar("Function", bound=Callable[..., Any])


class Home(NamedTuple):
    """A library with arrays of its own on a GPU."""

    stream: Callable[[], AbstractContextManager[None]]  # what CuPy does inside is in the order of the library's work
    back: Callable[[Any], Any]  # a CuPy array as one of the library, on the same memory
    wait: Callable[[], None]  # the library's work to come is after what CuPy has been given


def at_home(method: Method) -> Method:
    """For a method whose first argument is an array or a PackedSequence: results lie where that has come from.

    So do those of functions that it returns. The data of a PackedSequence stay CuPy's.
    """

    @functools.wraps(method)
    def called(self: Any, input: Any, *arguments: Any, **named: Any) -> Any:
        if type(input) is np.ndarray or (home := _home_of(input)) is None:
            return method(self, input, *arguments, **named)
        return _run(home, method, self, input, *arguments, **named)

    return called  # type: ignore[return-value]


@contextmanager
def lent(values: Iterable[Any]) -> Iterator[None]:
    """What CuPy does with these arrays or packed sequences inside is before what their libraries do with them next."""
    homes = {home for value in values if (home := _home_of(value)) is not None}
    try:
        yield
    finally:
        for home in homes if "cupy" in sys.modules else ():  # else nothing has been queued
            home.wait()


def lending(function: Function) -> Function:
    """For a function whose first argument is an array, or many of them, and which returns CuPy's: `lent` around it."""
    first = next(iter(inspect.signature(function).parameters))

    @functools.wraps(function)
    def called(*arguments: Any, **named: Any) -> Any:
        value: Any = arguments[0] if arguments else named.get(first)
        if isinstance(value, Iterator):
            value = list(value)
            if arguments:
                arguments = (value, *arguments[1:])
            else:
                named[first] = value
        with lent(value if type(value) in (list, tuple) else [value]):
            return function(*arguments, **named)

    return called  # type: ignore[return-value]


def _home_of(value: Any) -> Home | None:
    """Where an array on a GPU is at home, if neither with NumPy nor with CuPy."""
    array = value.data if hasattr(value, "batch_sizes") else value
    library = type(array).__module__.partition(".")[0]
    if library == "torch" and getattr(array, "is_cuda", False):
        return Home(in_stream_of_torch, _to_torch, _torch_waits)
    if library in ("jax", "jaxlib") and getattr(array, "__dlpack_device__", tuple)()[:1] == (2,):
        return Home(_before_jax, _to_jax, _jax_waits)
    return None


def _run(home: Home, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    with home.stream():
        return _brought_back(home, function(*arguments, **named))


def _brought_back(home: Home, value: Any) -> Any:
    """Every array of a result; functions so that they bring back theirs."""
    if value is None or isinstance(value, (np.ndarray, PackedSequence)):
        return value
    if isinstance(value, dict):
        return {name: _brought_back(home, item) for name, item in value.items()}
    if isinstance(value, tuple):
        items = [_brought_back(home, item) for item in value]
        return type(value)._make(items) if hasattr(value, "_make") else tuple(items)
    if callable(value):
        return functools.partial(_run, home, value)
    return home.back(value)


@contextmanager
def in_stream_of_torch() -> Iterator[None]:
    """CuPy's work inside is queued in PyTorch's current stream of the current device."""
    import cupy
    import torch

    before = cupy.cuda.get_current_stream()
    cupy.cuda.Stream.from_external(torch.cuda.current_stream()).use()
    try:
        yield
    finally:
        before.use()  # not by `with`, which in CuPy before 14.3 forgets a stream that was made current by `use`


def _torch_waits() -> None:
    import cupy
    import torch

    ours, theirs = cupy.cuda.get_current_stream(), cupy.cuda.Stream.from_external(torch.cuda.current_stream())
    if ours != theirs:
        theirs.wait_event(ours.record(cupy.cuda.Event(disable_timing=True)))


def _to_torch(array: Any) -> Any:
    import torch

    return torch.from_dlpack(array)


@contextmanager
def _before_jax() -> Iterator[None]:
    try:
        yield
    finally:
        _jax_waits()


def _jax_waits() -> None:
    """JAX has no current stream; it gets the memory of inputs back when everything that reads them is done."""
    import cupy

    cupy.cuda.get_current_stream().synchronize()


def _to_jax(array: Any) -> Any:
    import jax

    return jax.dlpack.from_dlpack(array)
