"""`LSTM.from_arrays`: the layouts of other systems, with these systems or PyTorch as the judge."""

from __future__ import annotations

import json
import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np
import pytest
import torch

import cylstm

#: Rows of PyTorch's order in each other order.
ORDERS = ["ifgo", "ifco", "iofc", "ijfo", "ifog", "ogfi"]


def in_order(array: np.ndarray, order: str) -> np.ndarray:
    blocks = dict(zip("ifgo", np.split(array, 4), strict=True))
    return np.concatenate([blocks[letter if letter in "ifo" else "g"] for letter in order])


def assert_same(lstm: cylstm.LSTM, module: torch.nn.LSTM) -> None:
    assert repr(lstm) == repr(module)
    for name, tensor in module.state_dict().items():
        np.testing.assert_array_equal(getattr(lstm, name), tensor.numpy())


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"num_layers": 3, "batch_first": True},
        {"num_layers": 2, "bidirectional": True, "dropout": 0.25},
        {"num_layers": 2, "proj_size": 2, "bidirectional": True},
    ],
    ids=str,
)
def test_orders_and_axes(order: str, turned: bool, options: dict) -> None:
    module = torch.nn.LSTM(3, 5, **options)
    columns: dict[str, list] = {}
    for names in module._all_weights:
        for name in names:
            array = module.state_dict()[name].numpy()
            field = name.partition("_l")[0]
            array = array if field == "weight_hr" else in_order(array, order)
            columns.setdefault(field, []).append(array.T if turned else array)
    given = {key: options[key] for key in ("batch_first", "dropout", "bidirectional") if key in options}
    assert_same(cylstm.LSTM.from_arrays(**columns, gate_order=order, **given), module)


def test_biases() -> None:
    module = torch.nn.LSTM(3, 5)
    w_ih, w_hh, b_ih, b_hh = (tensor.numpy() for tensor in module.state_dict().values())
    for both in (np.concatenate([b_ih, b_hh]), np.stack([b_ih, b_hh])):
        assert_same(cylstm.LSTM.from_arrays(w_ih, w_hh, both), module)
    for one in (b_ih, b_ih[None], b_ih[:, None]):
        lstm = cylstm.LSTM.from_arrays(w_ih, w_hh, one)
        np.testing.assert_array_equal(lstm.bias_ih_l0, b_ih)
        assert not lstm.bias_hh_l0.any()
        assert_same(cylstm.LSTM.from_arrays(w_ih, w_hh, one, b_hh), module)
    lstm = cylstm.LSTM.from_arrays(w_ih, w_hh, forget_bias=1.5)
    np.testing.assert_array_equal(lstm.bias_ih_l0, np.repeat([0, 1.5, 0, 0], 5).astype("f4"))


@pytest.mark.parametrize("square", [True, False])
def test_where_a_shape_does_not_tell_the_axis_the_other_weight_does(square: bool) -> None:
    module = torch.nn.LSTM(20 if square else 19, 5)
    w_ih, w_hh, b_ih, b_hh = (tensor.numpy() for tensor in module.state_dict().values())
    assert_same(cylstm.LSTM.from_arrays(w_ih, w_hh, b_ih, b_hh), module)
    assert_same(cylstm.LSTM.from_arrays(w_ih.T, w_hh.T, b_ih, b_hh), module)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")
def test_keras() -> None:
    import keras

    layer = keras.layers.LSTM(5, return_sequences=True, bias_initializer="random_normal")
    x = np.random.default_rng(0).standard_normal((2, 6, 3)).astype("f4")
    expected = layer(x).detach().numpy()
    lstm = cylstm.LSTM.from_arrays(*layer.get_weights(), gate_order="ifco", batch_first=True)
    np.testing.assert_allclose(lstm(x)[0], expected, atol=1e-6, rtol=0)


