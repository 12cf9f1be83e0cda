"""The modules. A map of this folder::

    parameters.py  versions of the parameters, locked
    frozen.py      parameters rounded once and for all
    module.py      Module, the base: state_dict, training mode, conversions
    reparametrised.py  parameters that PyTorch computes from others (weight_norm, prune …)
    options.py     the options beyond PyTorch's: what callers pass, and what files say
    dispatch.py    which backend computes one version of the parameters
    stack.py       the layers, one on the other: shapes, checks, both passes on packed rows
    lstm.py        LSTM
    raw_arrays.py  weights as other systems lay them out
    stream.py      Stream: an LSTM fed one time step at a time
    cell.py        LSTMCell
    linear.py      Linear
    gradients.py   what a pullback takes and returns

The arithmetic of the LSTM is in the backends.
"""
