"""LSTM for programmers."""

from __future__ import annotations

from typing import Any

import numpy as np

import cylstm

from .printed import Printed


def simple_lstm(backend: Any) -> list[Printed]:
    """One layer, one direction: the shapes, and that the last output is the hidden state."""
    seq_len, batch_size, input_size, hidden_size = 17, 2, 10, 7
    cylstm.manual_seed(0)
    O, (H, C) = cylstm.LSTM(input_size, hidden_size, backend=backend)(cylstm.randn(seq_len, batch_size, input_size))
    return [
        Printed("O_tc_simple.shape", O.shape, (17, 2, 7)),
        Printed("H_tc_simple.shape", H.shape, (1, 2, 7)),
        Printed("C_tc_simple.shape", C.shape, (1, 2, 7)),
        Printed("torch.eq(O_tc_simple[-1, :, :], H_tc_simple)", np.equal(O[-1], H).tolist(), [[[True] * 7] * 2]),
    ]


def bidirectional_and_stacked(backend: Any) -> list[Printed]:
    """Two directions, then three layers of two directions."""
    cylstm.manual_seed(0)
    x = cylstm.randn(17, 2, 10)
    O, (H, C) = cylstm.LSTM(10, 7, bidirectional=True, backend=backend)(x)
    O_stacked, (H_stacked, C_stacked) = cylstm.LSTM(10, 7, num_layers=3, bidirectional=True, backend=backend)(x)
    return [
        Printed("O_tc_bidir.shape", O.shape, (17, 2, 14)),
        Printed("H_tc_bidir.shape", H.shape, (2, 2, 7)),
        Printed("C_tc_bidir.shape", C.shape, (2, 2, 7)),
        Printed("O_tc_bidir_stacked.shape", O_stacked.shape, (17, 2, 14)),
        Printed("H_tc_bidir_stacked.shape", H_stacked.shape, (6, 2, 7)),
        Printed("C_tc_bidir_stacked.shape", C_stacked.shape, (6, 2, 7)),
    ]
