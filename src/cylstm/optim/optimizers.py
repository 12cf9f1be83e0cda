"""The optimisers."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from ..nn.module import Module
from .base import Optimizer, at_least_zero


class SGD(Optimizer):
    """Stochastic gradient descent, as ``torch.optim.SGD``.

    Parameters
    ----------
    modules : LSTM, LSTMCell, Linear, or an iterable of them
        Whose parameters are changed. float32, float64 or complex.
    lr : float
        Learning rate.
    momentum : float
        Share of the step before that is taken again.
    dampening : float
        Share of the gradient that does not enter the momentum.
    weight_decay : float
        This many times the parameter is added to its gradient.
    nesterov : bool
        Whether the momentum is looked ahead.
    maximize : bool
        Whether steps go along the gradients instead of against them.

    Raises
    ------
    TypeError
        If ``modules`` holds something else, or float16 or bfloat16.
    ValueError
        If a number is negative, ``modules`` is empty or names one twice, or nesterov has no momentum, or dampening.

    Examples
    --------
    >>> import cylstm.optim
    >>> lstm = cylstm.LSTM(3, 5)
    >>> optimizer = cylstm.optim.SGD(lstm, lr=0.1, momentum=0.9)
    >>> output, state, pullback = lstm.vjp(cylstm.randn(7, 2, 3))
    >>> optimizer.step(pullback(grad_output=output).parameters)     # of half the sum of output²
    """

    def __init__(
        self,
        modules: Module | Iterable[Module],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        self._momentum = at_least_zero(momentum, "momentum")
        self._dampening = float(dampening)
        self._weight_decay = at_least_zero(weight_decay, "weight_decay")
        self._nesterov, self._maximize = nesterov, maximize
        if nesterov and (not momentum or dampening):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        if momentum:
            self._buffer_names = ("momentum_buffer",)
        super().__init__(
            modules,
            lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            maximize=maximize,
        )

    def _update(
        self, step: int, parameter: np.ndarray, gradient: np.ndarray, *buffers: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        if self._maximize:
            gradient = -gradient
        if self._weight_decay:
            gradient = gradient + self._weight_decay * parameter
        new_buffers = []
        for buffer in buffers:
            momentum = self._momentum * buffer
            momentum += gradient if step == 1 else (1 - self._dampening) * gradient
            gradient = gradient + self._momentum * momentum if self._nesterov else momentum
            new_buffers.append(momentum)
        return parameter - self.lr * gradient, *new_buffers


class Adam(Optimizer):
    """Adam, as ``torch.optim.Adam``: steps of the size of the mean gradient over the root of its mean square.

    Parameters
    ----------
    modules : LSTM, LSTMCell, Linear, or an iterable of them
        Whose parameters are changed. float32, float64 or complex; real and imaginary parts are numbers of their own.
    lr : float
        Learning rate.
    betas : tuple of two floats
        How slowly the two means forget, from 0 to below 1.
    eps : float
        Added to the root.
    weight_decay : float
        This many times the parameter is added to its gradient.
    amsgrad : bool
        Whether the root is that of the largest mean square so far.
    maximize : bool
        Whether steps go along the gradients instead of against them.

    Raises
    ------
    TypeError
        If ``modules`` holds something else, or float16 or bfloat16.
    ValueError
        If a number is outside its range, or ``modules`` is empty or names one twice.
    """

    _buffer_names: tuple[str, ...] = ("exp_avg", "exp_avg_sq")
    _decoupled = False

    def __init__(
        self,
        modules: Module | Iterable[Module],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        self._betas = tuple(map(float, betas))
        if len(self._betas) != 2 or not all(0 <= beta < 1 for beta in self._betas):
            raise ValueError(f"betas must be two numbers from 0 to below 1, got {betas}")
        self._eps = at_least_zero(eps, "eps")
        self._weight_decay = at_least_zero(weight_decay, "weight_decay")
        self._maximize = maximize
        if amsgrad:
            self._buffer_names = (*self._buffer_names, "max_exp_avg_sq")
        super().__init__(
            modules, lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, maximize=maximize
        )

    def _update(
        self, step: int, parameter: np.ndarray, gradient: np.ndarray, *buffers: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        beta_1, beta_2 = self._betas
        if self._maximize:
            gradient = -gradient
        if self._decoupled:
            parameter = (1 - self.lr * self._weight_decay) * parameter
        elif self._weight_decay:
            gradient = gradient + self._weight_decay * parameter
        exp_avg = beta_1 * buffers[0]
        exp_avg += (1 - beta_1) * gradient
        exp_avg_sq = beta_2 * buffers[1]
        exp_avg_sq += (1 - beta_2) * (gradient * gradient)
        largest = [np.maximum(each, exp_avg_sq) for each in buffers[2:]]  # with amsgrad
        root = np.sqrt(largest[0] if largest else exp_avg_sq)
        root /= math.sqrt(1 - beta_2**step)
        root += self._eps
        return parameter - self.lr / (1 - beta_1**step) * (exp_avg / root), exp_avg, exp_avg_sq, *largest


class AdamW(Adam):
    """Adam with decoupled weight decay, as ``torch.optim.AdamW``.

    Parameters
    ----------
    modules, lr, betas, eps
        As for `Adam`.
    weight_decay : float
        Each step first makes the parameters smaller by this many times lr.
    amsgrad, maximize
        As for `Adam`.

    Raises
    ------
    TypeError, ValueError
        As `Adam` does.
    """

    _decoupled = True

    def __init__(
        self,
        modules: Module | Iterable[Module],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(modules, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)
