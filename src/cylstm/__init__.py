"""cylstm: the LSTM of PyTorch as a small compiled package. NumPy arrays in and out; backends to choose from."""

from . import optim
from .backends.registry import (
    BackendError,
    BackendLoadError,
    BackendNotAvailableError,
    UnknownBackendError,
    UnsupportedError,
    available_backends,
    get_backend,
    set_backend,
    use_backend,
)
from .cell import LSTMCell
from .files import load, save
from .linear import Linear
from .lstm import LSTM
from .packed import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    pad_sequence,
    unpack_sequence,
)
from .random import manual_seed, rand, randn
from .threads import get_num_threads, set_num_threads

__version__ = "0.1.0"

__all__ = [
    "LSTM",
    "BackendError",
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
    "use_backend",
]
