"""Demystifying nn.LSTM."""

from __future__ import annotations

from typing import Any

import numpy as np

import cylstm

from .printed import Printed

#
# A notebook, whose cells were not run in the order of the text. The numbers of the cells in brackets show the order,
# and where cells between them were deleted, the printed numbers show how many words of the Mersenne Twister those had
# drawn. So each part below begins with a seed, and `_skip` stands for the deleted cells.

_FIRST_CELL_STATE = [
    [
        [0.0123, -0.2199, 0.2875, -0.1356, 0.0766],
        [0.3382, 0.2510, 0.6205, 0.4422, 0.0732],
        [-0.0388, 0.0336, 0.0089, -0.1430, -0.0643],
        [-0.0184, 0.0949, -0.0476, -0.0689, -0.1356],
        [0.0110, 0.0574, 0.1300, 0.0568, 0.0288],
        [0.2608, 0.1801, 0.5237, 0.1864, 0.0636],
        [-0.0150, 0.0053, 0.2304, -0.1897, -0.0862],
    ]
]
_FIRST_INPUTS = [
    [[-0.6490, -0.0774, -0.6042]],
    [[-0.5731, 0.9578, 1.5043]],
    [[-1.3950, 0.8008, -0.6619]],
    [[1.2563, 0.5000, 0.0402]],
    [[0.4647, -0.0312, -0.0939]],
    [[-0.6191, -0.6363, -0.4242]],
    [[-2.0272, 1.3015, -0.6293]],
]
_FIRST_OUT = [
    [[0.0014, -0.3442, -0.3233, 0.1272, 0.0628]],
    [[0.1822, -0.1008, -0.1856, 0.2728, -0.1620]],
    [[-0.3205, -0.0206, 0.1476, 0.2962, -0.0751]],
    [[-0.3481, -0.1549, 0.2820, -0.0994, 0.3369]],
    [[-0.0077, 0.0343, -0.2153, 0.0807, 0.1262]],
    [[-0.1799, 0.0330, 0.1802, 0.1951, 0.3317]],
    [[-0.0519, 0.0721, 0.2354, -0.2404, 0.1540]],
]
_INPUTS = [
    [[-1.1258, -1.1524, -0.2506]],
    [[-0.4339, 0.8487, -1.5551]],
    [[-0.3414, 1.8530, 0.4681]],
    [[-0.1577, 1.4437, 0.2660]],
    [[0.1665, 1.5863, 0.9463]],
    [[-0.8437, 0.9318, 1.2590]],
    [[2.0050, 0.0537, 0.6181]],
]
_OUT_TYPE_1 = [
    [[-0.0229, 0.0760, 0.0806, 0.0651, 0.4780]],
    [[-0.0631, -0.3371, -0.1404, -0.3782, 0.0775]],
    [[0.1218, 0.5558, 0.0761, -0.3177, -0.3491]],
    [[0.0722, 0.0822, 0.2336, -0.0847, -0.2263]],
    [[0.0533, 0.0153, 0.1362, -0.3684, -0.1344]],
    [[0.0011, -0.0427, -0.1056, 0.1165, 0.2600]],
    [[-0.0602, -0.1055, 0.0908, 0.1777, -0.0081]],
]
_CELL_1 = [[[-0.0422, 0.1172, 0.1255, 0.3234, 0.8920]]]
_OUT_2_OF_THE_LOOP = [[[-0.0721, 0.0187, -0.0858, -0.0551, -0.0058]]]
_CELL_2_OF_THE_LOOP = [[[-0.2038, 0.0295, -0.2052, -0.1197, -0.0175]]]
_CELL_2_OF_THE_BULK = [[[-0.1009, -0.5193, -0.2378, -1.1299, 0.2654]]]


def _skip(words: int) -> None:
    """Draw as many words of the twister as the deleted cells of the notebook did."""
    cylstm.rand(words)


