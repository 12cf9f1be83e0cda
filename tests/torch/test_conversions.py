"""from_torch and to_torch: copies of the weights, from PyTorch and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import parametrizations
from torch_modules import close, leaves_of

import cylstm
import cylstm.torch

torch.set_num_threads(1)

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning"),
    # PyTorch compiles, pickles and traces with functions of its own and of Python that it deprecates
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:torch"),
]

MODULES = [
    lambda: torch.nn.LSTM(3, 4, 2, bidirectional=True, batch_first=True, dropout=0.5, proj_size=2, dtype=torch.float64),
    lambda: torch.nn.LSTM(3, 4, bias=False),
    lambda: cylstm.torch.LSTM(3, 4, backend="numpy"),
    lambda: parametrizations.weight_norm(torch.nn.LSTM(3, 4), "weight_ih_l0"),
    lambda: torch.nn.LSTMCell(3, 4),
    lambda: torch.nn.LSTMCell(3, 4, bias=False),
    lambda: torch.nn.Linear(3, 4),
    lambda: torch.nn.Linear(3, 4, bias=False),
]


@pytest.mark.parametrize("make", MODULES)
def test_from_torch_and_back(make):
    theirs = make().eval()
    before = cylstm.random.get_rng_state(), torch.get_rng_state()
    ours = cylstm.torch.from_torch(theirs)
    kind = type(ours)
    assert not ours.training
    assert getattr(ours, "backend", None) == getattr(theirs, "backend", None)
    x = torch.randn(5, 3, dtype=torch.float64 if ours.dtype == np.float64 else torch.float32)
    result, expected = ours(x), theirs(x)
    torch.set_rng_state(before[1])
    for actual, wanted in zip(leaves_of(as_tensors(result)), leaves_of(expected), strict=True):
        assert close(actual, wanted)
    back = kind.from_torch(theirs).to_torch()
    assert type(back).__module__.startswith("torch.nn")
    assert not back.training
    assert all(map(close, leaves_of(back(x)), leaves_of(expected)))
    assert isinstance(next(back.parameters()), torch.nn.Parameter)
    assert repr(kind.from_torch(back)) == repr(ours)
    assert np.array_equal(cylstm.random.get_rng_state(), before[0])
    assert torch.equal(torch.get_rng_state(), before[1])


def as_tensors(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else tuple(map(as_tensors, value))


def test_from_torch_copies():
    theirs = torch.nn.LSTM(3, 4)
    ours = cylstm.LSTM.from_torch(theirs, backend="numpy")
    assert ours.backend == "numpy"
    before = ours.weight_ih_l0.copy()
    with torch.no_grad():
        theirs.weight_ih_l0.zero_()
    assert np.array_equal(ours.weight_ih_l0, before)
    back = ours.to_torch()
    with torch.no_grad():
        back.weight_ih_l0.zero_()
    assert np.array_equal(ours.weight_ih_l0, before)


def test_from_torch_refuses_other_modules():
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.LSTM, got Linear"):
        cylstm.LSTM.from_torch(torch.nn.Linear(3, 4))
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.LSTM, LSTMCell or Linear, got GRU"):
        cylstm.torch.from_torch(torch.nn.GRU(3, 4))
    with pytest.raises(TypeError, match="backend must be None for a Linear"):
        cylstm.Linear.from_torch(torch.nn.Linear(3, 4), backend="numpy")
    with pytest.raises(TypeError, match=r"module must be a cylstm\.LSTM, LSTMCell or Linear, got LSTM"):
        cylstm.torch.to_torch(torch.nn.LSTM(3, 4))
    with pytest.raises(RuntimeError, match="float8"):
        cylstm.Linear.from_torch(torch.nn.Linear(3, 4).to(torch.float8_e5m2))
