"""The norm of gradients, and its limit."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..arrays.arithmetic import widened
from .base import Grads, at_least_zero, listed


def clip_grad_norm(grads: Grads | Iterable[Grads], max_norm: float) -> float:
    """Make gradients smaller, in place, so that their norm is at most ``max_norm``: PyTorch's ``clip_grad_norm_``.

    Parameters
    ----------
    grads : mapping of str to numpy.ndarray, or an iterable of them
        The gradients of one module or of several, which are clipped together, as `Optimizer.step` takes them.
    max_norm : float
        The largest norm.

    Returns
    -------
    float
        The norm that they had: the root of the sum of all squares, rounded to their dtype.

    Raises
    ------
    TypeError
        If something is no mapping of names to writable NumPy arrays. Nothing has changed then.
    ValueError
        If ``max_norm`` is negative.
    """
    arrays = [array for each in listed(grads) for array in each.values()]
    for array in arrays:
        if not isinstance(array, np.ndarray) or not array.flags.writeable or array.dtype.kind not in "fc":
            raise TypeError(
                "grads must be writable NumPy arrays of floating point, to be clipped in place: bring those of a GPU "
                "to the CPU first, by {name: grad.get() for name, grad in grads.items()}"
            )
    with np.errstate(over="ignore"):  # infinite where the squares are too large for the dtype, as in PyTorch
        norm = float(_norm(np.array([_norm(array) for array in arrays])))
    factor = at_least_zero(max_norm, "max_norm") / (norm + 1e-6)
    if not factor >= 1:  # nan too, as in PyTorch
        with np.errstate(all="ignore"):
            for array in arrays:
                array *= factor
    return norm


def _norm(array: np.ndarray) -> np.floating:
    """The root of the sum of squares in the precision of the numbers; of 16 bits the root alone is rounded."""
    flat = array.ravel()
    return np.linalg.norm(widened(flat)).astype(flat.real.dtype)
