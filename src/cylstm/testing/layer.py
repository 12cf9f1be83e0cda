"""Checks of one layer: its values, and the contract of a backend."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ..arrays.activations import ACTIVATIONS
from ..backends.base import API_VERSION, Backend, LayerOptions
from ..backends.precision import DEFAULT, PRECISIONS
from .compare import TOLERANCES, assert_close, assert_consistent, copies
from .problems import (
    SMALL,
    Case,
    backward,
    expected_outputs,
    forward,
    make_problem,
    named_gradients,
    named_outputs,
    named_parameters,
    outputs,
    outputs_and_gradients,
)


def contract(backend: Backend) -> None:
    """The attributes that a backend has, and that it is available."""
    assert isinstance(backend.name, str), f"name must be a str, got {backend.name!r}"
    assert backend.name, "name must not be empty"
    assert backend.api_version == API_VERSION, f"api_version must be {API_VERSION}, got {backend.api_version}"
    dtypes, training, projection, devices, precisions, options, training_options = backend.capabilities
    unknown = set(dtypes) - set(TOLERANCES)
    assert dtypes, "capabilities.dtypes must not be empty"
    assert not unknown, f"capabilities.dtypes must be of {sorted(TOLERANCES)}, got {sorted(unknown)}"
    assert isinstance(training, bool), f"capabilities.training must be a bool, got {training!r}"
    assert isinstance(projection, bool), f"capabilities.projection must be a bool, got {projection!r}"
    assert isinstance(devices, tuple), f"capabilities.devices must be a tuple of str, got {devices!r}"
    assert "cpu" in devices, f"capabilities.devices must have 'cpu', for the kit passes NumPy arrays, got {devices!r}"
    assert isinstance(precisions, tuple), f"capabilities.precisions must be a tuple of str, got {precisions!r}"
    unknown = set(precisions) - set(PRECISIONS)
    assert not unknown, f"capabilities.precisions must be of {PRECISIONS}, got {sorted(unknown)}"
    assert DEFAULT in precisions, f"capabilities.precisions must have {DEFAULT!r}, got {precisions}"
    if training_options is not None:
        some = isinstance(training_options, frozenset) and training_options <= options
        assert some, (
            f"capabilities.training_options must be None or a frozenset of some of options, got {training_options!r}"
        )
    unknown = set(options) - {*LayerOptions._fields, *ACTIVATIONS}
    assert isinstance(options, frozenset), f"capabilities.options must be a frozenset of str, got {options!r}"
    assert not unknown, f"capabilities.options must be names of options or activations, got {sorted(unknown)}"
    available, reason = type(backend).is_available()
    assert available, f"is_available() says no: {reason}"


def values(backend: Backend, *, dtype: str, cases: list[Case]) -> None:
    """output, h_n and c_n are those of the definition."""
    for seed, case in enumerate(cases):
        problem = make_problem(case, dtype, seed)
        expected = expected_outputs(problem)
        result = forward(backend, problem)
        assert_close(named_outputs(result), expected, dtype, TOLERANCES[dtype].values, case)
        assert result.workspace is None, f"{case}: workspace is not None though keep='nothing'"


def states_default(backend: Backend, *, dtype: str) -> None:
    """h_0=None and c_0=None, each by itself, mean zeros."""
    problem = make_problem(SMALL, dtype)
    for names in (("h_0",), ("c_0",), ("h_0", "c_0")):
        absent: dict[str, Any] = dict.fromkeys(names)
        none = outputs(backend, problem._replace(**absent))
        zeros: dict[str, Any] = {name: np.zeros_like(problem.arrays()[name]) for name in names}
        assert_consistent(none, outputs(backend, problem._replace(**zeros)), dtype, f"{' and '.join(names)} = None")


def saturation(backend: Backend, *, dtype: str) -> None:
    """Gates far in saturation give finite numbers."""
    problem = make_problem(Case(states=True, D=2), dtype)
    if np.issubdtype(dtype, np.complexfloating):  # along the real axis: beyond it lie the poles
        problem = problem.map(lambda a: a if a.dtype == np.int64 else a.real.astype(dtype))
    problem = problem._replace(input=problem.input * problem.input.dtype.type(2000))
    with np.errstate(all="ignore"):
        expected = expected_outputs(problem)
        result = outputs(backend, problem)
    finite = {name: array for name, array in expected.items() if np.isfinite(array).all()}
    assert_close({name: result[name] for name in finite}, finite, dtype, TOLERANCES[dtype].values, "input times 2000")


def not_finite(backend: Backend, *, dtype: str) -> None:
    """NaN and infinities go where those of the definition go, and to no other sequence of the batch."""
    for value, place in itertools.product((np.nan, np.inf, -np.inf), ("input", "h_0", "c_0")):
        problem = make_problem(SMALL, dtype)
        array = problem.arrays()[place].copy()
        array[(1,) * array.ndim] = value
        changed: dict[str, Any] = {place: array}
        problem = problem._replace(**changed)
        with np.errstate(all="ignore"):
            expected = expected_outputs(problem)
            result = outputs(backend, problem)
        assert_close(result, expected, dtype, TOLERANCES[dtype].values, f"{value} in {place}")


def inputs_read_only(backend: Backend, *, dtype: str) -> None:
    """Read-only arrays are accepted everywhere."""
    problem = make_problem(SMALL, dtype)
    frozen = problem.map(np.copy)
    for array in frozen.arrays().values():
        array.flags.writeable = False
    run = outputs_and_gradients if backend.capabilities.training else outputs
    assert_consistent(run(backend, frozen), run(backend, problem), dtype, "read-only arguments")


def inputs_unchanged(backend: Backend, *, dtype: str) -> None:
    """No argument is written to."""
    problem = make_problem(SMALL, dtype)
    before = copies(problem.arrays())
    forward(backend, problem)
    if backend.capabilities.training:
        for keep in ("gates", "states"):
            outputs_and_gradients(backend, problem, keep)
    changed = [name for name, array in problem.arrays().items() if not np.array_equal(array, before[name])]
    assert not changed, f"written to: {', '.join(changed)}"


def outputs_new(backend: Backend, *, dtype: str) -> None:
    """Results are writable and share memory neither with the arguments, nor with each other, nor with later results."""
    problem = make_problem(SMALL, dtype)
    prepared = backend.prepare(problem.parameters)
    results = []
    for _ in range(2):
        result = forward(backend, problem, prepared)
        results.append(named_outputs(result))
        if backend.capabilities.training:
            result = forward(backend, problem, prepared, "gates")
            results.append(named_gradients(backward(backend, problem, prepared, result.workspace)))
    owned = [(name, array) for result in results for name, array in result.items()]
    arguments = list(problem.arrays().items())
    for k, (name, array) in enumerate(owned):
        assert array.flags.writeable, f"{name} is read-only"
        for other_name, other in arguments + owned[:k]:
            assert not np.shares_memory(array, other), (
                f"{name} shares memory with {other_name} of the same or a former call"
            )


def calls_independent(backend: Backend, *, dtype: str) -> None:
    """A call changes neither the results of former calls nor those of later ones, nor does writing to results."""
    large = make_problem(Case(T=9, B=11, D=2), dtype, 1)
    for small in (make_problem(SMALL, dtype), make_problem(SMALL._replace(states=False), dtype)):
        prepared = backend.prepare(small.parameters)
        first = outputs(backend, small, prepared)
        kept = copies(first)
        assert_consistent(outputs(backend, small, prepared), kept, dtype, "the same call at once again")
        forward(backend, large)
        forward(backend, small._replace(input=-small.input), prepared)
        assert_consistent(first, kept, dtype, "a result after other calls")
        for array in first.values():
            array[...] = 7
        assert_consistent(outputs(backend, small, prepared), kept, dtype, "the same call after others")


def prepare_copies(backend: Backend, *, dtype: str) -> None:
    """Prepared parameters do not follow later changes of the arrays; preparing again sees the changes."""
    problem, other = make_problem(SMALL, dtype), make_problem(SMALL, dtype, 1)
    problem = problem.map(np.copy)
    prepared = backend.prepare(problem.parameters)
    before = outputs(backend, problem, prepared)
    changed = named_parameters(other.parameters)
    for name, array in named_parameters(problem.parameters).items():
        array[...] = changed[name]
    assert_consistent(outputs(backend, problem, prepared), before, dtype, "parameters changed after prepare")
    again = backend.prepare(problem.parameters)
    expected = expected_outputs(problem)
    result = outputs(backend, problem, again)
    assert_close(result, expected, dtype, TOLERANCES[dtype].values, "the same arrays, changed, prepared again")
    assert_consistent(outputs(backend, problem, prepared), before, dtype, "the former prepared parameters")


def threads(backend: Backend, *, dtype: str) -> None:
    """Calls from several threads at once, with the same prepared parameters, do not disturb each other."""
    run = outputs_and_gradients if backend.capabilities.training else outputs
    case = Case(T=12, B=6, I=9, H=20, D=2, ragged=True, states=True)
    parameters = make_problem(case, dtype).parameters
    problems = [make_problem(case, dtype, seed)._replace(parameters=parameters) for seed in range(4)]
    alone = [run(backend, problem) for problem in problems]
    with ThreadPoolExecutor(len(problems)) as pool:
        together = list(pool.map(lambda problem: run(backend, problem), problems * 5))
    for k, result in enumerate(together):
        assert_consistent(result, alone[k % len(problems)], dtype, "a call among other threads")


#: Those that need no more than a dtype; `values` takes cases too, `not_finite` is for real dtypes.
EACH_DTYPE = (
    states_default,
    saturation,
    inputs_read_only,
    inputs_unchanged,
    outputs_new,
    calls_independent,
    prepare_copies,
    threads,
)
