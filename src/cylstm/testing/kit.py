"""The checks of the conformance kit, and who runs them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

import cylstm

from ..arrays.arguments import as_dtype
from ..backends.base import API_VERSION, Backend, DirectionParameters, LayerGradients, LayerOutput, LayerParameters
from ..backends.numpy_backend import NumpyBackend
from ..backends.registry import load


class Tolerance(NamedTuple):
    """Largest error allowed, as a share of max(1, largest expected magnitude in the array)."""

    values: float
    gradients: float


#: The one table of tolerances. The numbers that are compared have magnitude 1; a wrong LSTM is off by 0.01 and more.
TOLERANCES = {
    "bfloat16": Tolerance(values=8e-2, gradients=1.6e-1),  # eight times float16's, as is its rounding
    "float16": Tolerance(values=1e-2, gradients=2e-2),
    "float32": Tolerance(values=5e-6, gradients=2e-5),
    "float64": Tolerance(values=1e-13, gradients=1e-12),
    "complex64": Tolerance(values=1e-5, gradients=5e-5),
    "complex128": Tolerance(values=1e-13, gradients=1e-12),
}
_DIFFERENCES = 1e-6  # tolerance of gradients against central differences in float64 and complex128
_WIDEST_FIRST = ("float64", "float32", "complex128", "complex64", "float16", "bfloat16")


# Running the checks --------------------------------------------------------------------------------------------------


class Check(NamedTuple):
    """One check of one backend: call it; it raises AssertionError, or whatever the backend raises, on failure."""

    id: str
    description: str
    backend: Backend
    function: Callable[[Backend], None]

    def __call__(self) -> None:
        self.function(self.backend)

    def __repr__(self) -> str:
        return f"<{self.id} of {self.backend.name}>"


class CheckResult(NamedTuple):
    """One row of a :class:`Report`."""

    check: str
    outcome: str  # "passed", "failed", "expected failure", "passed, though declared as expected failure"
    detail: str  # what went wrong, or the declared reason


class Report(tuple[CheckResult, ...]):
    """The results of all checks of a backend; prints as a table."""

    __slots__ = ()

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """The results that keep the backend from passing."""
        return tuple(result for result in self if result.outcome not in ("passed", "expected failure"))

    def __repr__(self) -> str:
        width = max((len(result.check) for result in self), default=0)
        lines = [f"{r.check:{width}}  {r.outcome}{': ' * bool(r.detail)}{r.detail}" for r in self]
        return "\n".join([*lines, f"{len(self)} checks, {len(self.failures)} failures"])


class ConformanceError(AssertionError):
    """A backend failed checks. The results are in ``report``."""

    def __init__(self, name: str, report: Report) -> None:
        super().__init__(f"backend {name!r} fails the conformance kit:\n{Report(report.failures)!r}")
        self.report = report


def check_backend(
    backend: str | Backend, *, expected_failures: Mapping[str, str] | None = None, bitwise: bool = False
) -> Report:
    """Run every check that applies to a backend.

    Parameters
    ----------
    backend : str or Backend
        A name, ``"package.module:Class"`` or a backend object.
    expected_failures : mapping of str to str, optional
        For checks that are known to fail: identifier of the check and the reason. One that passes is a failure.
    bitwise : bool
        Whether to check bit for bit that a result does not depend on how the call is cut up: steps, chunks, batches.

    Returns
    -------
    Report
        A tuple of :class:`CheckResult` that prints as a table.

    Raises
    ------
    ConformanceError
        A check failed that was not declared, or one that was declared passed. It carries the ``report``.
    ValueError
        `expected_failures` names a check that does not exist for this backend.
    """
    todo = list(checks(backend, bitwise=bitwise))
    reasons = _declared(todo, expected_failures)
    report = Report(_result(check, reasons.get(check.id)) for check in todo)
    if report.failures:
        raise ConformanceError(todo[0].backend.name, report)
    return report


def checks(backend: str | Backend, *, bitwise: bool = False) -> Iterator[Check]:
    """Every check that applies to a backend, by what its capabilities claim; arguments as of :func:`check_backend`."""
    if isinstance(backend, type):
        raise TypeError(f"a backend is a name or an object, got a class: pass an instance of {backend.__name__}")
    subject = load(backend) if isinstance(backend, str) else backend
    dtypes = [dtype for dtype in _WIDEST_FIRST if dtype in subject.capabilities.dtypes and _is_here(dtype)]

    def check(name: str, function: Callable[..., None], dtype: str | None = None, **arguments: Any) -> Check:
        description = (function.__doc__ or "").partition("\n")[0]
        if dtype is not None:
            name, arguments = f"{name}-{dtype}", arguments | {"dtype": dtype}
        return Check(name, description, subject, functools.partial(function, **arguments))

    training = subject.capabilities.training
    yield check("contract", _contract)
    for dtype in dtypes:
        for topic, cases in _CASES.items():
            cases = [case for case in cases if subject.capabilities.projection or not case.P]
            if not cases:
                continue
            yield check(f"values-{topic}", _values, dtype, cases=cases)
            if training:
                yield check(f"gradients-{topic}", _gradients, dtype, cases=cases)
        for function in _EACH_DTYPE:
            yield check(_name(function), function, dtype)
        if not np.issubdtype(dtype, np.complexfloating):
            yield check("not_finite", _not_finite, dtype)
        for function in _EACH_DTYPE_TRAINING if training else ():
            yield check(_name(function), function, dtype)
        if training and dtype in ("float64", "complex128"):
            yield check("gradients-differences", _gradient_differences, dtype)
        for function in _BITWISE if bitwise and dtype in ("float32", "float64") else ():
            yield check(_name(function), function, dtype)
        if training and bitwise and dtype in ("float32", "float64"):
            yield check("bitwise_gradient_threads", _bitwise_gradient_threads, dtype)
    for function in (*_MODULE, *(_MODULE_TRAINING if training else ())):
        for dtype in dtypes[:1]:
            yield check(_name(function), function, dtype)


def parametrize_with_checks(
    backends: Iterable[str | Backend], *, expected_failures: Mapping[str, str] | None = None, bitwise: bool = False
) -> Any:
    """A ``pytest.mark.parametrize`` that gives a test the argument ``check``, once for each check of each backend.

    Arguments as of :func:`check_backend`. Expected failures become strict ``xfail`` marks.
    """
    import pytest

    todo = [check for backend in backends for check in checks(backend, bitwise=bitwise)]
    reasons = _declared(todo, expected_failures)
    marks = {name: pytest.mark.xfail(reason=reason, strict=True) for name, reason in reasons.items()}
    return pytest.mark.parametrize(
        "check",
        [pytest.param(c, id=f"{c.backend.name}-{c.id}", marks=[marks[c.id]] if c.id in marks else []) for c in todo],
    )


def _is_here(dtype: str) -> bool:
    """Whether there can be arrays of this dtype."""
    try:
        as_dtype(dtype)
    except RuntimeError:  # bfloat16 without ml_dtypes
        return False
    return True


def _declared(todo: list[Check], expected_failures: Mapping[str, str] | None) -> Mapping[str, str]:
    reasons = expected_failures or {}
    unknown = sorted(set(reasons) - {check.id for check in todo})
    if unknown:
        raise ValueError(
            f"expected_failures names checks that are not among those of this backend: {', '.join(unknown)}"
        )
    return reasons


def _result(check: Check, reason: str | None) -> CheckResult:
    try:
        check()
    except Exception as error:
        if reason is not None:
            return CheckResult(check.id, "expected failure", reason)
        detail = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        return CheckResult(check.id, "failed", detail)
    if reason is not None:
        return CheckResult(check.id, "passed, though declared as expected failure", reason)
    return CheckResult(check.id, "passed", "")


def _name(function: Callable[..., None]) -> str:
    return function.__name__.lstrip("_")


# Layer problems and their comparison ---------------------------------------------------------------------------------


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

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self._asdict().items())


#: What is checked of values and gradients, by topic.
_CASES: dict[str, list[Case]] = {
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

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> Problem:
        """The problem with the function applied to every array."""
        parameters = tuple(DirectionParameters(*(_maybe(function, p) for p in d)) for d in self.parameters)
        return Problem(parameters, *(_maybe(function, a) for a in self[1:]))

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array of it, by name."""
        named = dict(zip(self._fields[1:], self[1:], strict=True)) | _parameter_names(self.parameters)
        return {name: array for name, array in named.items() if array is not None}


