"""The precision of modules: who may choose it, what it changes, what it refuses."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cylstm
from cylstm.arrays.quantization import from_bfloat16_bits, quantized, rounded_to_bfloat16
from cylstm.backends import precision as precisions
from cylstm.backends import registry
from cylstm.backends.numpy_backend import NumpyBackend

REDUCED = ("bfloat16", "int8")
#: Backend and precision, as the backends here declare them.
DECLARED = [
    (row.name, precision)
    for row in cylstm.available_backends()
    if row.distribution == "cylstm" and row.status == "available"
    for precision in registry.load(row.name).capabilities.precisions
]

MODULES = {
    "LSTM": lambda **options: cylstm.LSTM(3, 4, **options),
    "LSTMCell": lambda **options: cylstm.LSTMCell(3, 4, **options),
    "Linear": lambda **options: cylstm.Linear(3, 4, **options),
}


@pytest.fixture(params=MODULES)
def make(request: pytest.FixtureRequest) -> Any:
    return MODULES[request.param]


def run(module: Any, x: np.ndarray) -> np.ndarray:
    result = module(x)
    return result if isinstance(result, np.ndarray) else result[0]


@pytest.fixture
def variable(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets CYLSTM_PRECISION as for a new process."""

    def setting(value: str) -> None:
        monkeypatch.setenv(precisions.VARIABLE, value)
        monkeypatch.setattr(precisions, "_by_variable", [])

    return setting


def test_it_is_chosen_and_shown(make: Any) -> None:
    module = make()
    assert module.precision == "float32"
    assert "precision" not in repr(module)
    assert make(precision="float32").precision == "float32"
    assert "precision" not in repr(make(precision="float32"))
    for precision in REDUCED:
        assert make(precision=precision).precision == precision
        assert repr(make(precision=precision)).endswith(f", precision={precision!r})")


def test_it_can_be_set_at_any_time(make: Any) -> None:
    module, x = make(), cylstm.randn(2, 3)
    exact = run(module, x)
    results = {}
    for precision in REDUCED:
        module.precision = precision
        fresh = make(precision=precision)
        fresh.load_state_dict(module.state_dict())
        results[precision] = run(module, x)
        np.testing.assert_array_equal(results[precision], run(fresh, x))
        assert 0 < np.abs(results[precision] - exact).max() < 0.02
    if isinstance(module, cylstm.Linear):  # of the others' first step, from zeros, all of both is in bfloat16
        assert not np.array_equal(*results.values())
    module.precision = None
    np.testing.assert_array_equal(run(module, x), exact)
    assert all(array.dtype == np.float32 for array in (*module.parameters(), *results.values()))


def test_a_stream_sees_the_change() -> None:
    lstm = cylstm.LSTM(3, 4)
    x = cylstm.randn(6, 1, 3)
    stream = lstm.stream()
    for x_t in x[:3]:
        stream(x_t)
    state = stream.state
    lstm.precision = "int8"
    for x_t in x[3:]:
        last = stream(x_t)
    np.testing.assert_allclose(last, lstm(x[3:], state)[0][-1], rtol=0, atol=1e-6)
    lstm.precision = "float32"
    assert np.abs(last - lstm(x[3:], state)[0][-1]).max() > 1e-5


@pytest.mark.parametrize(
    ("value", "error"), [("int4", ValueError), ("", ValueError), (8, TypeError), ("INT8", ValueError)]
)
def test_what_is_no_precision_is_refused(make: Any, value: Any, error: type[Exception]) -> None:
    message = rf"precision must be 'float32', 'bfloat16', 'int8' or None, got {value!r}"
    with pytest.raises(error, match=message):
        make(precision=value)
    module = make(precision="int8")
    with pytest.raises(error, match=message):
        module.precision = value
    assert module.precision == "int8"


@pytest.mark.parametrize("dtype", ["float16", "float64", "complex64", "complex128", "bfloat16"])
def test_other_dtypes_have_no_precision(make: Any, dtype: str) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    message = f"precision must be 'float32' for parameters of dtype {dtype}, got 'int8'"
    with pytest.raises(ValueError, match=message):
        make(precision="int8", dtype=dtype)
    module = make(dtype=dtype)
    with pytest.raises(ValueError, match=message):
        module.precision = "int8"
    module = make(precision="int8")
    before = module.state_dict()
    with pytest.raises(ValueError, match=message):
        module.to(dtype=dtype)
    assert module.dtype == np.float32
    assert all(after is before[name] for name, after in module.state_dict().items())
    module.precision = "float32"
    assert module.to(dtype=dtype).dtype.name == dtype


@pytest.mark.parametrize("precision", REDUCED)
def test_gradients_are_refused(make: Any, precision: str) -> None:
    module, x = make(precision=precision), cylstm.randn(2, 3)
    with pytest.raises(
        RuntimeError, match=f"for gradients, got '{precision}'.*inference only.*set precision = 'float32'"
    ):
        module.vjp(x)
    module.precision = "float32"
    module.vjp(x)


