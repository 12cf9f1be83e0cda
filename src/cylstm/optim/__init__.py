"""Optimisers with the arguments, defaults and steps of ``torch.optim``, and ``clip_grad_norm``.

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
    clipping.py     clip_grad_norm
"""

from .base import Optimizer
from .clipping import clip_grad_norm
from .optimizers import SGD, Adam, AdamW

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "clip_grad_norm"]
