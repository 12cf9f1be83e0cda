"""Problems: one layer with its arguments, drawn at random; what a backend and the definition give for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..arrays.activations import ACTIVATIONS, PLAIN, Activation
from ..backends.base import (
    Backend,
    DirectionParameters,
    Keep,
    LayerGradients,
    LayerOptions,
    LayerOutput,
    LayerParameters,
)
from ..backends.numpy_backend import NumpyBackend

#: The definition, which results are compared with.
REFERENCE: Backend = NumpyBackend()


class Case(NamedTuple):
    """The sizes and options of one layer."""

    T: int = 5
    B: int = 3
    I: int = 4
    H: int = 6
    P: int = 0
    D: int = 1
    bias: bool = True
    ragged: bool = False
    states: bool = False  # h_0 and c_0 are given
    options: LayerOptions = LayerOptions()

    def __str__(self) -> str:
        sizes = self._asdict()
        return " ".join(f"{name}={value}" for name, value in (sizes | sizes.pop("options").named()).items())


#: The case of checks that are about something else than sizes.
SMALL = Case(T=6, B=4, D=2, ragged=True, states=True)

#: What is checked of values and gradients, by topic.
CASES: dict[str, list[Case]] = {
    "plain": [Case(), Case(B=1)],
    "without_bias": [Case(bias=False)],
    "initial_state": [Case(states=True), Case(states=True, B=1, T=1)],
    "reverse": [Case(D=2), Case(D=2, states=True)],
    "projection": [Case(P=2), Case(P=5, states=True), Case(P=1, H=2, D=2, states=True, bias=False)],
    "ragged": [Case(T=6, B=5, ragged=True, states=s, D=d) for s in (False, True) for d in (1, 2)],
    "ragged_projection": [Case(T=6, B=5, ragged=True, P=3, D=2, states=True)],
    "empty_batch": [Case(B=0), Case(B=0, D=2, states=True)],
    "one_step": [Case(T=1, B=b, D=d, states=s) for b in (1, 4) for d in (1, 2) for s in (False, True)],
    "long": [Case(T=300, B=2, H=8, D=2, states=True), Case(T=70, B=20, H=5, ragged=True)],
    "odd_sizes": [
        Case(T=3, B=b, I=i, H=h, states=True) for b in (1, 7) for i, h in ((1, 1), (7, 3), (3, 17), (33, 31), (16, 65))
    ],
    "large": [Case(T=4, B=33, I=70, H=130, D=2, states=True, ragged=True)],
}


def _optional(case: Case, **options: Any) -> Case:
    return case._replace(options=LayerOptions(**options))


_F, _G = Activation("hard_sigmoid", 0.2, 0.5), Activation("softsign")
_PARAMETERS = {"affine": (0.9, 0.1), "scaled_tanh": (1.2, 0.8), "thresholded_relu": (0.3,)}

#: What is checked of the options beyond PyTorch's, of each backend that has what the cases need.
OPTION_CASES: dict[str, list[Case]] = {
    "peephole": [_optional(case, peephole=True) for case in (Case(), SMALL, Case(P=3, states=True))],
    "input_forget": [_optional(SMALL, input_forget=True), _optional(SMALL, input_forget=True, peephole=True)],
    "clip": [_optional(SMALL, clip=0.6), _optional(SMALL, clip=0.6, peephole=True)],
    "cell_clip": [_optional(SMALL, cell_clip=0.4), _optional(SMALL, cell_clip=0.4, peephole=True, clip=0.8)],
    "proj_clip": [_optional(SMALL._replace(P=3), proj_clip=0.1, cell_clip=0.4)],
    "directions": [_optional(SMALL, activations=((_F, _G, PLAIN[2]), (PLAIN[0], PLAIN[1], _G)))],
} | {
    f"activation_{name}": [
        _optional(SMALL, activations=((one, *PLAIN[1:]),) * 2, **bounds),
        _optional(SMALL, activations=((PLAIN[0], one, one),) * 2, **bounds),
    ]
    for name, function in ACTIVATIONS.items()
    for one in [Activation(name, *_PARAMETERS.get(name, function.defaults))]
    for bounds in [{"clip": 1.0, "cell_clip": 1.0} if name == "exponential" else {}]
}


class Problem(NamedTuple):
    """Arguments of a layer: all that ``prepare``, ``forward`` and ``backward`` take."""

    parameters: LayerParameters
    input: np.ndarray
    batch_sizes: np.ndarray
    h_0: np.ndarray | None
    c_0: np.ndarray | None
    grad_output: np.ndarray | None
    grad_h_n: np.ndarray | None
    grad_c_n: np.ndarray | None
    options: LayerOptions = LayerOptions()

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> Problem:
        """The problem with the function applied to every array."""
        parameters = tuple(DirectionParameters(*(_maybe(function, p) for p in d)) for d in self.parameters)
        return Problem._make([parameters, *(_maybe(function, a) for a in self[1:-1]), self.options])

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array of it, by name."""
        named = dict(zip(self._fields[1:-1], self[1:-1], strict=True)) | named_parameters(self.parameters)
        return {name: array for name, array in named.items() if array is not None}


