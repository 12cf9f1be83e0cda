"""The layer stack by itself, and modules made from arrays."""

from __future__ import annotations

import numpy as np
import pytest

import cylstm
from cylstm import random
from cylstm.nn.dispatch import choose
from cylstm.nn.parameters import Snapshot
from cylstm.nn.stack import Stack


@pytest.mark.parametrize(("bidirectional", "proj_size"), [(False, 0), (True, 0), (False, 2), (True, 2)])
def test_a_stack_computes_what_the_module_does(backend: str, bidirectional: bool, proj_size: int) -> None:
    lstm = cylstm.LSTM(3, 5, 2, bidirectional=bidirectional, proj_size=proj_size, backend=backend)
    stack = Stack(3, 5, 2, True, bidirectional, proj_size)
    assert {name: array.shape for name, array in lstm.named_parameters()} == stack.shapes()
    x = cylstm.randn(7, 4, 3)
    choice = choose(Snapshot(lstm.state_dict(), version=0), stack.layers, backend, training=False)
    layout, rows, h_0, c_0 = stack.enter(x, None, False, choice.dtype)
    rows, h_n, c_n, kept = stack.forward(choice, layout.batch_sizes, rows, h_0, c_0, "nothing")
    output, state = lstm(x)
    for mine, expected in zip((layout.from_rows(rows), h_n, c_n), (output, *state), strict=True):
        np.testing.assert_array_equal(mine, expected)
    assert kept == []


def test_a_module_of_arrays_draws_nothing() -> None:
    lstm = cylstm.LSTM(3, 5)
    before = random.get_rng_state()
    made = cylstm.LSTM._of(lstm.state_dict(), input_size=3, hidden_size=5)
    np.testing.assert_array_equal(random.get_rng_state(), before)
    assert type(made) is cylstm.LSTM
    for mine, expected in zip(made.parameters(), lstm.parameters(), strict=True):
        np.testing.assert_array_equal(mine, expected)


def test_options_are_checked_before_an_array_is_taken() -> None:
    arrays = iter([("weight_ih_l0", np.empty(0))])
    with pytest.raises(ValueError, match="hidden_size must be greater than zero"):
        cylstm.LSTM._of(arrays, input_size=3, hidden_size=0)
    assert next(arrays)[0] == "weight_ih_l0"
