"""Frozen modules: a fraction of the bytes, the same bits, and nothing that changes them."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import cylstm
from cylstm.arrays.quantization import BFLOAT16, from_bfloat16_bits, quantized, rounded_to_bfloat16
from cylstm.files.safetensors import write

OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_layers": 2, "bidirectional": True},
    {"proj_size": 5},
    {"bias": False, "batch_first": True},
]
REDUCED = ("bfloat16", "int8")


def results(module: Any, x: np.ndarray) -> list[np.ndarray]:
    output, state = module(x)
    return [output, *state] if isinstance(state, tuple) else [output, state]


def assert_same(one: list[np.ndarray], other: list[np.ndarray]) -> None:
    for got, want in zip(one, other, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.fixture(params=REDUCED)
def precision(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def lstm(precision: str) -> cylstm.LSTM:
    return cylstm.LSTM(3, 8, precision=precision).freeze()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_results_stay_the_same(precision: str, options: dict[str, Any]) -> None:
    module, x = cylstm.LSTM(3, 8, precision=precision, **options), cylstm.randn(5, 2, 3)
    before = results(module, x)
    assert module.freeze() is module
    assert module.frozen
    assert_same(results(module, x), before)
    assert module.freeze() is module


def test_cells_freeze_too(precision: str) -> None:
    cell, x = cylstm.LSTMCell(3, 8, precision=precision), cylstm.randn(2, 3)
    before = results(cell, x)
    assert_same(results(cell.freeze(), x), before)


def test_it_takes_a_fraction_of_the_bytes() -> None:
    H = 128
    sizes = {}
    for precision in ("float32", *REDUCED):
        module = cylstm.LSTM(H, H, bias=False, precision=precision)
        sizes[precision] = sum(a.nbytes for a in (module if precision == "float32" else module.freeze()).parameters())
    assert sizes["bfloat16"] == sizes["float32"] / 2
    assert sizes["int8"] == sizes["float32"] * 3 / 8 + 4 * (4 * H)  # and the scales


def test_what_is_kept() -> None:
    module = cylstm.LSTM(3, 8, precision="int8", proj_size=4)
    before = module.state_dict()
    state = module.freeze().state_dict()
    assert list(state) == [
        "weight_ih_l0",
        "weight_hh_l0_int8",
        "weight_hh_l0_scale",
        "bias_ih_l0",
        "bias_hh_l0",
        "weight_hr_l0",
    ]
    for name in ("weight_ih_l0", "weight_hr_l0"):
        assert state[name].dtype == BFLOAT16
        np.testing.assert_array_equal(from_bfloat16_bits(state[name]), rounded_to_bfloat16(before[name]))
    values, scale = quantized(before["weight_hh_l0"])
    np.testing.assert_array_equal(state["weight_hh_l0_int8"], values)
    np.testing.assert_array_equal(state["weight_hh_l0_scale"], scale)
    assert all(not array.flags.writeable for array in state.values())
    assert repr(module) == "LSTM(3, 8, proj_size=4, precision='int8', frozen)"
    assert module.dtype == np.float32
    with pytest.raises(AttributeError, match="frozen: it has weight_hh_l0_int8 and weight_hh_l0_scale"):
        _ = module.weight_hh_l0


def test_float32_has_nothing_to_freeze() -> None:
    module = cylstm.LSTM(3, 8)
    with pytest.raises(ValueError, match="precision must be 'bfloat16' or 'int8' for a frozen module, got 'float32'"):
        module.freeze()
    assert not module.frozen
    module.precision = "int8"
    with module.unlocked(), pytest.raises(RuntimeError, match="unlocked already"):
        module.freeze()
    assert not module.frozen
    assert module.freeze().precision == "int8"


def test_whatever_would_change_it_is_refused(lstm: cylstm.LSTM, precision: str) -> None:
    x, before = cylstm.randn(5, 2, 3), results(lstm, cylstm.randn(5, 2, 3) * 0 + 1)
    other = cylstm.LSTM(3, 8)
    state, held = lstm.state_dict(), list(lstm.state_dict().values())
    frozen = "the module is frozen: it has rounded parameters alone"

    def unlocked() -> None:
        with lstm.unlocked():
            pass

    def assigned(name: str, value: Any) -> Any:
        return lambda: setattr(lstm, name, value)

    refused: list[tuple[Any, str]] = [
        (unlocked, frozen),
        (lstm.reset_parameters, frozen),
        (assigned("bias_ih_l0", other.bias_ih_l0), frozen),
        (assigned("weight_ih_l0", other.weight_ih_l0), frozen),
        (assigned("weight_hh_l0", other.weight_hh_l0), frozen),
        (lstm.to_torch, frozen),
        (lambda: lstm.load_state_dict(other.state_dict()), "in a frozen module, got float32"),
        (lambda: lstm.vjp(x), "for inference only: train before you freeze"),
        (assigned("precision", "float32"), f"precision must be '{precision}', for the module is frozen, got 'float32'"),
        (assigned("precision", None), "for the module is frozen, got None"),
    ]
    for use, message in refused:
        with pytest.raises(RuntimeError, match=message):
            use()
    with pytest.raises(ValueError, match="for parameters of dtype float64"):
        lstm.double()
    assert lstm.to(dtype="float32") is lstm
    lstm.precision = precision
    assert all(array is old for array, old in zip(lstm.state_dict().values(), held, strict=True))
    assert state.keys() == lstm.state_dict().keys()
    assert_same(results(lstm, cylstm.randn(5, 2, 3) * 0 + 1), before)


def test_a_state_dict_of_one_frozen_alike_is_loaded(lstm: cylstm.LSTM, precision: str) -> None:
    x, other = cylstm.randn(5, 2, 3), cylstm.LSTM(3, 8, precision=precision).freeze()
    stream = other.stream(batch_size=2)
    assert str(other.load_state_dict(lstm.state_dict())) == "<All keys matched successfully>"
    assert_same(results(other, x), results(lstm, x))
    np.testing.assert_array_equal(stream(x[0]), results(lstm, x[:1])[0][0])
    plain = cylstm.LSTM(3, 8)
    before = plain.state_dict()
    with pytest.raises(RuntimeError, match="nothing was loaded"):
        plain.load_state_dict({**lstm.state_dict(), "weight_ih_l0": np.zeros((1, 1))})
    if precision == "int8":
        with pytest.raises(RuntimeError, match=r"Missing key.*weight_hh_l0'.*\n.*Unexpected key.*weight_hh_l0_int8"):
            plain.load_state_dict(lstm.state_dict())
    assert all(plain.state_dict()[name] is array for name, array in before.items())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("make", [cylstm.LSTM, cylstm.LSTMCell])
def test_bfloat16_is_loaded_by_its_values(make: Any, dtype: str) -> None:
    frozen = make(3, 8, precision="bfloat16")
    kept = frozen.state_dict()
    frozen.freeze()
    plain = make(3, 8, dtype=dtype)
    plain.load_state_dict(frozen.state_dict())
    for name, array in plain.named_parameters():
        assert array.dtype == dtype
        np.testing.assert_array_equal(array, rounded_to_bfloat16(kept[name]) if array.ndim == 2 else kept[name])


def test_what_int8_shares_with_float32_is_loaded_by_its_values() -> None:
    plain, frozen = cylstm.LSTM(3, 8), cylstm.LSTM(3, 8, precision="int8").freeze()
    recurrent = plain.weight_hh_l0
    plain.load_state_dict(frozen.state_dict(), strict=False)
    np.testing.assert_array_equal(plain.weight_ih_l0, from_bfloat16_bits(frozen.weight_ih_l0))
    assert plain.weight_hh_l0 is recurrent
    linear = cylstm.Linear(3, 32)
    linear.load_state_dict({"weight": frozen.weight_ih_l0, "bias": frozen.bias_ih_l0})
    np.testing.assert_array_equal(linear.weight, plain.weight_ih_l0)


def test_another_backend_may_compute_it(lstm: cylstm.LSTM, precision: str) -> None:
    x, stream = cylstm.randn(5, 2, 3), lstm.stream(2)
    expected, version = results(lstm, x), lstm._store.version
    lstm.backend = "numpy"
    assert lstm.backend == "numpy"
    assert lstm.frozen
    assert lstm._store.version > version
    for got, want in zip(results(lstm, x), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-2)
    np.testing.assert_array_equal(stream(x[0]), results(lstm, x[:1])[0][0])
    with pytest.raises(cylstm.BackendError, match="no_such_backend"):
        lstm.backend = "no_such_backend"
    assert lstm.backend == "numpy"
    lstm.backend = None
    assert_same(results(lstm, x), expected)


def test_all_weights_says_what_is_missing() -> None:
    frozen = cylstm.LSTM(3, 8, precision="int8").freeze()
    with pytest.raises(AttributeError, match="the module is frozen: it has weight_hh_l0_int8 and weight_hh_l0_scale"):
        frozen.all_weights  # noqa: B018


def test_a_stream_goes_on(precision: str) -> None:
    module, x = cylstm.LSTM(3, 8, precision=precision), cylstm.randn(6, 3)
    expected = module(x)[0]
    stream = module.stream()
    for t, x_t in enumerate(x):
        if t == 3:
            module.freeze()
        np.testing.assert_allclose(stream(x_t), expected[t], rtol=0, atol=1e-6)


def test_copies_and_pickles(lstm: cylstm.LSTM, precision: str) -> None:
    x = cylstm.randn(5, 2, 3)
    for other in (copy.copy(lstm), copy.deepcopy(lstm), pickle.loads(pickle.dumps(lstm))):
        assert (other.frozen, other.precision) == (True, precision)
        assert_same(results(other, x), results(lstm, x))
        with pytest.raises(RuntimeError, match="frozen"):
            other.reset_parameters()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_files(precision: str, options: dict[str, Any], tmp_path: Path) -> None:
    module, x = cylstm.LSTM(3, 8, precision=precision, **options), cylstm.randn(5, 2, 3)
    cylstm.save(module, tmp_path / "float32.safetensors")
    cylstm.save(module.freeze(), tmp_path / "frozen.safetensors")
    loaded = cylstm.load(tmp_path / "frozen.safetensors")
    assert repr(loaded) == repr(module)
    assert_same(results(loaded, x), results(module, x))
    assert (tmp_path / "frozen.safetensors").stat().st_size < (tmp_path / "float32.safetensors").stat().st_size
    assert cylstm.load(tmp_path / "frozen.safetensors", precision=precision).frozen
    with pytest.raises(ValueError, match=f"must have precision '{precision}', in which it is frozen, got 'float32'"):
        cylstm.load(tmp_path / "frozen.safetensors", precision="float32")
    maps = [a for name, a in loaded.named_parameters() if name.startswith("weight") and not name.endswith("_scale")]
    assert not any(array.flags.owndata for array in maps)  # still the pages of the file


def test_files_among_others_and_cells(precision: str, tmp_path: Path) -> None:
    lstm = cylstm.LSTM(3, 8, precision=precision).freeze()
    cell = cylstm.LSTMCell(3, 8, precision=precision).freeze()
    cylstm.save({"rnn": lstm, "step": cell, "head": cylstm.Linear(8, 2)}, tmp_path / "all.safetensors")
    x = cylstm.randn(2, 3)
    assert_same(results(cylstm.load(tmp_path / "all.safetensors", "rnn"), x), results(lstm, x))
    assert_same(results(cylstm.load(tmp_path / "all.safetensors", "step"), x), results(cell, x))
    assert repr(cylstm.load(tmp_path / "all.safetensors", "head")).startswith("Linear")


def test_others_read_the_files(precision: str, tmp_path: Path) -> None:
    path = tmp_path / "frozen.safetensors"
    module = cylstm.LSTM(3, 8, precision=precision).freeze()
    cylstm.save(module, path)
    theirs = safetensors.torch.load_file(path)
    assert theirs["weight_ih_l0"].dtype == torch.bfloat16
    np.testing.assert_array_equal(theirs["weight_ih_l0"].float().numpy(), from_bfloat16_bits(module.weight_ih_l0))
    if precision == "int8":
        np.testing.assert_array_equal(theirs["weight_hh_l0_int8"].numpy(), module.weight_hh_l0_int8)
    with pytest.raises(ValueError, match=r"got bfloat16: save as \.safetensors instead"):
        cylstm.save(module, tmp_path / "frozen.npz")
    assert not (tmp_path / "frozen.npz").exists()


WRONG = {
    "no scale": ({"weight_hh_l0_scale": None}, {}, "must have weight_hh_l0_int8 and its scale alone"),
    "no values": ({"weight_hh_l0_int8": None}, {}, "must have weight_hh_l0_int8 with a row for each"),
    "float32 beside": ({"weight_hh_l0": np.zeros((32, 8), "f4")}, {}, "weight_hh_l0_int8 and its scale alone"),
    "scales of another number": (
        {"weight_hh_l0_scale": np.ones(31, "f4")},
        {},
        r"for each of weight_hh_l0_scale \(31,\)",
    ),
    "scales of float64": ({"weight_hh_l0_scale": np.ones(32)}, {}, "dtype float32, for it is frozen, got float64"),
    "values of uint8": ({"weight_hh_l0_int8": np.ones((32, 8), "u1")}, {}, "dtype int8, for it is frozen, got uint8"),
    "weights of float32": (
        {"weight_ih_l0": np.full((32, 3), 0.1, "f4")},
        {},
        "dtype bfloat16, for it is frozen, got float32",
    ),
    "biases of float64": ({"bias_ih_l0": np.ones(32)}, {}, "dtype float32, for it is frozen, got float64"),
    "biases in int8": (
        {"bias_ih_l0": None, "bias_ih_l0_int8": np.ones(32, "i1"), "bias_ih_l0_scale": np.ones(32, "f4")},
        {},
        "must have weight_ih and weight_hh alone in int8",
    ),
    "another shape": ({"weight_hh_l0_int8": np.ones((32, 7), "i1")}, {}, "must have"),
    "three dimensions": ({"weight_hh_l0_int8": np.ones((32, 8, 1), "i1")}, {}, "two dimensions"),
    "not frozen, it says": ({}, {"frozen": "false"}, "must be frozen where it has arrays of int8"),
    "frozen in a way": ({}, {"frozen": "perhaps"}, "true or false, got 'perhaps'"),
    "another precision": (
        {},
        {"precision": "bfloat16"},
        "must have precision 'int8', in which it is frozen, got 'bfloat16'",
    ),
}


@pytest.mark.parametrize(("changes", "metadata", "message"), WRONG.values(), ids=WRONG)
def test_wrong_files(changes: dict[str, Any], metadata: dict[str, str], message: str, tmp_path: Path) -> None:
    state = cylstm.LSTM(3, 8, precision="int8").freeze().state_dict()
    arrays = {name: array for name, array in {**state, **changes}.items() if array is not None}
    write(tmp_path / "wrong.safetensors", arrays, {"frozen": "true", "precision": "int8", **metadata})
    with pytest.raises(ValueError, match=message):
        cylstm.load(tmp_path / "wrong.safetensors")


def test_a_state_dict_that_pytorch_saved(precision: str, tmp_path: Path) -> None:
    module, x = cylstm.LSTM(3, 8, precision=precision).freeze(), cylstm.randn(5, 2, 3)
    cylstm.save(module, tmp_path / "frozen.safetensors")
    torch.save(safetensors.torch.load_file(tmp_path / "frozen.safetensors"), tmp_path / "frozen.pt")
    loaded = cylstm.load(tmp_path / "frozen.pt", precision=precision)
    assert loaded.frozen == (precision == "int8")  # a file of bfloat16 and no word more is one of float32
    assert_same(results(loaded, x), results(module, x))


def test_a_linear_is_never_frozen(tmp_path: Path) -> None:
    write(tmp_path / "one.safetensors", cylstm.Linear(3, 4).state_dict(), {"frozen": "true"})
    with pytest.raises(ValueError, match="must not be frozen, which LSTM and LSTMCell alone can be"):
        cylstm.load(tmp_path / "one.safetensors")


def test_int8_by_names_alone(tmp_path: Path) -> None:
    module, x = cylstm.LSTM(3, 8, precision="int8").freeze(), cylstm.randn(5, 2, 3)
    state = {n: a for n, a in module.named_parameters() if n != "weight_ih_l0"}
    write(tmp_path / "one.safetensors", {**state, "weight_ih_l0": module.weight_ih_l0}, {})
    loaded = cylstm.load(tmp_path / "one.safetensors")
    assert (loaded.frozen, loaded.precision) == (True, "int8")
    assert_same(results(loaded, x), results(module, x))


def test_an_optimiser_refuses(precision: str) -> None:
    module = cylstm.LSTM(3, 8, precision=precision)
    optimiser = cylstm.optim.SGD(module, lr=0.1)
    grads = {name: np.ones_like(array) for name, array in module.named_parameters()}
    module.freeze()
    with pytest.raises(RuntimeError, match="the module is frozen"):
        optimiser.step(grads)


MORE: list[dict[str, Any]] = [
    {"peephole": True},
    {"clip": 0.3, "input_forget": True},
    {"activations": ("hard_sigmoid", "relu", "tanh"), "bidirectional": True},
    {"proj_size": 5, "proj_clip": 0.1, "cell_clip": 0.2},
]


@pytest.mark.parametrize("options", MORE, ids=str)
def test_options_beyond_pytorchs(precision: str, options: dict[str, Any], tmp_path: Path) -> None:
    module, x = cylstm.LSTM(3, 8, **options), cylstm.randn(5, 2, 3)
    exact = results(module, x)
    module.precision = precision
    before = results(module, x)
    assert 1e-6 < max(np.abs(got - want).max() for got, want in zip(before, exact, strict=True)) < 2e-2
    assert_same(results(module.freeze(), x), before)
    cylstm.save(module, tmp_path / "frozen.safetensors")
    loaded = cylstm.load(tmp_path / "frozen.safetensors")
    assert repr(loaded) == repr(module)
    assert_same(results(loaded, x), before)
    with pytest.raises(ValueError, match=r"module must (be the LSTM of PyTorch|have no|be in int8)"):
        cylstm.save(module, tmp_path / "frozen.onnx")
