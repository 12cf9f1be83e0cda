"""Checks of a layer in bfloat16 and int8: each step is that of the definition.

Where a number is rounded, two results that differ in their last bits can fall to different sides, and differ by a step
of the rounding from there on. So the definition takes each step from the backend's own h, in which the step before
ended: the same number is rounded to the same side, and what is left is the float32 rounding of one step. Within a step
only o * tanh(c), in front of a projection, is rounded after it was computed: there the elements that lie next to a
boundary may fall either way.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ..arrays.quantization import QuantizedWeight, quantized, rounded_to_bfloat16
from ..backends.base import Backend, LayerOutput, LayerParameters, Stepper
from ..backends.numpy_backend import steps
from .compare import TOLERANCES, assert_identical
from .layer import calls_independent, inputs_read_only, inputs_unchanged, outputs_new, states_default, threads
from .problems import REFERENCE, SMALL, Case, Problem, make_problem

#: Of one step, as a share of max(1, largest expected magnitude).
TOLERANCE = TOLERANCES["float32"].values


class InPrecision(Backend):
    """A backend whose float32 is computed in another precision: so checks of float32 are checks of the precision."""

    def __init__(self, backend: Backend, precision: str) -> None:
        self.backend, self.precision = backend, precision
        self.name = backend.name  # type: ignore[misc]  # those of an object
        self.capabilities = backend.capabilities._replace(  # type: ignore[misc]
            dtypes=frozenset({"float32"}), training=False, precisions=("float32",)
        )

    def prepare(self, layer_parameters: LayerParameters, *, precision: str = "float32") -> Any:
        return self.backend.prepare(layer_parameters, precision=self.precision)

    def forward(self, prepared: Any, **arguments: Any) -> LayerOutput:
        return self.backend.forward(prepared, **arguments)

    def stepper(self, layers: tuple[Any, ...], *, batch_size: int) -> Stepper | None:
        return self.backend.stepper(layers, batch_size=batch_size)


def in_precision(function: Callable[..., None], precision: str) -> Callable[[Backend], None]:
    """A check of float32 as one of a precision."""

    @functools.wraps(function)
    def check(backend: Backend) -> None:
        function(InPrecision(backend, precision), dtype="float32")

    return check


def values(backend: Backend, *, precision: str, cases: list[Case]) -> None:
    """Each step, from the h in which the step before ended, gives the h and c of the definition."""
    for seed, case in enumerate(cases):
        problem = make_problem(case, "float32", seed)
        assert_steps(backend, precision, problem, case)


def wild_range(backend: Backend, *, precision: str) -> None:
    """Weights of wild range, rows of zeros, large states and gates in saturation are those of the definition."""
    for P in (0, 5) if backend.capabilities.projection else (0,):
        problem = make_problem(Case(T=4, I=9, H=16, P=P, D=2, states=True), "float32", 7)
        rng = np.random.default_rng(8)
        directions = []
        for p in problem.parameters:
            weight_hh = p.weight_hh * 10.0 ** rng.integers(-30, 2, (len(p.weight_hh), 1))
            weight_hh[::5] = 0
            weight_hh[1::5] *= 1e-12  # some of these rows have nothing but subnormal numbers and zeros
            weight_ih = p.weight_ih * 10.0 ** rng.integers(-30, 2, p.weight_ih.shape)
            directions.append(p._replace(weight_hh=weight_hh.astype("f4"), weight_ih=weight_ih.astype("f4")))
        scaled = problem._replace(parameters=tuple(directions))
        for factor in (0.0, 1e-35, 1e-3, 1.0, 30.0):
            h_0 = None if scaled.h_0 is None else scaled.h_0 * np.float32(factor)
            assert_steps(backend, precision, scaled._replace(h_0=h_0), f"wild range, P={P}, h_0 times {factor}")


def not_finite(backend: Backend, *, precision: str) -> None:
    """NaN and infinities give NaN where they do in the definition, and in no other sequence of the batch."""
    for value in (np.nan, np.inf, -np.inf):
        for place in ("input", "h_0", "c_0", "weight_ih", "weight_hh"):
            problem = make_problem(SMALL, "float32")
            if place.startswith("weight"):
                changed = getattr(problem.parameters[0], place).copy()
                changed[1, 1] = value
                first = problem.parameters[0]._replace(**{place: changed})
                problem = problem._replace(parameters=(first, *problem.parameters[1:]))
            else:
                changed = problem.arrays()[place].copy()
                changed[(1,) * changed.ndim] = value
                argument: dict[str, Any] = {place: changed}
                problem = problem._replace(**argument)
            with np.errstate(all="ignore"):
                assert_steps(backend, precision, problem, f"{value} in {place}")


def quantized_weights(backend: Backend, *, precision: str) -> None:
    """Matrices that come in int8 with scales: the same bits as their float32 where the backend quantises to them."""
    if precision != "int8":
        return
    problem = make_problem(SMALL._replace(I=33, H=31), "float32", 3)
    given = tuple(p._replace(weight_hh=quantized(p.weight_hh)) for p in problem.parameters)
    own = _run(backend, precision, problem)
    result = _run(backend, precision, problem._replace(parameters=given))
    for name, got, want in zip(("output", "h_n", "c_n"), result, own, strict=False):
        assert_identical(got, want, f"weight_hh in int8 with scales: {name}")
    rng = np.random.default_rng(4)
    for p in given:  # other people's integers: -128 too, and scales by chance
        p.weight_hh.values[...] = rng.integers(-128, 128, p.weight_hh.shape)
        p.weight_hh.scale[...] = rng.uniform(0.0005, 0.004, len(p.weight_hh.scale))
    both = tuple(
        p._replace(
            weight_ih=QuantizedWeight(
                rng.integers(-128, 128, p.weight_ih.shape).astype(np.int8),
                rng.uniform(0.0005, 0.004, len(p.weight_ih)).astype(np.float32),
            )
        )
        for p in given
    )
    for name, parameters in (("weight_hh", given), ("weight_ih and weight_hh", both)):
        assert_steps(backend, precision, problem._replace(parameters=parameters), f"{name} in other people's int8")


#: `values` takes cases too.
EACH_PRECISION = (wild_range, not_finite, quantized_weights)
#: Checks of float32 that compare a backend with itself.
OF_FLOAT32 = (states_default, inputs_read_only, inputs_unchanged, outputs_new, calls_independent, threads)


def _run(backend: Backend, precision: str, problem: Problem) -> LayerOutput:
    return backend.forward(
        backend.prepare(problem.parameters, precision=precision),
        input=problem.input,
        batch_sizes=problem.batch_sizes,
        h_0=problem.h_0,
        c_0=problem.c_0,
        keep="nothing",
    )


def assert_steps(backend: Backend, precision: str, problem: Problem, about: object) -> None:
    """Every step of every direction of a result is that of the definition."""
    result = _run(backend, precision, problem)
    assert result.workspace is None, f"{about}: workspace is not None though keep='nothing'"
    B, R = int(problem.batch_sizes[0]), problem.parameters[0].weight_hh.shape[1]
    H = problem.parameters[0].weight_ih.shape[0] // 4
    D = len(problem.parameters)
    expected_shapes = {"output": (len(problem.input), D * R), "h_n": (D, B, R), "c_n": (D, B, H)}
    for name, shape in expected_shapes.items():
        got = getattr(result, name)
        assert got.shape == shape, f"{about}: {name} must have shape {shape}, got {got.shape}"
        assert got.dtype == np.float32, f"{about}: {name} must have dtype float32, got {got.dtype}"
    for d, parameters in enumerate(problem.parameters):
        prepared = REFERENCE.prepare((parameters,), precision=precision)
        h = np.zeros((1, B, R), np.float32) if problem.h_0 is None else problem.h_0[d : d + 1].copy()
        c = np.zeros((1, B, H), np.float32) if problem.c_0 is None else problem.c_0[d : d + 1].copy()
        for rows, b in steps(problem.batch_sizes, reverse=d == 1):
            if not b:
                continue
            step = REFERENCE.forward(
                prepared,
                input=problem.input[rows],
                batch_sizes=np.array([b]),
                h_0=np.ascontiguousarray(h[:, :b]),
                c_0=np.ascontiguousarray(c[:, :b]),
                keep="gates",  # the definition keeps them in every precision
            )
            got = result.output[rows, d * R : (d + 1) * R]
            slack = _either_way(parameters.weight_hr, step) if parameters.weight_hr is not None else 0.0
            _assert_close(got, step.output, slack, f"{about}: direction {d}, packed rows {rows.start}: h")
            h[0, :b], c[0, :b] = got, step.c_n[0]
        if not np.array_equal(result.h_n[d], h[0], equal_nan=True):
            raise AssertionError(f"{about}: direction {d}: h_n differs from the last h of output")
        _assert_close(result.c_n[d], c[0], 0.0, f"{about}: direction {d}: c_n")


def _either_way(weight_hr: np.ndarray, step: LayerOutput) -> np.ndarray:
    """How far the projected h (b, P) may be off because elements of o * tanh(c) lie next to a rounding boundary."""
    [gates] = step.workspace.gates
    o = gates[:, -gates.shape[1] // 4 :]
    full = o * np.tanh(step.c_n[0])
    up, down = (rounded_to_bfloat16((full + side * TOLERANCE).astype(np.float32)) for side in (1, -1))
    return np.abs(up - down) @ np.abs(rounded_to_bfloat16(weight_hr)).T


def _assert_close(got: np.ndarray, want: np.ndarray, slack: np.ndarray | float, about: str) -> None:
    """Within the tolerance; infinities and NaN are where they must be."""
    if not want.size:
        return
    with np.errstate(invalid="ignore"):
        error = np.abs(got.astype(np.float64) - want)
    error[(got == want) | (np.isnan(got) & np.isnan(want))] = 0
    limit = TOLERANCE * max(1.0, np.abs(want[np.isfinite(want)]).max(initial=0.0)) + np.nan_to_num(slack)
    beyond = ~(error <= limit)
    if beyond.any():
        largest = np.argmax(np.where(beyond, np.nan_to_num(error, nan=np.inf), -1))
        worst = tuple(map(int, np.unravel_index(largest, error.shape)))
        raise AssertionError(f"{about} off by {error[worst]:.3g} at {worst}: {got[worst]}, not {want[worst]}")