def first_inputs(backend: Any) -> list[Printed]:
    """Cells 25, 26, 35, 58-83: seed 1, the LSTM; 165 words later the inputs; 20 words later the states."""
    cylstm.manual_seed(1)
    lstm = cylstm.LSTM(input_size=3, hidden_size=5, batch_first=True, backend=backend)
    _skip(165)
    inputs = cylstm.randn(7, 1, 3)
    _skip(20)
    hidden, cell = cylstm.randn(7, 1, 5), cylstm.randn(7, 1, 5)
    out, (hidden_state, cell_state) = lstm(inputs, (hidden.reshape(1, 7, 5), cell.reshape(1, 7, 5)))
    out1, (hid1, cell1) = lstm(inputs[0][None], (hidden[0][None], cell[0][None]))
    return [
        Printed("inputs", inputs, _FIRST_INPUTS),
        Printed("inputs[0].unsqueeze(0)", inputs[0][None], _FIRST_INPUTS[:1]),
        Printed("out", out, _FIRST_OUT),
        Printed("out1", out1, _FIRST_OUT[:1]),
        Printed("hid1", hid1, _FIRST_OUT[:1]),
        Printed("cell1", cell1, [[[0.0031, -0.4773, -0.7585, 0.2320, 0.1027]]]),
        Printed("out.size()", out.shape, (7, 1, 5)),
        Printed("hidden_state.size()", hidden_state.shape, (1, 7, 5)),
        Printed("cell_state.size()", cell_state.shape, (1, 7, 5)),
        Printed("hidden.size()", hidden.shape, (7, 1, 5)),
        Printed("inputs[0].unsqueeze(0).size()", inputs[0][None].shape, (1, 1, 3)),
        Printed("hidden[0].unsqueeze(0).size()", hidden[0][None].shape, (1, 1, 5)),
        Printed("out1.size()", out1.shape, (1, 1, 5)),
        Printed("hid1.size()", hid1.shape, (1, 1, 5)),
        Printed("cell1.size()", cell1.shape, (1, 1, 5)),
    ]


def an_earlier_cell_state(backend: Any) -> list[Printed]:
    """Cell 19, run before the seed that stands above it: another LSTM and other inputs, 644 words after seed 1."""
    cylstm.manual_seed(1)
    _skip(644)
    lstm = cylstm.LSTM(3, 5, batch_first=True, backend=backend)
    _, (_, cell_state) = lstm(cylstm.randn(7, 1, 3))
    return [Printed("cell_state", cell_state, _FIRST_CELL_STATE)]


def _bulk_and_loop(backend: Any) -> tuple[Any, ...]:
    """Cells 95-97. The LSTM (95) came after a first run of cell 96 and before the second: seed 0 stands twice."""
    cylstm.manual_seed(0)
    cylstm.randn(7, 1, 3)
    lstm = cylstm.LSTM(input_size=3, hidden_size=5, batch_first=True, backend=backend)
    cylstm.manual_seed(0)
    inputs = cylstm.randn(7, 1, 3)
    hidden, cell = cylstm.randn(7, 1, 5), cylstm.randn(7, 1, 5)
    return lstm, inputs, hidden, cell


def bulk_mode(backend: Any) -> list[Printed]:
    """Cells 116 and 147, TYPE 1: with batch_first, seven sequences of one word, each from a state of its own."""
    lstm, inputs, hidden, cell = _bulk_and_loop(backend)
    out_type_1, _ = lstm(inputs, (hidden.reshape(1, 7, 5), cell.reshape(1, 7, 5)))
    return [Printed("inputs", inputs, _INPUTS), Printed("out_type_1", out_type_1, _OUT_TYPE_1)]


def loop_mode(backend: Any) -> list[Printed]:
    """Cells 140-142, 148 and 149, TYPE 2: one sequence, the state of each word from the word before."""
    lstm, inputs, hidden, cell = _bulk_and_loop(backend)
    out_1, (hid_1, cell_1) = lstm(inputs[0][None], (hidden[0][None], cell[0][None]))
    out_2, (hid_2, cell_2) = lstm(inputs[1][None], (hid_1, cell_1))
    return [
        Printed("out_1", out_1, _OUT_TYPE_1[:1]),
        Printed("hid_1", hid_1, _OUT_TYPE_1[:1]),
        Printed("cell_1", cell_1, _CELL_1),
        Printed("out_2", out_2, _OUT_2_OF_THE_LOOP),
        Printed("hid_2", hid_2, _OUT_2_OF_THE_LOOP),
        Printed("cell_2", cell_2, _CELL_2_OF_THE_LOOP),
        Printed("out_2 is not out_type_1[1]", bool(np.allclose(out_2, [_OUT_TYPE_1[1]], atol=1e-2)), False),
    ]


