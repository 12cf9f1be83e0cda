"""These tests collect garbage often: what other tests have left is not theirs to look through."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def own_garbage_alone() -> Iterator[None]:
    gc.freeze()
    yield
    gc.unfreeze()