def _problem(case: Case, dtype: str, seed: int = 0) -> Problem:
    rng = np.random.default_rng(seed)
    T, B, I, H, P, D, bias, ragged, states = case
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
    return Problem(parameters, draw(N, I), batch_sizes, h_0, c_0, draw(N, D * R), draw(D, B, R), draw(D, B, H))


def _wide(dtype: str) -> str:
    return "complex128" if np.issubdtype(dtype, np.complexfloating) else "float64"


def _widened(a: np.ndarray) -> np.ndarray:
    return a if a.dtype == np.int64 else a.astype(_wide(a.dtype.name))


def _maybe(function: Callable[[Any], Any], value: Any) -> Any:
    return None if value is None else function(value)


def _forward(backend: Backend, problem: Problem, prepared: Any = None, keep: Any = "nothing") -> LayerOutput:
    prepared = backend.prepare(problem.parameters) if prepared is None else prepared
    return backend.forward(
        prepared,
        input=problem.input,
        batch_sizes=problem.batch_sizes,
        h_0=problem.h_0,
        c_0=problem.c_0,
        keep=keep,
    )


def _backward(backend: Backend, problem: Problem, prepared: Any, workspace: Any) -> LayerGradients:
    return backend.backward(
        prepared,
        workspace,
        grad_output=problem.grad_output,
        grad_h_n=problem.grad_h_n,
        grad_c_n=problem.grad_c_n,
    )


