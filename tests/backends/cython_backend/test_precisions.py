"""The table of kernels, and the precisions in it, on each instruction set: held by the conformance kit."""

from __future__ import annotations

import importlib.util
import platform
import re
from pathlib import Path

import numpy as np
import pytest

import cylstm.testing
from cylstm.arrays.quantization import rounded_to_bfloat16
from cylstm.backends.base import DirectionParameters

_layer = pytest.importorskip("cylstm.backends.cython_backend._layer", reason="the compiled backend is not built")
from cylstm.backends.cython_backend import CythonBackend, _lstm  # noqa: E402

TABLE = Path(__file__).parents[3] / "tools" / "kernel_table.py"
ISAS = _layer.instruction_sets()
PRECISIONS = ("bfloat16", "int8")
REDUCED = [(isa, precision) for precision in PRECISIONS for isa in _layer.instruction_sets(precision)]


def capped(isa: str) -> CythonBackend:
    backend = CythonBackend()
    backend._cap = isa
    return backend


def parameters(D: int, I: int, H: int, P: int, seed: int = 0) -> tuple[DirectionParameters, ...]:
    draw = np.random.default_rng(seed)
    R = P or H

    def array(*shape: int) -> np.ndarray:
        return (draw.standard_normal(shape) / np.sqrt(H)).astype(np.float32)

    return tuple(
        DirectionParameters(array(4 * H, I), array(4 * H, R), array(4 * H), array(4 * H), array(P, H) if P else None)
        for _ in range(D)
    )


def test_the_table_is_kernels_def() -> None:
    definitions = Path(__file__).parents[3] / "src/cylstm/backends/cython_backend/kernels/kernels.def"
    lines = re.findall(r"^KERNELS\((\w+), (\w+), (\w+),", definitions.read_text("utf-8"), re.MULTILINE)
    machine = platform.machine().lower()
    here = ("any", {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine))
    table = _layer.kernel_table()
    assert [line[:2] for line in table] == [(isa, precision) for place, isa, precision in lines if place in here]
    assert table[-1][0] == "generic"
    for isa in ISAS:
        assert {(isa, number, True) for number in ("float32", "float64", *PRECISIONS)} <= set(table)


@pytest.mark.names_backend("cython")
@pytest.mark.parametrize(("isa", "precision"), REDUCED)
def test_the_kit(isa: str, precision: str) -> None:
    backend = capped(isa)
    assert backend.prepare(parameters(1, 2, 3, 0), precision=precision).isa == isa
    checks = [check for check in cylstm.testing.checks(backend) if check.id.endswith(f"-{precision}")]
    assert len(checks) > 10
    for check in checks:
        check()


@pytest.mark.names_backend("cython")
@pytest.mark.parametrize(("isa", "precision"), REDUCED)
@pytest.mark.parametrize("P", [0, 20])
@pytest.mark.parametrize("B", [1, 5])
def test_a_stepper_takes_them(isa: str, precision: str, P: int, B: int) -> None:
    """A step on two threads is the step on one, and the steps are the call."""
    backend = capped(isa)
    prepared = backend.prepare(parameters(1, 24, 150, P), precision=precision)
    rows = np.random.default_rng(1).standard_normal((6 * B, 24)).astype(np.float32)
    call = backend.forward(prepared, input=rows, batch_sizes=np.full(6, B), h_0=None, c_0=None)
    always = _lstm.open_regions(True)
    try:
        for threads in (1, 2):
            stepper = backend.stepper((prepared,), batch_size=B)
            steps = [stepper.step(x_t, None, threads) for x_t in rows.reshape(6, B, 24)]
            np.testing.assert_array_equal(np.concatenate(steps), call.output)
    finally:
        _lstm.open_regions(always)


@pytest.mark.names_backend("cython")
@pytest.mark.parametrize(("isa", "precision"), REDUCED)
def test_rounding_to_bfloat16(isa: str, precision: str) -> None:
    """To nearest, ties to even, to infinity above the largest; NaN stays NaN."""
    values = np.array([1, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -1 - 2**-9, 3.3e38, 3.4e38, np.nan], np.float32)
    direction = DirectionParameters(
        np.zeros((4, 1), np.float32),
        np.zeros((4, len(values)), np.float32),
        np.array([50, -50, 50, 50], np.float32),  # i = o = 1, f = 0, g = 1: h = tanh(1)
        np.zeros(4, np.float32),
        values[:, None].copy(),  # (P, H = 1): h_n = weight_hr * h
    )
    backend = capped(isa)
    result = backend.forward(
        backend.prepare((direction,), precision=precision),
        input=np.zeros((1, 1), np.float32),
        batch_sizes=np.array([1]),
        h_0=None,
        c_0=None,
    )
    h = rounded_to_bfloat16(np.tanh(np.ones(1, np.float32)))
    with np.errstate(over="ignore"):
        expected = rounded_to_bfloat16(values) * h
    np.testing.assert_array_equal(result.h_n[0, 0], expected)
    assert (expected[:4] / h).tolist() == [1, 1, 1 + 4 * 2**-8, 1 + 2 * 2**-8]
    assert np.isinf(expected[6])
    assert np.isnan(expected[7])


@pytest.mark.names_backend("cython")
@pytest.mark.parametrize("isa", _layer.instruction_sets("bfloat16"))
@pytest.mark.parametrize("large", [3.3961775292304e38, 3.4e38, np.inf])
def test_an_infinity_made_by_rounding_meets_the_zeros_of_the_state(isa: str, large: float) -> None:
    """0 * inf is NaN, whether the zeros are given or not."""
    layer = parameters(1, 2, 3, 0)
    layer[0].weight_hh[0, 0] = large
    assert np.isinf(rounded_to_bfloat16(layer[0].weight_hh)[0, 0])
    backend = capped(isa)
    prepared = backend.prepare(layer, precision="bfloat16")
    x = np.ones((1, 2), np.float32)
    output = backend.forward(prepared, input=x, batch_sizes=np.array([1]), h_0=None, c_0=None).output
    assert np.isnan(output[0, 0])
    assert np.isfinite(output[0, 1:]).all()


