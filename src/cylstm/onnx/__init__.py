"""LSTM nodes of ONNX files: ``load``, ``find``, ``save``. The package ``onnx`` is imported when it is needed.

ONNX describes one layer by a node: X (T, B, I), or (B, T, I) with layout 1; W (D, 4H, I), R (D, 4H, H), B (D, 8H) with
the gates in the order i, o, f, c (c is PyTorch's g), the biases of W first; initial_h and initial_c (D, B, H); Y
(T, D, B, H). The node can be reversed alone, and have peepholes (P), a clip, coupled gates and other activations. What
it asks for and is not computed is refused by its name. Convention: https://onnx.ai/onnx/operators/onnx__LSTM.html

A map of this folder, each module above those that it imports::

    runner.py       an LSTM run as ONNX runs it; load
    reader.py       the LSTMs of a model; find
    writer.py       models of an LSTM; export, save
    stacked.py      nodes that are layers of one LSTM
    quantized.py    ONNX Runtime's quantised LSTM
    apart.py        cells that were taken apart into single operators
    lookalike.py    those of other kinds, and of a GRU: said to be there
    sums.py         what goes into their gates
    node.py         what one LSTM node says
    states.py       what feeds its initial states and lengths
    graph.py        graphs, subgraphs and functions of a model, and their values
    tensors.py      the arrays in a model and in files beside it, and how much memory they may take
    operators.py    the operators that are evaluated
    convention.py   ONNX's names, order of gates and activations, and PyTorch's

The package ``onnx`` is imported when a model is read or written.
"""

from .node import Found
from .reader import find
from .runner import LSTM, load
from .writer import export, save

__all__ = ["LSTM", "Found", "export", "find", "load", "save"]
