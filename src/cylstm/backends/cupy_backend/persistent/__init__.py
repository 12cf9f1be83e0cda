"""The kernel variant ``persistent``: all steps of a layer in one launch. A map of this folder::

    variant.py         Persistent: which calls it computes, the two passes and their launches
    weights.py         the parameters of a layer, and the products over all rows
    walks.py           the steps of a pass
    kernels.py         the text of the kernels, and the compiler's options
    configurations.py  what the kernels are compiled for, from sizes alone
    persistent.h       how blocks exchange words, without a barrier
    forward.cu         the forward pass
    backward.cu        the recurrent part of the backward pass

Imports run one way: ``variant`` → ``weights``, ``walks``, ``kernels`` → ``configurations``. In the tests all blocks run
on the CPU, in random order, and a compiler for GPUs says that no register spills.
"""

from .variant import Persistent

__all__ = ["Persistent"]
