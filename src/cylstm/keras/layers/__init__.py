"""Keras's layers, computed by :class:`cylstm.LSTM` and :class:`cylstm.Linear`. A map of this folder::

    recurrent.py   LSTM, Bidirectional
    dense.py       Dense
    masking.py     Masking, Dropout: layers without weights
    base.py        Layer, Recurrent, Input, Variable
    arguments.py   numbers, arrays, masks and weights that callers give

The names here are those of ``keras.layers``.
"""

from .base import Input
from .dense import Dense
from .masking import Dropout, Masking
from .recurrent import LSTM, Bidirectional

__all__ = ["LSTM", "Bidirectional", "Dense", "Dropout", "Input", "Masking"]
