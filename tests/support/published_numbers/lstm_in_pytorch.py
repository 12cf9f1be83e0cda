"""LSTM in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np

import cylstm
from cylstm.random import uniform

from .printed import Printed

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
