"""The numbers, shapes and lines that four published PyTorch tutorials print, and how cylstm computes them.

Each function runs one part of a document and lists what it gives beside what the document prints. The tests go
through the lists (``test_published_tutorials.py``), and so does ``smoke_wheel.py`` with an installed wheel: this file
needs NumPy and cylstm only.

The documents print four decimals of float32 numbers. A ``backend`` of None is the automatic choice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import cylstm
from cylstm.random import uniform


class Printed(NamedTuple):
    """One thing that a document prints."""

    what: str
    got: Any
    printed: Any  # numbers as nested lists; anything else must be equal

    def holds(self) -> bool:
        """Whether cylstm gives it, numbers to the last printed digit."""
        if not isinstance(self.printed, list):
            return type(self.got) is type(self.printed) and self.got == self.printed
        printed, got = np.array(self.printed), np.asarray(self.got)
        return got.shape == printed.shape and bool(np.allclose(got, printed, rtol=0, atol=5.1e-5))


Part = Callable[[Any], list[Printed]]


# demystifying_nn_lstm -------------------------------------------------------------------------------------------------
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


# lstm_for_programmers -------------------------------------------------------------------------------------------------


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


# how_does_a_pytorch_lstm_model_work -----------------------------------------------------------------------------------


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


# lstm_in_pytorch ------------------------------------------------------------------------------------------------------

_TENSOR_1 = np.array([[8.0, -3.0, 0.0, 1.0, 5.0, -2.0]], np.float32)
_OUT_1 = [[-0.2443, 0.0840, 0.4837]]
_STATE_1 = [[-0.2616, 0.0902, 0.5288]]
_PARAMETERS_1 = {
    "bias_ih_l0": [
        *(-0.5053, -0.3676, 0.5771, 0.1090, 0.1779, -0.5385),
        *(-0.3792, -0.1922, 0.0903, -0.5080, -0.2488, -0.3456),
    ],
    "bias_hh_l0": [
        *(0.0016, -0.2148, -0.0400, -0.3912, -0.3963, -0.3368),
        *(-0.1976, -0.4557, 0.4841, -0.1146, 0.4968, 0.1799),
    ],
    "weight_ih_l0": [
        [0.4414, 0.4792, -0.1353, 0.5304, -0.1265, 0.1165],
        [-0.2811, 0.3391, 0.5090, -0.4236, 0.5018, 0.1081],
        [0.4266, 0.0782, 0.2784, -0.0815, 0.4451, 0.0853],
        [-0.2695, 0.1472, -0.2660, -0.0677, -0.2345, 0.3830],
        [-0.4557, -0.2662, -0.1630, -0.3471, 0.0545, -0.5702],
        [0.5214, -0.4904, 0.4457, 0.0961, -0.1875, 0.3568],
        [0.0900, 0.4665, 0.0631, -0.1821, 0.1551, -0.1566],
        [0.2430, 0.5155, 0.3337, -0.2524, 0.3333, 0.1033],
        [0.2932, -0.3519, -0.5715, -0.2231, -0.4428, 0.4737],
        [0.1663, 0.2391, 0.1826, -0.0100, 0.4518, -0.4102],
        [0.0364, -0.3941, 0.1780, -0.1988, 0.1769, -0.1203],
        [0.4788, -0.3422, -0.3443, -0.3444, 0.5193, 0.1924],
    ],
    "weight_hh_l0": [
        [0.5556, -0.4765, -0.5727],
        [-0.4517, -0.3884, 0.2339],
        [0.2067, 0.4797, -0.2982],
        [-0.3936, 0.3063, -0.2334],
        [0.3504, -0.1370, 0.3303],
        [-0.4486, -0.2914, 0.1760],
        [0.1221, -0.1472, 0.3441],
        [0.3925, -0.4187, -0.3082],
        [0.5287, -0.1948, -0.2047],
        [-0.5586, -0.3306, 0.1442],
        [-0.0762, -0.4191, 0.0135],
        [-0.3944, -0.4898, -0.3179],
    ],
}


def _lstm_of_seed_42(backend: Any, *arguments: Any, **options: Any) -> cylstm.LSTM:
    cylstm.manual_seed(42)
    return cylstm.LSTM(*arguments, backend=backend, **options)


def _result(name: str, result: Any, output: Any, h_n: Any, c_n: Any) -> list[Printed]:
    """Output, h_n and c_n of a call beside those printed."""
    got = (result[0], *result[1])
    names = (f"{name}[0]", f"{name}[1][0]", f"{name}[1][1]")
    return [Printed(*row) for row in zip(names, got, (output, h_n, c_n), strict=True)]


def lstm1(backend: Any) -> list[Printed]:
    """lstm1: output, representation, attributes and all parameters."""
    lstm = _lstm_of_seed_42(backend, input_size=6, hidden_size=3)
    return [
        *_result("tensor2", lstm(input=_TENSOR_1), _OUT_1, _OUT_1, _STATE_1),
        Printed("lstm1", repr(lstm), "LSTM(6, 3)"),
        Printed("lstm1.input_size", lstm.input_size, 6),
        Printed("lstm1.hidden_size", lstm.hidden_size, 3),
        Printed("lstm1.num_layers", lstm.num_layers, 1),
        Printed("lstm1.bias", lstm.bias, True),
        Printed("lstm1.batch_first", lstm.batch_first, False),
        Printed("lstm1.dropout", lstm.dropout, 0.0),
        Printed("lstm1.bidirectional", lstm.bidirectional, False),
        Printed("lstm1.proj_size", lstm.proj_size, 0),
        *(Printed(f"lstm1.{name}", getattr(lstm, name), numbers) for name, numbers in _PARAMETERS_1.items()),
    ]


def lstm2(backend: Any) -> list[Printed]:
    """lstm2 on each of the three arrays that lstm1 returns."""
    output, (h_n, c_n) = _lstm_of_seed_42(backend, input_size=6, hidden_size=3)(input=_TENSOR_1)
    lstm = _lstm_of_seed_42(backend, input_size=3, hidden_size=3)
    of_output, of_state = [[0.0832, 0.0755, 0.0117]], [[0.1856, 0.1574, 0.0294]]
    of_c = [[0.0803, 0.0776, 0.0118]]
    return [
        *_result("lstm2(input=tensor2[0])", lstm(input=output), of_output, of_output, of_state),
        *_result("lstm2(input=tensor2[1][0])", lstm(input=h_n), of_output, of_output, of_state),
        *_result("lstm2(input=tensor2[1][1])", lstm(input=c_n), of_c, of_c, [[0.1810, 0.1612, 0.0293]]),
    ]


def a_line_of_an_rnn(backend: Any) -> list[Printed]:
    """``lstm2(input=tensor2[1])``: no LSTM printed this.

    tensor2[1] is a tuple, which LSTM refuses, and what is printed has the form of ``nn.RNN``. They are the numbers of
    two ``nn.RNN`` from seed 42 in a row; cylstm has none, but the weights that they draw.
    """
    x, bound = _TENSOR_1, 1 / 3**0.5
    for _ in range(2):
        cylstm.manual_seed(42)
        weight_ih, _, bias_ih, bias_hh = (
            uniform(shape, -bound, bound) for shape in ((3, x.shape[1]), (3, 3), (3,), (3,))
        )
        x = np.tanh(x @ weight_ih.T + bias_ih + bias_hh)
    return [Printed("lstm2(input=tensor2[1])", x, [[-0.4656, 0.5770, 0.0342]])]


def every_argument(backend: Any) -> list[Printed]:
    """All arguments by name, at their defaults."""
    lstm = _lstm_of_seed_42(
        backend,
        input_size=6,
        hidden_size=3,
        num_layers=1,
        bias=True,
        batch_first=False,
        dropout=0.0,
        bidirectional=False,
        proj_size=0,
        device=None,
        dtype=None,
    )
    return _result("lstm", lstm(input=_TENSOR_1), _OUT_1, _OUT_1, _STATE_1)


def two_steps(backend: Any) -> list[Printed]:
    """A 2-D array of two steps."""
    my_tensor = np.array([[8.0, -3.0, 0.0], [1.0, 5.0, -2.0]], np.float32)
    result = _lstm_of_seed_42(backend, input_size=3, hidden_size=3)(input=my_tensor)
    output = [[-0.0367, 0.4198, -0.0198], [0.1306, -0.0044, -0.0685]]
    return _result("lstm", result, output, output[-1:], [[0.1737, -0.1024, -0.5664]])


def six_steps(backend: Any) -> list[Printed]:
    """A 2-D array of six steps."""
    my_tensor = np.array([[8.0], [-3.0], [0.0], [1.0], [5.0], [-2.0]], np.float32)
    result = _lstm_of_seed_42(backend, input_size=1, hidden_size=3)(input=my_tensor)
    output = [
        [-0.0166, 0.7330, 0.1206],
        [0.1032, 0.1525, -0.1500],
        [0.1405, 0.0611, -0.1123],
        [0.1237, 0.0956, -0.0111],
        [-0.0165, 0.6493, 0.1319],
        [0.1539, 0.1300, -0.0973],
    ]
    return _result("lstm", result, output, output[-1:], [[0.2453, 0.2261, -0.2197]])


def a_batch(backend: Any) -> list[Printed]:
    """A 3-D array: two steps, three sequences."""
    my_tensor = np.array([[[8.0], [-3.0], [0.0]], [[1.0], [5.0], [-2.0]]], np.float32)
    result = _lstm_of_seed_42(backend, input_size=1, hidden_size=3)(input=my_tensor)
    output = [
        [[-0.0166, 0.7330, 0.1206], [0.1708, -0.0301, -0.1611], [0.1316, -0.0240, -0.0288]],
        [[-0.1315, 0.3354, 0.1798], [-0.0265, 0.6095, -0.0510], [0.2242, -0.0561, -0.1505]],
    ]
    c_n = [[[-0.4131, 0.4074, 0.3478], [-0.3588, 0.7394, -0.0908], [0.3819, -0.1140, -0.4157]]]
    return _result("lstm", result, output, output[-1:], c_n)


def complex_numbers(backend: Any) -> list[Printed]:
    """The same in complex64."""
    my_tensor = np.array([[[8], [-3], [0]], [[1], [5], [-2]]], np.complex64)
    result = _lstm_of_seed_42(backend, input_size=1, hidden_size=3, dtype="complex64")(input=my_tensor)
    output = [
        [
            [0.0470 + 0.0483j, -0.0209 + 0.0511j, -0.0295 + 0.0117j],
            [0.0148 + 0.3332j, -0.1477 + 0.6714j, -0.3587 + 0.2890j],
            [-0.1949 + 0.0649j, 0.0522 - 0.1214j, -0.3186 - 0.1003j],
        ],
        [
            [-0.0046 - 0.0199j, -0.0496 - 0.0433j, 0.1316 - 0.2021j],
            [0.1221 + 0.0741j, 0.1806 + 0.7882j, -0.0890 - 0.0377j],
            [-0.2860 + 0.3574j, -0.0367 + 0.2503j, -0.3736 + 0.1591j],
        ],
    ]
    c_n = [
        [
            [-0.0076 - 0.0525j, -0.0391 - 0.1021j, 0.3074 - 0.3711j],
            [0.9092 + 0.1833j, -0.1939 + 1.1534j, -0.2418 + 0.1878j],
            [-0.5759 + 0.6338j, -0.1179 + 0.3004j, -0.5170 + 0.0107j],
        ]
    ]
    printed = _result("lstm", result, output, output[-1:], c_n)
    return [Printed(f"{what}.{part}", getattr(got, part), getattr(np.array(numbers), part).tolist())
            for what, got, numbers in printed for part in ("real", "imag")]  # fmt: skip


#: The parts of each document, and the dtype they compute in.
DOCUMENTS: dict[str, dict[Part, str]] = {
    "demystifying_nn_lstm": dict.fromkeys(
        [
            first_inputs,
            an_earlier_cell_state,
            bulk_mode,
            loop_mode,
            the_bulk_unrolled,
            the_loop_in_bulk,
            step_by_step,
        ],
        "float32",
    ),
    "lstm_for_programmers": dict.fromkeys([simple_lstm, bidirectional_and_stacked], "float32"),
    "how_does_a_pytorch_lstm_model_work": dict.fromkeys(
        [basic_layer, multiple_layers, sequence_classification], "float32"
    ),
    "lstm_in_pytorch": {
        **dict.fromkeys([lstm1, lstm2, a_line_of_an_rnn, every_argument, two_steps, six_steps, a_batch], "float32"),
        complex_numbers: "complex64",
    },
}
