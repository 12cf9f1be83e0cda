"""The backend for NVIDIA GPUs, on CuPy: it moves arrays, chooses a kernel variant, and lets it compute.

NumPy in gives NumPy out, with the transfers inside. CuPy in gives CuPy out, in the current stream, with no transfer
and no synchronisation. What runs where, and what has been run on a GPU at all: ``docs/gpu.md``.

``CYLSTM_CUPY_TIER`` (``array``, ``steps``, or the path of a table of times) chooses the variant, see
`cylstm.backends.cupy_backend.planner`. It is read when a layer is prepared.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..base import Backend, Capabilities, DirectionParameters, Keep, LayerGradients, LayerOutput, LayerParameters
from ..numpy_backend import NumpyBackend
from .device import Device, System
from .planner import VARIABLE, choose_variant, possible_variants, read_choice
from .steps import Steps
from .timings import TimingTable, Workload

INSTALL = "install the extra cylstm[cuda13] or, for a driver of CUDA 12, cylstm[cuda12]"


class PreparedForm(NamedTuple):
    """The parameters of a layer in the form that a kernel variant reads."""

    variant: Steps | NumpyBackend
    parameters: Any


class PreparedLayer(NamedTuple):
    """The parameters of a layer on a device."""

    device: Device
    dtype: str
    hidden_size: int
    choice: str | TimingTable
    forms: dict[str, PreparedForm]  # of all variants that a call may take, by name

    def form(self, batch_size: int, training: bool) -> PreparedForm:
        """The form for a call."""
        workload = Workload(self.dtype, self.hidden_size, batch_size, training)
        return self.forms[choose_variant(self.choice, tuple(self.forms), workload)]


class CupyWorkspace(NamedTuple):
    """What forward keeps. It stays on the device, wherever the arguments lay."""

    form: PreparedForm
    of_variant: Any
    to_host: bool


class CupyBackend(Backend):
    """CuPy arrays on an NVIDIA GPU.

    Parameters
    ----------
    device : int, optional
        The number of the device that computes; None for the one that is current when parameters are prepared.
    tier : str, optional
        What ``CYLSTM_CUPY_TIER`` can be; None to read it.
    system : System, optional
        Where devices come from; None for CuPy.
    """

    name: ClassVar[str] = "cupy"
    capabilities: ClassVar[Capabilities] = Capabilities(
        dtypes=NumpyBackend.capabilities.dtypes, training=True, devices=("cpu", "cuda")
    )

    @classmethod
    def is_available(cls) -> tuple[bool, str]:
        try:
            import cupy
        except ImportError as error:
            return False, f"it needs CuPy ({str(error).strip().splitlines()[0]}): {INSTALL}"
        try:
            cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            return False, (
                f"CuPy {cupy.__version__} finds no GPU that it can use ({error}): it needs an NVIDIA GPU and a driver "
                f"at least as new as CUDA {cupy.cuda.runtime.runtimeGetVersion() // 1000}"
            )
        return True, ""

    def __init__(self, device: int | None = None, *, tier: str | None = None, system: System | None = None) -> None:
        self._device = device
        self._tier = tier
        self._system = system
        self._pid = os.getpid()
        self._steps: dict[int, Steps] = {}  # by device
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
        of_device = CupyBackend(int(number), tier=self._tier, system=self._system)
        return self._on.setdefault(int(number), of_device)

    def prepare(  # type: ignore[override]  # no other precision than float32 is declared, so none is passed
        self, layer_parameters: LayerParameters
    ) -> PreparedLayer:
        devices = self._devices()
        device = devices.device(devices.current() if self._device is None else self._device)
        dtype, hidden_size = layer_parameters[0].weight_ih.dtype.name, layer_parameters[0].weight_ih.shape[0] // 4
        choice = read_choice(self._tier or os.environ.get(VARIABLE, "").strip())
        variants: dict[str, Steps | NumpyBackend] = {"array": _ARRAY}
        with _current(device):
            variants["steps"] = self._steps.setdefault(device.number, Steps(device))
            uploaded = tuple(
                DirectionParameters(*(None if p is None else device.xp.asarray(p) for p in direction))
                for direction in layer_parameters
            )
            forms = {
                name: PreparedForm(variants[name], variants[name].prepare(uploaded))
                for name in possible_variants(choice, dtype=dtype, device=device.name, facts=device.facts)
            }
            device.synchronize()  # once: calls may come in any stream
        return PreparedLayer(device, dtype, hidden_size, choice, forms)

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
        form = prepared.form(int(batch_sizes[0]), keep != "nothing")
        with _current(prepared.device) as device:
            output, h_n, c_n, of_variant = form.variant.forward(
                form.parameters, batch_sizes=batch_sizes, keep=keep, **_uploaded(arguments, device)
            )
            workspace = None if keep == "nothing" else CupyWorkspace(form, of_variant, to_host)
            return LayerOutput(_returned(output, to_host), _returned(h_n, to_host), _returned(c_n, to_host), workspace)

    def backward(
        self,
        prepared: PreparedLayer,
        workspace: CupyWorkspace,
        *,
        grad_output: Any | None,
        grad_h_n: Any | None,
        grad_c_n: Any | None,
    ) -> LayerGradients:
        form, of_variant, to_host = workspace
        arguments = {"grad_output": grad_output, "grad_h_n": grad_h_n, "grad_c_n": grad_c_n}
        self._check_places(prepared.device, arguments)
        with _current(prepared.device) as device:
            dx, dh_0, dc_0, parameters = form.variant.backward(
                form.parameters, of_variant, **_uploaded(arguments, device)
            )
            return LayerGradients(
                _returned(dx, to_host),
                _returned(dh_0, to_host),
                _returned(dc_0, to_host),
                tuple(DirectionParameters(*(_returned(p, to_host) for p in direction)) for direction in parameters),
            )

    def _devices(self) -> System:
        """Where devices come from: not in a forked process."""
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"CUDA cannot be used in a process forked (pid {os.getpid()}) from one that has used it (pid "
                f"{self._pid}): start processes by multiprocessing's method 'spawn' or 'forkserver', or choose another "
                "backend in the child"
            )
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


#: The array loop. It computes where its arrays lie.
_ARRAY = NumpyBackend()


@cache
def _cupy_system() -> System:
    from .cupy_device import CupySystem

    return CupySystem()


@contextmanager
def _current(device: Device) -> Iterator[Device]:
    """Makes the device the current one; a lack of memory becomes an error that says what to do."""
    try:
        with device.current():
            yield device
    except device.out_of_memory as error:
        raise MemoryError(
            f"device cuda:{device.number} has not enough memory ({error}). Nothing has changed. Use smaller batches or "
            "vjp's recompute=True, or free what CuPy keeps by cupy.get_default_memory_pool().free_all_blocks()"
        ) from error


def _uploaded(arrays: dict[str, Any], device: Device) -> dict[str, Any]:
    """The arrays, on the device."""
    return {name: None if array is None else device.xp.asarray(array) for name, array in arrays.items()}


def _returned(array: Any, to_host: bool) -> Any:
    """A result where the caller wants it."""
    return array.get() if to_host and array is not None else array
