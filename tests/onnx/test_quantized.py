"""Quantised models of ONNX Runtime: read with their own integers and scales, and written for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from onnx_models import node_model, ort_run, tensor

import cylstm
import cylstm.onnx
from cylstm.arrays.quantization import dequantized
from cylstm.nn.frozen import as_parameters


def quantize(lstm: cylstm.LSTM, folder: Path, *, unsigned: bool = False, per_channel: bool = False) -> Path:
    """The model as ONNX Runtime's own tool makes it."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    cylstm.onnx.save(lstm, folder / "float32.onnx")
    path = folder / "quantized.onnx"
    weight_type = QuantType.QUInt8 if unsigned else QuantType.QInt8
    quantize_dynamic(folder / "float32.onnx", path, weight_type=weight_type, per_channel=per_channel)
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert kinds.count("DynamicQuantizeLSTM") == lstm.num_layers
    assert "LSTM" not in kinds
    return path


def run_path(path: Path, **inputs: np.ndarray) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(path).run(None, inputs)


def exact(lstm: cylstm.LSTM) -> cylstm.LSTM:
    """An LSTM in float64 with the weights that a frozen one stands for."""
    options = {"num_layers": lstm.num_layers, "bidirectional": lstm.bidirectional, "batch_first": lstm.batch_first}
    wide = cylstm.LSTM(lstm.input_size, lstm.hidden_size, bias=lstm.bias, dtype="float64", backend="numpy", **options)
    whole = as_parameters(lstm.state_dict())
    wide.load_state_dict({n: a if isinstance(a, np.ndarray) else dequantized(a) for n, a in whole.items()})
    return wide


OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_layers": 2, "bidirectional": True},
    {"bias": False, "num_layers": 2},
    {"batch_first": True},
]


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_models_of_quantize_dynamic(options: dict[str, Any], per_channel: bool, tmp_path: Path) -> None:
    cylstm.manual_seed(3)
    lstm, x = cylstm.LSTM(20, 32, **options), cylstm.randn(30, 4, 20)
    path = quantize(lstm, tmp_path, per_channel=per_channel)
    loaded = cylstm.load(path)
    assert isinstance(loaded, cylstm.LSTM)
    assert (loaded.frozen, loaded.precision) == (True, "int8")
    assert (loaded.num_layers, loaded.bidirectional) == (lstm.num_layers, lstm.bidirectional)
    got = loaded(x)[0]
    theirs = run_path(path, input=x)[0]
    their_weights = exact(loaded)(x.astype(float))[0]  # what the integers and scales mean, exactly
    assert np.abs(theirs - their_weights).max() < 1e-2
    assert np.abs(got - their_weights).max() < 3e-3
    assert np.abs(got - theirs).max() < 1e-2
    module = cylstm.onnx.load(path, next(iter(cylstm.onnx.find(path)))).module
    assert module.frozen


def test_integers_and_scales_are_the_files_own(tmp_path: Path) -> None:
    lstm = cylstm.LSTM(5, 8)
    path = quantize(lstm, tmp_path, per_channel=True)
    arrays = {one.name: numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}
    [R] = [array for name, array in arrays.items() if name.endswith("R_l0_quantized")]
    [scale] = [array for name, array in arrays.items() if name.endswith("R_l0_scale")]
    i, o, f, g = np.split(R[0].T, 4)
    loaded = cylstm.load(path)
    np.testing.assert_array_equal(loaded.weight_hh_l0_int8, np.concatenate([i, f, g, o]))
    i, o, f, g = np.split(scale[0], 4)
    np.testing.assert_array_equal(loaded.weight_hh_l0_scale, np.concatenate([i, f, g, o]))
    assert loaded.weight_ih_l0_int8.shape == (32, 5)


