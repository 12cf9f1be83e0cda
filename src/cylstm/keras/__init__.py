"""Keras's shapes and names on :class:`cylstm.LSTM`, and Keras's files. For inference: there is no ``fit``.

Arrays are (B, T, features). The weights of an LSTM are kernel (I, 4H), recurrent_kernel (H, 4H) and bias (4H,), with
the gates in PyTorch's order i, f, c, o (c is PyTorch's g): transposed, and with one bias instead of two. Keras itself
is not needed; files need the package ``h5py``. Convention: https://keras.io/api/layers/recurrent_layers/lstm/

A map of this folder, each module above those that it imports::

    lstms.py          the LSTMs and Dense layers of a file, for :func:`cylstm.load`
    convert.py        from :class:`cylstm.LSTM` to layers and files; from_lstm, save
    reading.py        load_model: models made from files
    functional.py     layers that take the output of any others
    sequential.py     layers in a row
    model.py          what models have in common
    layers/           the layers
    options.py        what the options of these layers ask for
    initializers.py   what draws their weights
    files/            what is in a file

Keras itself is never imported.
"""

from . import layers
from .convert import from_lstm, save
from .functional import Functional
from .layers import *  # noqa: F403 - the names of `layers.__all__`
from .reading import load_model
from .sequential import Sequential

__all__ = ["Functional", "Sequential", "from_lstm", "load_model", "save"]
__all__ += layers.__all__
