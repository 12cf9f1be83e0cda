"""Other implementations of an LSTM that ``cylstm bench --peer`` measures beside the backends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from ..backends.cython_backend.threads import get_num_threads
from ..nn.lstm import LSTM
from ..words import needs

Pass = Callable[[], list[Any]]  # returns output and states, or in training all gradients; NumPy's or PyTorch's arrays


class Problem(NamedTuple):
    """What everybody computes."""

    sizes: Mapping[str, Any]  # arguments of LSTM
    parameters: Mapping[str, np.ndarray]
    input: np.ndarray  # (T, B, I)
    grad_output: np.ndarray  # (T, B, D * R)
    training: bool  # gradients are wanted


def peer_passes(problem: Problem, names: Sequence[str] | None) -> dict[str, Pass]:
    """The peers of these names, ready to run; of an empty sequence those that are here and can, of None nobody.

    Raises
    ------
    ImportError
        If a peer that is named is not installed.
    ValueError
        If a peer that is named cannot compute the problem.
    """
    if names is None:
        return {}
    passes = {}
    for name in names or PEERS:
        make, packages, unable = PEERS[name]
        missing = [package for package in packages if find_spec(package) is None]
        reason = unable(problem)
        if names and missing:
            raise ImportError(needs("measurements of a peer", missing[0]))
        if names and reason:
            raise ValueError(f"--peer must be one that computes this, got {name!r}, which {reason}: leave it out")
        if not missing and not reason:
            passes[name] = make(problem)
    return passes


def _torch_unable(problem: Problem) -> str:
    return ""


def _torch_pass(problem: Problem) -> Pass:
    import torch

    torch.set_num_threads(get_num_threads())
    dtype = problem.input.dtype.name
    input = torch.from_numpy(_plain(problem.input)).to(getattr(torch, dtype)).requires_grad_(problem.training)
    grad_output = torch.from_numpy(_plain(problem.grad_output)).to(input.dtype)
    lstm = torch.nn.LSTM(**problem.sizes, dtype=input.dtype)
    lstm.load_state_dict({name: torch.from_numpy(_plain(array)) for name, array in problem.parameters.items()})
    if problem.training:
        return lambda: [*map(_array, torch.autograd.grad(lstm(input)[0], [input, *lstm.parameters()], grad_output))]

    def call() -> list[Any]:
        with torch.inference_mode():
            output, state = lstm(input)
            return [*map(_array, (output, *state))]

    return call


def _plain(array: np.ndarray) -> np.ndarray:
    """An array of its own in a dtype that PyTorch takes from NumPy."""
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array.copy()


def _array(tensor: Any) -> Any:
    return tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor


def _onnxruntime_unable(problem: Problem) -> str:
    if problem.training:
        return "computes no gradients"
    if problem.sizes["proj_size"]:
        return "has no projections"
    return "" if problem.input.dtype == np.float32 else f"computes float32, not {problem.input.dtype}"


def _onnxruntime_pass(problem: Problem) -> Pass:
    import onnxruntime

    from ..onnx.writer import export

    lstm = LSTM(**problem.sizes)
    lstm.load_state_dict(problem.parameters)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = get_num_threads()
    session = onnxruntime.InferenceSession(
        export(lstm).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names, feed = ["output", "h_n", "c_n"], {"input": problem.input}
    return lambda: session.run(names, feed)


#: Of each peer: what makes its pass, the packages that it needs, and why it cannot compute a problem ("" if it can).
PEERS: dict[str, tuple[Callable[[Problem], Pass], tuple[str, ...], Callable[[Problem], str]]] = {
    "torch": (_torch_pass, ("torch",), _torch_unable),
    "onnxruntime": (_onnxruntime_pass, ("onnxruntime", "onnx"), _onnxruntime_unable),
}
