"""The LSTM inside PyTorch: modules that are ``torch.nn.LSTM`` and ``torch.nn.LSTMCell`` but for who computes.

`LSTM` and `LSTMCell` are subclasses of PyTorch's: constructor, parameters, initial weights, ``state_dict``, ``repr``
and all that other code expects of these classes are PyTorch's own. Only ``forward`` is another: it runs on a backend of
cylstm, on the memory of the tensors, and autograd goes through it.

`replace` turns every ``torch.nn.LSTM`` of a model into the drop-in and `restore` turns it back; `from_torch` and
`to_torch` copy between PyTorch's modules and those that live without PyTorch.

This package imports PyTorch; ``import cylstm`` does not import this package. A map of this folder::

    replacing.py    replace and restore
    modules.py      the drop-ins
    report.py       what replace tells
    derivatives.py  autograd, torch.func and vmap of the operators
    operator.py     the operators of PyTorch that the drop-ins call
    tensors.py      tensors as arrays on the same memory, and back
    convert.py      from_torch and to_torch
    quantized.py    what quantize_dynamic makes, for from_torch
"""

from .convert import from_torch, to_torch
from .modules import LSTM, LSTMCell
from .replacing import replace, restore

__all__ = ["LSTM", "LSTMCell", "from_torch", "replace", "restore", "to_torch"]

LSTM.__module__ = LSTMCell.__module__ = __name__  # the path in the pickles of models, whatever this folder is like
