"""How does a PyTorch LSTM model work."""

from __future__ import annotations

from typing import Any

import numpy as np

import cylstm

from .printed import Printed


def basic_layer(backend: Any) -> list[Printed]:
    """Example 1."""
    output, (hn, cn) = cylstm.LSTM(10, 20, backend=backend)(cylstm.randn(15, 1, 10))
    return [
        Printed("LSTM Output shape", output.shape, (15, 1, 20)),
        Printed("Hidden state shape", hn.shape, (1, 1, 20)),
        Printed("Cell state shape", cn.shape, (1, 1, 20)),
    ]


def multiple_layers(backend: Any) -> list[Printed]:
    """Example 2."""
    lstm = cylstm.LSTM(10, 20, num_layers=2, batch_first=False, backend=backend)
    output, (hn, cn) = lstm(cylstm.randn(15, 1, 10))
    return [
        Printed("LSTM Output shape", output.shape, (15, 1, 20)),
        Printed("Hidden state shape", hn.shape, (2, 1, 20)),
        Printed("Cell state shape", cn.shape, (2, 1, 20)),
    ]


def sequence_classification(backend: Any) -> list[Printed]:
    """Example 3, with `cylstm.Linear` as the classifier."""
    lstm = cylstm.LSTM(10, 20, num_layers=2, batch_first=False, backend=backend)
    classifier = cylstm.Linear(20, 3)
    output, (hn, _) = lstm(cylstm.randn(15, 1, 10))
    last_hidden_state = hn[-1, :, :]
    return [
        Printed("last_hidden_state", last_hidden_state.shape, (1, 20)),
        Printed("the last step's output is the last layer's hidden state", bool(np.all(output[-1] == hn[-1])), True),
        Printed("Classification Output Shape", classifier(last_hidden_state).shape, (1, 3)),
    ]