def _both(backend: Backend, problem: Problem, keep: Any = "gates") -> dict[str, np.ndarray]:
    """Forward and backward, all results by name."""
    prepared = backend.prepare(problem.parameters)
    result = _forward(backend, problem, prepared, keep)
    return _outputs(result) | _gradient_names(_backward(backend, problem, prepared, result.workspace))


def _outputs(result: LayerOutput) -> dict[str, np.ndarray]:
    return {"output": result.output, "h_n": result.h_n, "c_n": result.c_n}


def _gradient_names(gradients: LayerGradients) -> dict[str, np.ndarray]:
    named = {"input": gradients.input, "h_0": gradients.h_0, "c_0": gradients.c_0}
    named |= _parameter_names(gradients.parameters)
    return {f"grad_{name}": array for name, array in named.items()}


def _parameter_names(parameters: LayerParameters) -> dict[str, np.ndarray]:
    return {
        f"{field}{'_reverse' * d}": array
        for d, direction in enumerate(parameters)
        for field, array in zip(DirectionParameters._fields, direction, strict=True)
        if array is not None
    }


def _compare(
    actual: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], dtype: str, tolerance: float, about: object
) -> None:
    """Every array of `expected` is in `actual`: same shape, the dtype asked for, same values within the tolerance."""
    for name in sorted(set(actual) ^ set(expected)):
        raise AssertionError(f"{about}: {name} is {'missing' if name in expected else 'returned but not expected'}")
    wrong = []
    for name, want in expected.items():
        got = actual[name]
        if not isinstance(got, np.ndarray):
            raise AssertionError(f"{about}: {name} is {type(got).__name__}, expected a NumPy array")
        if got.shape != want.shape or got.dtype != np.dtype(dtype):
            raise AssertionError(
                f"{about}: {name} has shape {got.shape} and dtype {got.dtype}, expected {want.shape} and {dtype}"
            )
        if not want.size:
            continue
        with np.errstate(invalid="ignore"):
            error = np.abs(got.astype(want.dtype) - want)
        error[(got == want) | (np.isnan(got) & np.isnan(want))] = 0  # equal infinities differ by NaN
        magnitude = np.abs(want[np.isfinite(want)])
        limit = tolerance * max(1.0, magnitude.max(initial=0.0))
        if not (error <= limit).all():
            worst = tuple(map(int, np.unravel_index(np.argmax(np.nan_to_num(error, nan=np.inf)), error.shape)))
            wrong.append(
                f"{name} off by {error[worst]:.3g} (allowed {limit:.1g}) at {worst}: {got[worst]}, not {want[worst]}"
            )
    if wrong:
        raise AssertionError(f"{about}: {'; '.join(wrong)}")


def _same(actual: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], dtype: str, about: object) -> None:
    """Equal within the tolerance; used to compare a backend with itself."""
    _compare(actual, expected, dtype, TOLERANCES[dtype].gradients, about)


def _copies(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in arrays.items()}


# Checks of a layer ---------------------------------------------------------------------------------------------------


def _contract(backend: Backend) -> None:
    """The attributes that a backend has, and that it is available."""
    assert isinstance(backend.name, str), f"name is {backend.name!r}, expected a str"
    assert backend.name, "name is empty"
    assert backend.api_version == API_VERSION, f"api_version is {backend.api_version}, expected {API_VERSION}"
    dtypes, training, projection, devices = backend.capabilities
    unknown = set(dtypes) - set(TOLERANCES)
    assert dtypes, "capabilities.dtypes is empty"
    assert not unknown, f"capabilities.dtypes has {sorted(unknown)}, the kit knows {sorted(TOLERANCES)}"
    assert isinstance(training, bool), f"capabilities.training is {training!r}, expected a bool"
    assert isinstance(projection, bool), f"capabilities.projection is {projection!r}, expected a bool"
    assert isinstance(devices, tuple), f"capabilities.devices is {devices!r}, expected a tuple of str"
    assert "cpu" in devices, f"capabilities.devices is {devices!r}; the kit passes NumPy arrays, device 'cpu'"
    available, reason = type(backend).is_available()
    assert available, f"is_available() says no: {reason}"


