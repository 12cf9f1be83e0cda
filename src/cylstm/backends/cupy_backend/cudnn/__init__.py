"""The kernel variant ``cudnn``: NVIDIA's cuDNN, through ctypes. A map of this folder::

    variant.py       Cudnn: which calls it computes
    directions.py    a layer of two directions, which may go one by one
    layer.py         the parameters of a layer, forward and backward
    handle.py        handles that are lent, each with the descriptors of its calls
    weight_space.py  where cuDNN has each matrix and bias
    descriptors.py   what a call tells cuDNN about a layer and its rows
    algorithms.py    which of cuDNN's algorithms, from sizes alone
    library.py       libcudnn: found, called, its errors in words

Imports run one way: ``variant`` → ``directions`` → ``layer`` → ``handle``, ``weight_space`` → ``descriptors`` →
``algorithms``, ``library``. cuDNN is no requirement: where it is not found, there is no such variant. Descriptors,
lengths and the layout of the weights are tested without a GPU against the library itself. Values are not: cuDNN
computes on a GPU alone.
"""

from .library import CudnnError, find
from .variant import Cudnn

__all__ = ["Cudnn", "CudnnError", "find"]
