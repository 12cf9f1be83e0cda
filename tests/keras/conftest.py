"""Keras runs on PyTorch here."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

os.environ["KERAS_BACKEND"] = "torch"  # before a test file imports Keras


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    """Keras's results are compared as arrays."""
    with torch.no_grad():
        yield
