"""Which backend computes one version of the parameters: what LSTM and LSTMCell have in common."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from ..arrays.arguments import GPU_REMEDY, as_dtype, check_device
from ..backends import registry
from ..backends.base import Backend, LayerOptions, LayerParameters
from ..backends.errors import BackendError
from ..backends.guard import guarded
from ..backends.precision import DEFAULT, check_precision, in_force
from .frozen import refuse_gradients, rounded
from .module import Module, exclusively
from .options import NAMES, check_real, named, read_back
from .parameters import UPLOADED, Snapshot

#: The options of PyTorch's LSTM.
PLAIN = LayerOptions()


class Choice(NamedTuple):
    """The backend that computes one version of the parameters."""

    selection: object  # of the registry, in force: another one, and the choice is made again
    backend: Backend  # behind a `Guard`, unless it is one of cylstm's
    layers: tuple[Any, ...]  # prepared by the backend, one entry per layer
    dtype: np.dtype
    cuda: bool  # arrays on a GPU are computed there


def choose(
    snapshot: Snapshot,
    layers: Callable[[dict[str, Any]], list[LayerParameters]],
    backend: str | Backend | None,
    *,
    training: bool,
    device: str = "cpu",
    precision: str = DEFAULT,
    options: LayerOptions = PLAIN,
) -> Choice:
    """The choice for these parameters, which ``snapshot.derived[training]`` keeps for the next call."""
    if training:
        refuse_gradients(snapshot.kept, precision)
    selection, parameters = registry.selection(), layers(snapshot.kept)
    first = parameters[0][0]
    dtype = first.weight_ih.dtype
    check_real(options, dtype)
    chosen = registry.choose(
        backend,
        dtype=dtype.name,
        projection=first.weight_hr is not None,
        training=training,
        device=device,
        precision=precision,
        options=options.needs(),
    )
    if "cuda" not in chosen.capabilities.devices:
        parameters = layers(snapshot.arrays)
    more: dict[str, Any] = {} if precision == DEFAULT else {"precision": precision}
    if options.named():
        more["options"] = options
    # By its id, with the backend beside: a backend need not be hashable.
    computing, prepared = snapshot.derive((id(chosen), precision), lambda: _prepared(guarded(chosen), parameters, more))
    choice = Choice(selection, computing, prepared, dtype, "cuda" in chosen.capabilities.devices)
    if choice.cuda and not snapshot.on_gpu:
        snapshot.derived[UPLOADED] = partial(_uploaded, choice, parameters, snapshot.kept)
    snapshot.derived[training] = choice
    return choice


def _prepared(backend: Backend, layers: list[LayerParameters], more: dict[str, Any]) -> tuple[Backend, tuple[Any, ...]]:
    return backend, tuple(backend.prepare(layer, **more) for layer in layers)


def _uploaded(choice: Choice, layers: list[LayerParameters], kept: dict[str, Any]) -> dict[str, Any] | None:
    """The parameters by name as the backend has them on a GPU, None where it does not give them."""
    there: dict[int, Any] = {}  # by the id of the array that the backend was given
    for layer, prepared in zip(layers, choice.layers, strict=True):
        if (uploaded := choice.backend.uploaded(prepared)) is None:
            return None
        for given, parameters in zip(layer, uploaded, strict=True):
            there |= {id(array): uploaded for array, uploaded in zip(given, parameters, strict=True)}
    return {name: there[id(array)] for name, array in kept.items()}


class _Option:
    """An option beyond PyTorch's, as an attribute that is read; ``_fixed`` refuses to set it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, module: Any, owner: type) -> Any:
        return self if module is None else read_back(module._options, self.name)


