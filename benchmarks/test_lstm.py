"""Every contender in every case: ``pytest benchmarks --benchmark-only -k "step and cython"``.

cylstm, pytest and pytest-benchmark are enough: then its backends are compared, those of plugins too. PyTorch, ONNX
Runtime, JAX and Keras take part where they are installed.

The name of a test says what runs, in which case and by whom: ``test_training[train-b1-t100-h64-torch-onednn]``.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cases import CASES, Case
from contenders import CONTENDERS

pytestmark = pytest.mark.filterwarnings("default")  # the peers' warnings are theirs


def pairs(wanted: Callable[[Case], bool]) -> pytest.MarkDecorator:
    """Parametrize a test with the wanted cases, each with the contenders that support it."""
    return pytest.mark.parametrize(
        ("case", "contender"),
        [
            pytest.param(case.name, name, id=f"{case.name}-{name}")
            for case in CASES
            if wanted(case)
            for name, contender in CONTENDERS.items()
            if contender.supports(case)
        ],
    )


@pairs(lambda case: case.T == 1)
def test_step(case: str, contender: str, run: Callable[[str, str], None]) -> None:
    """One time step at batch 1: a call, and cylstm's ``stream``."""
    run(case, contender)


@pairs(lambda case: case.T > 1 and not case.training)
def test_inference(case: str, contender: str, run: Callable[[str, str], None]) -> None:
    """Whole sequences: long ones, small and large batches, ragged ones, projections, float64."""
    run(case, contender)


@pairs(lambda case: case.training)
def test_training(case: str, contender: str, run: Callable[[str, str], None]) -> None:
    """The forward pass and the gradients of the input and all parameters, for a given gradient of the output."""
    run(case, contender)