def _values(backend: Backend, *, dtype: str, cases: list[Case]) -> None:
    """output, h_n and c_n are those of the definition."""
    for seed, case in enumerate(cases):
        problem = _problem(case, dtype, seed)
        expected = _outputs(_forward(NumpyBackend(), problem.map(_widened)))
        result = _forward(backend, problem)
        _compare(_outputs(result), expected, dtype, TOLERANCES[dtype].values, case)
        assert result.workspace is None, f"{case}: workspace is not None though keep='nothing'"


def _gradients(backend: Backend, *, dtype: str, cases: list[Case]) -> None:
    """All gradients, with keep="gates" and "states", are those of the definition."""
    for (seed, case), keep in itertools.product(enumerate(cases), ("gates", "states")):
        problem = _problem(case, dtype, seed)
        expected = _both(NumpyBackend(), problem.map(_widened))
        _compare(_both(backend, problem, keep), expected, dtype, TOLERANCES[dtype].gradients, f"{case} keep={keep}")


_SMALL = Case(T=6, B=4, D=2, ragged=True, states=True)


def _states_default(backend: Backend, *, dtype: str) -> None:
    """h_0=None and c_0=None, each by itself, mean zeros."""
    problem = _problem(_SMALL, dtype)
    for names in (("h_0",), ("c_0",), ("h_0", "c_0")):
        absent: dict[str, Any] = dict.fromkeys(names)
        none = _outputs(_forward(backend, problem._replace(**absent)))
        zeros: dict[str, Any] = {name: np.zeros_like(problem.arrays()[name]) for name in names}
        _same(none, _outputs(_forward(backend, problem._replace(**zeros))), dtype, f"{' and '.join(names)} = None")


def _saturation(backend: Backend, *, dtype: str) -> None:
    """Gates far in saturation give finite numbers."""
    problem = _problem(Case(states=True, D=2), dtype)
    if np.issubdtype(dtype, np.complexfloating):  # along the real axis: beyond it lie the poles
        problem = problem.map(lambda a: a if a.dtype == np.int64 else a.real.astype(dtype))
    problem = problem._replace(input=problem.input * problem.input.dtype.type(2000))
    with np.errstate(all="ignore"):
        expected = _outputs(_forward(NumpyBackend(), problem.map(_widened)))
        result = _outputs(_forward(backend, problem))
    finite = {name: array for name, array in expected.items() if np.isfinite(array).all()}
    _compare({name: result[name] for name in finite}, finite, dtype, TOLERANCES[dtype].values, "input times 2000")


def _not_finite(backend: Backend, *, dtype: str) -> None:
    """NaN and infinities go where those of the definition go, and to no other sequence of the batch."""
    for value, place in itertools.product((np.nan, np.inf, -np.inf), ("input", "h_0", "c_0")):
        problem = _problem(_SMALL, dtype)
        array = problem.arrays()[place].copy()
        array[(1,) * array.ndim] = value
        changed: dict[str, Any] = {place: array}
        problem = problem._replace(**changed)
        with np.errstate(all="ignore"):
            expected = _outputs(_forward(NumpyBackend(), problem.map(_widened)))
            result = _outputs(_forward(backend, problem))
        _compare(result, expected, dtype, TOLERANCES[dtype].values, f"{value} in {place}")


def _inputs_read_only(backend: Backend, *, dtype: str) -> None:
    """Read-only arrays are accepted everywhere."""
    problem = _problem(_SMALL, dtype)
    frozen = problem.map(np.copy)
    for array in frozen.arrays().values():
        array.flags.writeable = False
    run = _both if backend.capabilities.training else lambda b, p: _outputs(_forward(b, p))
    _same(run(backend, frozen), run(backend, problem), dtype, "read-only arguments")


def _inputs_unchanged(backend: Backend, *, dtype: str) -> None:
    """No argument is written to."""
    problem = _problem(_SMALL, dtype)
    before = _copies(problem.arrays())
    _forward(backend, problem)
    if backend.capabilities.training:
        for keep in ("gates", "states"):
            _both(backend, problem, keep)
    changed = [name for name, array in problem.arrays().items() if not np.array_equal(array, before[name])]
    assert not changed, f"written to: {', '.join(changed)}"


def _outputs_new(backend: Backend, *, dtype: str) -> None:
    """Results are writable and share memory neither with the arguments, nor with each other, nor with later results."""
    problem = _problem(_SMALL, dtype)
    prepared = backend.prepare(problem.parameters)
    results = []
    for _ in range(2):
        result = _forward(backend, problem, prepared)
        results.append(_outputs(result))
        if backend.capabilities.training:
            result = _forward(backend, problem, prepared, "gates")
            results.append(_gradient_names(_backward(backend, problem, prepared, result.workspace)))
    owned = [(name, array) for result in results for name, array in result.items()]
    arguments = list(problem.arrays().items())
    for k, (name, array) in enumerate(owned):
        assert array.flags.writeable, f"{name} is read-only"
        for other_name, other in arguments + owned[:k]:
            assert not np.shares_memory(array, other), (
                f"{name} shares memory with {other_name} of the same or a former call"
            )


