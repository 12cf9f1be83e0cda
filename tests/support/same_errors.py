"""One mistake made with PyTorch and with cylstm."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import rnn

import cylstm

LEAKED = (IndexError, AttributeError, AssertionError, NotImplementedError)

TORCH = SimpleNamespace(
    LSTM=torch.nn.LSTM,
    zeros=lambda *shape, dtype="float32": torch.zeros(shape, dtype=getattr(torch, dtype)),
    integers=lambda values, dtype="int64": torch.tensor(values, dtype=getattr(torch, dtype)),
    PackedSequence=rnn.PackedSequence,
    dtype=lambda name: getattr(torch, name),
)
OURS = SimpleNamespace(
    LSTM=cylstm.LSTM,
    zeros=lambda *shape, dtype="float32": np.zeros(shape, dtype),
    integers=lambda values, dtype="int64": np.array(values, dtype),
    PackedSequence=cylstm.PackedSequence,
    dtype=np.dtype,
)


# The arguments of a constructor beside input_size=3, hidden_size=4; what the message must name.
def assert_same_error(function: Callable[[Any], Any], words: list[str], attribute_error: bool = False) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Exception) as theirs:  # noqa: PT011
            function(TORCH)
    expected: Any = theirs.type
    if issubclass(theirs.type, LEAKED):
        expected = (AttributeError,) if attribute_error else (ValueError, TypeError, RuntimeError)
        if issubclass(theirs.type, (IndexError, AttributeError)) and not attribute_error:
            expected = (ValueError, TypeError)
    with pytest.raises(expected) as ours:
        function(OURS)
    if isinstance(expected, type):
        assert ours.type is expected
    for word in words:
        assert word in str(ours.value)
