"""The table of kernels, and the precisions in it that no dtype stands for.

``f32_bf16w`` keeps the weights as bfloat16, widens them on load and computes in float32. Widening is exact: so its
results are, bit for bit, those of float32 with weights that were rounded before.
"""

from __future__ import annotations

import importlib.util
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cylstm
from cylstm.backends.base import DirectionParameters

_layer = pytest.importorskip("cylstm.backends.cython_backend._layer", reason="the compiled backend is not built")
from cylstm.backends.cython_backend import CythonBackend, _lstm, threads  # noqa: E402

ISAS = _layer.instruction_sets()
# D, I, H, P, batch_sizes: one row and many, hoisted input and not, two directions, ragged, sizes that fill no vector
SHAPES = [
    (1, 3, 5, 0, [1] * 7),
    (1, 8, 40, 0, [1] * 7),  # blocks in pairs
    (1, 64, 128, 0, [1] * 40),
    (1, 37, 100, 0, [70] * 5),
    (2, 20, 130, 0, [9] * 20),
    (2, 9, 33, 7, [5, 5, 4, 2, 1]),
    (1, 65, 129, 70, [40, 17, 17, 1]),
]


def rounded(array: np.ndarray) -> np.ndarray:
    """The nearest bfloat16, ties to even, as float32; NaN stays NaN."""
    bits = np.asarray(array, np.float32).view(np.uint32)
    upper = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    upper = np.where(np.isnan(array), bits | np.uint32(0x400000), upper).astype(np.uint32) & np.uint32(0xFFFF0000)
    return upper.view(np.float32)


def parameters(D: int, I: int, H: int, P: int, seed: int = 0) -> tuple[DirectionParameters, ...]:
    draw = np.random.default_rng(seed)
    R = P or H

    def array(*shape: int) -> np.ndarray:
        return (draw.standard_normal(shape) / np.sqrt(H)).astype(np.float32)

    return tuple(
        DirectionParameters(array(4 * H, I), array(4 * H, R), array(4 * H), array(4 * H), array(P, H) if P else None)
        for _ in range(D)
    )


def with_rounded_weights(layer: tuple[DirectionParameters, ...]) -> tuple[DirectionParameters, ...]:
    return tuple(
        DirectionParameters(*(rounded(p) if p is not None and p.ndim == 2 else p for p in direction))
        for direction in layer
    )


@pytest.fixture(params=ISAS)
def backend(request: pytest.FixtureRequest) -> Any:
    backend = CythonBackend()
    backend._cap = request.param
    return backend


@pytest.fixture(params=[1, 2], ids="{} threads".format)
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = threads._count
    cylstm.set_num_threads(request.param)
    yield
    threads._count = before


def run(backend: Any, prepared: Any, shape: Any, states: bool = True) -> list[np.ndarray]:
    D, I, H, P, batch_sizes = shape
    draw = np.random.default_rng(1)
    N, B = sum(batch_sizes), batch_sizes[0]
    result = backend.forward(
        prepared,
        input=draw.standard_normal((N, I)).astype(np.float32),
        batch_sizes=np.array(batch_sizes),
        h_0=draw.standard_normal((D, B, P or H)).astype(np.float32) if states else None,
        c_0=draw.standard_normal((D, B, H)).astype(np.float32) if states else None,
    )
    return [result.output, result.h_n, result.c_n]


def test_the_table_is_kernels_def() -> None:
    definitions = Path(__file__).parents[3] / "src/cylstm/backends/cython_backend/kernels/kernels.def"
    lines = re.findall(r"^KERNELS\((\w+), (\w+), (\w+),", definitions.read_text("utf-8"), re.MULTILINE)
    machine = platform.machine().lower()
    here = ("any", {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine))
    table = _layer.kernel_table()
    assert [line[:2] for line in table] == [(isa, precision) for place, isa, precision in lines if place in here]
    assert table[-1][0] == "generic"
    for isa in ISAS:
        assert {(isa, "float32", True), (isa, "float64", True)} <= set(table)


@pytest.mark.names_backend("cython")
@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("states", [True, False], ids=["states", "zeros"])
def test_bf16_weights_are_float32_with_rounded_weights(backend: Any, shape: Any, states: bool) -> None:
    layer = parameters(*shape[:4])
    low = backend.prepare(layer, precision="f32_bf16w")
    assert (low.isa, low.precision, low.trains) == (backend.instruction_set, "f32_bf16w", False)
    expected = run(backend, backend.prepare(with_rounded_weights(layer)), shape, states)
    unrounded = run(backend, backend.prepare(layer), shape, states)
    for name, got, want, other in zip(
        ("output", "h_n", "c_n"), run(backend, low, shape, states), expected, unrounded, strict=True
    ):
        np.testing.assert_array_equal(got, want, err_msg=name)
        assert not np.array_equal(got, other)  # rounding has an effect


@pytest.mark.names_backend("cython")
@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("B", [1, 5])
def test_a_stepper_takes_them(backend: Any, B: int) -> None:
    shape = (1, 24, 150, 0, [B] * 6)
    layer = parameters(*shape[:4])
    steps = np.random.default_rng(1).standard_normal((6, B, 24)).astype(np.float32)
    results = []
    for prepared in (
        backend.prepare(layer, precision="f32_bf16w"),
        backend.prepare(with_rounded_weights(layer)),
    ):
        stepper = backend.stepper((prepared,), batch_size=B)
        results.append([stepper.step(x_t, None, cylstm.get_num_threads()) for x_t in steps])
    np.testing.assert_array_equal(results[0], results[1])