def _calls_independent(backend: Backend, *, dtype: str) -> None:
    """A call changes neither the results of former calls nor those of later ones, nor does writing to results."""
    large = _problem(Case(T=9, B=11, D=2), dtype, 1)
    for small in (_problem(_SMALL, dtype), _problem(_SMALL._replace(states=False), dtype)):
        prepared = backend.prepare(small.parameters)
        first = _outputs(_forward(backend, small, prepared))
        kept = _copies(first)
        _same(_outputs(_forward(backend, small, prepared)), kept, dtype, "the same call at once again")
        _forward(backend, large)
        _forward(backend, small._replace(input=-small.input), prepared)
        _same(first, kept, dtype, "a result after other calls")
        for array in first.values():
            array[...] = 7
        _same(_outputs(_forward(backend, small, prepared)), kept, dtype, "the same call after others")


def _prepare_copies(backend: Backend, *, dtype: str) -> None:
    """Prepared parameters do not follow later changes of the arrays; preparing again sees the changes."""
    problem, other = _problem(_SMALL, dtype), _problem(_SMALL, dtype, 1)
    problem = problem.map(np.copy)
    prepared = backend.prepare(problem.parameters)
    before = _outputs(_forward(backend, problem, prepared))
    arrays, values = _parameter_names(problem.parameters), _parameter_names(other.parameters)
    for name, array in arrays.items():
        array[...] = values[name]
    _same(_outputs(_forward(backend, problem, prepared)), before, dtype, "parameters changed after prepare")
    again = backend.prepare(problem.parameters)
    expected = _outputs(_forward(NumpyBackend(), problem.map(_widened)))
    result = _outputs(_forward(backend, problem, again))
    _compare(result, expected, dtype, TOLERANCES[dtype].values, "the same arrays, changed, prepared again")
    _same(_outputs(_forward(backend, problem, prepared)), before, dtype, "the former prepared parameters")


def _threads(backend: Backend, *, dtype: str) -> None:
    """Calls from several threads at once, with the same prepared parameters, do not disturb each other."""
    run = _both if backend.capabilities.training else lambda b, p: _outputs(_forward(b, p))
    case = Case(T=12, B=6, I=9, H=20, D=2, ragged=True, states=True)
    problems = [_problem(case, dtype, seed) for seed in range(4)]
    problems = [problem._replace(parameters=problems[0].parameters) for problem in problems]
    alone = [run(backend, problem) for problem in problems]
    with ThreadPoolExecutor(len(problems)) as pool:
        together = list(pool.map(lambda problem: run(backend, problem), problems * 5))
    for k, result in enumerate(together):
        _same(result, alone[k % len(problems)], dtype, "a call among other threads")


def _gradient_arguments(backend: Backend, *, dtype: str) -> None:
    """Each of grad_output, grad_h_n, grad_c_n may be None, which means zeros."""
    names = ("grad_output", "grad_h_n", "grad_c_n")
    for case in (_SMALL, Case()):
        problem = _problem(case, dtype)
        for given in itertools.product((True, False), repeat=3):
            absent: dict[str, Any] = {name: None for name, there in zip(names, given, strict=True) if not there}
            partial = problem._replace(**absent)
            expected = _both(NumpyBackend(), partial.map(_widened))
            about = f"{case}, None: {', '.join(absent) or 'none of them'}"
            _compare(_both(backend, partial), expected, dtype, TOLERANCES[dtype].gradients, about)


def _gradient_repeated(backend: Backend, *, dtype: str) -> None:
    """A workspace serves several backward passes, whatever other calls come between."""
    problem, other = _problem(_SMALL, dtype), _problem(_SMALL, dtype, 1)
    for keep in ("gates", "states"):
        prepared = backend.prepare(problem.parameters)
        workspace = _forward(backend, problem, prepared, keep).workspace
        first = _gradient_names(_backward(backend, problem, prepared, workspace))
        kept = _copies(first)
        _both(backend, other, keep)
        second = _gradient_names(_backward(backend, problem, prepared, workspace))
        _same(first, kept, dtype, f"keep={keep}: gradients after other calls")
        _same(second, kept, dtype, f"keep={keep}: gradients of the second backward pass")


