"""Contents of files of models."""

from __future__ import annotations

import json

import numpy as np

SAFETENSORS_DTYPES = ["float16", "float32", "float64", "complex64"]
NPZ_DTYPES = [*SAFETENSORS_DTYPES, "complex128"]
OPTIONS = [
    {},
    {"bias": False},
    {"num_layers": 3, "batch_first": True, "dropout": 0.25},
    {"bidirectional": True},
    {"proj_size": 2},
    {"num_layers": 2, "bidirectional": True, "proj_size": 3, "bias": False},
    {"num_layers": 2, "bidirectional": True, "proj_size": 1, "batch_first": True},
]


def raw_safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def lstm_tensors(I: int = 3, H: int = 2, dtype: str = "float32") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"weight_ih_l0": (4 * H, I), "weight_hh_l0": (4 * H, H), "bias_ih_l0": (4 * H,), "bias_hh_l0": (4 * H,)}
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def assert_same_module(actual: object, expected: object) -> None:
    assert (type(actual), repr(actual)) == (type(expected), repr(expected))
    assert actual.dtype == expected.dtype
    assert list(actual.state_dict()) == list(expected.state_dict())
    for name, array in expected.state_dict().items():
        np.testing.assert_array_equal(getattr(actual, name), array)
