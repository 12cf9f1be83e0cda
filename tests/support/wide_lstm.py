"""The LSTM's equations written down once more, plainly, in long double: for errors of float64 and complex128."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from random_cases import Case
from torch.nn.utils import rnn

#: What is wider than the widest dtypes of PyTorch; empty where long double is not.
WIDEST = (
    {"float64": np.longdouble, "complex128": np.clongdouble}
    if np.finfo(np.longdouble).eps < np.finfo(np.float64).eps
    else {}
)


def run(module: torch.nn.LSTM, case: Case) -> list[np.ndarray]:
    """Output (packed: its data), h_n and c_n, in the forms of PyTorch's."""
    dtype, options = WIDEST[case.dtype], case.options
    layers, directions = options["num_layers"], 1 + options["bidirectional"]
    parameters = {name: p.detach().numpy().astype(dtype) for name, p in module.named_parameters()}
    x = _sequences_second(np.array(case.x, dtype), case)
    h_0, c_0 = _states(case, layers * directions, dtype)
    h_n, c_n = np.zeros_like(h_0), np.zeros_like(c_0)
    for layer in range(layers):
        outputs = []
        for d in range(directions):
            n = layer * directions + d
            suffix = f"_l{layer}{'_reverse' if d else ''}"
            own = {name.removesuffix(suffix): p for name, p in parameters.items() if name.endswith(suffix)}
            output = np.zeros((*x.shape[:2], h_0.shape[2]), dtype)
            for b, length in enumerate(case.lengths):
                h_n[n, b], c_n[n, b] = _direction(own, x[:length, b], h_0[n, b], c_0[n, b], output[:length, b], d)
            outputs.append(output)
        x = np.concatenate(outputs, axis=2)
    return [_output(x, case), *((h_n[:, 0], c_n[:, 0]) if case.form == "unbatched" else (h_n, c_n))]


def _direction(
    own: dict[str, np.ndarray], x: np.ndarray, h: np.ndarray, c: np.ndarray, output: np.ndarray, reverse: int
) -> tuple[np.ndarray, np.ndarray]:
    """One sequence (T, I) through one direction; `output` (T, P) is filled. The last h and c."""
    bias: Any = own["bias_ih"] + own["bias_hh"] if "bias_ih" in own else 0
    for t in range(len(x))[:: -1 if reverse else 1]:
        i, f, g, o = np.split(own["weight_ih"] @ x[t] + own["weight_hh"] @ h + bias, 4)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
        output[t] = h = own["weight_hr"] @ h if "weight_hr" in own else h
    return h, c


def _sequences_second(x: np.ndarray, case: Case) -> np.ndarray:
    """(T, B, I)."""
    return x[:, None] if case.form == "unbatched" else x.swapaxes(0, 1) if case.options["batch_first"] else x


def _states(case: Case, number: int, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """h_0 and c_0: (L·D, B, P) and (L·D, B, H)."""
    H, B = case.options["hidden_size"], len(case.lengths)
    if case.hx is None:
        return np.zeros((number, B, case.options["proj_size"] or H), dtype), np.zeros((number, B, H), dtype)
    h_0, c_0 = (state.astype(dtype).reshape(number, B, -1) for state in case.hx)
    return h_0, c_0


def _output(x: np.ndarray, case: Case) -> np.ndarray:
    if case.form == "unbatched":
        return x[:, 0]
    if case.form == "batched":
        return x.swapaxes(0, 1) if case.options["batch_first"] else x
    numbers = torch.arange(x.shape[0] * x.shape[1]).reshape(x.shape[:2])  # where PyTorch puts each row
    packed = rnn.pack_padded_sequence(numbers, torch.tensor(case.lengths), enforce_sorted=False)
    return x.reshape(-1, x.shape[2])[packed.data.numpy()]
