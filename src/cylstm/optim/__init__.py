"""Optimisers with the arguments, defaults and steps of ``torch.optim``, losses, and ``clip_grad_norm``.

An optimiser is made for one module or several. A step takes the gradients of each, in the same order, as the pullbacks
return them::

    optimizer = Adam([lstm, head], lr=1e-3)
    ...
    grads = [lstm_grads.parameters, head_grads.parameters]
    clip_grad_norm(grads, 1.0)
    optimizer.step(grads)

A map of this folder::

    base.py         Optimizer, what the optimisers have in common
    optimizers.py   SGD, Adam, AdamW
    rmsprop.py      RMSprop
    losses.py       cross_entropy and mse_loss, with their gradients
    clipping.py     clip_grad_norm
"""

from .base import Optimizer
from .clipping import clip_grad_norm
from .losses import cross_entropy, mse_loss
from .optimizers import SGD, Adam, AdamW
from .rmsprop import RMSprop

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RMSprop", "clip_grad_norm", "cross_entropy", "mse_loss"]
