"""The operators that are evaluated, with NumPy: attributes and inputs → output, or a list of outputs.

They move values, and compute none. Weights reach an LSTM node through them: exporters slice, reorder, concatenate and
unsqueeze weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


class Unknown(ValueError):
    """A value that the file alone does not tell; the message says what stands in the way."""


def _constant(attributes: dict[str, Any]) -> np.ndarray:
    [(name, value)] = attributes.items()
    dtypes = {"value_float": "f4", "value_floats": "f4", "value_int": "i8", "value_ints": "i8"}
    return value if name == "value" else np.array(value, dtypes[name])


def _axes(attributes: dict[str, Any], given: np.ndarray | None) -> list[int] | None:
    """Axes from the attribute (until opset 12) or the input."""
    return attributes.get("axes") if given is None else [int(axis) for axis in given.reshape(-1)]


def _squeeze(attributes: dict[str, Any], x: np.ndarray, given: np.ndarray | None = None) -> np.ndarray:
    axes = _axes(attributes, given)
    return np.squeeze(x, None if axes is None else tuple(axes))


def _unsqueeze(attributes: dict[str, Any], x: np.ndarray, given: np.ndarray | None = None) -> np.ndarray:
    return np.expand_dims(x, tuple(_axes(attributes, given) or ()))


def _reshape(attributes: dict[str, Any], x: np.ndarray, given: np.ndarray) -> np.ndarray:
    shape = [int(size) for size in given]
    if not attributes.get("allowzero"):
        shape = [size or x.shape[axis] for axis, size in enumerate(shape)]
    return x.reshape(shape)


def _slice(
    attributes: dict[str, Any],
    x: np.ndarray,
    starts: np.ndarray | None = None,
    ends: np.ndarray | None = None,
    axes: np.ndarray | None = None,
    steps: np.ndarray | None = None,
) -> np.ndarray:
    first = attributes["starts"] if starts is None else starts.tolist()
    last = attributes["ends"] if ends is None else ends.tolist()
    along = attributes.get("axes", range(len(first))) if axes is None else axes.tolist()
    by = [1] * len(first) if steps is None else steps.tolist()
    index = [slice(None)] * x.ndim
    for axis, begin, end, step in zip(along, first, last, by, strict=True):
        stop = None if step < 0 and end < -x.shape[axis] else end  # Python has no number for "before the first"
        index[axis] = slice(begin, stop, step)
    return x[tuple(index)]


def _split(attributes: dict[str, Any], x: np.ndarray, sizes: np.ndarray | None = None) -> list[np.ndarray]:
    axis = attributes.get("axis", 0)
    parts = attributes.get("split") if sizes is None else sizes.tolist()
    if parts is None:
        if "num_outputs" not in attributes:
            raise ValueError("Split must have the sizes of its parts or their number, got neither")
        part = -(-x.shape[axis] // attributes["num_outputs"])
        parts = [part] * (attributes["num_outputs"] - 1)
        parts.append(x.shape[axis] - sum(parts))
    if sum(parts) != x.shape[axis] or min(parts) < 0:
        raise ValueError(f"parts must add up to {x.shape[axis]}, got {parts}")
    return np.split(x, np.cumsum(parts)[:-1], axis)


def _gather(attributes: dict[str, Any], x: np.ndarray, indices: np.ndarray) -> np.ndarray:
    axis = attributes.get("axis", 0)
    if indices.size > max(x.shape[axis], 1):
        raise ValueError(f"Gather must take at most {x.shape[axis]} elements, got {indices.size}")
    return np.take(x, indices, axis)


def _expand(attributes: dict[str, Any], x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(map(int, shape))))


def _constant_of_shape(attributes: dict[str, Any], shape: np.ndarray) -> np.ndarray:
    fill = attributes.get("value", np.zeros(1, np.float32)).reshape(())
    return np.broadcast_to(fill, tuple(map(int, shape)))


def _cast(attributes: dict[str, Any], x: np.ndarray) -> np.ndarray:
    from onnx import helper

    dtype = helper.tensor_dtype_to_np_dtype(attributes["to"])
    return x.astype(np.float32 if dtype.name == "bfloat16" else dtype)


def _dropout(attributes: dict[str, Any], x: np.ndarray, ratio: Any = None, training: Any = None) -> np.ndarray:
    if training is not None and training.any():
        raise Unknown("Dropout in training mode is random")
    return x


def _shape(attributes: dict[str, Any], x: np.ndarray) -> np.ndarray:
    return np.array(x.shape[slice(attributes.get("start"), attributes.get("end"))], np.int64)


OPERATORS: dict[str, Callable[..., Any]] = {
    "Cast": _cast,
    "Concat": lambda attributes, *parts: np.concatenate(parts, attributes["axis"]),
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Dropout": _dropout,
    "Expand": _expand,
    "Gather": _gather,
    "Identity": lambda attributes, x: x,
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": lambda attributes, x: np.transpose(x, attributes.get("perm")),
    "Unsqueeze": _unsqueeze,
}
#: Those that copy nothing.
VIEWS = set(OPERATORS) - {"Cast", "Concat", "Gather", "Reshape"}