def _gradient_differences(backend: Backend, *, dtype: str) -> None:
    """Gradients agree with central differences of the backend's own values, along random directions."""
    options = dict.fromkeys([Case(), Case(T=4, B=3, P=2 if backend.capabilities.projection else 0, D=2, ragged=True)])
    for case in (case._replace(states=True) for case in options):
        problem, rng = _problem(case, dtype), np.random.default_rng(1)
        gradients = _both(backend, problem)
        for name, array in problem.arrays().items():
            if f"grad_{name}" not in gradients:
                continue
            direction = rng.standard_normal(array.shape).astype(dtype)
            if np.iscomplexobj(array):
                direction += 1j * rng.standard_normal(array.shape)
            sides = [_loss(backend, problem, array, step * direction) for step in (1e-6, -1e-6)]
            expected = (sides[0] - sides[1]) / 2e-6
            # dL = Re sum(conj(grad) dx): for complex numbers, PyTorch's convention
            got = float(np.sum(gradients[f"grad_{name}"].conj() * direction).real)
            assert abs(got - expected) <= _DIFFERENCES * max(1.0, abs(expected)), (
                f"{case}: grad_{name} along a direction is {got:.9g}, central differences give {expected:.9g}"
            )


def _loss(backend: Backend, problem: Problem, array: np.ndarray, change: np.ndarray) -> float:
    """Re sum(conj(grad_output) output) + the same of h_n, c_n, with one of the arrays changed."""
    result = _forward(backend, problem.map(lambda a: a + change if a is array else a))
    pairs = ((problem.grad_output, result.output), (problem.grad_h_n, result.h_n), (problem.grad_c_n, result.c_n))
    return sum(float(np.sum(np.conj(g) * value).real) for g, value in pairs if g is not None)


# Checks bit for bit --------------------------------------------------------------------------------------------------


def _identical(actual: np.ndarray, expected: np.ndarray, about: str) -> None:
    different = int(np.count_nonzero(actual != expected))
    assert not different, (
        f"{about}: {different} of {expected.size} numbers differ, by up to {abs(actual - expected).max()}"
    )


def _bitwise_chunks(backend: Backend, *, dtype: str) -> None:
    """Step by step, in chunks and at once: the same bits."""
    for case in (Case(T=40, B=5, I=19, H=33, states=True), Case(T=40, B=1, I=64, H=64, states=True)):
        problem = _problem(case, dtype)
        prepared = backend.prepare(problem.parameters)
        whole = _forward(backend, problem, prepared)
        for steps in (1, 7, 16):
            h: Any = problem.h_0
            c: Any = problem.c_0
            outputs = []
            for t in range(0, case.T, steps):
                rows = slice(t * case.B, (t + steps) * case.B)
                part = problem._replace(
                    input=problem.input[rows], batch_sizes=problem.batch_sizes[t : t + steps], h_0=h, c_0=c
                )
                output, h, c, _ = _forward(backend, part, prepared)
                outputs.append(output)
            for name, got, want in zip(("output", "h_n", "c_n"), (np.concatenate(outputs), h, c), whole, strict=False):
                _identical(got, want, f"{case}, {steps} steps at a time: {name}")


def _bitwise_batch(backend: Backend, *, dtype: str) -> None:
    """A sequence alone, in a padded batch, and in a ragged batch: the same bits."""
    for case in (Case(T=9, B=13, I=19, H=33, D=2, ragged=True, states=True), Case(T=9, B=4, I=64, H=64, states=True)):
        problem = _problem(case, dtype)
        prepared = backend.prepare(problem.parameters)
        together = _forward(backend, problem, prepared)
        starts = np.concatenate([[0], np.cumsum(problem.batch_sizes)])
        for b in range(case.B):
            rows = starts[: np.count_nonzero(problem.batch_sizes > b)] + b
            h_0, c_0 = (np.ascontiguousarray(a[:, b : b + 1]) for a in (problem.h_0, problem.c_0) if a is not None)
            one = problem._replace(
                input=problem.input[rows], batch_sizes=np.ones(len(rows), np.int64), h_0=h_0, c_0=c_0
            )
            output, h_n, c_n, _ = _forward(backend, one, prepared)
            _identical(output, together.output[rows], f"{case}, sequence {b} alone: output")
            _identical(h_n, together.h_n[:, b : b + 1], f"{case}, sequence {b} alone: h_n")
            _identical(c_n, together.c_n[:, b : b + 1], f"{case}, sequence {b} alone: c_n")


def _bitwise_threads(backend: Backend, *, dtype: str) -> None:
    """Any number of threads: the same bits."""
    for case in (Case(T=9, B=13, I=19, H=65, D=2, ragged=True, states=True), Case(T=9, B=1, I=64, H=256)):
        _same_for_all_threads(lambda problem: _outputs(_forward(backend, problem)), _problem(case, dtype), str(case))


