"""Keras's layers, computed by :class:`cylstm.LSTM`, :class:`cylstm.Linear` and NumPy. A map of this folder::

    wrappers.py       Bidirectional, TimeDistributed
    cells.py          LSTMCell, RNN
    recurrent.py      LSTM
    dense.py          Dense, Embedding
    convolution.py    Conv1D
    pooling.py        MaxPooling1D, GlobalAveragePooling1D …
    normalization.py  BatchNormalization, LayerNormalization …
    elementwise.py    Activation, ReLU, Softmax, Rescaling …
    merging.py        Concatenate, Add, Dot …
    operations.py     operations between layers
    shapes.py         Flatten, Reshape, RepeatVector …
    identity.py       Masking, Dropout and others that do nothing in inference
    activations.py    Keras's activations by name
    base.py           Layer, Recurrent, Input, Variable
    arguments.py      numbers, arrays, masks and weights that callers give

The names here are those of ``keras.layers``.
"""

from .base import Input, Layer
from .cells import RNN, LSTMCell, StackedRNNCells
from .convolution import Conv1D
from .dense import Dense, Embedding
from .elementwise import (
    ELU,
    Activation,
    LeakyReLU,
    Normalization,
    PReLU,
    ReLU,
    Rescaling,
    Softmax,
    ThresholdedReLU,
)
from .identity import (
    ActivityRegularization,
    AlphaDropout,
    Dropout,
    GaussianDropout,
    GaussianNoise,
    Identity,
    Masking,
    SpatialDropout1D,
)
from .merging import Add, Average, Concatenate, Dot, Maximum, Minimum, Multiply, Subtract
from .normalization import BatchNormalization, LayerNormalization, UnitNormalization
from .pooling import AveragePooling1D, GlobalAveragePooling1D, GlobalMaxPooling1D, MaxPooling1D
from .recurrent import LSTM
from .shapes import Cropping1D, Flatten, Permute, RepeatVector, Reshape, UpSampling1D, ZeroPadding1D
from .wrappers import Bidirectional, TimeDistributed

__all__ = [
    "ELU",
    "LSTM",
    "RNN",
    "Activation",
    "ActivityRegularization",
    "Add",
    "AlphaDropout",
    "Average",
    "AveragePooling1D",
    "BatchNormalization",
    "Bidirectional",
    "Concatenate",
    "Conv1D",
    "Cropping1D",
    "Dense",
    "Dot",
    "Dropout",
    "Embedding",
    "Flatten",
    "GaussianDropout",
    "GaussianNoise",
    "GlobalAveragePooling1D",
    "GlobalMaxPooling1D",
    "Identity",
    "Input",
    "LSTMCell",
    "Layer",
    "LayerNormalization",
    "LeakyReLU",
    "Masking",
    "MaxPooling1D",
    "Maximum",
    "Minimum",
    "Multiply",
    "Normalization",
    "PReLU",
    "Permute",
    "ReLU",
    "RepeatVector",
    "Rescaling",
    "Reshape",
    "Softmax",
    "SpatialDropout1D",
    "StackedRNNCells",
    "Subtract",
    "ThresholdedReLU",
    "TimeDistributed",
    "UnitNormalization",
    "UpSampling1D",
    "ZeroPadding1D",
]

#: The layers by the names of their classes.
LAYERS: dict[str, type[Layer]] = {
    name: globals()[name] for name in __all__ if name not in ("Input", "LSTMCell", "Layer", "StackedRNNCells")
}