def make_problem(case: Case, dtype: str, seed: int = 0) -> Problem:
    """The arguments of a layer of these sizes, drawn at random."""
    rng = np.random.default_rng(seed)
    T, B, I, H, P, D, bias, ragged, states, options = case
    R, is_complex = P or H, np.issubdtype(dtype, np.complexfloating)

    def draw(*shape: int, scale: float = 1.0) -> np.ndarray:
        a = rng.standard_normal(shape)
        # The complex tanh has poles at ±iπ/2: smaller numbers keep away from them.
        return ((a + 1j * rng.standard_normal(shape)) * (0.3 * scale) if is_complex else a * scale).astype(dtype)

    parameters = tuple(
        DirectionParameters(
            weight_ih=draw(4 * H, I, scale=I**-0.5),
            weight_hh=draw(4 * H, R, scale=R**-0.5),
            bias_ih=draw(4 * H, scale=0.5) if bias else None,
            bias_hh=draw(4 * H, scale=0.5) if bias else None,
            weight_hr=draw(P, H, scale=H**-0.5) if P else None,
            weight_ch=draw(3 * H, scale=0.5) if options.peephole else None,
        )
        for _ in range(D)
    )
    lengths = np.full(B, T)
    if ragged:
        lengths = np.sort(rng.integers(1, T + 1, B))[::-1]
        lengths[0] = T
    batch_sizes = np.array([np.count_nonzero(lengths > t) for t in range(T)], np.int64)
    N = int(batch_sizes.sum())
    h_0, c_0 = (draw(D, B, R), draw(D, B, H)) if states else (None, None)
    grads = draw(N, D * R), draw(D, B, R), draw(D, B, H)
    return Problem(parameters, draw(N, I), batch_sizes, h_0, c_0, *grads, options)


def wide_dtype(dtype: str) -> str:
    """The dtype in which the definition is evaluated."""
    return "complex128" if np.issubdtype(dtype, np.complexfloating) else "float64"


def widened(a: np.ndarray) -> np.ndarray:
    """The same numbers in the dtype in which the definition is evaluated; sizes stay as they are."""
    return a if a.dtype == np.int64 else a.astype(wide_dtype(a.dtype.name))


def _maybe(function: Callable[[Any], Any], value: Any) -> Any:
    return None if value is None else function(value)


# What a backend gives for a problem ----------------------------------------------------------------------------------


def prepare(backend: Backend, problem: Problem) -> Any:
    """The parameters of a problem, prepared; the options are passed where there are some, as modules do."""
    more: dict[str, Any] = {"options": problem.options} if problem.options.named() else {}
    return backend.prepare(problem.parameters, **more)


def forward(backend: Backend, problem: Problem, prepared: Any = None, keep: Keep = "nothing") -> LayerOutput:
    """The forward pass of a problem; its parameters are prepared where they are not given."""
    return backend.forward(
        prepare(backend, problem) if prepared is None else prepared,
        input=problem.input,
        batch_sizes=problem.batch_sizes,
        h_0=problem.h_0,
        c_0=problem.c_0,
        keep=keep,
    )


def backward(backend: Backend, problem: Problem, prepared: Any, workspace: Any) -> LayerGradients:
    """The backward pass of a problem."""
    return backend.backward(
        prepared,
        workspace,
        grad_output=problem.grad_output,
        grad_h_n=problem.grad_h_n,
        grad_c_n=problem.grad_c_n,
    )


def outputs(backend: Backend, problem: Problem, prepared: Any = None) -> dict[str, np.ndarray]:
    """What the forward pass of a problem gives, by name."""
    return named_outputs(forward(backend, problem, prepared))


def outputs_and_gradients(backend: Backend, problem: Problem, keep: Keep = "gates") -> dict[str, np.ndarray]:
    """What the forward and the backward pass of a problem give, by name."""
    prepared = prepare(backend, problem)
    result = forward(backend, problem, prepared, keep)
    return named_outputs(result) | named_gradients(backward(backend, problem, prepared, result.workspace))


def expected_outputs(problem: Problem) -> dict[str, np.ndarray]:
    """The outputs of the definition."""
    return outputs(REFERENCE, problem.map(widened))


def expected_outputs_and_gradients(problem: Problem) -> dict[str, np.ndarray]:
    """The outputs and gradients of the definition."""
    return outputs_and_gradients(REFERENCE, problem.map(widened))


def named_outputs(result: LayerOutput) -> dict[str, np.ndarray]:
    """The arrays of a forward pass, by name."""
    return {"output": result.output, "h_n": result.h_n, "c_n": result.c_n}


def named_gradients(gradients: LayerGradients) -> dict[str, np.ndarray]:
    """The gradients of a backward pass, by name."""
    named = {"input": gradients.input, "h_0": gradients.h_0, "c_0": gradients.c_0}
    named |= named_parameters(gradients.parameters)
    return {f"grad_{name}": array for name, array in named.items()}


def named_parameters(parameters: LayerParameters) -> dict[str, np.ndarray]:
    """The parameters of a layer, by name."""
    return {
        f"{field}{'_reverse' * d}": array
        for d, direction in enumerate(parameters)
        for field, array in zip(DirectionParameters._fields, direction, strict=True)
        if array is not None
    }
