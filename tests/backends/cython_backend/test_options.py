"""The options beyond PyTorch's on the compiled backend: every line of kernels.def against the definition, the same bits
however a call is cut, and what stays with the numpy backend.

What ONNX Runtime and Keras say of the same numbers is in ``tests/onnx`` and ``tests/keras``.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import cylstm
from cylstm import testing
from cylstm.arrays.activations import ACTIVATIONS

_layer = pytest.importorskip("cylstm.backends.cython_backend._layer", reason="the compiled backend is not built")
cython_backend = pytest.importorskip("cylstm.backends.cython_backend")
pytestmark = pytest.mark.names_backend("cython")

KERNELS = [(isa, precision) for isa, precision, runs_here in _layer.kernel_table() if runs_here]
COMPUTED = cython_backend.CythonBackend.capabilities.options

#: Each option, limits that act, and all at once.
EACH: list[dict[str, Any]] = [
    {"peephole": True},
    {"clip": 0.6},
    {"input_forget": True},
    {"cell_clip": 0.5},
    {"proj_size": 5, "proj_clip": 0.1},
    {"activations": ("hard_sigmoid", "relu", "tanh"), "cell_clip": 3.0},
    {"activations": (("hard_sigmoid", 1 / 6, 0.5), ("scaled_tanh", 1.7, 0.6), "hard_tanh")},
    {
        "activations": ("hard_sigmoid", ("affine", 0.9, 0.1), "relu6"),
        "peephole": True,
        "clip": 2.0,
        "input_forget": True,
        "cell_clip": 0.9,
        "proj_size": 5,
        "proj_clip": 0.2,
    },
]


def backend_of(isa: str) -> Any:
    backend = cython_backend.CythonBackend()
    backend._cap = isa
    return backend


def made(isa: str, precision: str, hidden_size: int = 37, **more: Any) -> tuple[cylstm.LSTM, cylstm.LSTM]:
    """An LSTM on these kernels, and the same on the numpy backend."""
    dtype, precision = ("float64", "float32") if precision == "float64" else ("float32", precision)
    cylstm.manual_seed(5)
    more = {"dtype": dtype, "precision": precision if dtype == "float32" else None, **more}
    lstm = cylstm.LSTM(7, hidden_size, backend=backend_of(isa), **more)
    definition = cylstm.LSTM(7, hidden_size, backend="numpy", **more)
    definition.load_state_dict(lstm.state_dict())
    return lstm, definition


@pytest.mark.parametrize("options", EACH, ids=str)
@pytest.mark.parametrize("kernels", KERNELS, ids="-".join)
def test_each_is_that_of_the_definition(kernels: tuple[str, str], options: dict[str, Any]) -> None:
    tolerance = {"float64": 1e-13, "float32": 3e-6}.get(kernels[1], 3e-2)  # a rounded state may fall to another side
    for bidirectional in (False, True):
        lstm, definition = made(*kernels, bidirectional=bidirectional, num_layers=2, **options)
        x = 2 * cylstm.randn(9, 6, 7, dtype=lstm.dtype)
        packed = cylstm.pack_padded_sequence(x, [9, 1, 4, 9, 2, 6], enforce_sorted=False)
        hx = tuple(cylstm.randn(*state.shape, dtype=lstm.dtype) for state in lstm(x)[1])
        for given in ((x,), (x, hx), (x[:, 0],)):
            (output, state), (wanted, wanted_state) = lstm(*given), definition(*given)
            np.testing.assert_allclose(output, wanted, atol=tolerance)
            np.testing.assert_allclose(state[0], wanted_state[0], atol=tolerance)
            np.testing.assert_allclose(state[1], wanted_state[1], atol=10 * tolerance)
        np.testing.assert_allclose(lstm(packed, hx)[0].data, definition(packed, hx)[0].data, atol=tolerance)


@pytest.mark.parametrize("name", sorted(COMPUTED & set(ACTIVATIONS)))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_activations_at_their_edges(name: str, dtype: str) -> None:
    """Infinities, NaN and the kinks themselves, by a weight of 1 from each input to the candidate of its own unit."""
    given = {"affine": (0.7, -0.2), "scaled_tanh": (1.5, 0.4)}.get(name, ())
    x = np.array([[0, -0.0, 1, -1, 2.5, -2.5, 3, 6, 6.5, -7, 80, -80, 1e30, np.inf, -np.inf, np.nan]], dtype)
    n = x.shape[1]
    for isa in _layer.instruction_sets():
        results = []
        for backend in (backend_of(isa), "numpy"):
            three = ("sigmoid", (name, *given), "linear")
            lstm = cylstm.LSTM(1, n, bias=True, backend=backend, dtype=dtype, activations=three)
            zeros = {key: np.zeros_like(array) for key, array in lstm.state_dict().items()}
            zeros["bias_ih_l0"][2 * n : 3 * n] = x[0]
            lstm.load_state_dict(zeros)
            results.append(lstm(np.zeros((1, 1), dtype))[0])
        np.testing.assert_allclose(*results, rtol=1e-6 if dtype == "float32" else 1e-14)


@pytest.mark.parametrize("options", EACH[:4], ids=str)
def test_a_nan_stays_a_nan(options: dict[str, Any]) -> None:
    for isa in _layer.instruction_sets():
        lstm, definition = made(isa, "float32", hidden_size=5, **options)
        x = cylstm.randn(4, 3, 7)
        x[2, 1, 0] = np.nan
        x[1, 2, 0] = np.inf
        np.testing.assert_array_equal(np.isnan(lstm(x)[0]), np.isnan(definition(x)[0]))


CHECKS = [check for check in testing.checks("cython", bitwise=True) if check.id.startswith("bitwise_options")]


def test_each_option_has_a_check_of_its_bits() -> None:
    assert {check.id.split("-")[1] for check in CHECKS} == set(testing.problems.OPTION_CASES)


@pytest.mark.parametrize("isa", _layer.instruction_sets())
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_the_same_bits_on_each_instruction_set(check: Any, isa: str) -> None:
    check.function(backend_of(isa))


@pytest.mark.parametrize("options", EACH, ids=str)
@pytest.mark.parametrize("kernels", KERNELS, ids="-".join)
def test_streams_cells_and_packed_rows_have_the_same_bits(kernels: tuple[str, str], options: dict[str, Any]) -> None:
    lstm, _ = made(*kernels, num_layers=2, **options)
    x = 2 * cylstm.randn(8, 5, 7, dtype=lstm.dtype)
    output, (h_n, c_n) = lstm(x)
    stream = lstm.stream(5)
    assert np.array_equal([stream(x_t) for x_t in x], output)
    assert np.array_equal(stream.state[0], h_n)
    assert np.array_equal(stream.state[1], c_n)
    alone = lstm.stream()
    assert np.array_equal([alone(x_t) for x_t in x[:, 3]], output[:, 3])
    rows, _ = cylstm.pad_packed_sequence(lstm(cylstm.pack_padded_sequence(x, [8, 8, 5, 3, 1]))[0])
    for b, length in enumerate([8, 8, 5, 3, 1]):
        assert np.array_equal(rows[:length, b], output[:length, b])
    if "proj_size" not in options:
        lstm, _ = made(*kernels, **options)
        cell = cylstm.LSTMCell(7, 37, backend=lstm.backend, dtype=lstm.dtype, precision=lstm._precision, **options)
        cell.load_state_dict({name.removesuffix("_l0"): array for name, array in lstm.state_dict().items()})
        state = None
        for t, x_t in enumerate(x):
            state = cell(x_t, state)
            assert np.array_equal(state[0], lstm(x[: t + 1])[0][-1])


# What is not compiled ------------------------------------------------------------------------------------------------


def test_other_activations_stay_with_the_numpy_backend(new_registry: None) -> None:
    for name in sorted(set(ACTIVATIONS) - COMPUTED):
        three = ("sigmoid", (name, 0.3) if name == "thresholded_relu" else name, "tanh")
        with pytest.raises(
            cylstm.UnsupportedError, match=f"cannot compute the activation {name}. Backends that can: numpy"
        ):
            cylstm.LSTM(3, 4, backend="cython", activations=three)
        assert cylstm.LSTM(3, 4, activations=three)(cylstm.randn(2, 3))[0].shape == (2, 4)


@pytest.mark.parametrize("options", EACH, ids=str)
def test_gradients_stay_with_the_numpy_backend(options: dict[str, Any], new_registry: None) -> None:
    lstm, x = cylstm.LSTM(3, 6, **options), cylstm.randn(5, 2, 3)
    compiled = cylstm.LSTM(3, 6, backend="cython", **options)
    compiled.load_state_dict(lstm.state_dict())
    assert np.array_equal(lstm(x)[0], compiled(x)[0])
    with pytest.raises(cylstm.UnsupportedError, match=r"cannot compute gradients with the .*Backends that can: numpy"):
        compiled.vjp(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output, _, pullback = lstm.vjp(x)
    defined = cylstm.LSTM(3, 6, backend="numpy", **options)
    defined.load_state_dict(lstm.state_dict())
    wanted, _, defined_pullback = defined.vjp(x)
    assert np.array_equal(output, wanted)
    assert np.array_equal(pullback(output).input, defined_pullback(wanted).input)


def test_a_workspace_is_refused_where_there_is_no_backward_pass() -> None:
    problem = testing.problems.make_problem(testing.problems.OPTION_CASES["clip"][0], "float32")
    for keep in ("gates", "states"):
        with pytest.raises(NotImplementedError, match=f"keep must be 'nothing' with options.* got '{keep}'"):
            testing.problems.forward(backend_of("generic"), problem, keep=keep)


def test_wrong_packing_changes_nothing() -> None:
    layer = _layer.Layer(1, 3, 4, 0, "float32", "generic")
    one = {"kind": 0, "alpha": 0, "beta": 0, "low": 0, "high": 0}
    with pytest.raises(ValueError, match="must have 12 elements"):
        _layer.pack_options(layer, 0, (one,) * 3, (1.0, 1.0, 1.0), False, np.zeros(9, np.float32))
    assert layer.trains
    with pytest.raises(ValueError, match="direction 1 must be one of 1"):
        _layer.pack_options(layer, 1, (one,) * 3, (1.0, 1.0, 1.0), False, None)
    _layer.pack_options(layer, 0, (one,) * 3, (1.0, 1.0, 1.0), False, np.zeros(12, np.float32))
    assert not layer.trains
