"""LSTM nodes of ONNX files: ``load``, ``find``, ``save``. The package ``onnx`` is imported when it is needed.

ONNX describes one layer by a node: X (T, B, I), or (B, T, I) with layout 1; W (D, 4H, I), R (D, 4H, H), B (D, 8H) with
the gates in the order i, o, f, c (c is PyTorch's g), the biases of W first; initial_h and initial_c (D, B, H); Y
(T, D, B, H). The node can be reversed alone, and have peepholes, a clip and other activations: what cylstm does not
compute is refused by its name. Convention: https://onnx.ai/onnx/operators/onnx__LSTM.html
"""

from .model import LSTM, Found, export, find, load, read, save

__all__ = ["LSTM", "Found", "export", "find", "load", "read", "save"]