@pytest.mark.names_backend("cython")
@pytest.mark.parametrize(("isa", "precision"), REDUCED)
def test_cells_are_right_to_some_1e_6_of_their_value(isa: str, precision: str) -> None:
    """Gates of any size, near 0 and in saturation: c and h beside float64."""
    draw = np.random.default_rng(5)
    B, H = 20_000, 17
    sizes = 10.0 ** draw.uniform([-30, -6], [2.1, 1], (B, 2))
    a = rounded_to_bfloat16((draw.standard_normal((B, 4)) * sizes[:, :1]).astype(np.float32))  # of the gates
    extremes = (0.0, 1e-30, -1e-30, 60.0, -60.0, 1000.0, -1000.0, 3e38, -3e38)
    a[:6561] = rounded_to_bfloat16(np.array(np.meshgrid(*4 * [extremes]), np.float32)).reshape(4, -1).T
    c_0 = (draw.standard_normal((1, B, 1)) * sizes[:, 1:]).astype(np.float32).repeat(H, axis=2)
    one_each = np.eye(4, dtype=np.float32).repeat(H, axis=0)  # gate g of every unit is x[g]
    direction = DirectionParameters(one_each, np.zeros((4 * H, H), np.float32), None, None, None)
    backend = capped(isa)
    prepared = backend.prepare((direction,), precision=precision)
    result = backend.forward(prepared, input=a, batch_sizes=np.array([B]), h_0=None, c_0=c_0)
    with np.errstate(over="ignore"):
        i, f, o = (1 / (1 + np.exp(-a[:, gate].astype(float))) for gate in (0, 1, 3))
    kept, new = f * c_0[0, :, 0], i * np.tanh(a[:, 2].astype(float))
    c, h = result.c_n[0].astype(float), result.h_n[0].astype(float)
    assert (c == c[:, :1]).all()
    assert (h == h[:, :1]).all()
    least = 1e-37  # smaller numbers are zero
    share = 2e-6 + 1e-7 * np.minimum(abs(a.astype(float)), 100)  # exp(-x) has the rounding of x
    assert (abs(c[:, 0] - kept - new) <= share[:, 1] * abs(kept) + share[:, 0] * abs(new) + least).all()
    expected = o * np.tanh(c[:, 0])
    assert (abs(h[:, 0] - expected) <= share[:, 3] * abs(expected) + least).all()


@pytest.mark.parametrize(("isa", "precision"), REDUCED)
def test_inference_only(isa: str, precision: str) -> None:
    backend = capped(isa)
    prepared = backend.prepare(parameters(1, 3, 5, 0), precision=precision)
    assert (prepared.isa, prepared.precision, prepared.trains) == (isa, precision, False)
    x, batch_sizes = np.zeros((4, 3), np.float32), np.array([2, 2])
    kept = backend.forward(prepared, input=x, batch_sizes=batch_sizes, h_0=None, c_0=None, keep="gates")
    with pytest.raises(ValueError, match=f"a precision that trains, got {precision}"):
        backend.backward(prepared, kept.workspace, grad_output=None, grad_h_n=None, grad_c_n=None)


def test_what_is_not_in_the_table_is_refused() -> None:
    backend, layer = CythonBackend(), parameters(1, 3, 5, 0)
    with pytest.raises(ValueError, match=r"precision must be one of .*bfloat16.*, got 'int3'"):
        backend.prepare(layer, precision="int3")
    double = tuple(DirectionParameters(*(None if p is None else p.astype(float) for p in d)) for d in layer)
    with pytest.raises(TypeError, match="weights must have 4 bytes each for bfloat16, got 8"):
        backend.prepare(double, precision="bfloat16")


@pytest.mark.skipif(not TABLE.exists(), reason="the sdist has no pages")
def test_the_table_in_the_documentation() -> None:
    """`python tools/kernel_table.py --write` makes it anew."""
    spec = importlib.util.spec_from_file_location("kernel_table", TABLE)
    assert spec is not None
    assert spec.loader is not None
    kernel_table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kernel_table)
    assert kernel_table.in_page() == kernel_table.table()
    for isa, precision, _ in _layer.kernel_table():
        assert f"`{isa}`" in kernel_table.table()
        assert f"`{precision}`" in kernel_table.table()


def test_entry_points_refuse_what_is_missing() -> None:
    """Never a crash: the arrays that must be there, a direction beyond the last, half a pair of biases."""
    backend, layer = CythonBackend(), parameters(1, 3, 5, 0)
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
    weight_ih, weight_hh, bias_ih, bias_hh = layer[0][:4]
    for d, given_hh, second, weight_hr in (
        (1, weight_hh, bias_hh, None),
        (0, None, bias_hh, None),
        (0, weight_hh, None, None),
        (0, weight_hh, bias_hh, weight_hh),
    ):
        with pytest.raises(ValueError, match="must be one of 1"):
            _layer.pack(prepared, d, weight_ih, None, given_hh, bias_ih, second, weight_hr)
    with pytest.raises(ValueError, match="of a precision of whole numbers, got float32"):
        _layer.pack_whole(prepared, 0, np.zeros((20, 5), np.int8), np.ones(20, np.float32))
    whole = backend.prepare(layer, precision="int8")
    with pytest.raises(ValueError, match="must be one of 1"):
        _layer.pack(whole, 0, weight_ih, None, weight_hh, bias_ih, bias_hh, None)
