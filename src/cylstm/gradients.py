"""`Gradients`, which a pullback returns, by its public path."""

from .nn.gradients import Gradients

__all__ = ["Gradients"]
