"""The compiled backend. A map of this folder::

    backend.py          CythonBackend: checks and allocates, then calls _lstm
    options.py          the options beyond PyTorch's that the kernels compute
    buffers.py          large buffers that are used again
    threads.py          how many threads the kernels may use
    _lstm.pyx           forward, backward, and the stepper of a stream: NumPy's arrays as pointers
    _layer.pyx          the packed weights of a layer; which kernels there are
    _call.pxd           a call on its threads
    _level.pxd          a layer of the stepper, and its step
    _partition.pxd      who computes what
    _pass.pxd           one direction of one call: its structs, and the cursor over its steps
    _forward.pxd        the forward pass of a direction
    _backward.pxd       the backward pass of a direction
    _backward_pass.pxd  its structs, and where its arrays lie
    _gradients.pxd      the gradients of input and weights in it
    _operands.pxd       rows of input and h as a reduced precision multiplies them
    _product.pxd        matrix products with packed panels, cut into tiles
    _memory.pxd         buffers, and the memory of arrays
    _kernels.pxd        kernels/ for Cython
    _parallel.pxd       parallel/ for Cython
    _region.pxd         its regions, for _lstm alone
    kernels/            C, one object per instruction set and precision (kernels.def): the register tiles
    parallel/           C: turns and parts, regions and when they pay, placement of threads, floating-point mode,
                        OpenMP; system.h is all that they take of the operating system

The .pxd files with functions in them are parts of _lstm: it is one module, so that the compiler sees through it.
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
