"""The numbers, shapes and lines that four published PyTorch tutorials print, and how cylstm computes them.

Each function runs one part of a document and lists what it gives beside what the document prints. The tests go
through the lists (``test_published_tutorials.py``), and so does ``smoke_wheel.py`` with an installed wheel: this
folder needs NumPy and cylstm only.

The documents print four decimals of float32 numbers. A ``backend`` of None is the automatic choice.
"""

from __future__ import annotations

from .demystifying_nn_lstm import (
    an_earlier_cell_state,
    bulk_mode,
    first_inputs,
    loop_mode,
    step_by_step,
    the_bulk_unrolled,
    the_loop_in_bulk,
)
from .how_does_a_pytorch_lstm_model_work import basic_layer, multiple_layers, sequence_classification
from .lstm_for_programmers import bidirectional_and_stacked, simple_lstm
from .lstm_in_pytorch import (
    a_batch,
    a_line_of_an_rnn,
    complex_numbers,
    every_argument,
    lstm1,
    lstm2,
    six_steps,
    two_steps,
)
from .printed import Part as Part
from .printed import Printed as Printed

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
