"""cylstm: the LSTM of PyTorch as a small compiled package. NumPy arrays in and out; backends to choose from."""

from typing import TYPE_CHECKING, Any

from .arrays.packed import PackedSequence
from .arrays.packing import (
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    pad_sequence,
    unpack_sequence,
    unpad_sequence,
)
from .backends.cython_backend.threads import get_num_threads, set_num_threads
from .backends.errors import (
    BackendError,
    BackendFailedError,
    BackendLoadError,
    BackendNotAvailableError,
    UnknownBackendError,
    UnsupportedError,
)
from .backends.plugins import available_backends
from .backends.registry import get_backend, set_backend, use_backend
from .nn.cell import LSTMCell
from .nn.linear import Linear
from .nn.lstm import LSTM
from .nn.module import Module as _Module
from .random import manual_seed, rand, randn

if TYPE_CHECKING:
    from . import optim as optim
    from .files.formats import load as load
    from .files.formats import save as save

__version__ = "0.1.0"

__all__ = [
    "LSTM",
    "BackendError",
    "BackendFailedError",
    "BackendLoadError",
    "BackendNotAvailableError",
    "LSTMCell",
    "Linear",
    "PackedSequence",
    "UnknownBackendError",
    "UnsupportedError",
    "available_backends",
    "get_backend",
    "get_num_threads",
    "load",
    "manual_seed",
    "optim",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "rand",
    "randn",
    "save",
    "set_backend",
    "set_num_threads",
    "unpack_sequence",
    "unpad_sequence",
    "use_backend",
]


def _torch_bridge() -> Any:
    from . import torch

    return torch


_Module._torch_bridge = staticmethod(_torch_bridge)  # for from_torch and to_torch, which import PyTorch when called


def __getattr__(name: str) -> Any:
    """What not every program needs is imported when it is first used: half of the time that the import would take."""
    import importlib

    if name == "optim":
        return importlib.import_module(f"{__name__}.optim")
    if name in ("load", "save"):
        value = globals()[name] = getattr(importlib.import_module(f"{__name__}.files.formats"), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
