"""Checkpoints of PyTorch: the ways to write them, a model, and what must come out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import cylstm

#: Each way of `torch.save`.
WAYS = {
    "zip": {},
    "legacy": {"_use_new_zipfile_serialization": False},
    "protocol 3": {"pickle_protocol": 3},
    "protocol 4": {"pickle_protocol": 4},
    "protocol 5": {"pickle_protocol": 5},
    "legacy, protocol 4": {"_use_new_zipfile_serialization": False, "pickle_protocol": 4},
}


class Tagger(torch.nn.Module):
    """A model around an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(7, 3)
        self.encoder = torch.nn.LSTM(3, 4, 2, bidirectional=True)
        self.head = torch.nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embedding(x))[0])


def assert_read(path: Path, module: torch.nn.LSTM, prefix: str = "") -> None:
    lstm = cylstm.load(path, prefix)
    assert lstm.state_dict().keys() == module.state_dict().keys()
    for name, tensor in module.state_dict().items():
        np.testing.assert_array_equal(getattr(lstm, name), tensor.numpy())
