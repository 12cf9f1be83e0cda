"""Losses with their gradients, as a pullback takes them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays.arguments import as_array
from ..arrays.arithmetic import widened


def mse_loss(input: Any, target: Any) -> tuple[float, np.ndarray]:
    """The mean squared error, as ``torch.nn.functional.mse_loss``, and its gradient.

    Parameters
    ----------
    input : array
        Predictions of any shape, of real floating point.
    target : array
        What they should be, of the same shape.

    Returns
    -------
    loss : float
        The mean of all ``(input - target)**2``.
    grad_input : numpy.ndarray
        Its gradient with respect to the predictions, of their shape and dtype.

    Raises
    ------
    TypeError
        If the predictions are not real floating point, or the target is complex.
    ValueError
        If the shapes differ, or there is no prediction.

    Examples
    --------
    >>> import numpy as np
    >>> from cylstm.optim import mse_loss
    >>> mse_loss(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    (2.0, array([ 0., -2.]))
    """
    input, target = _predictions(input), as_array(target, "target")
    if target.dtype.kind == "c":
        raise TypeError(f"target must be real, got {target.dtype}")
    if target.shape != input.shape:
        raise ValueError(f"target must have the shape of input, {input.shape}, got {target.shape}: reshape one of them")
    error = widened(input) - target.astype(widened(input).dtype)
    return float(np.mean(error * error)), (2 * error / error.size).astype(input.dtype)


def cross_entropy(input: Any, target: Any, *, ignore_index: int = -100) -> tuple[float, np.ndarray]:
    r"""The cross entropy of classes, as ``torch.nn.functional.cross_entropy``, and its gradient.

    The loss is the mean over the rows of :math:`\log \sum_k e^{x_k} - x_t` for the logits x and the class t of a row.

    Parameters
    ----------
    input : array
        Logits (N, C), or (C,) for one row, of real floating point. Those of a sequence, (T, B, C), are reshaped with
        ``.reshape(-1, C)``.
    target : array of int
        The class of each row, (N,) or (), from 0 to C - 1.
    ignore_index : int
        The class of rows that do not count, such as those of padding.

    Returns
    -------
    loss : float
        nan if no row counts, as in PyTorch.
    grad_input : numpy.ndarray
        Its gradient with respect to the logits, of their shape and dtype.

    Raises
    ------
    TypeError
        If the logits are not real floating point, or the classes no integers.
    ValueError
        If shapes do not fit, or a class is none of the C.

    Examples
    --------
    >>> import numpy as np
    >>> from cylstm.optim import cross_entropy
    >>> loss, grad = cross_entropy(np.array([[0.0, 0.0], [4.0, 0.0]]), np.array([0, 0]))
    >>> round(loss, 4)
    0.3556
    >>> grad.round(4)
    array([[-0.25 ,  0.25 ],
           [-0.009,  0.009]])
    """
    input, classes = _predictions(input), as_array(target, "target")
    if input.ndim not in (1, 2):
        raise ValueError(f"input must be logits (N, C) or (C,), got shape {input.shape}: use .reshape(-1, C)")
    if classes.dtype.kind not in "iu":
        raise TypeError(f"target must hold the numbers of classes, got {classes.dtype}")
    if classes.shape != input.shape[:-1]:
        raise ValueError(f"target must have shape {input.shape[:-1]}, one class a row, got {classes.shape}")
    logits, classes = np.atleast_2d(widened(input)), np.atleast_1d(classes).astype(np.int64)
    counts = classes != ignore_index
    wrong = classes[counts & ((classes < 0) | (classes >= logits.shape[1]))]
    if wrong.size:
        known = f"from 0 to {logits.shape[1] - 1}, or ignore_index={ignore_index}"
        raise ValueError(f"target must be {known}, got {wrong[0]}")
    rows, chosen = np.flatnonzero(counts), classes[counts]
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    grad = np.zeros_like(logits)
    if not rows.size:
        return float("nan"), grad.reshape(input.shape).astype(input.dtype)
    grad[rows] = np.exp(log_softmax[rows])
    grad[rows, chosen] -= 1
    loss = -float(log_softmax[rows, chosen].mean())
    return loss, (grad / rows.size).reshape(input.shape).astype(input.dtype)


def _predictions(input: Any) -> np.ndarray:
    """The input as an array of real floating point that is not empty."""
    array = as_array(input, "input")
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise TypeError(f"input must be of real floating point, got {array.dtype}")
    if not array.size:
        raise ValueError(f"input must hold a prediction or more, got shape {array.shape}")
    return array
