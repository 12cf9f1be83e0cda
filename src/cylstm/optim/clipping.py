"""The norm of gradients, and its limit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..arrays.arguments import as_array
from ..arrays.arithmetic import widened
from ..arrays.homes import lent
from .base import Grads, at_least_zero, listed

_DLPACK_CUDA = 2


def clip_grad_norm(grads: Grads | Iterable[Grads], max_norm: float) -> float:
    """Make gradients smaller, in place, so that their norm is at most ``max_norm``: PyTorch's ``clip_grad_norm_``.

    Parameters
    ----------
    grads : mapping of str to array, or an iterable of them
        The gradients of one module or of several, which are clipped together, as `Optimizer.step` takes them: NumPy's,
        or arrays on a GPU, which stay there.
    max_norm : float
        The largest norm.

    Returns
    -------
    float
        The norm that they had: the root of the sum of all squares, rounded to their dtype.

    Raises
    ------
    TypeError
        If something is no mapping of names to writable arrays of NumPy or on a GPU. Nothing has changed then.
    ValueError
        If ``max_norm`` is negative.
    """
    given = listed(grads)
    with lent(array for each in given for array in each.values()):
        return _clipped(given, max_norm)


def _clipped(given: list[Grads], max_norm: float) -> float:
    arrays = [_writable(array, name) for each in given for name, array in each.items()]
    with np.errstate(over="ignore"):  # infinite where the squares are too large for the dtype, as in PyTorch
        norm = float(_norm(np.array([_on_cpu(_norm(array)) for array in arrays])))
    factor = at_least_zero(max_norm, "max_norm") / (norm + 1e-6)
    if not factor >= 1:  # nan too, as in PyTorch
        with np.errstate(all="ignore"):
            for array in arrays:
                array *= factor
    return norm


def _writable(array: Any, name: str) -> Any:
    """An array that can be clipped in place. Those of JAX never change, though their memory can be had."""
    if type(array).__module__.partition(".")[0] in ("jax", "jaxlib"):
        raise TypeError(
            f"the gradient of {name} must be writable, got an array of JAX, which never changes: multiply it by a "
            "factor of your own"
        )
    if not isinstance(array, np.ndarray) and getattr(array, "__dlpack_device__", tuple)()[:1] == (_DLPACK_CUDA,):
        array = as_array(array, f"the gradient of {name}", cuda=True)  # on the same memory
    elif not isinstance(array, np.ndarray) or not array.flags.writeable:
        array = None
    if array is None or array.dtype.kind not in "fc":
        raise TypeError("grads must be writable NumPy arrays, or arrays on a GPU, of floating point")
    return array


def _on_cpu(norm: Any) -> Any:
    return norm.get() if hasattr(norm, "get") else norm


def _norm(array: Any) -> Any:
    """The root of the sum of squares in the precision of the numbers; of 16 bits the root alone is rounded."""
    real = np.empty(0, array.dtype).real.dtype
    return np.linalg.norm(widened(array.reshape(-1))).astype(real)
