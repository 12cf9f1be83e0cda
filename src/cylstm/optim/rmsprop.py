"""RMSprop."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..nn.module import Module
from .base import Optimizer, at_least_zero


class RMSprop(Optimizer):
    """RMSprop, as ``torch.optim.RMSprop``: gradients over the root of their mean square.

    Parameters
    ----------
    modules : LSTM, LSTMCell, Linear, or an iterable of them
        Whose parameters are changed. float32, float64 or complex; real and imaginary parts are numbers of their own.
    lr : float
        Learning rate.
    alpha : float
        How slowly the mean square forgets.
    eps : float
        Added to the root.
    weight_decay : float
        This many times the parameter is added to its gradient.
    momentum : float
        Share of the step before that is taken again.
    centered : bool
        Whether the square of the mean gradient is subtracted from the mean square.
    maximize : bool
        Whether steps go along the gradient instead of against it.

    Raises
    ------
    TypeError
        If ``modules`` holds something else, or float16 or bfloat16.
    ValueError
        If a number is negative, or ``modules`` is empty or names one twice.
    """

    def __init__(
        self,
        modules: Module | Iterable[Module],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        self._alpha = at_least_zero(alpha, "alpha")
        self._eps = at_least_zero(eps, "eps")
        self._weight_decay = at_least_zero(weight_decay, "weight_decay")
        self._momentum = at_least_zero(momentum, "momentum")
        self._centered = bool(centered)
        self._maximize = bool(maximize)
        self._buffer_names = ("square_avg",)
        if momentum:
            self._buffer_names += ("momentum_buffer",)
        if centered:
            self._buffer_names += ("grad_avg",)
        super().__init__(
            modules,
            lr,
            alpha=self._alpha,
            eps=self._eps,
            weight_decay=self._weight_decay,
            momentum=self._momentum,
            centered=self._centered,
            maximize=self._maximize,
        )

    def _update(
        self, step: int, parameter: np.ndarray, gradient: np.ndarray, *buffers: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        if self._maximize:
            gradient = -gradient
        if self._weight_decay:
            gradient = gradient + self._weight_decay * parameter
        new = dict(zip(self._buffer_names, buffers, strict=True))
        new["square_avg"] = self._alpha * new["square_avg"] + (1 - self._alpha) * (gradient * gradient)
        mean_square = new["square_avg"]
        if self._centered:
            new["grad_avg"] = new["grad_avg"] + (1 - self._alpha) * (gradient - new["grad_avg"])
            mean_square = mean_square - new["grad_avg"] * new["grad_avg"]
        change = gradient / (np.sqrt(mean_square) + self._eps)
        if self._momentum:
            change = new["momentum_buffer"] = self._momentum * new["momentum_buffer"] + change
        return parameter - self.lr * change, *new.values()