def the_bulk_unrolled(backend: Any) -> list[Printed]:
    """Cells 143 and 144: the bulk again, one call per word, each from its own state."""
    lstm, inputs, hidden, cell = _bulk_and_loop(backend)
    out_1, (_, cell_1) = lstm(inputs[0][None], (hidden[0][None], cell[0][None]))
    out_2, (hid_2, cell_2) = lstm(inputs[1][None], (hidden[1][None], cell[1][None]))
    return [
        Printed("out_1", out_1, _OUT_TYPE_1[:1]),
        Printed("cell_1", cell_1, _CELL_1),
        Printed("out_2", out_2, _OUT_TYPE_1[1:2]),
        Printed("hid_2", hid_2, _OUT_TYPE_1[1:2]),
        Printed("cell_2", cell_2, _CELL_2_OF_THE_BULK),
    ]


def the_loop_in_bulk(backend: Any) -> list[Printed]:
    """What the document asks and does not show: the whole sequence in one call is the loop, if the words are steps.

    The same inputs without batch_first are one sequence of seven words, and only one state goes in.
    """
    lstm, inputs, hidden, cell = _bulk_and_loop(backend)
    steps_first = cylstm.LSTM(3, 5, backend=backend)
    steps_first.load_state_dict(lstm.state_dict())
    out, _ = steps_first(inputs, (hidden[0][None], cell[0][None]))
    return [Printed("out[0]", out[:1], _OUT_TYPE_1[:1]), Printed("out[1]", out[1:2], _OUT_2_OF_THE_LOOP)]


def step_by_step(backend: Any) -> list[Printed]:
    """Cells 156 and 157: R. Guthrie's example, five steps in a loop, then all of them at once."""
    cylstm.manual_seed(0)
    lstm = cylstm.LSTM(3, 3, backend=backend)
    inputs = [cylstm.randn(1, 3) for _ in range(5)]
    hidden = (cylstm.randn(1, 1, 3), cylstm.randn(1, 1, 3))
    outs = [
        ([-0.1815, 0.0289, 0.5399], [-0.3697, 0.0903, 1.3455]),
        ([0.0569, 0.1538, 0.0446], [0.1005, 0.3668, 1.2979]),
        ([0.0991, -0.0257, -0.0674], [0.1282, -0.0523, -0.1263]),
        ([0.1365, -0.2060, 0.0026], [0.2138, -0.3261, 0.0117]),
        ([0.2096, 0.0675, 0.0626], [0.3354, 0.2321, 0.4211]),
    ]
    printed = []
    for step, (row, (out_printed, cell_printed)) in enumerate(zip(inputs, outs, strict=True)):
        out, hidden = lstm(row.reshape(1, 1, -1), hidden)
        printed += [
            Printed(f"out of step {step}", out, [[out_printed]]),
            Printed(f"hidden[0] of step {step}", hidden[0], [[out_printed]]),
            Printed(f"hidden[1] of step {step}", hidden[1], [[cell_printed]]),
        ]
    hidden = (cylstm.randn(1, 1, 3), cylstm.randn(1, 1, 3))
    out, hidden = lstm(np.concatenate(inputs).reshape(len(inputs), 1, -1), hidden)
    all_at_once = [
        [[-0.3341, 0.1119, 0.2212]],
        [[-0.0564, 0.2298, 0.0374]],
        [[-0.0412, 0.0749, -0.0919]],
        [[0.0481, -0.1281, -0.0022]],
        [[0.1721, 0.0864, 0.0560]],
    ]
    return [
        *printed,
        Printed("out of all steps", out, all_at_once),
        Printed("hidden[0]", hidden[0], all_at_once[-1:]),
        Printed("hidden[1]", hidden[1], [[[0.2710, 0.2993, 0.4017]]]),
    ]