def test_a_choice_that_the_backend_does_not_have_is_refused() -> None:
    class Without(NumpyBackend):
        name = "without"
        capabilities = NumpyBackend.capabilities._replace(precisions=("float32",))

        def prepare(self, layer_parameters):  # as of before there were precisions
            return super().prepare(layer_parameters)

    message = (
        r"backend 'without' .*cannot compute in precision int8 \(it computes in float32\).*Backends that can:.*numpy"
    )
    for make in (MODULES["LSTM"], MODULES["LSTMCell"]):
        with pytest.raises(cylstm.UnsupportedError, match=message):
            make(backend=Without(), precision="int8")
        module = make(backend=Without())
        run(module, cylstm.randn(2, 3))
        with pytest.raises(cylstm.UnsupportedError, match=message):
            module.precision = "int8"
        assert module.precision == "float32"


def test_nothing_is_drawn_where_it_is_refused() -> None:
    cylstm.manual_seed(5)
    expected = cylstm.randn(3)
    cylstm.manual_seed(5)
    with pytest.raises(ValueError, match="got 'int4'"):
        cylstm.LSTM(3, 4, precision="int4")
    np.testing.assert_array_equal(cylstm.randn(3), expected)


def test_unlocked_parameters_refuse_the_change(make: Any) -> None:
    module = make()
    with module.unlocked(), pytest.raises(RuntimeError, match="unlocked already"):
        module.precision = "int8"
    assert module.precision == "float32"


