"""The backend for NVIDIA GPUs, on CuPy: it moves arrays, chooses a kernel variant, and lets it compute.

NumPy in gives NumPy out, with the transfers inside. CuPy in gives CuPy out, in the current stream, with no transfer
and no synchronisation. What runs where, and what has been run on a GPU at all: ``docs/gpu.md``.

``CYLSTM_CUPY_TIER`` names a kernel variant; see `cylstm.backends.cupy_backend.variants`. It is read when a layer is
prepared.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

import numpy as np

from ..base import (
    Backend,
    Capabilities,
    DeviceStepper,
    DirectionParameters,
    Keep,
    LayerGradients,
    LayerOutput,
    LayerParameters,
)
from ..numpy_backend import NumpyBackend
from .cudnn import Cudnn
from .device import Device, System, copied
from .loop import Array
from .persistent import Persistent
from .presence import refuse_after_fork, why_no_gpu
from .schedule import Recent, key_of
from .steps import PreparedSteps, Steps
from .stream import StreamStepper
from .variants import LayerShape, Prepared, Variant, candidates, chosen

VARIABLE = "CYLSTM_CUPY_TIER"

#: Best first.
VARIANTS: tuple[type[Variant], ...] = (Persistent, Cudnn, Steps, Array)
#: The calls of different sizes that are remembered with the variant that they take.
MOST_CHOICES = 256
MOST_ROWS = 2**31 - 1

Result = TypeVar("Result")


class Form(NamedTuple):
    """The parameters of a layer as a variant has prepared them, and when they are there."""

    prepared: Prepared
    mark: Any


class PreparedLayer:
    """The parameters of a layer on a device, in the form of each variant that has been called for.

    Parameters
    ----------
    device : Device
        Where they lie.
    variants : tuple of Variant
        Those that calls may take, best first.
    parameters : LayerParameters
        Arrays of the device, which nobody changes.
    choices : Recent
        Which variant calls of some sizes take: those of all layers.
    named : bool
        Whether the first of the variants was asked for by its name.
    """

    def __init__(
        self,
        device: Device,
        variants: tuple[Variant, ...],
        parameters: LayerParameters,
        choices: Recent[Variant],
        *,
        named: bool,
    ) -> None:
        self.device = device
        self.variants = variants
        self._parameters = parameters
        self._mark = device.mark()
        self._shape = LayerShape.of(parameters)
        self._forms: dict[str, Form] = {}
        self._choices = choices
        self._named = named

    def form(self, batch_sizes: np.ndarray, keep: Keep) -> Prepared:
        """The form for a call, whose stream waits until it is there."""
        of = partial(chosen, self.variants, self._shape, batch_sizes, keep, named=self._named)
        key = (self.variants, self._shape, key_of(batch_sizes), keep, self._named)
        return self._form(self._choices.get(key, of))

    def of_steps(self) -> PreparedSteps | None:
        """The form of the variant ``steps``, None where it does not compute such a layer."""
        for variant in self.variants:
            if isinstance(variant, Steps) and not variant.refusal(self._shape, np.ones(1, np.int64), "nothing"):
                return cast("PreparedSteps", self._form(variant))
        return None

    def parameters(self) -> LayerParameters:
        """The parameters as they were given, for the current stream, which waits until they are there."""
        self.device.wait(self._mark)
        return self._parameters

    def _form(self, variant: Variant) -> Prepared:
        form = self._forms.get(variant.name)
        if form is None:
            self.device.wait(self._mark)
            prepared = variant.prepare(self._parameters)
            form = self._forms.setdefault(variant.name, Form(prepared, self.device.mark()))
        self.device.wait(form.mark)
        return form.prepared


class CupyWorkspace(NamedTuple):
    """What forward keeps. It stays on the device, wherever the arguments lay."""

    prepared: Prepared
    of_variant: Any
    to_host: bool
    stream: Hashable  # in which it was computed, and to which its memory goes back


class CupyBackend(Backend):
    """CuPy arrays on an NVIDIA GPU.

    Parameters
    ----------
    device : int, optional
        The number of the device that computes; None for the one that is current when parameters are prepared.
    tier : str, optional
        What ``CYLSTM_CUPY_TIER`` can be; None to read it.
    tf32 : bool
        Whether products of float32 may be rounded to TF32, with 10 bits of mantissa, which is faster.
    system : System, optional
        Where devices come from; None for CuPy.
    """

    name: ClassVar[str] = "cupy"
    capabilities: ClassVar[Capabilities] = Capabilities(
        dtypes=NumpyBackend.capabilities.dtypes, training=True, devices=("cpu", "cuda")
    )

    @classmethod
    def is_available(cls) -> tuple[bool, str]:
        reason = why_no_gpu()
        return not reason, reason

    def __init__(
        self,
        device: int | None = None,
        *,
        tier: str | None = None,
        tf32: bool = False,
        system: System | None = None,
    ) -> None:
        self._device = device
        self._tier = tier
        self._tf32 = tf32
        self._system = system
        self._variants: dict[tuple[int, type[Variant]], Variant] = {}
        self._choices: Recent[Variant] = Recent(MOST_CHOICES)
        self._on: dict[int, CupyBackend] = {}

    def on(self, device: str) -> Backend:
        """This backend with its parameters on ``"cuda"``, the current device, or on one such as ``"cuda:1"``.

        Raises
        ------
        RuntimeError
            If there is no such device.
        """
        _, colon, number = device.partition(":")
        if not colon:
            return self
        count = self._devices().count()
        if not number.isdecimal() or int(number) >= count:
            raise RuntimeError(f"device must be 'cuda', or 'cuda:N' with N less than {count}, got {device!r}")
        of_device = CupyBackend(int(number), tier=self._tier, tf32=self._tf32, system=self._system)
        return self._on.setdefault(int(number), of_device)

    def prepare(  # type: ignore[override]  # no other precision than float32 is declared, so none is passed
        self, layer_parameters: LayerParameters
    ) -> PreparedLayer:
        devices = self._devices()
        device = devices.device(devices.current() if self._device is None else self._device)
        tier = os.environ.get(VARIABLE, "").strip() if self._tier is None else self._tier

        def prepare() -> PreparedLayer:
            variants = self._variants_on(device, tier)
            uploaded = tuple(
                DirectionParameters(*(_owned(device, p) for p in direction)) for direction in layer_parameters
            )
            prepared = PreparedLayer(device, variants, uploaded, self._choices, named=bool(tier))
            prepared.form(np.ones(1, np.int64), "nothing")  # now, not in the first call, what most calls take
            return prepared

        return self._run(device, prepare)

    def _variants_on(self, device: Device, tier: str) -> tuple[Variant, ...]:
        """The variants that a tier allows and that can run on a device.

        Raises
        ------
        ValueError
            If there is no such tier.
        RuntimeError
            If the one that is named cannot run there.
        """
        able = []
        for cls in candidates(VARIANTS, tier):
            key = (device.number, cls)
            variant = self._variants.get(key) or self._variants.setdefault(key, cls(device, tf32=self._tf32))
            reason = variant.unavailable()
            if reason and cls.name == tier:
                raise RuntimeError(f"the tier {tier!r} cannot run on cuda:{device.number}: {reason}")
            if not reason:
                able.append(variant)
        return tuple(able)

    def forward(
        self,
        prepared: PreparedLayer,
        *,
        input: Any,
        batch_sizes: np.ndarray,
        h_0: Any | None,
        c_0: Any | None,
        keep: Keep = "nothing",
    ) -> LayerOutput:
        to_host = isinstance(input, np.ndarray)
        arguments = {"input": input, "h_0": h_0, "c_0": c_0}
        self._check_places(prepared.device, arguments)
        if len(input) > MOST_ROWS:
            raise ValueError(
                f"input must have at most {MOST_ROWS} rows, those of all steps together, for 32 bits count them, got "
                f"{len(input)}: use smaller batches or shorter sequences"
            )

        def forward() -> LayerOutput:
            form = prepared.form(batch_sizes, keep)
            result = form.forward(batch_sizes=batch_sizes, keep=keep, **_uploaded(arguments, prepared.device))
            workspace = None
            if keep != "nothing":
                workspace = CupyWorkspace(form, result.workspace, to_host, prepared.device.stream())
            output, h_n, c_n = (_returned(array, to_host) for array in result[:3])
            if to_host:
                prepared.device.verify()  # whose work is done
            return LayerOutput(output, h_n, c_n, workspace)

        return self._run(prepared.device, forward)

    def backward(
        self,
        prepared: PreparedLayer,
        workspace: CupyWorkspace,
        *,
        grad_output: Any | None,
        grad_h_n: Any | None,
        grad_c_n: Any | None,
    ) -> LayerGradients:
        form, of_variant, to_host, stream = workspace
        arguments = {"grad_output": grad_output, "grad_h_n": grad_h_n, "grad_c_n": grad_c_n}
        self._check_places(prepared.device, arguments)

        def backward() -> LayerGradients:
            with _between(prepared.device, stream):
                grads = form.backward(of_variant, **_uploaded(arguments, prepared.device))
            dx, dh_0, dc_0 = (_returned(array, to_host) for array in grads[:3])
            parameters = tuple(DirectionParameters(*(_returned(p, to_host) for p in each)) for each in grads.parameters)
            if to_host:
                prepared.device.verify()
            return LayerGradients(dx, dh_0, dc_0, parameters)

        return self._run(prepared.device, backward)

    def stepper(self, layers: tuple[PreparedLayer, ...], *, batch_size: int) -> DeviceStepper | None:
        device = layers[0].device

        def make() -> DeviceStepper | None:
            forms = [layer.of_steps() for layer in layers]
            if None in forms:
                return None
            return StreamStepper(
                device,
                [form.weights for form in forms if form is not None],
                batch_size,
                run=partial(self._run, device),
                check=partial(self._check_places, device),
            )

        return self._run(device, make)

    def uploaded(self, prepared: PreparedLayer) -> LayerParameters:
        return prepared.parameters()

    def _run(self, device: Device, work: Callable[[], Result]) -> Result:
        """Do work where the device is the current one.

        A lack of memory, whichever library reports it, is met once by freeing what is kept; then it is an error that
        says what to do. The work changes nothing before it is done, so it can be begun again.
        """
        with device.current():
            device.refuse_recording()
            device.verify()  # what calls before this one have left, as far as they are done
            try:
                return work()
            except Exception as error:
                if not device.lacks_memory(error):
                    raise
            self._free(device)
            try:
                return work()
            except Exception as error:
                if not device.lacks_memory(error):
                    raise
                raise MemoryError(
                    f"device cuda:{device.number} has not enough memory ({error}). Nothing has changed. Use smaller "
                    "batches or vjp's recompute=True, or free what other libraries keep, torch.cuda.empty_cache() say"
                ) from error

    def _free(self, device: Device) -> None:
        """Give up what is kept for calls to come, here and in CuPy."""
        for (number, _), variant in list(self._variants.items()):  # other threads may add some
            if number == device.number:
                variant.forget()
        gc.collect()
        device.free()

    def _devices(self) -> System:
        """Where devices come from: not in a forked process."""
        refuse_after_fork()
        return self._system or _cupy_system()

    def _check_places(self, device: Device, arrays: dict[str, Any]) -> None:
        """Arrays of a GPU lie on the device of the parameters, and it is the current one, as CuPy demands too."""
        current = self._devices().current()
        for name, array in arrays.items():
            if array is None or isinstance(array, np.ndarray):
                continue
            if array.device.id != device.number:
                raise RuntimeError(
                    f"{name} must lie on cuda:{device.number}, as the parameters do, got cuda:{array.device.id}: copy "
                    f"it there, or make the LSTM with device='cuda:{array.device.id}'"
                )
            if current != device.number:
                raise RuntimeError(
                    f"the current device must be cuda:{device.number}, where {name} lies, got cuda:{current}: call "
                    f"inside `with cupy.cuda.Device({device.number}):`, as for CuPy's own functions"
                )


@cache
def _cupy_system() -> System:
    from .cupy_device import CupySystem

    return CupySystem()


@contextmanager
def _between(device: Device, stream: Hashable) -> Iterator[None]:
    """What the current stream does inside comes after what another one has been given, and before what it will be."""
    current = device.stream()
    if current == stream:
        yield
        return
    device.order(stream, current)
    yield
    device.order(current, stream)


def _owned(device: Device, parameter: Any) -> Any:
    """A parameter on the device, which nobody else has."""
    return device.xp.array(parameter) if isinstance(parameter, np.ndarray) else copied(device, parameter)


def _uploaded(arrays: dict[str, Any], device: Device) -> dict[str, Any]:
    """The arrays, on the device."""
    return {
        name: device.xp.asarray(array) if isinstance(array, np.ndarray) else array for name, array in arrays.items()
    }


def _returned(array: Any, to_host: bool) -> Any:
    """A result where the caller wants it."""
    return array.get() if to_host and array is not None else array
