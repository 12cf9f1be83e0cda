"""Checks of the gradients of one layer."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from ..backends.base import Backend, Keep
from .compare import TOLERANCES, assert_close, assert_consistent, copies
from .problems import (
    SMALL,
    Case,
    Problem,
    backward,
    expected_outputs_and_gradients,
    forward,
    make_problem,
    named_gradients,
    outputs_and_gradients,
)

#: Against central differences in float64 and complex128.
DIFFERENCES_TOLERANCE = 1e-6


def gradients(backend: Backend, *, dtype: str, cases: list[Case]) -> None:
    """All gradients, with keep="gates" and "states", are those of the definition."""
    ways: tuple[Keep, ...] = ("gates", "states")
    for (seed, case), keep in itertools.product(enumerate(cases), ways):
        problem = make_problem(case, dtype, seed)
        expected = expected_outputs_and_gradients(problem)
        computed = outputs_and_gradients(backend, problem, keep)
        assert_close(computed, expected, dtype, TOLERANCES[dtype].gradients, f"{case} keep={keep}")


def gradient_arguments(backend: Backend, *, dtype: str) -> None:
    """Each of grad_output, grad_h_n, grad_c_n may be None, which means zeros."""
    names = ("grad_output", "grad_h_n", "grad_c_n")
    for case in (SMALL, Case()):
        problem = make_problem(case, dtype)
        for given in itertools.product((True, False), repeat=3):
            absent: dict[str, Any] = {name: None for name, there in zip(names, given, strict=True) if not there}
            partial = problem._replace(**absent)
            expected = expected_outputs_and_gradients(partial)
            about = f"{case}, None: {', '.join(absent) or 'none of them'}"
            assert_close(outputs_and_gradients(backend, partial), expected, dtype, TOLERANCES[dtype].gradients, about)


def gradient_repeated(backend: Backend, *, dtype: str) -> None:
    """A workspace serves several backward passes, whatever other calls come between."""
    problem, other = make_problem(SMALL, dtype), make_problem(SMALL, dtype, 1)
    for keep in ("gates", "states"):
        prepared = backend.prepare(problem.parameters)
        workspace = forward(backend, problem, prepared, keep).workspace
        first = named_gradients(backward(backend, problem, prepared, workspace))
        kept = copies(first)
        outputs_and_gradients(backend, other, keep)
        second = named_gradients(backward(backend, problem, prepared, workspace))
        assert_consistent(first, kept, dtype, f"keep={keep}: gradients after other calls")
        assert_consistent(second, kept, dtype, f"keep={keep}: gradients of the second backward pass")


def gradient_differences(backend: Backend, *, dtype: str) -> None:
    """Gradients agree with central differences of the backend's own values, along random directions."""
    P = 2 if backend.capabilities.projection else 0
    cases = dict.fromkeys([Case(states=True), Case(T=4, B=3, P=P, D=2, ragged=True, states=True)])
    _differences(backend, dtype, list(cases))


def option_differences(backend: Backend, *, dtype: str, cases: list[Case]) -> None:
    """Likewise with options beyond PyTorch's."""
    _differences(backend, dtype, cases)


def _differences(backend: Backend, dtype: str, cases: list[Case]) -> None:
    for case in cases:
        problem, rng = make_problem(case, dtype), np.random.default_rng(1)
        computed = outputs_and_gradients(backend, problem)
        for name, array in problem.arrays().items():
            if f"grad_{name}" not in computed:
                continue
            direction = rng.standard_normal(array.shape).astype(dtype)
            if np.iscomplexobj(array):
                direction += 1j * rng.standard_normal(array.shape)
            sides = [_loss(backend, problem, array, step * direction) for step in (1e-6, -1e-6)]
            expected = (sides[0] - sides[1]) / 2e-6
            # dL = Re sum(conj(grad) dx): for complex numbers, PyTorch's convention
            got = float(np.sum(computed[f"grad_{name}"].conj() * direction).real)
            assert abs(got - expected) <= DIFFERENCES_TOLERANCE * max(1.0, abs(expected)), (
                f"{case}: grad_{name} along a direction is {got:.9g}, central differences give {expected:.9g}"
            )


def _loss(backend: Backend, problem: Problem, array: np.ndarray, change: np.ndarray) -> float:
    """Re sum(conj(grad_output) output) + the same of h_n, c_n, with one of the arrays changed."""
    result = forward(backend, problem.map(lambda a: a + change if a is array else a))
    pairs = ((problem.grad_output, result.output), (problem.grad_h_n, result.h_n), (problem.grad_c_n, result.c_n))
    return sum(float(np.sum(np.conj(g) * value).real) for g, value in pairs if g is not None)


#: Those that need no more than a dtype.
EACH_DTYPE = (gradient_arguments, gradient_repeated)