def test_copies_and_pickles_keep_it(make: Any) -> None:
    module, x = make(precision="int8"), cylstm.randn(2, 3)
    for other in (copy.copy(module), copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert other.precision == "int8"
        np.testing.assert_array_equal(run(other, x), run(module, x))
    before = module.__getstate__()
    del before["_precision"]  # a pickle of before there were precisions
    old = module.__class__.__new__(module.__class__)
    old.__setstate__(before)
    assert old.precision == "float32"


@pytest.mark.parametrize("extension", [".safetensors", ".npz"])
def test_files_keep_a_choice(make: Any, extension: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{extension}"
    cylstm.save(make(precision="bfloat16"), path)
    assert cylstm.load(path).precision == "bfloat16"
    assert cylstm.load(path, precision="int8").precision == "int8"
    cylstm.save(make(), path)
    assert cylstm.load(path)._precision is None
    assert cylstm.load(path, precision="int8").precision == "int8"
    with pytest.raises(ValueError, match="got 'int4'"):
        cylstm.load(path, precision="int4")


def test_files_with_a_wrong_precision(tmp_path: Path) -> None:
    from cylstm.files import safetensors

    path = tmp_path / "model.safetensors"
    safetensors.write(path, cylstm.LSTM(3, 4).state_dict(), {"precision": "int4"})
    with pytest.raises(ValueError, match="precision must be float32, bfloat16 or int8, got 'int4': give precision"):
        cylstm.load(path)
    assert cylstm.load(path, precision="int8").precision == "int8"


def test_files_of_other_dtypes(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    cylstm.save(cylstm.LSTM(3, 4, dtype="float64"), path)
    with pytest.raises(ValueError, match="for parameters of dtype float64, got 'int8'"):
        cylstm.load(path, precision="int8")


def test_the_variable_is_for_float32_modules_without_a_choice(make: Any, variable: Any) -> None:
    variable("int8")
    module = make()
    assert module.precision == "int8"
    assert "precision='int8'" in repr(module)
    assert make(precision="float32").precision == "float32"
    assert make(dtype="float64").precision == "float32"
    run(make(dtype="float64"), cylstm.randn(2, 3, dtype="float64"))
    with pytest.raises(RuntimeError, match="got 'int8', which is for inference only"):
        module.vjp(cylstm.randn(2, 3))
    assert module.to(dtype="float64").precision == "float32"


def test_the_variable_must_name_a_precision(make: Any, variable: Any) -> None:
    variable("fp16")
    with pytest.raises(ValueError, match="CYLSTM_PRECISION must be float32 or bfloat16 or int8, got 'fp16'"):
        run(make(), cylstm.randn(2, 3))
    run(make(precision="float32"), cylstm.randn(2, 3))


def test_the_variable_in_a_process_of_its_own() -> None:
    script = "import cylstm; print(cylstm.LSTM(3, 4)); print(cylstm.LSTM(3, 4, dtype='float64'))"
    paths = str(Path(cylstm.__file__).parents[1])
    for value, expected in (("bfloat16", "LSTM(3, 4, precision='bfloat16')"), ("", "LSTM(3, 4)")):
        environment = os.environ | {"PYTHONPATH": paths, precisions.VARIABLE: value}
        result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        assert result.stdout.split("\n")[:2] == [expected, "LSTM(3, 4)"], result.stderr


def test_changes_by_other_threads_leave_each_call_in_one_precision() -> None:
    lstm, x = cylstm.LSTM(3, 4, num_layers=2), cylstm.randn(5, 1, 3)
    possible = []
    for precision in precisions.PRECISIONS:
        lstm.precision = precision
        possible.append(lstm(x)[0].tobytes())
    assert len(set(possible)) == 3
    done = threading.Event()

    def change() -> None:
        while not done.is_set():
            for precision in precisions.PRECISIONS:
                lstm.precision = precision

    other = threading.Thread(target=change)
    other.start()
    try:
        seen = {lstm(x)[0].tobytes() for _ in range(400)}
    finally:
        done.set()
        other.join()
    assert seen <= set(possible)


# What is computed ---------------------------------------------------------------------------------------------------


def by_hand(lstm: cylstm.LSTM, x: np.ndarray) -> np.ndarray:
    """One layer in int8 or bfloat16, written out in float64 after the roundings."""
    W, R = lstm.weight_ih_l0, lstm.weight_hh_l0
    b = lstm.bias_ih_l0.astype(float) + lstm.bias_hh_l0
    H, P = lstm.hidden_size, lstm.proj_size
    h, c, rows = np.zeros(P or H, np.float32), np.zeros(H), []
    for x_t in x:
        a = b + rounded_to_bfloat16(W).astype(float) @ rounded_to_bfloat16(x_t)
        if lstm.precision == "bfloat16":
            a += rounded_to_bfloat16(R).astype(float) @ rounded_to_bfloat16(h)
        else:
            values, scale = quantized(R)
            m = np.abs(h).max()
            q = np.rint(h * (np.float32(127) / m)) if m else h
            a += (m / np.float32(127)) * scale * (values.astype(int) @ q.astype(int))
        i, f, g, o = np.split(a, 4)
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        c = f * c + i * np.tanh(g)
        full = (o * np.tanh(c)).astype(np.float32)
        if P:
            full = rounded_to_bfloat16(lstm.weight_hr_l0).astype(float) @ rounded_to_bfloat16(full)
        h = full.astype(np.float32)
        rows.append(h)
    return np.array(rows)


@pytest.mark.parametrize(("backend", "precision"), [(b, p) for b, p in DECLARED if p != "float32"])
@pytest.mark.parametrize("proj_size", [0, 5])
def test_values_by_hand(backend: str, precision: str, proj_size: int) -> None:
    cylstm.manual_seed(1)
    lstm = cylstm.LSTM(7, 12, proj_size=proj_size, backend=backend, precision=precision)
    x = cylstm.randn(4, 7)
    expected = by_hand(lstm, x)
    np.testing.assert_allclose(lstm(x)[0], expected, rtol=0, atol=3e-6)
    lstm.precision = "float32"
    assert np.abs(lstm(x)[0] - expected).max() > 3e-5


@pytest.mark.parametrize(("backend", "precision"), [(b, p) for b, p in DECLARED if p != "float32"])
def test_cell_and_stream_are_the_layer(backend: str, precision: str) -> None:
    lstm = cylstm.LSTM(7, 12, backend=backend, precision=precision)
    cell = cylstm.LSTMCell(7, 12, backend=backend, precision=precision)
    cell.load_state_dict({name.removesuffix("_l0"): array for name, array in lstm.named_parameters()})
    x, state, stream = cylstm.randn(5, 3, 7), None, lstm.stream(batch_size=3)
    h_0, c_0 = np.zeros((1, 3, 12), np.float32), np.zeros((1, 3, 12), np.float32)
    for x_t in x:
        output, (h_0, c_0) = lstm(x_t[None], (h_0, c_0))
        state = cell(x_t, state)
        np.testing.assert_allclose(state[0], output[0], rtol=0, atol=1e-6)
        np.testing.assert_allclose(stream(x_t), output[0], rtol=0, atol=1e-6)


def test_linear_by_hand() -> None:
    linear, x = cylstm.Linear(9, 4), cylstm.randn(5, 2, 9)
    wide = rounded_to_bfloat16(x).astype(float)
    linear.precision = "bfloat16"
    expected = wide @ rounded_to_bfloat16(linear.weight).T.astype(float) + linear.bias
    np.testing.assert_allclose(linear(x), expected, rtol=0, atol=1e-6)
    linear.precision = "int8"
    values, scale = quantized(linear.weight)
    expected = wide @ values.T.astype(float) * scale + linear.bias
    np.testing.assert_allclose(linear(x), expected, rtol=0, atol=1e-6)


def test_weights_that_are_bfloat16_already_lose_nothing() -> None:
    lstm = cylstm.LSTM(3, 4)
    bits = {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in lstm.named_parameters()}
    lstm.load_state_dict({name: from_bfloat16_bits(array) for name, array in bits.items()})
    linear = cylstm.Linear(4, 4, bias=False, precision="bfloat16")
    linear.load_state_dict({"weight": lstm.weight_hh_l0[:4]})
    np.testing.assert_array_equal(linear(np.eye(4, dtype=np.float32)), lstm.weight_hh_l0[:4].T)
