"""Keras's shapes and names on :class:`cylstm.LSTM`, and Keras's files. For inference: there is no ``fit``.

Arrays are (B, T, features). The weights of an LSTM are kernel (I, 4H), recurrent_kernel (H, 4H) and bias (4H,), with
the gates in PyTorch's order i, f, c, o (c is PyTorch's g): transposed, and with one bias instead of two. Keras itself
is not needed; files need the package ``h5py``. Convention: https://keras.io/api/layers/recurrent_layers/lstm/

The modules, each importing those before it alone: ``formats`` knows what is in a file, ``initializers`` and ``layers``
are Keras's, ``sequential`` puts layers in a row, ``exchange`` stands between :class:`cylstm.LSTM` and the files.
"""

from .exchange import from_lstm, save
from .exchange import read as read  # for cylstm.load
from .layers import LSTM, Bidirectional, Dense, Dropout, Input, Masking
from .sequential import Sequential, load_model

__all__ = [
    "LSTM",
    "Bidirectional",
    "Dense",
    "Dropout",
    "Input",
    "Masking",
    "Sequential",
    "from_lstm",
    "load_model",
    "save",
]