def _bitwise_gradient_threads(backend: Backend, *, dtype: str) -> None:
    """Gradients with any number of threads: the same bits."""
    for case in (Case(T=9, B=13, I=19, H=65, D=2, ragged=True, states=True), Case(T=9, B=1, I=64, H=256)):
        for keep in ("gates", "states"):
            run = functools.partial(_both, backend, keep=keep)
            _same_for_all_threads(run, _problem(case, dtype), f"{case} keep={keep}")


def _same_for_all_threads(run: Callable[[Problem], dict[str, np.ndarray]], problem: Problem, about: str) -> None:
    before = cylstm.get_num_threads()
    try:
        cylstm.set_num_threads(1)
        expected = run(problem)
        for n in (2, 3, 4, 7):
            cylstm.set_num_threads(n)
            for name, array in run(problem).items():
                _identical(array, expected[name], f"{about}, {n} threads: {name}")
    finally:
        cylstm.set_num_threads(before)


# Checks of cylstm.LSTM on the backend --------------------------------------------------------------------------------


def _module(backend: Backend, dtype: str, **options: Any) -> tuple[Any, Any]:
    """An LSTM on the backend, and one with the same weights on the definition in float64 or complex128."""
    options = {"input_size": 5, "hidden_size": 7} | options
    module = cylstm.LSTM(**options, dtype=dtype, backend=backend)
    reference = cylstm.LSTM(**options, dtype=_wide(dtype), backend=NumpyBackend())
    _copy_weights(module, reference)
    return module, reference


def _copy_weights(module: Any, reference: Any) -> None:
    reference.load_state_dict({name: _widened(np.asarray(a)) for name, a in module.state_dict().items()})


def _draw(dtype: str, *shape: int, seed: int = 0) -> np.ndarray:
    problem = _problem(Case(T=shape[0], B=int(np.prod(shape[1:-1])), I=shape[-1]), dtype, seed)
    return problem.input.reshape(shape)


def _called(module: Any, *arguments: Any) -> dict[str, np.ndarray]:
    output, (h_n, c_n) = module(*arguments)
    return {"output": output, "h_n": h_n, "c_n": c_n}


def _module_stacked(backend: Backend, *, dtype: str) -> None:
    """LSTM with three layers, both directions, projection, initial state: the definition's values."""
    for bidirectional in (False, True):
        proj_size = 3 if backend.capabilities.projection else 0
        module, reference = _module(backend, dtype, num_layers=3, bidirectional=bidirectional, proj_size=proj_size)
        x, layers = _draw(dtype, 6, 4, 5), 3 * (1 + bidirectional)
        hx = (_draw(dtype, layers, 4, proj_size or 7, seed=1), _draw(dtype, layers, 4, 7, seed=2))
        expected = _called(reference, _widened(x), tuple(map(_widened, hx)))
        about = f"num_layers=3 bidirectional={bidirectional}"
        _compare(_called(module, x, hx), expected, dtype, TOLERANCES[dtype].values, about)


def _module_dropout(backend: Backend, *, dtype: str) -> None:
    """Dropout between layers: the same seed gives the same numbers, eval() switches it off."""
    module, reference = _module(backend, dtype, num_layers=2, dropout=0.5)
    x = _draw(dtype, 6, 4, 5)
    results = []
    for seed in (1, 1, 2):
        cylstm.manual_seed(seed)
        results.append(_called(module, x))
    _same(results[1], results[0], dtype, "the same seed again")
    assert not np.allclose(results[2]["output"], results[0]["output"]), "another seed gives the same dropout"
    module.eval()
    reference.eval()
    _compare(_called(module, x), _called(reference, _widened(x)), dtype, TOLERANCES[dtype].values, "after eval()")


def _module_weights_changed(backend: Backend, *, dtype: str) -> None:
    """However weights are changed, the next call sees it."""
    module, reference = _module(backend, dtype)
    x = _draw(dtype, 6, 4, 5)

    def assign() -> None:
        module.weight_hh_l0 = -np.asarray(module.weight_hh_l0)

    def unlock() -> None:
        with module.unlocked() as params:
            params["weight_ih_l0"][...] *= -0.5

    def load_state() -> None:
        module.load_state_dict({name: np.asarray(a)[::-1].copy() for name, a in module.state_dict().items()})

    for change in (assign, unlock, load_state):
        _called(module, x)
        change()
        _copy_weights(module, reference)
        expected = _called(reference, _widened(x))
        _compare(_called(module, x), expected, dtype, TOLERANCES[dtype].values, f"changed by {change.__name__}")


