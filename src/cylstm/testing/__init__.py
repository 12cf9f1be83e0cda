"""The conformance kit: whether a backend computes the LSTM, all of it, and keeps to the contract of a backend.

::

    cylstm.testing.check_backend("numpy")                      # raises ConformanceError, or returns a report to print

    @cylstm.testing.parametrize_with_checks(["my-backend"])    # one pytest test per check
    def test_conformance(check):
        check()

Every claim in the backend's ``capabilities`` is tested: each dtype (bfloat16 where the package ml_dtypes is installed,
which adds it to NumPy), gradients, projection. Values and gradients are
compared with the numpy backend, the definition, evaluated in float64 or complex128 on the same numbers; gradients also
with central differences. In the precisions bfloat16 and int8, each step is compared with the definition's.
Symbols and shapes are those of :mod:`cylstm.backends.base`.

A map of this folder::

    kit.py        who runs the checks: check_backend, checks, parametrize_with_checks, Report
    layer.py      checks of one layer: values, and the contract of a backend
    gradients.py  checks of its gradients
    bitwise.py    checks bit for bit: steps, chunks, batches, threads
    precision.py  checks of a layer in bfloat16 and int8
    module.py     checks of cylstm.LSTM on the backend
    problems.py   Case and Problem: one layer with its arguments, and what a backend gives for it
    compare.py    tolerances and comparisons

Imports run one way: ``kit`` → ``layer``, ``gradients``, ``bitwise``, ``precision`` → ``module`` → ``problems``,
``compare``.
"""

from .compare import TOLERANCES, Tolerance
from .kit import (
    Check,
    CheckResult,
    ConformanceError,
    Report,
    check_backend,
    checks,
    parametrize_with_checks,
)
from .problems import Case, Problem

__all__ = [
    "TOLERANCES",
    "Case",
    "Check",
    "CheckResult",
    "ConformanceError",
    "Problem",
    "Report",
    "Tolerance",
    "check_backend",
    "checks",
    "parametrize_with_checks",
]