def quantized_node(zero: int, low: int, high: int, *, per_row: bool = True, D: int = 1, **attributes: Any) -> Any:
    """A model of one node, whose integers lie between these; unsigned where they reach beyond int8."""
    rng, I, H = np.random.default_rng(5), 6, 8
    kind = np.uint8 if high > 127 else np.int8
    model = node_model(D, I, H, **attributes)
    [node] = model.graph.node
    node.op_type, node.domain = "DynamicQuantizeLSTM", "com.microsoft"
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    shape = (D, 4 * H) if per_row else (D,)
    arrays = {}
    for name, k in (("W", I), ("R", H)):
        arrays[name] = rng.integers(low, high, (D, k, 4 * H), endpoint=True).astype(kind)
        arrays[f"{name}_scale"] = rng.uniform(0.001, 0.003, shape).astype(np.float32)
        arrays[f"{name}_zero_point"] = np.full(shape, zero, kind)
    kept = [one for one in model.graph.initializer if one.name not in arrays]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, *(tensor(name, array) for name, array in arrays.items())])
    del node.input[:]
    quantizations = [f"{name}_{what}" for name in "WR" for what in ("scale", "zero_point")]
    node.input.extend(["X", "W", "R", "B", "", "", "", "", *quantizations])
    return model


@pytest.mark.parametrize(
    ("zero", "low", "high"),
    [(0, -127, 127), (0, -128, 127), (128, 0, 255), (128, 1, 255), (110, 0, 255), (140, 20, 250), (5, -100, 127)],
)
@pytest.mark.parametrize("per_row", [True, False])
def test_zero_points(zero: int, low: int, high: int, per_row: bool) -> None:
    model = quantized_node(zero, low, high, per_row=per_row, D=2, direction="bidirectional")
    x = np.random.default_rng(6).standard_normal((7, 3, 6)).astype(np.float32)
    ours = cylstm.onnx.load(model)(x)
    arrays = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    wide = node_model(2, 6, 8, direction="bidirectional")
    for one in wide.graph.initializer:
        if one.name in "WR":
            integers = arrays[one.name].astype(float) - zero
            scale = np.broadcast_to(arrays[f"{one.name}_scale"].reshape(2, 1, -1), integers.shape)
            meant = (integers * scale).transpose(0, 2, 1)
        else:
            meant = arrays[one.name].astype(float)
        one.CopyFrom(tensor(one.name, meant))
    expected = [y.astype(float) for y in cylstm.onnx.load(wide, backend="numpy")(x.astype(float))]
    for got, want in zip(ours, expected, strict=True):
        assert np.abs(got - want).max() < 8e-3
    if zero == 0 or high > 127:  # ONNX Runtime takes no other zero point of int8
        for their, want in zip(ort_run(model, X=x), expected, strict=True):
            assert np.abs(their - want).max() < 2e-2
    own = cylstm.onnx.load(model).module
    integers_fit = zero - 128 <= low and high - zero <= 127
    assert ("weight_ih_l0_int8" in own.state_dict()) == integers_fit


