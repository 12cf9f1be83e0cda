"""The operators that are evaluated: attributes and inputs → output, or a list of outputs.

Weights, shapes and states reach an LSTM node through them. Those that move values are here, as views where that is
possible: a hostile file cannot make them large. Those that compute are evaluated by ``onnx.reference``, after a look at
the size of the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..words import named, quoted


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


def _cast(attributes: dict[str, Any], x: np.ndarray, like: np.ndarray | None = None) -> np.ndarray:
    from onnx import helper

    dtype = helper.tensor_dtype_to_np_dtype(attributes["to"]) if like is None else like.dtype
    if dtype.hasobject:
        raise Unknown("Cast makes texts")
    return x.astype(np.float32 if dtype.name == "bfloat16" else dtype)


def _dropout(attributes: dict[str, Any], x: np.ndarray, ratio: Any = None, training: Any = None) -> np.ndarray:
    if training is not None and training.any():
        raise Unknown("Dropout in training mode is random")
    return x


def _shape(attributes: dict[str, Any], x: np.ndarray) -> np.ndarray:
    return np.array(x.shape[slice(attributes.get("start"), attributes.get("end"))], np.int64)


OPERATORS: dict[str, Callable[..., Any]] = {
    "Cast": _cast,
    "CastLike": _cast,
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
VIEWS = set(OPERATORS) - {"Cast", "CastLike", "Concat", "Gather", "Reshape"}

_ELEMENTWISE = {
    *("Add", "Sub", "Mul", "Div", "Mod", "Pow", "Sqrt", "Reciprocal", "Neg", "Abs", "Sign", "Floor", "Ceil", "Round"),
    *("Min", "Max", "Sum", "Mean", "Clip", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"),
    *("Not", "And", "Or", "Xor", "Where", "Tanh", "Sigmoid", "Relu"),
}
_AT_MOST_THE_INPUT = {
    *("ReduceSum", "ReduceProd", "ReduceMin", "ReduceMax", "ReduceMean", "ReduceL2", "ReduceSumSquare", "CumSum"),
    *("Flatten", "Size", "ScatterND", "ScatterElements", "Trilu"),
}
_OTHERS = {"Range", "Tile"}


def by_reference(node: Any, inputs: Sequence[np.ndarray | None], opset: int, limit: int) -> list[np.ndarray]:
    """What an operator gives by the definition in ``onnx.reference``; the limit is that of the result's bytes.

    Raises
    ------
    Unknown
        If it is none of those that are evaluated.
    ValueError
        If the result would be too large.
    """
    if node.op_type not in _ELEMENTWISE | _AT_MOST_THE_INPUT | _OTHERS:
        raise Unknown(f"{quoted(node.output[0])} is computed by {named(node.op_type)}")
    from onnx.reference import ReferenceEvaluator

    given = [array for array in inputs if array is not None]
    size = _elements(node.op_type, given) * max((array.itemsize for array in given), default=8)
    if size > limit:
        raise ValueError(f"a result of at most {limit} bytes must come out, got one of {size}")
    feeds = {name: array for name, array in zip(node.input, inputs, strict=True) if array is not None}
    with np.errstate(all="ignore"):
        return list(ReferenceEvaluator(node, opsets={"": opset}).run(None, feeds))


def _elements(kind: str, inputs: Sequence[np.ndarray]) -> int:
    """The number of elements that the result has at most."""
    if kind in _ELEMENTWISE:
        return math.prod(np.broadcast_shapes(*(array.shape for array in inputs)))
    if kind == "Tile":
        if inputs[1].size != inputs[0].ndim:
            raise ValueError(f"repeats must be {inputs[0].ndim} numbers, got {inputs[1].size}")
        return inputs[0].size * math.prod(max(0, int(n)) for n in inputs[1].reshape(-1))
    if kind == "Range":
        start, end, step = (float(array.reshape(())) for array in inputs)
        return max(0, math.ceil((end - start) / step))
    return max(array.size for array in inputs)
