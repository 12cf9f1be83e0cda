"""Weights and comparisons for layers of Keras."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

TOLERANCE = 1e-6


def fill(layer, seed: int) -> None:
    """Random weights for a layer or model of Keras."""
    numbers = np.random.default_rng(seed)
    for weight in layer.weights:
        weight.assign(numbers.normal(size=weight.shape).astype("float32") / 2)


def arrays(result) -> list[np.ndarray]:
    return [np.asarray(one) for one in (result if isinstance(result, tuple | list) else [result])]


def assert_close(got, wanted) -> None:
    got, wanted = arrays(got), arrays(wanted)
    assert [one.shape for one in got] == [one.shape for one in wanted]
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE)


def saved(model, path: Path, extension: str) -> Path:
    path = path / f"m{extension}"
    if extension == ".weights.h5":
        model.save_weights(path)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras finds .h5 old
            model.save(path)
    return path
