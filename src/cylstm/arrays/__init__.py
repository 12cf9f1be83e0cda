"""What callers hand in. A map of this folder::

    arguments.py     arrays, dtypes, devices and sizes, and the errors where they are none
    homes.py         PyTorch's and JAX's arrays on a GPU: what comes from there goes back there
    arithmetic.py    the dtype of the arithmetic, and the sigmoid
    activations.py   the activations of an LSTM, and their derivatives
    layout.py        how the caller's arrays lie, and the packed rows they become
    packed.py        PackedSequence
    packing.py       packing and padding of ragged batches
    quantization.py  bfloat16 and int8

Nothing here knows a module or a backend.
"""
