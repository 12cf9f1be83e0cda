"""The border to backends of other people: what they raise or return that they must not is an error with their name.

cylstm's own backends are called directly. Others stand behind a `Guard`, which compares a handful of shapes and dtypes
per call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np

from ..words import quoted
from .base import (
    Backend,
    DirectionParameters,
    Keep,
    LayerGradients,
    LayerOutput,
    LayerParameters,
    Stepper,
)
from .errors import BackendError, BackendFailedError
from .plugins import safe_error_text
from .stops import from_outside


def guarded(backend: Backend) -> Backend:
    """The backend itself where it is cylstm's own, else behind a `Guard`."""
    return backend if type(backend).__module__.startswith("cylstm.backends.") else cast("Backend", Guard(backend))


def called(name: str, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """What a method of the backend of this name returns.

    Raises
    ------
    BackendFailedError
        It raised an error, or tried to end the program. What says nothing about the backend passes: MemoryError,
        errors of cylstm about backends, Ctrl-C, and whatever a signal handler raised meanwhile.
    """
    try:
        return method(*arguments, **named)
    except (MemoryError, BackendError):
        raise
    except BaseException as error:
        if from_outside(error):
            raise
        raise BackendFailedError(
            f"backend {quoted(name)} failed in {_name(method)}: {safe_error_text(error)}"
        ) from error


def _name(method: Callable[..., Any]) -> str:
    return str(getattr(method, "__name__", "a method"))


class _Sizes(NamedTuple):
    """What results must have."""

    D: int
    R: int
    H: int
    parameters: tuple[tuple[tuple[int, ...] | None, ...], ...]  # by direction


class _Prepared(NamedTuple):
    layer: Any  # as the backend prepared it
    sizes: _Sizes


class _Workspace(NamedTuple):
    kept: Any  # what the backend kept
    input: np.ndarray
    B: int


class Guard:
    """A backend that is called with care. `prepare` and `forward` return what the guard's other methods take."""

    def __init__(self, backend: Backend) -> None:
        self._backend, self.name, self.capabilities = backend, backend.name, backend.capabilities

    def prepare(self, layer_parameters: LayerParameters, **options: Any) -> _Prepared:
        """As `Backend.prepare`."""
        H4, R = layer_parameters[0].weight_hh.shape
        shapes = tuple(tuple(None if p is None else p.shape for p in direction) for direction in layer_parameters)
        sizes = _Sizes(len(layer_parameters), R, H4 // 4, shapes)
        return _Prepared(called(self.name, self._backend.prepare, layer_parameters, **options), sizes)

    def forward(
        self,
        prepared: _Prepared,
        *,
        input: np.ndarray,
        batch_sizes: np.ndarray,
        h_0: np.ndarray | None,
        c_0: np.ndarray | None,
        keep: Keep = "nothing",
    ) -> LayerOutput:
        """As `Backend.forward`."""
        result = called(
            self.name,
            self._backend.forward,
            prepared.layer,
            input=input,
            batch_sizes=batch_sizes,
            h_0=h_0,
            c_0=c_0,
            keep=keep,
        )
        D, R, H, _ = prepared.sizes
        B = int(batch_sizes[0])
        if type(result) is not LayerOutput:
            raise self._wrong("forward must return a LayerOutput", type(result).__name__)
        self._check("output of forward", result.output, (len(input), D * R), like=input)
        self._check("h_n of forward", result.h_n, (D, B, R), like=input)
        self._check("c_n of forward", result.c_n, (D, B, H), like=input)
        if keep == "nothing":
            return result
        if result.workspace is None:
            raise self._wrong(f"the workspace of forward must be there with keep={keep!r}", "None")
        return result._replace(workspace=_Workspace(result.workspace, input, B))

    def backward(
        self,
        prepared: _Prepared,
        workspace: _Workspace,
        *,
        grad_output: np.ndarray | None,
        grad_h_n: np.ndarray | None,
        grad_c_n: np.ndarray | None,
    ) -> LayerGradients:
        """As `Backend.backward`."""
        result = called(
            self.name,
            self._backend.backward,
            prepared.layer,
            workspace.kept,
            grad_output=grad_output,
            grad_h_n=grad_h_n,
            grad_c_n=grad_c_n,
        )
        D, R, H, shapes = prepared.sizes
        if type(result) is not LayerGradients:
            raise self._wrong("backward must return LayerGradients", type(result).__name__)
        like, B, directions = workspace.input, workspace.B, result.parameters
        self._check("input of backward", result.input, like.shape, like=like)
        self._check("h_0 of backward", result.h_0, (D, B, R), like=like)
        self._check("c_0 of backward", result.c_0, (D, B, H), like=like)
        if type(directions) is not tuple or [type(each) for each in directions] != [DirectionParameters] * D:
            raise self._wrong(f"parameters of backward must be {D} DirectionParameters", type(directions).__name__)
        for direction, expected in zip(directions, shapes, strict=True):
            for name, array, shape in zip(direction._fields, direction, expected, strict=True):
                if shape is not None:
                    self._check(f"{name} of backward", array, shape, like=like)
        return result

    def stepper(self, layers: tuple[_Prepared, ...], *, batch_size: int) -> Stepper | None:
        """As `Backend.stepper`."""
        plain = tuple(prepared.layer for prepared in layers)
        stepper = called(self.name, self._backend.stepper, plain, batch_size=batch_size)
        return None if stepper is None else _GuardedStepper(self, stepper, (batch_size, layers[-1].sizes.R))

    def uploaded(self, prepared: _Prepared) -> LayerParameters | None:
        """As `Backend.uploaded`."""
        method = getattr(self._backend, "uploaded", None)  # it is younger than the other methods
        return None if method is None else called(self.name, method, prepared.layer)

    def _check(self, name: str, array: Any, shape: tuple[int, ...], *, like: Any) -> None:
        """It is an array of this shape, and of the dtype and the place of the input.

        A subclass is none: a masked array hides what it holds, a matrix has products of its own, and whatever is looked
        at of others runs their code.
        """
        if type(array) not in _of_the_place(like):
            got = f"{type(array).__module__}.{type(array).__qualname__}".removeprefix("builtins.")
            raise self._wrong(f"{name} must be an array of shape {shape}, of the input's class", got)
        if array.shape != shape or array.dtype != like.dtype:
            expected = f"{name} must be an array of shape {shape} and dtype {like.dtype}"
            raise self._wrong(expected, f"shape {array.shape} and dtype {array.dtype}")

    def _wrong(self, expected: str, got: str) -> BackendFailedError:
        return BackendFailedError(
            f"backend {quoted(self.name)}: {expected}, got {got}: hold it to cylstm.testing.check_backend"
        )


def _of_the_place(like: Any) -> tuple[type, ...]:
    """The classes of arrays that lie where this one does."""
    return (np.ndarray, np.memmap) if isinstance(like, np.ndarray) else (type(like),)


def _parts_of_stepper(stepper: Any) -> tuple[list[str], bool, Any]:
    """What it lacks, whether it is serial, and its method ``state``, which only those of devices have."""
    missing = [name for name in ("serial", "step", "get_state", "set_state") if not hasattr(stepper, name)]
    return missing, not missing and bool(stepper.serial), getattr(stepper, "state", None)


class _GuardedStepper:
    """A stepper that is called with care."""

    def __init__(self, guard: Guard, stepper: Stepper, shape: tuple[int, int]) -> None:
        self._guard, self._stepper, self._shapes = guard, stepper, (shape, shape[1:])
        missing, self.serial, state = called(guard.name, _parts_of_stepper, stepper)
        if missing:
            raise guard._wrong("what stepper returns must be a Stepper or None", f"one without {', '.join(missing)}")
        if "cuda" in guard.capabilities.devices and state is not None:  # a `DeviceStepper`
            self.state = partial(called, guard.name, state)

    def step(self, x_t: Any, out: Any, threads: int) -> np.ndarray | None:
        """As `Stepper.step`."""
        result = called(self._guard.name, self._stepper.step, x_t, out, threads)
        if result is None:
            return None
        shape = self._shapes[x_t.ndim == 1]
        self._guard._check("the result of step", result, shape, like=x_t)
        return result

    def get_state(self, h: np.ndarray, c: np.ndarray) -> None:
        """As `Stepper.get_state`."""
        called(self._guard.name, self._stepper.get_state, h, c)

    def set_state(self, h: np.ndarray, c: np.ndarray) -> None:
        """As `Stepper.set_state`."""
        called(self._guard.name, self._stepper.set_state, h, c)