WRONG = {
    "no scale": (lambda n, a: n.input.__setitem__(8, ""), "has no W_scale"),
    "no zero point": (lambda n, a: n.input.__setitem__(11, ""), "has no R_zero_point"),
    "peepholes": (lambda n, a: (a.update(P=np.ones((1, 24), "f4")), n.input.__setitem__(7, "P")), "peepholes"),
    "int16": (lambda n, a: a.update(W=a["W"].astype(np.int16)), "of dtypes int16"),
    "float scale of float64": (lambda n, a: a.update(R_scale=a["R_scale"].astype(float)), "float64"),
    "unsigned zero point": (lambda n, a: a.update(R_zero_point=a["R_zero_point"].astype("u1")), "uint8"),
    "another shape": (lambda n, a: a.update(R=a["R"][:, :-1]), "does not fit together"),
    "scales of another shape": (lambda n, a: a.update(R_scale=a["R_scale"][:, :-1]), "does not fit together"),
    "not transposed": (lambda n, a: a.update(W=a["W"].transpose(0, 2, 1).copy()), "does not fit together"),
    "computed": (lambda n, a: n.input.__setitem__(1, "X"), "that the file alone does not tell"),
    "bias of float64": (lambda n, a: a.update(B=a["B"].astype(float)), "has B of dtype float64"),
    "another domain": (lambda n, a: setattr(n, "domain", "org.example"), "is a DynamicQuantizeLSTM"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_what_is_not_computed(change: Any, message: str, tmp_path: Path) -> None:
    model = quantized_node(0, -127, 127)
    arrays = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    change(model.graph.node[0], arrays)
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensor(name, array) for name, array in arrays.items())
    with pytest.raises(ValueError, match=message):
        cylstm.onnx.load(model)
    (tmp_path / "wrong.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=message):
        cylstm.load(tmp_path / "wrong.onnx")


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("states", [False, True])
def test_export_is_read_by_onnx_runtime(options: dict[str, Any], states: bool, tmp_path: Path) -> None:
    cylstm.manual_seed(4)
    lstm, x = cylstm.LSTM(20, 32, precision="int8", **options), cylstm.randn(12, 4, 20)
    wide = cylstm.LSTM(20, 32, dtype="float64", backend="numpy", **options)
    wide.load_state_dict(lstm.state_dict())
    lstm.freeze()
    LD, B = lstm.num_layers * (1 + lstm.bidirectional), x.shape[0 if lstm.batch_first else 1]
    hx = (cylstm.randn(LD, B, 32) / 2, cylstm.randn(LD, B, 32) / 2) if states else None
    path = tmp_path / "exported.onnx"
    cylstm.onnx.save(lstm, path, states=states)
    given = {"h_0": hx[0], "c_0": hx[1]} if hx is not None else {}
    theirs = run_path(path, input=x, **given)
    output, state = wide(x.astype(float), None if hx is None else tuple(map(np.float64, hx)))
    for got, want in zip(theirs, (output, *state), strict=True):
        assert np.abs(got - want).max() < 0.03
    again = cylstm.load(path)
    assert again.frozen
    assert np.abs(again(x, hx)[0] - output).max() < 0.01
    for name in ("weight_hh_l0_int8", "weight_hh_l0_scale", "bias_ih_l0"):
        if name in lstm.state_dict():
            np.testing.assert_array_equal(getattr(again, name), getattr(lstm, name))
    cylstm.onnx.save(again, tmp_path / "again.onnx", states=states)
    once_more = cylstm.load(tmp_path / "again.onnx")
    for name, array in again.named_parameters():
        np.testing.assert_array_equal(getattr(once_more, name), array)


def test_others_through_safetensors(tmp_path: Path) -> None:
    lstm, x = cylstm.LSTM(5, 8), cylstm.randn(9, 2, 5)
    loaded = cylstm.load(quantize(lstm, tmp_path))
    cylstm.save(loaded, tmp_path / "frozen.safetensors")
    np.testing.assert_array_equal(cylstm.load(tmp_path / "frozen.safetensors")(x)[0], loaded(x)[0])


def test_what_runs_as_onnx_does_shows_it(tmp_path: Path) -> None:
    lstm = cylstm.LSTM(3, 5, precision="int8").freeze()
    cylstm.onnx.save(lstm, tmp_path / "lstm.onnx")
    assert repr(cylstm.onnx.load(tmp_path / "lstm.onnx")) == "LSTM(3, 5, precision='int8', frozen, layout=0)"


def test_frozen_bfloat16_has_no_node() -> None:
    with pytest.raises(ValueError, match="a frozen module must be in int8 for ONNX, got 'bfloat16'"):
        cylstm.onnx.export(cylstm.LSTM(3, 4, precision="bfloat16").freeze())
    kinds = [node.op_type for node in cylstm.onnx.export(cylstm.LSTM(3, 4, precision="int8")).graph.node]
    assert "LSTM" in kinds  # a file holds what the module holds: float32 until it is frozen


def test_a_quantized_layer_on_one_of_float32_is_another_lstm(tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    cylstm.onnx.save(cylstm.LSTM(5, 8, num_layers=2), tmp_path / "float32.onnx")
    nodes = [node.name for node in onnx.load(tmp_path / "float32.onnx").graph.node if node.op_type == "LSTM"]
    quantize_dynamic(tmp_path / "float32.onnx", tmp_path / "half.onnx", nodes_to_quantize=nodes[1:])
    found = cylstm.onnx.find(tmp_path / "half.onnx")
    assert [one.quantized for one in found.values()] == [False, True]
    assert [cylstm.load(tmp_path / "half.onnx", name).frozen for name in found] == [False, True]
