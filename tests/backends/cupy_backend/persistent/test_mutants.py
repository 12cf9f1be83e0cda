"""Wrong kernels of the variant ``persistent`` are caught: what other tests prove of the right ones rests on that.

Each mutant changes one thing that the exchange of words between blocks, or the sums, rest on. It has to give wrong
numbers, or to wait until it gives up, in one of a few orders of the threads; the right kernels do so in none.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from cuda_host import needs_compiler
from grid_host import HostGridKernel, compile_together
from persistent_host import HostPersistent
from thorough import others_thorough
from variant_backend import VariantBackend

from cylstm import testing
from cylstm.backends.cupy_backend.persistent import kernels, variant
from cylstm.backends.cupy_backend.persistent.configurations import Option, Row
from cylstm.testing.compare import assert_close
from cylstm.testing.problems import Problem, expected_outputs_and_gradients, make_problem, outputs_and_gradients

pytestmark = [pytest.mark.names_backend("cupy"), needs_compiler]

ORDERS = 10
#: What stands in a kernel, and what the mutant has in its place.
BOTH = {
    "does not wait": ("again = waits(k) && has_missing(words[k])", "again = false"),
    "looks at one word of four": ("r < 4; r++) missing |=", "r < 1; r++) missing |="),
    "has no barrier": ("__syncthreads();", ""),
    "has one buffer of sums": ("(s & 1) * (WARPS", "0 * (WARPS"),
    "waits for rows that never come": ("b < at.carried", "b <= at.carried"),
    "drops the sums of a warp": ("w < WARPS; w++)", "w < WARPS - 1; w++)"),
    "takes the states of other sequences": ("* B + b_0) * H};", "* B) * H};"),
    "takes the rows of other sequences": ("at.before + here.b_0, of_group", "at.before, of_group"),
}
MUTANTS = {
    "forward": {
        **BOTH,
        "waits for h_0": ("return row(k) < at.carried;", "return true;"),
        "computes units that are not there": ("mine = there && my.unit < used", "mine = there"),
        "takes half of a word twice": ("words.at[2 * (k & 1) + 1]}", "words.at[2 * (k & 1)]}"),
        "takes the input of the step after": (
            "at = next, next = after_next;\n        take_input(input, gates, at,",
            "at = next, next = after_next;\n        take_input(input, gates, next,",
        ),
    },
    "backward": {
        **BOTH,
        "forgets the gradient of h_n": ("} else if (grad_h_n) {", "} else if (false) {"),
        "takes the weights of another chunk": ("weights[2 * chunk + k]", "weights[k]"),
    },
}


def mutated(name: str, mutant: str) -> str:
    """The source of a mutant."""
    right, (old, new) = kernels.source(name), MUTANTS[name][mutant]
    assert old in right
    return right.replace(old, new)


@pytest.fixture(autouse=True, scope="module")
def _compiled_together(request: pytest.FixtureRequest) -> None:
    """All mutants of a kernel at once, where all of them run."""
    if request.config.getoption("thorough"):
        for name in MUTANTS:
            compile_together([mutated(name, mutant) for mutant in MUTANTS[name]])


class TwoWarps(HostPersistent):
    """Two warps; each has its part of the sums, and waits for other blocks."""

    table: ClassVar[dict[int, tuple[Row, ...]]] = {
        2: (Row(64, (Option(8, 2, 1, 1),), (Option(8, 2, 2, 1),)),),
        4: (Row(64, (Option(8, 2, 1, 1),), (Option(8, 2, 4, 1),)),),
    }
    tries: ClassVar[int] = 10_000


def finite() -> Problem:
    """Of two launches. Many sequences end at once, so that a fast warp does not need the rows that a slow one is at."""
    sizes = np.array([18, 17, 12, 9, 2])
    problem = make_problem(testing.Case(T=len(sizes), B=18, H=37, D=2, states=True), "float16")
    rows = {name: getattr(problem, name)[: sizes.sum()] for name in ("input", "grad_output")}
    return problem._replace(batch_sizes=sizes, **rows)


def not_finite() -> Problem:
    """inf in the input and in h_0 of two sequences; in h_0 of another one nan of all bits."""
    problem = make_problem(testing.Case(T=3, B=3, H=37, states=True), "float16")
    problem.input[4] = np.inf
    problem.h_0[0, 0, 3] = np.inf
    problem.h_0.view(np.uint16)[0, 2] = 0xFFFF
    return problem


def assert_right(name: str, orders: int) -> None:
    """What a kernel computes, in several orders of the threads."""
    problems = (finite(), not_finite()) if name == "forward" else (finite(),)
    for order in range(orders):
        HostGridKernel.seed = 1000 * order
        for problem in problems:
            with np.errstate(all="ignore"):
                expected = expected_outputs_and_gradients(problem)
                result = outputs_and_gradients(VariantBackend(TwoWarps()), problem)
            of_kernel = [key for key in expected if key.startswith("grad_") == (name == "backward")]
            result, expected = ({key: arrays[key] for key in of_kernel} for arrays in (result, expected))
            assert_close(result, expected, "float16", testing.TOLERANCES["float16"].gradients, f"order {order}")


@pytest.mark.parametrize("name", MUTANTS)
def test_the_right_kernels_are_right(name: str, request: pytest.FixtureRequest) -> None:
    assert_right(name, 4 if request.config.getoption("thorough") else 1)


@pytest.mark.parametrize(
    ("name", "mutant"),
    others_thorough(
        ((name, mutant) for name in MUTANTS for mutant in MUTANTS[name]),
        lambda case: case in (("forward", "has no barrier"), ("backward", "looks at one word of four")),
    ),
)
def test_each_mutant_is_caught(name: str, mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variant, "source", lambda n: mutated(n, mutant) if n == name else kernels.source(n))
    with pytest.raises((AssertionError, RuntimeError), match=r"off by|waited for one another in vain"):
        assert_right(name, ORDERS)


@pytest.mark.parametrize("name", MUTANTS)
def test_float32_that_is_not_finite_is_multiplied_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Infinite states and gradients have limits that are numbers; a kernel that does not do it again has nan there."""
    problem = make_problem(testing.Case(T=2, B=3, H=37, states=True), "float32")
    problem.h_0[0, 0, 3] = problem.grad_h_n[0, 1, 5] = np.inf

    def is_right() -> bool:
        with np.errstate(all="ignore"):
            expected = expected_outputs_and_gradients(problem)
            result = outputs_and_gradients(VariantBackend(TwoWarps()), problem)
        keys = [key for key in expected if key.startswith("grad_") == (name == "backward")]
        return all(np.array_equal(np.isnan(result[key]), np.isnan(expected[key])) for key in keys)

    assert is_right()
    once = kernels.source(name).replace("if (any_lane(again)) {", "if (any_lane(again) && false) {")
    assert once != kernels.source(name)
    monkeypatch.setattr(variant, "source", lambda n: once if n == name else kernels.source(n))
    assert not is_right()