@pytest.mark.names_backend("cython")
def test_rounding(backend: Any) -> None:
    """To nearest, ties to even, to infinity above the largest; NaN stays NaN."""
    values = np.array([1, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -1 - 2**-9, 3.3e38, 3.4e38, np.nan], np.float32)
    weight_hr = values[:, None].copy()  # (P, H = 1): h_n = weight_hr * h
    direction = DirectionParameters(
        np.zeros((4, 1), np.float32),
        np.zeros((4, len(values)), np.float32),
        np.array([50, -50, 50, 50], np.float32),  # i = o = 1, f = 0, g = 1: h = tanh(1)
        np.zeros(4, np.float32),
        weight_hr,
    )
    h_n = {}
    for precision, given in (("f32_bf16w", values), ("float32", rounded(values))):
        prepared = backend.prepare((direction._replace(weight_hr=given[:, None].copy()),), precision=precision)
        result = backend.forward(
            prepared, input=np.zeros((1, 1), np.float32), batch_sizes=np.array([1]), h_0=None, c_0=None
        )
        h_n[precision] = result.h_n
    np.testing.assert_array_equal(h_n["f32_bf16w"], h_n["float32"])
    assert rounded(values)[:4].tolist() == [1, 1, 1 + 4 * 2**-8, 1 + 2 * 2**-8]
    assert np.isinf(h_n["f32_bf16w"][0, 0, 6])
    assert np.isnan(h_n["f32_bf16w"][0, 0, 7])


@pytest.mark.names_backend("cython")
@pytest.mark.parametrize("large", [3.3961775292304e38, 3.4e38, np.inf])
def test_an_infinity_made_by_rounding_meets_the_zeros_of_the_state(backend: Any, large: float) -> None:
    """0 * inf is NaN, whether the zeros are given or not."""
    layer = parameters(1, 2, 3, 0)
    layer[0].weight_hh[0, 0] = large
    assert np.isinf(rounded(layer[0].weight_hh)[0, 0])
    shape = (1, 2, 3, 0, [1])
    prepared = backend.prepare(layer, precision="f32_bf16w")
    output = run(backend, prepared, shape, states=False)[0]
    assert np.isnan(output[0, 0])
    assert np.isfinite(output[0, 1:]).all()


def test_inference_only(backend: Any) -> None:
    shape = (1, 3, 5, 0, [2, 2])
    prepared = backend.prepare(parameters(*shape[:4]), precision="f32_bf16w")
    kept = backend.forward(
        prepared,
        input=np.zeros((4, 3), np.float32),
        batch_sizes=np.array([2, 2]),
        h_0=None,
        c_0=None,
        keep="gates",
    )
    with pytest.raises(ValueError, match="a precision that trains, got f32_bf16w"):
        backend.backward(prepared, kept.workspace, grad_output=None, grad_h_n=None, grad_c_n=None)


def test_what_is_not_in_the_table_is_refused(backend: Any) -> None:
    layer = parameters(1, 3, 5, 0)
    with pytest.raises(ValueError, match=f"got {backend.instruction_set} int3"):
        backend.prepare(layer, precision="int3")
    double = tuple(DirectionParameters(*(None if p is None else p.astype(float) for p in d)) for d in layer)
    with pytest.raises(TypeError, match="weights must have 4 bytes each for f32_bf16w, got 8"):
        backend.prepare(double, precision="f32_bf16w")


def test_the_table_in_the_documentation() -> None:
    """`python tools/kernel_table.py --write` makes it anew."""
    path = Path(__file__).parents[3] / "tools" / "kernel_table.py"
    spec = importlib.util.spec_from_file_location("kernel_table", path)
    assert spec is not None
    assert spec.loader is not None
    kernel_table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kernel_table)
    assert kernel_table.in_page() == kernel_table.table()
    for isa, precision, _ in _layer.kernel_table():
        assert f"`{isa}`" in kernel_table.table()
        assert f"`{precision}`" in kernel_table.table()


def test_entry_points_refuse_what_is_missing(backend: Any) -> None:
    """Never a crash: the arrays that must be there, a direction beyond the last, half a pair of biases."""
    layer = parameters(1, 3, 5, 0)
    prepared = backend.prepare(layer)
    x, sizes = np.zeros((2, 3), np.float32), np.array([2])
    result = tuple(np.zeros(shape, np.float32) for shape in ((2, 5), (1, 2, 5), (1, 2, 5)))
    for n in range(3):
        with pytest.raises(TypeError, match="an array must be given"):
            _lstm.forward(
                prepared, x, sizes, (None, None), tuple(None if m == n else a for m, a in enumerate(result)), None, 1
            )
    with pytest.raises(TypeError, match="an array must be given"):
        _lstm.forward(prepared, x, None, (None, None), result, None, 1)
    with pytest.raises(TypeError, match="an array must be given"):
        _lstm.backward(prepared, x, sizes, (None,) * 5, (None,) * 3, (None,) * 7, 1)
    with pytest.raises(ValueError, match="layers must be one or more"):
        _lstm.Stepper((), 1)
    weight_ih, weight_hh, bias_ih, bias_hh, _ = layer[0]
    for d, first, second, weight_hr in (
        (1, bias_ih, bias_hh, None),
        (0, bias_ih, None, None),
        (0, None, None, weight_hh),
    ):
        with pytest.raises(ValueError, match="must be one of 1"):
            _layer.pack(prepared, d, weight_ih, weight_hh, first, second, weight_hr)