class ComputedModule(Module):
    """A module that a backend computes. A subclass sets ``backend`` and defines ``_layers``."""

    _devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    backend: str | Backend | None
    _options: LayerOptions = PLAIN  # of modules from before there were options, which pickle brings

    peephole, clip, activations, input_forget, cell_clip, proj_clip = (_Option(name) for name in NAMES)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "backend" and "_store" in self.__dict__:
            self._set_backend(value)
        else:
            super().__setattr__(name, value)

    def _set_backend(self, backend: str | Backend | None) -> None:
        """Compute on another backend from the next call on. An explicit choice works or raises."""
        if backend is not None:
            self._check_backend(self.dtype, self._precision, self._device, backend)
        with exclusively([self], frozen=True):
            self.__dict__["backend"] = backend
            self._store.renew()

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if not self._options.named():
            state.pop("_options", None)
        return state

    def _repr_of_options(self) -> str:
        """What they add to the ``repr``."""
        return "".join(f", {name}={value!r}" for name, value in named(self._options).items())

    def _checked_place(self, device: Any, dtype: Any, precision: Any) -> tuple[str, np.dtype]:
        """Device and dtype of the constructor. An explicit choice of them works or raises, before anything is drawn."""
        device, dtype = check_device(device, self._devices), as_dtype(dtype)
        precision = check_precision(precision, dtype)
        check_real(self._options, dtype)
        if device != "cpu":
            self._check_device(device, dtype, precision)
        elif self.backend is not None:
            self._check_backend(dtype, precision)
        return device, dtype

    def _check_backend(
        self, dtype: np.dtype, precision: str | None, device: str = "cpu", backend: str | Backend | None = None
    ) -> None:
        """Raise where a backend, by default that of the module, does not compute it."""
        registry.choose(
            self.backend if backend is None else backend,
            dtype=dtype.name,
            device=device,
            precision=in_force(precision, dtype),
            **self._needs,
        )

    def freeze(self) -> Self:
        """Keep the parameters as the module's precision rounds them, and nothing else of them.

        In ``"bfloat16"`` weights take half of the bytes of float32; in ``"int8"`` the recurrent ones a quarter, with a
        scale for each row, and the others half. Results stay the same, bit for bit. A frozen module is for inference in
        this precision alone: parameters and precision cannot be changed any more. It is saved as safetensors, and
        loaded frozen.

        Returns
        -------
        The module itself.

        Raises
        ------
        ValueError
            If the precision is ``"float32"``.
        RuntimeError
            If the parameters are unlocked.

        Examples
        --------
        >>> import cylstm
        >>> cylstm.LSTM(10, 20, precision="int8").freeze()
        LSTM(10, 20, precision='int8', frozen)
        """
        precision = self.precision
        if precision == DEFAULT:
            raise ValueError(
                f"precision must be 'bfloat16' or 'int8' for a frozen module, got {precision!r}: set it first"
            )
        if not self.frozen:
            self._check_precision(precision)
            with exclusively([self]) as [snapshot]:
                self._precision = precision
                self._store.freeze(rounded(snapshot.arrays, precision))
        return self

    def _check_precision(self, precision: str | None) -> None:
        if self.backend is not None or self._device != "cpu":
            self._check_backend(self.dtype, precision, self._device)

    def _check_device(self, device: str, dtype: np.dtype, precision: str | None) -> None:
        try:
            self._check_backend(dtype, precision, device)
        except BackendError as error:
            raise RuntimeError(
                f"device {device!r} cannot be used, 'cpu' can: {error} A reminder: {GPU_REMEDY}"
            ) from error

    def _move(self, device: str) -> None:
        if device != "cpu":
            self._check_device(device, self.dtype, self._precision)
        super()._move(device)

    @property
    def _needs(self) -> dict[str, Any]:
        """What a backend must compute beside the dtype."""
        return {"projection": getattr(self, "proj_size", 0) > 0, "options": self._options.needs()}

    def _layers(self, arrays: dict[str, np.ndarray]) -> list[LayerParameters]:
        """The parameters, layer by layer, as backends take them."""
        raise NotImplementedError

    def _choice(self, snapshot: Snapshot, *, training: bool) -> Choice:
        """The backend in force and the parameters as it has prepared them: once per version."""
        choice = snapshot.derived.get(training)
        if choice is None or choice.selection is not registry.selection() or self._store.unlocked_by is not None:
            self._store.refuse_inside_unlocked()
            choice = choose(
                snapshot,
                self._layers,
                self.backend,
                training=training,
                device=self._device,
                precision=self.precision,
                options=self._options,
            )
        return choice
