"""The conformance kit: whether a backend computes the LSTM, all of it, and keeps to the contract of a backend.

::

    cylstm.testing.check_backend("numpy")                      # raises ConformanceError, or returns a report to print

    @cylstm.testing.parametrize_with_checks(["my-backend"])    # one pytest test per check
    def test_conformance(check):
        check()

Every claim in the backend's ``capabilities`` is tested: each dtype (bfloat16 where the package ml_dtypes is installed,
which adds it to NumPy), gradients, projection. Values and gradients are
compared with the numpy backend, the definition, evaluated in float64 or complex128 on the same numbers; gradients also
with central differences. Symbols and shapes are those of :mod:`cylstm.backends.base`.
"""

from .kit import (
    TOLERANCES,
    Case,
    Check,
    CheckResult,
    ConformanceError,
    Problem,
    Report,
    Tolerance,
    check_backend,
    checks,
    parametrize_with_checks,
)

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