def test_onnx() -> None:
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    rng = np.random.default_rng(0)
    W, R, B = (rng.standard_normal(s).astype("f4") for s in ((1, 20, 3), (1, 20, 5), (1, 40)))
    x = rng.standard_normal((6, 2, 3)).astype("f4")
    node = onnx.helper.make_node("LSTM", ["X", "W", "R", "B"], ["Y"], hidden_size=5)
    infos = [onnx.helper.make_tensor_value_info(n, 1, None) for n in ("X", "W", "R", "B", "Y")]
    graph = onnx.helper.make_graph([node], "g", infos[:4], infos[4:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    [expected] = ReferenceEvaluator(model).run(["Y"], {"X": x, "W": W, "R": R, "B": B})
    lstm = cylstm.LSTM.from_arrays(W[0], R[0], B[0], gate_order="iofc")
    np.testing.assert_allclose(lstm(x)[0], expected[:, 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("order", ORDERS)
def test_peepholes(order: str) -> None:
    module = cylstm.LSTM(3, 5, 2, peephole=True)
    columns: dict[str, list] = {}
    for name, array in module.state_dict().items():
        field = name.partition("_l")[0]
        blocks = dict(
            zip(
                "ifo" if field == "weight_ch" else "ifgo",
                np.split(array, 3 if field == "weight_ch" else 4),
                strict=True,
            )
        )
        letters = [letter if letter in "ifo" else "g" for letter in order]
        columns.setdefault(field, []).append(np.concatenate([blocks[x] for x in letters if x in blocks]))
    lstm = cylstm.LSTM.from_arrays(**columns, gate_order=order, clip=3.0)
    assert repr(lstm) == repr(cylstm.LSTM(3, 5, 2, peephole=True, clip=3.0))
    for name, array in module.state_dict().items():
        np.testing.assert_array_equal(getattr(lstm, name), array)


def test_the_joined_kernel_of_tensorflow() -> None:
    """BasicLSTMCell: [x, h] @ kernel + bias in the order i, j, f, o, and 1 is added to f when it runs."""
    rng = np.random.default_rng(0)
    kernel, bias = rng.standard_normal((3 + 5, 20)).astype("f4"), rng.standard_normal(20).astype("f4")
    x = rng.standard_normal((6, 2, 3)).astype("f4")

    def sigmoid(a: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-a))

    h = c = np.zeros((2, 5), np.float32)
    for x_t in x:
        i, j, f, o = np.split(np.concatenate([x_t, h], axis=1) @ kernel + bias, 4, axis=1)
        c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(j)
        h = sigmoid(o) * np.tanh(c)
    for joined in (kernel, kernel.T):
        lstm = cylstm.LSTM.from_arrays(joined, bias_ih=bias, gate_order="ijfo", forget_bias=1.0)
        np.testing.assert_allclose(lstm(x)[1][0][0], h, atol=1e-5, rtol=0)


def test_numbers_of_json() -> None:
    module = torch.nn.LSTM(3, 5, 2)
    table = json.loads(json.dumps({name: tensor.tolist() for name, tensor in module.state_dict().items()}))
    one = {name[:-3]: value for name, value in table.items() if name.endswith("_l0")}
    lstm = cylstm.LSTM.from_arrays(**one)
    assert lstm.dtype == "float32"
    np.testing.assert_array_equal(lstm.weight_hh_l0, module.weight_hh_l0.detach())


@pytest.mark.parametrize(
    ("types", "dtype"),
    [(("f8", "f8"), "float64"), (("f4", "f8"), "float64"), (("f2", "f2"), "float16"), (("i8", "i8"), "float32")],
)
def test_dtypes(types: tuple[str, str], dtype: str) -> None:
    w_ih, w_hh = np.ones((20, 3), types[0]), np.ones((20, 5), types[1])
    assert cylstm.LSTM.from_arrays(w_ih, w_hh).dtype == dtype
    assert cylstm.LSTM.from_arrays(w_ih, w_hh, dtype="float32").dtype == "float32"


W_IH, W_HH, B = np.ones((20, 3), "f4"), np.ones((20, 5), "f4"), np.ones(20, "f4")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"gate_order": "ifgg"}, ValueError, "gate_order must have i, f, o and one of g, c, j, got 'ifgg'"),
        ({"gate_order": None}, TypeError, "gate_order must be a str such as 'ifgo', got None"),
        ({"forget_bias": "1"}, TypeError, "forget_bias must be a number, got '1'"),
        ({"input_size": 3}, TypeError, "input_size must be left out, got 3: the shapes tell it"),
        ({"num_layers": 2}, TypeError, "num_layers must be left out"),
        ({"layers": 2}, TypeError, "layers"),
        ({"peephole": True}, TypeError, "peephole must be left out, got True"),
        ({"weight_ch": np.ones(20, "f4")}, ValueError, r"weight_ch must have shape \(15,\), got \(20,\)"),
        ({"weight_hh": W_HH[:, :4]}, ValueError, r"weight_hh must have shape \(4H, H\) or \(H, 4H\), got \(20, 4\)"),
        ({"weight_hh": W_HH[0]}, ValueError, r"weight_hh must be 2-D .*, got shape \(5,\)"),
        ({"weight_ih": W_IH[:19]}, ValueError, r"weight_ih must have shape \(20, I\) or \(I, 20\), got \(19, 3\)"),
        ({"weight_ih": W_IH[:, :0]}, ValueError, "sizes of 1 or more"),
        ({"weight_ih": None}, TypeError, "weight_ih must be an array"),
        ({"weight_ih": "W"}, TypeError, "weight_ih must be an array"),
        ({"weight_ih": []}, ValueError, "weight_ih must have one array for each layer"),
        ({"weight_ih": [["a"]]}, TypeError, "weight_ih must be an array or several, got a list of something else"),
        ({"bias_ih": B[:19]}, ValueError, r"bias_ih must have shape \(20,\) or .*, got \(19,\)"),
        ({"bias_ih": np.ones((20, 2), "f4")}, ValueError, r"got \(20, 2\)"),
        ({"bias_ih": np.ones(40, "f4"), "bias_hh": B}, ValueError, r"bias_ih must have shape .*, got \(40,\)"),
        ({"bias_hh": B}, ValueError, "bias_hh must come with bias_ih, got it alone"),
        ({"weight_ih": [W_IH, W_IH]}, ValueError, "weight_hh must have one array for each layer, .* got 1 for 2"),
        ({"bidirectional": True}, ValueError, "one array for each layer and direction, .* got 1 for 1"),
        (
            {"weight_ih": [W_IH] * 2, "weight_hh": [W_HH] * 2},
            ValueError,
            r"weight_ih_l1 \(20, 3\) where \(20, 5\) is due",
        ),
        ({"weight_hr": np.ones((3, 5), "f4")}, ValueError, r"weight_hh must have shape \(4H, P\) .* beside weight_hr"),
        ({"weight_hh": None}, ValueError, "weight_hh must be given, .* no bias do not tell"),
        ({"weight_hh": None, "bias_ih": B}, ValueError, "must have more than 5 columns"),
        (
            {"weight_hh": None, "weight_ih": np.ones((20, 20), "f4"), "bias_ih": B},
            ValueError,
            "weight_hh must be given",
        ),
    ],
)
def test_errors(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        cylstm.LSTM.from_arrays(**{"weight_ih": W_IH, "weight_hh": W_HH, **arguments})
