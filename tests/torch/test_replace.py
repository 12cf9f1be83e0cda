"""cylstm.torch.replace and restore on models: the same objects, weights and numbers, computed by another."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import cylstm
import cylstm.torch

torch.set_num_threads(1)

pytestmark = pytest.mark.filterwarnings("ignore:cylstm.torch.replace replaced . and left 1. own:UserWarning")


class Own(nn.LSTM):
    """A subclass whose forward is its own."""

    def forward(self, input: torch.Tensor, hx: tuple[torch.Tensor, torch.Tensor] | None = None) -> torch.Tensor:
        return super().forward(input, hx)[0] + 1


class Tagger(nn.Module):
    """An encoder of ragged batches, a decoder that loops over a cell, and recurrent layers that are no LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.encoder = nn.LSTM(6, 5, num_layers=2, bidirectional=True, batch_first=True, dropout=0.3)
        self.middle = nn.ModuleList([nn.GRU(10, 8, batch_first=True), nn.LSTM(8, 6, batch_first=True, bias=False)])
        self.same_again = self.middle[1]
        self.decoder = nn.ModuleDict({"cell": nn.LSTMCell(6, 6)})
        self.own = Own(6, 4, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, words: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = pack_padded_sequence(self.embed(words), lengths, batch_first=True, enforce_sorted=False)
        x, _ = pad_packed_sequence(self.encoder(packed)[0], batch_first=True)
        for layer in self.middle:
            x, _ = layer(x)
        h, c = x[:, -1], torch.zeros_like(x[:, -1])
        steps = []
        for _ in range(3):
            h, c = self.decoder["cell"](h, (h, c))
            steps.append(h)
        return self.head(self.own(torch.stack(steps, 1)))


def tagger(seed: int = 0) -> Tagger:
    torch.manual_seed(seed)
    return Tagger()


WORDS = torch.arange(24).reshape(4, 6) % 20
LENGTHS = torch.tensor([3, 6, 1, 4])
SWAPPED = ["encoder", "middle.1", "decoder.cell"]


def classes(model: nn.Module) -> dict[str, type]:
    return {name: type(module) for name, module in model.named_modules()}


def train(model: nn.Module, steps: int = 5) -> list[float]:
    """Losses of a few steps; the dropout is that of the seed."""
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(steps):
        loss = model(WORDS, LENGTHS).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_replace_and_restore(backend):
    model = tagger()
    before = classes(model)
    objects = dict(model.named_modules())
    parameters = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    expected = model.eval()(WORDS, LENGTHS)

    assert cylstm.torch.replace(model, backend=backend) is model
    after = classes(model)
    assert {name for name in after if after[name] is not before[name]} == set(SWAPPED)
    assert after["encoder"] is cylstm.torch.LSTM
    assert after["decoder.cell"] is cylstm.torch.LSTMCell
    assert model.encoder.backend == backend
    assert dict(model.named_modules()) == objects
    assert {name: parameter.data_ptr() for name, parameter in model.named_parameters()} == parameters
    assert model.same_again is model.middle[1]
    assert not model.encoder.training
    assert torch.allclose(model(WORDS, LENGTHS), expected, atol=1e-6)

    assert cylstm.torch.restore(model) is model
    assert classes(model) == before
    assert "backend" not in vars(model.encoder)
    assert torch.equal(model(WORDS, LENGTHS), expected)


def test_training_goes_on_as_before():
    expected = train(tagger())
    losses = train(cylstm.torch.replace(tagger()))
    assert losses == pytest.approx(expected, rel=1e-5)
    assert losses[-1] < losses[0]


def test_an_optimiser_made_before_goes_on():
    model = tagger().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    cylstm.torch.replace(model)
    first = model(WORDS, LENGTHS)
    first.square().mean().backward()
    optimizer.step()
    assert not torch.equal(model(WORDS, LENGTHS), first)


def test_hooks_stay():
    model = tagger()
    seen = []
    model.encoder.register_forward_hook(lambda module, args, output: seen.append(type(module)))
    cylstm.torch.replace(model)(WORDS, LENGTHS)
    cylstm.torch.restore(model)(WORDS, LENGTHS)
    assert seen == [cylstm.torch.LSTM, nn.LSTM]


def test_twice_is_once():
    model = cylstm.torch.replace(tagger(), backend="numpy")
    cylstm.torch.replace(model)
    assert model.encoder.backend == "numpy"  # a drop-in is left as it is
    with pytest.raises(cylstm.UnknownBackendError):
        cylstm.torch.replace(model, backend="nowhere")
    assert model.encoder.backend == "numpy"
    other = cylstm.torch.replace(cylstm.torch.LSTM(3, 4), backend="numpy")
    assert other.backend == "numpy"  # unless a backend is named
    cylstm.torch.restore(cylstm.torch.restore(model))
    assert type(model.encoder) is nn.LSTM


def test_a_model_that_is_an_lstm():
    lstm = nn.LSTM(3, 4)
    assert type(cylstm.torch.replace(lstm)) is cylstm.torch.LSTM
    assert type(cylstm.torch.replace(lstm, back=True)) is nn.LSTM


def test_restore_takes_modules_that_were_made_as_drop_ins():
    lstm = cylstm.torch.LSTM(3, 4, backend="numpy")
    x = torch.randn(5, 3)
    expected = lstm(x)[0]
    assert type(cylstm.torch.restore(lstm)) is nn.LSTM
    assert torch.allclose(lstm(x)[0], expected, atol=1e-6)


def test_parametrised_modules():
    theirs = parametrizations.weight_norm(nn.LSTM(3, 4), "weight_hh_l0")
    other = copy.deepcopy(theirs)  # of the same class, which PyTorch made for the first
    x = torch.randn(5, 2, 3)
    expected = copy.deepcopy(theirs)(x)[0]  # after a call, PyTorch's own cannot be copied any more
    cylstm.torch.replace(theirs)
    assert isinstance(theirs, cylstm.torch.LSTM)
    assert not isinstance(other, cylstm.torch.LSTM)
    assert torch.allclose(theirs(x)[0], expected, atol=1e-6)
    assert torch.equal(copy.deepcopy(theirs)(x)[0], theirs(x)[0])
    theirs(x)[0].sum().backward()
    assert theirs.parametrizations.weight_hh_l0.original0.grad is not None
    cylstm.torch.restore(theirs)
    assert not isinstance(theirs, cylstm.torch.LSTM)
    assert torch.equal(theirs(x)[0], expected)


def test_copies_and_pickles():
    model = cylstm.torch.replace(tagger().eval(), backend="numpy")
    expected = model(WORDS, LENGTHS)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert classes(copied) == classes(model)
        assert torch.equal(copied(WORDS, LENGTHS), expected)
    tagger(seed=1).load_state_dict(model.state_dict())


def test_a_backend_that_cannot_changes_nothing():
    model = tagger()
    model.middle[1].half()
    before = classes(model)
    with pytest.raises(cylstm.UnknownBackendError):
        cylstm.torch.replace(model, backend="nowhere")
    assert classes(model) == before
    if "cython" in [row.name for row in cylstm.available_backends() if row.status == "available"]:
        with pytest.raises(cylstm.UnsupportedError, match="float16"):
            cylstm.torch.replace(model, backend="cython")
        assert classes(model) == before


def test_bad_arguments():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got LSTM"):
        cylstm.torch.replace(cylstm.LSTM(3, 4))
    with pytest.raises(ValueError, match="backend must be None where back is True, got 'numpy'"):
        cylstm.torch.replace(nn.LSTM(3, 4), backend="numpy", back=True)


def test_a_wrong_backend_is_refused_where_there_is_no_lstm_too() -> None:
    with pytest.raises(cylstm.BackendError, match="nonsense"):
        cylstm.torch.replace(nn.Linear(2, 3), backend="nonsense")
