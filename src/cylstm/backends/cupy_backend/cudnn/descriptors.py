"""What a call tells cuDNN of a layer and its rows: descriptors, shared by calls of the same sizes. No GPU is needed."""

from __future__ import annotations

from contextlib import ExitStack
from ctypes import byref, c_int, c_void_p
from dataclasses import dataclass
from weakref import finalize

import numpy as np

from ..variants import LayerShape
from .algorithms import ALGORITHMS
from .library import Library

LSTM, LINEAR_INPUT, DOUBLE_BIAS = 2, 0, 2  # cudnnRNNMode_t, cudnnRNNInputMode_t, cudnnRNNBiasMode_t
UNPACKED, PACKED = 0, 1  # cudnnRNNDataLayout_t: rows of T steps of B sequences, or those that there are
PADDED_IO = 1  # of auxFlags; rows of the layout UNPACKED need it
#: cudnnDataType_t of what is stored and of the arithmetic, cudnnMathType_t.
DEFAULT_MATH, TENSOR_OP_MATH, FMA_MATH = 0, 1, 3
DTYPES = {
    "bfloat16": (9, 0, TENSOR_OP_MATH),
    "float16": (2, 0, TENSOR_OP_MATH),
    "float32": (0, 0, FMA_MATH),
    "float64": (1, 1, DEFAULT_MATH),
}


@dataclass(eq=False)
class Descriptors:
    """Those of a call. They are destroyed with this object."""

    rnn: c_void_p
    x: c_void_p  # (N, I)
    y: c_void_p  # (N, D * R)
    h: c_void_p  # (D, B, R)
    c: c_void_p  # (D, B, H)


def sequence_lengths(batch_sizes: np.ndarray) -> np.ndarray:
    """The length of each sequence, the longest first: (B,) int32."""
    b = np.arange(batch_sizes[0])
    return np.searchsorted(-batch_sizes, -b, side="left").astype(np.int32)


def rnn_descriptor(
    library: Library, shape: LayerShape, made: ExitStack, *, algorithm: str, tf32: bool, packed: bool
) -> c_void_p:
    """The descriptor of a layer, which `made` destroys.

    There are two biases always, zeros in a layer without, for the persistent algorithms ask for them. Without a
    projection, projSize is H.
    """
    data, arithmetic, math = DTYPES[shape.dtype]
    if tf32 and shape.dtype == "float32":
        math = DEFAULT_MATH
    rnn = descriptor(library, "RNN", made)
    library.call(
        "cudnnSetRNNDescriptor_v8",
        rnn, ALGORITHMS[algorithm], LSTM, DOUBLE_BIAS, shape.D - 1, LINEAR_INPUT, data, arithmetic, math,
        shape.I, shape.H, shape.R, 1, None, 0 if packed else PADDED_IO,
    )  # fmt: skip
    return rnn


def descriptors(
    library: Library, shape: LayerShape, lengths: np.ndarray, *, algorithm: str, tf32: bool = False
) -> Descriptors:
    """The descriptors of a call, for sequences of these lengths.

    Raises
    ------
    CudnnError
        Where the algorithm does not compute it; some cases show only when it is called.
    """
    data = DTYPES[shape.dtype][0]
    T, B, D, packed = int(lengths[0]), len(lengths), shape.D, bool(lengths[0] != lengths[-1])
    lengths = np.ascontiguousarray(lengths, np.int32)
    with ExitStack() as made:
        rnn = rnn_descriptor(library, shape, made, algorithm=algorithm, tf32=tf32, packed=packed)
        rows = []
        for width in (shape.I, D * shape.R):
            rows.append(descriptor(library, "RNNData", made))
            layout = PACKED if packed else UNPACKED
            library.call(
                "cudnnSetRNNDataDescriptor", rows[-1], data, layout, T, B, width, c_void_p(lengths.ctypes.data), None
            )
        states = []
        for width in (shape.R, shape.H):
            states.append(descriptor(library, "Tensor", made))
            dimensions, strides = (c_int * 3)(D, B, width), (c_int * 3)(B * width, width, 1)
            library.call("cudnnSetTensorNdDescriptor", states[-1], data, 3, dimensions, strides)
        described = Descriptors(rnn, *rows, *states)
        finalize(described, made.pop_all().close).atexit = False
    return described


def descriptor(library: Library, kind: str, made: ExitStack) -> c_void_p:
    """A descriptor of a kind, ``"RNN"``, ``"RNNData"`` or ``"Tensor"``, which `made` destroys."""
    created = c_void_p()
    library.call(f"cudnnCreate{kind}Descriptor", byref(created))
    made.callback(library.call, f"cudnnDestroy{kind}Descriptor", created)
    return created
