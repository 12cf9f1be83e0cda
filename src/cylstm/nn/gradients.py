"""What a pullback takes and returns."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Gradients(NamedTuple):
    """What a pullback returns. Complex gradients follow PyTorch's convention: a step against them descends."""

    input: Any  # in the form and shape of the input
    hx: Any  # in the shapes of the state, (h_0, c_0); None where the module has no state
    parameters: dict[str, np.ndarray]  # in the shapes of the parameters, by their names


def check_gradient(array: np.ndarray, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The gradient itself, of the shape and dtype of what it is the gradient of.

    Raises
    ------
    RuntimeError
        If it is of another shape or dtype.
    """
    if array.shape != shape or array.dtype != dtype:
        raise RuntimeError(
            f"{name} must have shape {shape} and dtype {dtype}, got shape {array.shape} and dtype {array.dtype}"
        )
    return array


def check_pair(grad_hx: Any, names: tuple[str, str]) -> None:
    """The gradients of the state are two, in a tuple or list.

    Raises
    ------
    TypeError
        If they are not.
    """
    is_tuple = isinstance(grad_hx, (tuple, list))
    if not is_tuple or len(grad_hx) != 2:
        raise TypeError(
            f"grad_hx must be a tuple of two ({', '.join(names)}), each an array or None for zeros, "
            f"got {len(grad_hx) if is_tuple else type(grad_hx).__name__}"
        )
