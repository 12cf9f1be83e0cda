"""`Stream`, which `cylstm.LSTM.stream` makes, by its public path."""

from .nn.stream import Stream

__all__ = ["Stream"]
