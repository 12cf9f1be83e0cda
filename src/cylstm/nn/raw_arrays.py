"""Weights as other systems lay them out: which axis is which, the order of the gates, one bias or two."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..arrays.arguments import DTYPES, as_array
from ..words import error_text
from .stack import Stack

#: What the candidate, PyTorch's g, is called elsewhere.
_CANDIDATE = "gcj"
_FROM_SHAPES = ("input_size", "hidden_size", "num_layers", "bias", "proj_size", "peephole")


def parameters_from(
    arrays: Mapping[str, Any], gate_order: str, forget_bias: float, options: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Parameters by PyTorch's names, and the sizes that they tell; see `LSTM.from_arrays`."""
    for name in _FROM_SHAPES:
        if name in options:
            raise TypeError(f"{name} must be left out, got {options[name]!r}: the shapes tell it")
    order = _order(gate_order)
    if not isinstance(forget_bias, numbers.Real):
        raise TypeError(f"forget_bias must be a number, got {forget_bias!r} of type {type(forget_bias).__name__}")
    directions = 2 if options.get("bidirectional", False) else 1
    given = {name: _several(value, name) for name, value in arrays.items() if value is not None or name == "weight_ih"}
    count = len(given["weight_ih"])
    for name, several in given.items():
        if len(several) != count or count % directions or not count:
            each = "one array for each layer" + (" and direction" if directions == 2 else "")
            raise ValueError(f"{name} must have {each}, as weight_ih, got {len(several)} for {count} of weight_ih")
    parameters: dict[str, np.ndarray] = {}
    sizes: dict[str, Any] = {}
    for k in range(count):
        suffix = f"_l{k // directions}" + "_reverse" * (k % directions)
        one = {name: several[k] for name, several in given.items()}
        layer = _with_two_biases(_upright(one, f"[{k}]" if count > 1 else ""), forget_bias, order)
        parameters |= {name + suffix: array for name, array in layer.items()}
        if k == 0:
            hidden = len(layer["weight_hh"]) // 4
            sizes = {"input_size": layer["weight_ih"].shape[1], "hidden_size": hidden, "bias": "bias_ih" in layer}
            sizes |= {"num_layers": count // directions, "proj_size": len(layer.get("weight_hr", ()))}
            sizes |= {"peephole": "weight_ch" in layer}
    expected = Stack(**sizes, bidirectional=directions == 2).shapes()
    wrong = [
        f"{name} {a.shape} where {expected.get(name)} is due"
        for name, a in parameters.items()
        if a.shape != expected.get(name)
    ]
    if wrong:
        raise ValueError(f"the arrays must fit each other as those of the first layer tell, got {', '.join(wrong)}")
    return parameters, {**sizes, "dtype": _dtype(given), **options}


def _order(gate_order: Any) -> list[int]:
    """Where PyTorch's i, f, g, o are in this order."""
    if not isinstance(gate_order, str):
        raise TypeError(
            f"gate_order must be a str such as 'ifgo', got {gate_order!r} of type {type(gate_order).__name__}"
        )
    letters = ["g" if letter in _CANDIDATE else letter for letter in gate_order]
    if sorted(letters) != sorted("ifgo"):
        raise ValueError(f"gate_order must have i, f, o and one of {', '.join(_CANDIDATE)}, got {gate_order!r}")
    return [letters.index(letter) for letter in "ifgo"]


def _several(value: Any, name: str) -> list[np.ndarray]:
    """One array, or one for each layer and direction. Lists of numbers, as JSON has them, are float32."""
    if isinstance(value, (list, tuple)) and not any(getattr(one, "shape", ()) for one in value):
        try:
            array = np.asarray(value, np.float32)
        except (TypeError, ValueError) as error:
            got = f"a list of something else: {error_text(error)}"
            raise TypeError(f"{name} must be an array or several, got {got}") from None
        return [array] if value else []
    values = value if isinstance(value, (list, tuple)) else [value]
    arrays = [as_array(one, name) for one in values]
    for array in arrays:
        if array.dtype.kind not in "biufc" and array.dtype.name != "bfloat16":
            raise TypeError(f"{name} must hold numbers, got an array of dtype {array.dtype}")
    return arrays


def _dtype(given: Mapping[str, Sequence[np.ndarray]]) -> str:
    """That of all arrays, or the one that holds all of them."""
    dtype = np.result_type(*(array for arrays in given.values() for array in arrays))
    return dtype.name if dtype.name in DTYPES else "float32"


def _upright(one: dict[str, np.ndarray], at: str) -> dict[str, np.ndarray]:
    """The arrays of one layer and direction with the gates in the rows; the joined kernel in two."""
    for name, array in one.items():
        if name.startswith("weight") and name != "weight_ch" and (array.ndim != 2 or not array.size):
            raise ValueError(f"{name}{at} must be 2-D with sizes of 1 or more, got shape {array.shape}")
    if "weight_hh" not in one:
        one = _split_kernel(one, at)
    hh, hr = one["weight_hh"], one.get("weight_hr")
    fits = [w for w in (hh, hh.T) if len(w) % 4 == 0 and _fits(w, hr)]
    if len(fits) != 1:
        wanted = "(4H, H) or (H, 4H)" if hr is None else f"(4H, P) or (P, 4H) beside weight_hr of shape {hr.shape}"
        raise ValueError(f"weight_hh{at} must have shape {wanted}, got {hh.shape}")
    [upright] = fits
    gates = len(upright)
    ih = one["weight_ih"]
    if gates not in ih.shape:
        raise ValueError(f"weight_ih{at} must have shape ({gates}, I) or (I, {gates}), got {ih.shape}")
    turned = upright is not hh if ih.shape[0] == ih.shape[1] else len(ih) != gates
    one = {**one, "weight_ih": ih.T if turned else ih, "weight_hh": upright}
    if hr is not None:
        one["weight_hr"] = hr if hr.shape == (upright.shape[1], gates // 4) else hr.T
    if "weight_ch" in one and one["weight_ch"].shape != (3 * gates // 4,):
        raise ValueError(f"weight_ch{at} must have shape ({3 * gates // 4},), got {one['weight_ch'].shape}")
    if "bias_hh" in one and "bias_ih" not in one:
        raise ValueError(f"bias_hh{at} must come with bias_ih, got it alone: give bias_ih=bias_hh, or both")
    for name in ("bias_ih", "bias_hh"):
        if name in one:
            shapes = [(gates,), (1, gates), (gates, 1)]
            shapes += [(2 * gates,), (2, gates)] if name == "bias_ih" and "bias_hh" not in one else []
            if one[name].shape not in shapes:
                raise ValueError(f"{name}{at} must have shape {' or '.join(map(str, shapes))}, got {one[name].shape}")
            one[name] = one[name].reshape(-1)
    return one


def _fits(weight_hh: np.ndarray, weight_hr: np.ndarray | None) -> bool:
    rows, columns = weight_hh.shape
    if weight_hr is None:
        return rows == 4 * columns
    return weight_hr.shape in ((columns, rows // 4), (rows // 4, columns))


def _split_kernel(one: dict[str, np.ndarray], at: str) -> dict[str, np.ndarray]:
    """One kernel for input and h, in this order, in two; the bias tells the size."""
    kernel = one["weight_ih"]
    gates = one["bias_ih"].size if "bias_ih" in one else 0
    if not gates or (kernel.shape[0] == gates) == (kernel.shape[1] == gates):
        raise ValueError(
            f"weight_hh{at} must be given, for weight_ih of shape {kernel.shape} and "
            f"{'a bias of ' + str(gates) if gates else 'no bias'} do not tell where to split a joined kernel"
        )
    upright = kernel if kernel.shape[0] == gates else kernel.T
    hidden = len(one["weight_hr"]) if "weight_hr" in one else gates // 4
    if "weight_hr" in one and one["weight_hr"].shape[0] == gates // 4:
        hidden = one["weight_hr"].shape[1]
    if upright.shape[1] <= hidden:
        raise ValueError(f"weight_ih{at} must have more than {hidden} columns beside {gates} gates, got {kernel.shape}")
    return {**one, "weight_ih": upright[:, :-hidden], "weight_hh": upright[:, -hidden:]}


def _with_two_biases(one: dict[str, np.ndarray], forget_bias: float, order: list[int]) -> dict[str, np.ndarray]:
    """PyTorch's order of the gates, and both biases or none; that of the forget gate raised."""
    gates = len(one["weight_hh"])
    if "bias_ih" not in one and forget_bias:
        one["bias_ih"] = np.zeros(gates, one["weight_hh"].dtype)
    if "bias_ih" in one and "bias_hh" not in one:
        bias = one["bias_ih"]
        one["bias_hh"] = bias[gates:] if len(bias) == 2 * gates else np.zeros(gates, bias.dtype)
        one["bias_ih"] = bias[:gates]
    gates_seen = sorted(order[k] for k in (0, 1, 3))  # of the peepholes: without the candidate
    blocks = {"weight_ch": [gates_seen.index(order[k]) for k in (0, 1, 3)], "weight_hr": [0]}
    ordered = {name: _reordered(array, blocks.get(name, order)) for name, array in one.items()}
    if forget_bias:
        ordered["bias_ih"] = ordered["bias_ih"] + np.repeat([0.0, forget_bias, 0.0, 0.0], gates // 4).astype(
            ordered["bias_ih"].dtype
        )
    return ordered


def _reordered(array: np.ndarray, blocks: list[int]) -> np.ndarray:
    """The blocks of rows in this order."""
    return array.reshape(len(blocks), -1, *array.shape[1:])[blocks].reshape(array.shape)
