"""Which backend computes one version of the parameters: what LSTM and LSTMCell have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..arrays.arguments import GPU_REMEDY, as_dtype, check_device
from ..backends import registry
from ..backends.base import Backend, LayerParameters
from ..backends.errors import BackendError
from .module import Module, exclusively
from .parameters import Snapshot


class Choice(NamedTuple):
    """The backend that computes one version of the parameters."""

    selection: object  # of the registry, in force: another one, and the choice is made again
    backend: Backend
    layers: tuple[Any, ...]  # prepared by the backend, one entry per layer
    dtype: np.dtype
    cuda: bool  # arrays on a GPU are computed there


def choose(
    snapshot: Snapshot,
    layers: Callable[[dict[str, np.ndarray]], list[LayerParameters]],
    backend: str | Backend | None,
    *,
    training: bool,
    device: str = "cpu",
) -> Choice:
    """The choice for these parameters, which ``snapshot.derived[training]`` keeps for the next call."""
    selection, parameters = registry.selection(), layers(snapshot.arrays)
    first = parameters[0][0]
    dtype = first.weight_ih.dtype
    chosen = registry.choose(
        backend, dtype=dtype.name, projection=first.weight_hr is not None, training=training, device=device
    )
    prepared = snapshot.derive(chosen, lambda: tuple(map(chosen.prepare, parameters)))
    choice = Choice(selection, chosen, prepared, dtype, "cuda" in chosen.capabilities.devices)
    snapshot.derived[training] = choice
    return choice


class ComputedModule(Module):
    """A module that a backend computes. A subclass sets ``backend`` and defines ``_layers``."""

    _devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    backend: str | Backend | None

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "backend" and "_store" in self.__dict__:
            self._set_backend(value)
        else:
            super().__setattr__(name, value)

    def _set_backend(self, backend: str | Backend | None) -> None:
        """Compute on another backend from the next call on. An explicit choice works or raises."""
        if backend is not None:
            registry.choose(backend, dtype=self.dtype.name, projection=self._has_projection, device=self._device)
        with exclusively([self]):
            self.__dict__["backend"] = backend
            self._store.renew()

    def _checked_place(self, device: Any, dtype: Any) -> tuple[str, np.dtype]:
        """Device and dtype of the constructor. An explicit choice of them works or raises, before anything is drawn."""
        device, dtype = check_device(device, self._devices), as_dtype(dtype)
        if device != "cpu":
            self._check_device(device, dtype)
        elif self.backend is not None:
            registry.choose(self.backend, dtype=dtype.name, projection=self._has_projection)
        return device, dtype

    def _check_device(self, device: str, dtype: np.dtype) -> None:
        try:
            registry.choose(self.backend, dtype=dtype.name, projection=self._has_projection, device=device)
        except BackendError as error:
            raise RuntimeError(
                f"device {device!r} cannot be used, 'cpu' can: {error} A reminder: {GPU_REMEDY}"
            ) from error

    def _move(self, device: str) -> None:
        if device != "cpu":
            self._check_device(device, self.dtype)
        super()._move(device)

    @property
    def _has_projection(self) -> bool:
        return getattr(self, "proj_size", 0) > 0

    def _layers(self, arrays: dict[str, np.ndarray]) -> list[LayerParameters]:
        """The parameters, layer by layer, as backends take them."""
        raise NotImplementedError

    def _choice(self, snapshot: Snapshot, *, training: bool) -> Choice:
        """The backend in force and the parameters as it has prepared them: once per version."""
        choice = snapshot.derived.get(training)
        if choice is None or choice.selection is not registry.selection() or self._store.unlocked_by is not None:
            self._store.refuse_inside_unlocked()
            choice = choose(snapshot, self._layers, self.backend, training=training, device=self._device)
        return choice
