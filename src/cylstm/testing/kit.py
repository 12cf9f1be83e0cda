"""Who runs the checks: one by one, as tests of pytest, or all of a backend with a report."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..arrays.arguments import as_dtype
from ..backends.base import Backend, lacking
from ..backends.plugins import safe_error_text
from ..backends.precision import DEFAULT
from ..backends.registry import load
from ..backends.stops import from_outside
from ..nn.options import check_real
from . import bitwise as bitwise_checks
from . import gradients as gradient_checks
from . import layer as layer_checks
from . import module as module_checks
from . import precision as precision_checks
from .problems import CASES, OPTION_CASES, Case

_WIDEST_FIRST = ("float64", "float32", "complex128", "complex64", "float16", "bfloat16")


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

    __module__ = "cylstm.testing"  # where callers find it: a traceback names it so

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
        raise TypeError(f"backend must be a name or an object, got a class: pass an instance of {backend.__name__}")
    subject = load(backend) if isinstance(backend, str) else backend
    dtypes = [dtype for dtype in _WIDEST_FIRST if dtype in subject.capabilities.dtypes and _is_here(dtype)]

    def check(name: str, function: Callable[..., None], dtype: str | None = None, **arguments: Any) -> Check:
        description = (function.__doc__ or "").partition("\n")[0]
        if dtype is not None:
            name, arguments = f"{name}-{dtype}", arguments | {"dtype": dtype}
        return Check(name, description, subject, functools.partial(function, **arguments))

    training = subject.capabilities.training
    yield check("contract", layer_checks.contract)
    for dtype in dtypes:
        for topic, cases in CASES.items():
            cases = [case for case in cases if subject.capabilities.projection or not case.P]
            if not cases:
                continue
            yield check(f"values-{topic}", layer_checks.values, dtype, cases=cases)
            if training:
                yield check(f"gradients-{topic}", gradient_checks.gradients, dtype, cases=cases)
        for topic, cases in OPTION_CASES.items() if np.dtype(as_dtype(dtype)).itemsize > 2 else ():
            # In 16 bits a kink or a jump of an activation is passed too early or too late.
            cases = [case for case in cases if _has_options(subject, case, dtype)]
            if not cases:
                continue
            yield check(f"option_values-{topic}", layer_checks.values, dtype, cases=cases)
            if bitwise and dtype in ("float32", "float64"):
                sizes = [one for one in bitwise_checks.SIZES_FOR_OPTIONS if one.P or topic != "proj_clip"]
                optional = [one._replace(options=cases[-1].options) for one in sizes]
                optional = [one for one in optional if _has_options(subject, one, dtype)]
                yield check(f"bitwise_options-{topic}", bitwise_checks.bitwise_options, dtype, cases=optional)
            cases = [case for case in cases if training and _has_options(subject, case, dtype, training=True)]
            if not cases:
                continue
            yield check(f"option_gradients-{topic}", gradient_checks.gradients, dtype, cases=cases)
            if dtype in ("float64", "complex128") and topic != "activations":
                yield check(f"option_differences-{topic}", gradient_checks.option_differences, dtype, cases=cases)
        for function in layer_checks.EACH_DTYPE:
            yield check(function.__name__, function, dtype)
        if not np.issubdtype(dtype, np.complexfloating):
            yield check("not_finite", layer_checks.not_finite, dtype)
        for function in gradient_checks.EACH_DTYPE if training else ():
            yield check(function.__name__, function, dtype)
        if training and dtype in ("float64", "complex128"):
            yield check("gradients-differences", gradient_checks.gradient_differences, dtype)
        for function in bitwise_checks.EACH_DTYPE if bitwise and dtype in ("float32", "float64") else ():
            yield check(function.__name__, function, dtype)
        if training and bitwise and dtype in ("float32", "float64"):
            yield check("bitwise_gradient_threads", bitwise_checks.bitwise_gradient_threads, dtype)
    for precision in subject.capabilities.precisions if "float32" in dtypes else ():
        if precision != DEFAULT:
            yield from _in_precision(subject, precision, check, bitwise)
    for function in (*module_checks.CHECKS, *(module_checks.TRAINING_CHECKS if training else ())):
        for dtype in dtypes[:1]:
            yield check(function.__name__, function, dtype)


def _in_precision(backend: Backend, precision: str, check: Callable[..., Check], bitwise: bool) -> Iterator[Check]:
    """The checks of a precision other than float32: each is named for it."""
    for topic, cases in CASES.items():
        cases = [case for case in cases if backend.capabilities.projection or not case.P]
        if cases:
            yield check(
                f"values-{topic}-float32-{precision}", precision_checks.values, precision=precision, cases=cases
            )
    cases = [case for cases in OPTION_CASES.values() for case in cases if _has_options(backend, case, "float32")]
    if cases := [case for case in cases if not case.P]:
        yield check(f"values-options-float32-{precision}", precision_checks.values, precision=precision, cases=cases)
    for function in precision_checks.EACH_PRECISION:
        yield check(f"{function.__name__}-float32-{precision}", function, precision=precision)
    for function in (*precision_checks.OF_FLOAT32, *(bitwise_checks.EACH_DTYPE if bitwise else ())):
        yield check(f"{function.__name__}-float32-{precision}", precision_checks.in_precision(function, precision))


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


def _has_options(backend: Backend, case: Case, dtype: str, training: bool = False) -> bool:
    """Whether a case with options is one for this backend and dtype, with gradients or without."""
    try:
        check_real(case.options, as_dtype(dtype))
    except RuntimeError:  # not defined for complex numbers
        return False
    capabilities = backend.capabilities
    if not case.options.needs():  # an activation in PyTorch's place
        return False
    return not lacking(capabilities.options_of(training), case.options.needs()) and (
        capabilities.projection or not case.P
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
        raise ValueError(f"expected_failures must name checks of this backend, got {', '.join(unknown)}")
    return reasons


def failure(check: Check) -> BaseException | None:
    """What a check raises; None where it passes. A backend that ends the program, by SystemExit say, fails too."""
    try:
        check()
    except BaseException as error:
        if from_outside(error):
            raise
        return error
    return None


def said(error: BaseException) -> str:
    """What a check that fails says: its own words, or what the backend raised."""
    return str(error) if isinstance(error, AssertionError) else safe_error_text(error)


def _result(check: Check, reason: str | None) -> CheckResult:
    error = failure(check)
    if error is not None:
        if reason is not None:
            return CheckResult(check.id, "expected failure", reason)
        return CheckResult(check.id, "failed", said(error))
    if reason is not None:
        return CheckResult(check.id, "passed, though declared as expected failure", reason)
    return CheckResult(check.id, "passed", "")
