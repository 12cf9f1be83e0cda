"""replace says what it replaced, what it left and why."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import cylstm.torch


class Own(nn.LSTM):
    """A subclass."""


def with_own_forward(module: nn.Module) -> nn.Module:
    module.forward = lambda input: input  # as a monkey patch does
    return module


class FromScratch(nn.Module):
    """Its own LSTM, under the usual name."""


FromScratch.__name__ = "LSTM"


class Around(nn.Module):
    """A model with the usual name for it, around an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.LSTM(2, 3)


Around.__name__ = "LSTM"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Own(2, 3), "the forward of a subclass may be its own"),
        (lambda: with_own_forward(nn.LSTM(2, 3)), "its forward is its own"),
        (lambda: with_own_forward(nn.LSTMCell(2, 3)), "its forward is its own"),
        (lambda: nn.LSTM(2, 3).bfloat16(), r"does not compute in bfloat16, but after \.float\(\)"),
        (lambda: parametrizations.weight_norm(nn.LSTM(2, 3).bfloat16(), "weight_hh_l0"), "does not compute in bfloat"),
        (lambda: torch.ao.nn.quantizable.LSTM(2, 3), "it is quantised, or made for that"),
        (lambda: torch.ao.nn.quantized.dynamic.LSTM(2, 3), "it is quantised"),
        (lambda: torch.ao.nn.quantized.dynamic.LSTMCell(2, 3), "it is quantised"),
        (lambda: torch.jit.script(nn.LSTMCell(2, 3)), "it is scripted"),
        (FromScratch, "it is another class"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*deprecated.*")  # PyTorch's own quantisation and scripting
def test_what_is_left_is_named_with_the_reason(make, reason):
    inner = make()
    model = nn.ModuleDict({"taken": nn.LSTM(2, 3), "left": inner, "gru": nn.GRU(2, 3)})
    kind = type(inner)
    with pytest.warns(UserWarning, match=rf"replaced 1 and left 1: left, for .*{reason}") as seen:
        assert cylstm.torch.replace(model) is model
    assert seen[0].filename == __file__
    assert type(model["left"]) is kind
    assert type(model["taken"]) is cylstm.torch.LSTM
    with pytest.warns(UserWarning, match=rf"replaced 0 and left \d: the model, for .*{reason}"):
        cylstm.torch.replace(inner)


@pytest.mark.parametrize("make", [lambda: nn.Linear(2, 3), lambda: nn.Sequential(nn.GRU(2, 3), nn.RNN(2, 3))])
def test_a_model_without_an_lstm_is_told(make):
    with pytest.warns(UserWarning, match=r"has found no torch\.nn\.LSTM and no LSTMCell") as seen:
        cylstm.torch.replace(make())
    assert seen[0].filename == __file__


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.LSTM(2, 3),
        Around,
        lambda: cylstm.torch.LSTM(2, 3),
        lambda: type("Sub", (cylstm.torch.LSTM,), {})(2, 3),
        lambda: nn.LSTM(2, 3, device="meta"),
        lambda: parametrizations.weight_norm(nn.LSTM(2, 3), "weight_hh_l0"),
        lambda: nn.LSTM(2, 3).half(),
    ],
)
def test_nothing_is_said_where_nothing_is_left(make, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = cylstm.torch.replace(cylstm.torch.replace(make()))
        cylstm.torch.restore(cylstm.torch.restore(model))
    assert capsys.readouterr() == ("", "")


def test_verbose(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = cylstm.torch.replace(nn.ModuleDict({"a": nn.LSTM(2, 3), "own": Own(2, 3)}), verbose=True)
        expected = "a: replaced\nown: left, the forward of a subclass may be its own\nreplaced 1, left 1\n"
        assert capsys.readouterr().out == expected
        cylstm.torch.replace(model, back=True, verbose=True)
    assert capsys.readouterr().out == "a: restored\nrestored 1, left 0\n"