def _module_steps(backend: Backend, *, dtype: str) -> None:
    """Step by step, by calls and by a stream, equals the whole at once."""
    module, _ = _module(backend, dtype, num_layers=2)
    x = _draw(dtype, 6, 4, 5)
    whole = _called(module, x)
    state: Any = None
    outputs = []
    for t in range(len(x)):
        output, state = module(x[t : t + 1], state)
        outputs.append(output)
    steps = {"output": np.concatenate(outputs), "h_n": state[0], "c_n": state[1]}
    _same(steps, whole, dtype, "one call per step")
    stream = module.stream(batch_size=4)
    outputs = [np.array(stream(x_t)) for x_t in x]
    h_n, c_n = map(np.array, stream.state)
    _same({"output": np.stack(outputs), "h_n": h_n, "c_n": c_n}, whole, dtype, "a stream")


def _module_packed(backend: Backend, *, dtype: str) -> None:
    """Sequences of different lengths in a PackedSequence: each as if it were alone."""
    module, reference = _module(backend, dtype, num_layers=2, bidirectional=True)
    sequences = [_draw(dtype, length, 1, 5, seed=length)[:, 0] for length in (3, 6, 1, 4)]
    packed = cylstm.pack_sequence(sequences, enforce_sorted=False)
    output, (h_n, c_n) = module(packed)
    padded, lengths = cylstm.pad_packed_sequence(output)
    for b, sequence in enumerate(sequences):
        expected = _called(reference, _widened(sequence))
        got = {"output": padded[: int(lengths[b]), b], "h_n": h_n[:, b], "c_n": c_n[:, b]}
        _compare(got, expected, dtype, TOLERANCES[dtype].values, f"sequence {b} of length {len(sequence)}")


def _module_gradients(backend: Backend, *, dtype: str) -> None:
    """LSTM.vjp with two layers, both directions: the definition's gradients, twice."""
    module, reference = _module(backend, dtype, num_layers=2, bidirectional=True)
    x, g = _draw(dtype, 6, 4, 5), _draw(dtype, 6, 4, 14, seed=1)
    hx = (_draw(dtype, 4, 4, 7, seed=2), _draw(dtype, 4, 4, 7, seed=3))
    grad_hx = (_draw(dtype, 4, 4, 7, seed=4), _draw(dtype, 4, 4, 7, seed=5))

    def named(grads: Any) -> dict[str, np.ndarray]:
        return {"input": grads.input, "h_0": grads.hx[0], "c_0": grads.hx[1], **grads.parameters}

    *_, pullback = reference.vjp(_widened(x), tuple(map(_widened, hx)))
    expected = named(pullback(_widened(g), tuple(map(_widened, grad_hx))))
    *_, pullback = module.vjp(x, hx)
    for time in ("first", "second"):
        _compare(named(pullback(g, grad_hx)), expected, dtype, TOLERANCES[dtype].gradients, f"{time} pullback")


def _bitwise_module(backend: Backend, *, dtype: str) -> None:
    """LSTM at once, in chunks, by a stream, each sequence alone, packed: the same bits."""
    module = cylstm.LSTM(5, 33, num_layers=2, dtype=dtype, backend=backend)
    x = _draw(dtype, 12, 5, 5)
    whole = _called(module, x)
    for steps in (1, 5):
        state: Any = None
        for t in range(0, len(x), steps):
            output, state = module(x[t : t + steps], state)
            _identical(output, whole["output"][t : t + steps], f"{steps} steps at a time: output")
        _identical(state[1], whole["c_n"], f"{steps} steps at a time: c_n")
    stream = module.stream(batch_size=5)
    for t, x_t in enumerate(x):
        _identical(np.array(stream(x_t)), whole["output"][t], "a stream: h")
    lengths = np.array([12, 7, 7, 3, 1])
    packed, _ = module(cylstm.pack_padded_sequence(x, lengths))
    padded, _ = cylstm.pad_packed_sequence(packed)
    for b, length in enumerate(lengths):
        _identical(module(x[:, b])[0], whole["output"][:, b], f"sequence {b} alone: output")
        _identical(padded[:length, b], whole["output"][:length, b], f"sequence {b} packed: output")


_EACH_DTYPE = (
    _states_default,
    _saturation,
    _inputs_read_only,
    _inputs_unchanged,
    _outputs_new,
    _calls_independent,
    _prepare_copies,
    _threads,
)
_EACH_DTYPE_TRAINING = (_gradient_arguments, _gradient_repeated)
_BITWISE = (_bitwise_chunks, _bitwise_batch, _bitwise_threads, _bitwise_module)
_MODULE = (_module_stacked, _module_dropout, _module_weights_changed, _module_steps, _module_packed)
_MODULE_TRAINING = (_module_gradients,)
