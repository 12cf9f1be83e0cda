"""The backend for NVIDIA GPUs, on CuPy: moves arrays, chooses a tier, and lets the tier compute.

NumPy in gives NumPy out, with the transfers inside. CuPy in gives CuPy out, in the current stream, with no transfer
and no synchronisation. What runs where, and what has been run on a GPU at all: ``docs/gpu.md``.

``CYLSTM_CUPY_TIER`` (``array``, ``steps``) allows tiers, see `cylstm.backends.cuda.planner`; it is read when a layer is
prepared.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .base import Backend, Capabilities, DirectionParameters, Keep, LayerGradients, LayerOutput, LayerParameters
from .cuda.planner import choose_tier, highest_tier
from .cuda.steps import Steps
from .numpy_backend import NumpyBackend

VARIABLE = "CYLSTM_CUPY_TIER"
INSTALL = "install the extra cylstm[cuda13] or, for a driver of CUDA 12, cylstm[cuda12]"


class Prepared(NamedTuple):
    """The parameters of a layer on a device, and who computes with them there."""

    device: int
    tier: Steps | NumpyBackend
    parameters: Any  # as the tier prepared them


class Workspace(NamedTuple):
    """What forward keeps: on the device, whatever came in."""

    of_tier: Any
    to_host: bool


class CupyBackend(Backend):
    """CuPy arrays on an NVIDIA GPU.

    Parameters
    ----------
    device : int, optional
        The number of the device that computes; None for the one that is current when parameters are prepared.
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

    def __init__(self, device: int | None = None) -> None:
        self._device = device
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
        import cupy

        _, colon, number = device.partition(":")
        if not colon:
            return self
        count = cupy.cuda.runtime.getDeviceCount()
        if not number.isdecimal() or int(number) >= count:
            raise RuntimeError(f"there is no device {device!r}: expected 'cuda', or 'cuda:N' with N less than {count}")
        return self._on.setdefault(int(number), CupyBackend(int(number)))

    def prepare(self, layer_parameters: LayerParameters) -> Prepared:
        self._refuse_forked()
        import cupy

        device = cupy.cuda.Device().id if self._device is None else self._device
        with _current(device):
            uploaded = tuple(
                DirectionParameters(*(None if p is None else cupy.asarray(p) for p in direction))
                for direction in layer_parameters
            )
            tier = self._tier(device, uploaded[0].weight_ih.dtype.name)
            parameters = tier.prepare(uploaded)
            cupy.cuda.get_current_stream().synchronize()  # once: calls may come in any stream
        return Prepared(device, tier, parameters)

    def forward(
        self,
        prepared: Prepared,
        *,
        input: Any,
        batch_sizes: np.ndarray,
        h_0: Any | None,
        c_0: Any | None,
        keep: Keep = "nothing",
    ) -> LayerOutput:
        to_host = isinstance(input, np.ndarray)
        self._refuse_forked()
        with _current(prepared.device):
            given = {"input": input, "h_0": h_0, "c_0": c_0}
            on_device = {name: _entered(array, name, prepared.device) for name, array in given.items()}
            output, h_n, c_n, kept = prepared.tier.forward(
                prepared.parameters, batch_sizes=batch_sizes, keep=keep, **on_device
            )
            workspace = None if keep == "nothing" else Workspace(kept, to_host)
            return LayerOutput(_left(output, to_host), _left(h_n, to_host), _left(c_n, to_host), workspace)

    def backward(
        self,
        prepared: Prepared,
        workspace: Workspace,
        *,
        grad_output: Any | None,
        grad_h_n: Any | None,
        grad_c_n: Any | None,
    ) -> LayerGradients:
        self._refuse_forked()
        with _current(prepared.device):
            given = {"grad_output": grad_output, "grad_h_n": grad_h_n, "grad_c_n": grad_c_n}
            on_device = {name: _entered(array, name, prepared.device) for name, array in given.items()}
            dx, dh_0, dc_0, parameters = prepared.tier.backward(prepared.parameters, workspace.of_tier, **on_device)
            to_host = workspace.to_host
            return LayerGradients(
                _left(dx, to_host),
                _left(dh_0, to_host),
                _left(dc_0, to_host),
                tuple(DirectionParameters(*(_left(p, to_host) for p in direction)) for direction in parameters),
            )

    def _tier(self, device: int, dtype: str) -> Steps | NumpyBackend:
        """Who computes with this dtype on this device, which is the current one."""
        allowed = highest_tier(os.environ.get(VARIABLE, "").strip())
        if allowed == "array":
            return _ARRAY
        from .cuda.launcher import CupyLauncher

        if device not in self._steps:
            self._steps[device] = Steps(CupyLauncher())
        steps = self._steps[device]
        return steps if choose_tier(allowed, dtype=dtype, facts=steps.launcher.facts) == "steps" else _ARRAY

    def _refuse_forked(self) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"CUDA cannot be used in a process forked (pid {os.getpid()}) from one that has used it (pid "
                f"{self._pid}): start processes by multiprocessing's method 'spawn' or 'forkserver', or choose another "
                "backend in the child"
            )


#: The array loop. It computes where its arrays lie.
_ARRAY = NumpyBackend()


@contextmanager
def _current(device: int) -> Iterator[None]:
    """Makes the device the current one; a lack of memory becomes an error that says what to do."""
    import cupy

    try:
        with cupy.cuda.Device(device):
            yield
    except cupy.cuda.memory.OutOfMemoryError as error:
        raise MemoryError(
            f"device cuda:{device} has not enough memory ({error}). Nothing has changed. Use smaller batches or vjp's "
            "recompute=True, or free what CuPy keeps by cupy.get_default_memory_pool().free_all_blocks()"
        ) from error


def _entered(array: Any, name: str, device: int) -> Any:
    """The array on the device."""
    import cupy

    if isinstance(array, cupy.ndarray) and array.device.id != device:
        raise RuntimeError(
            f"{name} lies on cuda:{array.device.id} and the parameters on cuda:{device}: copy it there, or make the "
            f"LSTM with device='cuda:{array.device.id}'"
        )
    return None if array is None else cupy.asarray(array)


def _left(array: Any, to_host: bool) -> Any:
    """A result where the caller wants it."""
    return array.get() if to_host and array is not None else array
