"""Modules of cylstm and PyTorch that are alike, and their gradients, for the tests of optimisers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import cylstm

STEPS = 50
#: Relative to the largest parameter: fifty steps of roundings in another order.
TOLERANCE = {"float32": 2e-6, "float64": 1e-14, "complex64": 2e-6, "complex128": 1e-14}
OPTIONS = [
    ("SGD", {}),
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 1e-3}),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "nesterov": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.0}),
    ("Adam", {}),
    ("Adam", {"lr": 0.02, "betas": (0.5, 0.9)}),
    ("Adam", {"lr": 0.02, "eps": 1e-3}),
    ("Adam", {"lr": 0.02, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.02, "betas": (0.0, 0.0)}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.02, "weight_decay": 0.3}),
    ("AdamW", {"lr": 0.02, "weight_decay": 0.0, "betas": (0.8, 0.99)}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "maximize": True}),
    ("Adam", {"lr": 0.02, "maximize": True, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.02, "amsgrad": True}),
    ("AdamW", {"lr": 0.02, "amsgrad": True, "maximize": True}),
]
KINDS = pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW"])


def modules(dtype="float32", seed=0):
    """An LSTM and a linear layer, and PyTorch's, with the same weights."""
    cylstm.manual_seed(seed)
    torch.manual_seed(seed)
    theirs = [
        torch.nn.LSTM(3, 5, num_layers=2, proj_size=2, dtype=getattr(torch, dtype)),
        torch.nn.Linear(2, 4, dtype=getattr(torch, dtype)),
    ]
    return [cylstm.LSTM(3, 5, num_layers=2, proj_size=2, dtype=dtype), cylstm.Linear(2, 4, dtype=dtype)], theirs


def draw(ours, rng, scale=1.0):
    """Random gradients for each module."""
    grads = []
    for module in ours:
        drawn = {}
        for name, array in module.named_parameters():
            grad = rng.standard_normal(array.shape)
            if array.dtype.kind == "c":
                grad = grad + 1j * rng.standard_normal(array.shape)
            drawn[name] = (scale * grad).astype(array.dtype)
        grads.append(drawn)
    return grads


def give(theirs, grads):
    """The gradients to PyTorch's parameters."""
    for module, given in zip(theirs, grads, strict=True):
        for name, parameter in module.named_parameters():
            parameter.grad = torch.from_numpy(given[name].copy())


def parameters_of(theirs):
    return [parameter for module in theirs for parameter in module.parameters()]


def assert_equal_parameters(ours, theirs, tolerance):
    for mine, yours in zip(ours, theirs, strict=True):
        for name, value in yours.state_dict().items():
            wanted = value.numpy()
            assert np.abs(mine.state_dict()[name] - wanted).max() <= tolerance * max(1, np.abs(wanted).max()), name


def snapshot(ours, optimizer):
    """All that a step changes, as bytes."""
    arrays = [array for module in ours for array in module.parameters()]
    return [array.tobytes() for array in [*arrays, *optimizer.state_dict().values()]]
