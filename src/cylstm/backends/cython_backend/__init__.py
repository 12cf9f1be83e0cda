"""The compiled backend. A map of this folder::

backend.py      CythonBackend: checks and allocates, then calls _lstm
threads.py      how many threads the kernels may use
_lstm.pyx       the algorithm: parallel region, time loop, partition, packing; its parts are the .pxi files
_openmp.pxd     the only file that names OpenMP
kernels/        C, one object per instruction set: the register tile and the CPU probe
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backend import CythonBackend as CythonBackend

__all__ = ["CythonBackend"]


def __getattr__(name: str) -> Any:
    """The compiled module is loaded when the backend is first used, not by ``cylstm.set_num_threads``."""
    if name == "CythonBackend":
        from .backend import CythonBackend

        return CythonBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
