"""What feeds initial_h, initial_c and sequence_lens: used as ONNX Runtime uses it, or refused by its name."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, parser
from onnx_models import assert_close, node_model, ort_run, random, tensor

import cylstm
import cylstm.onnx

SIZES = [
    "s = Shape(X)",
    "N = Slice(s, one, two)",
    "T = Slice(s, zero, one)",
    "shape = Concat<axis = 0>(one, N, H)",
]
#: From a learned state ``h`` (1, 1, 4) to one per sequence.
WAYS = {
    "Tanh": ["t = Tanh(h)", "g = Sigmoid(t)", "r = Relu(g)", "initial_h = Expand(r, shape)"],
    "Expand": ["initial_h = Expand(h, shape)"],
    "Tile": ["repeats = Concat<axis = 0>(one, N, one)", "initial_h = Tile(h, repeats)"],
    "ConstantOfShape": ["initial_h = ConstantOfShape<value = float[1] {0.5}>(shape)"],
    "Mul": ["zeros = ConstantOfShape<value = float[1] {1.0}>(shape)", "initial_h = Mul(zeros, h)"],
    "Add": ["zeros = ConstantOfShape(shape)", "initial_h = Add(zeros, h)"],
    "Sub": ["zeros = ConstantOfShape(shape)", "initial_h = Sub(zeros, h)"],
    "Where": ["c = Equal(h, h)", "e = Expand(h, shape)", "initial_h = Where(c, e, h)"],
    "of the elements of the shape": ["n = Cast<to = 1>(N)", "e = Expand(h, shape)", "initial_h = Div(e, n)"],
}


def with_nodes(text: list[str], takes: str, transposed: bool = False) -> onnx.ModelProto:
    """A model whose LSTM takes one more input, made by nodes."""
    model = node_model(more={takes: np.zeros((1, 2, 4), np.float32)})
    [zeros] = [one for one in model.graph.initializer if one.name == takes]
    model.graph.initializer.remove(zeros)
    constants = {"zero": [0], "one": [1], "two": [2], "H": [4]}
    model.graph.initializer.extend(tensor(name, np.array(value)) for name, value in constants.items())
    model.graph.initializer.append(tensor("h", random(1, 1, 4)))
    [lstm] = model.graph.node
    del model.graph.node[:]
    if transposed:
        model.graph.node.append(parser.parse_node("X = Transpose<perm = [1, 0, 2]>(x)"))
        model.graph.input[0].name = "x"
        text = [line.replace("Shape(X)", "Shape(x)").replace("one, two)", "zero, one)") for line in text]
    model.graph.node.extend([*map(parser.parse_node, text), lstm])
    return model


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("takes", ["initial_h", "initial_c"])
def test_a_learned_state_is_used_for_any_batch(takes: str, way: str, transposed: bool, tmp_path: Path) -> None:
    sizes = [line for line in SIZES if not (transposed and line.startswith("T "))]
    model = with_nodes([*sizes, *(line.replace("initial_h", takes) for line in WAYS[way])], takes, transposed)
    lstm = cylstm.onnx.load(model)
    for B in (1, 3, 5):
        X = random(4, B, 3)
        wanted = ort_run(model, **({"x": X.swapaxes(0, 1)} if transposed else {"X": X}))
        assert_close(lstm(X), wanted)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=rf"has its own {takes}: use cylstm\.onnx\.load"):
        cylstm.load(tmp_path / "m.onnx")


ZEROS = {
    "ConstantOfShape": ["initial_h = ConstantOfShape(shape)"],
    "Mul": ["e = Expand(h, shape)", "zeros = ConstantOfShape(shape)", "initial_h = Mul(e, zeros)"],
}


@pytest.mark.parametrize("way", ZEROS)
def test_zeros_of_any_batch_are_the_plain_lstm(way: str, tmp_path: Path) -> None:
    model, X = with_nodes([*SIZES, *ZEROS[way]], "initial_h"), random(4, 3, 3)
    onnx.save(model, tmp_path / "m.onnx")
    output, _ = cylstm.load(tmp_path / "m.onnx")(X)
    assert_close([output], [ort_run(model, X=X)[0][:, 0]])


COMPUTED = {
    "ReduceMean": ["m = ReduceMean<axes = [0, 2], keepdims = 1>(X)", "initial_h = Expand(m, shape)"],
    "Exp": ["e = Exp(h)", "initial_h = Expand(e, shape)"],
    "LSTM": ["Y0, h0 = LSTM<hidden_size = 4>(X, W, R)", "initial_h = Identity(h0)"],
    "Slice of X": ["f = Slice(X, zero, one)", "w = Concat<axis = 2>(f, f)", "initial_h = Slice(w, zero, H, two)"],
    "Gather of X": [
        "f = Slice(X, zero, one)",
        "i = Constant<value = int64[4] {0, 1, 2, 0}>()",
        "initial_h = Gather<axis = 2>(f, i)",
    ],
}


@pytest.mark.parametrize("way", COMPUTED)
def test_a_state_computed_from_elements_is_refused_or_given(way: str, tmp_path: Path) -> None:
    model = with_nodes([*SIZES, *COMPUTED[way]], "initial_h")
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=r"has its initial_h computed by .*: use cylstm\.onnx\.load"):
        cylstm.load(tmp_path / "m.onnx", "lstm")
    lstm, X = cylstm.onnx.load(model, "lstm"), random(4, 3, 3)
    with pytest.raises(TypeError, match="initial_h must be an array, got None: give what the model computes"):
        lstm(X)
    model.graph.output.append(helper.make_tensor_value_info("initial_h", TensorProto.FLOAT, None))
    *wanted, state = ort_run(model, X=X)
    assert_close(lstm(X, initial_h=state), wanted)


@pytest.mark.parametrize(
    "way",
    [
        ["t = Cast<to = 6>(T)", "sequence_lens = Expand(t, N)"],
        ["l = ConstantOfShape<value = int64[1] {1}>(N)", "m = Mul(l, T)", "sequence_lens = Cast<to = 6>(m)"],
    ],
)
def test_lengths_that_are_all_of_x_are_none(way: list[str], tmp_path: Path) -> None:
    model, X = with_nodes([*SIZES, *way], "sequence_lens"), random(4, 3, 3)
    onnx.save(model, tmp_path / "m.onnx")
    assert_close([cylstm.load(tmp_path / "m.onnx")(X)[0]], [ort_run(model, X=X)[0][:, 0]])


def test_lengths_of_their_own_are_used(tmp_path: Path) -> None:
    way = ["less = Sub(T, one)", "t = Cast<to = 6>(less)", "sequence_lens = Expand(t, N)"]
    model, X = with_nodes([*SIZES, *way], "sequence_lens"), random(4, 3, 3)
    assert_close(cylstm.onnx.load(model)(X), ort_run(model, X=X))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="has its own sequence_lens"):
        cylstm.load(tmp_path / "m.onnx")


# What PyTorch's exporters write -------------------------------------------------------------------------------------


class Learned(torch.nn.Module):
    """Learned initial states, for each sequence the same."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(3, 4, **options)
        LD = self.lstm.num_layers * (2 if self.lstm.bidirectional else 1)
        self.h, self.c = (torch.nn.Parameter(torch.randn(LD, 1, 4)) for _ in "hc")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B = x.shape[0 if self.lstm.batch_first else 1]
        return self.lstm(x, (self.h.expand(-1, B, -1).contiguous(), self.c.expand(-1, B, -1).contiguous()))[0]


class Plain(torch.nn.Module):
    def __init__(self, **options: object) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(3, 4, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0]


def exported(net: torch.nn.Module, path: Path, exporter: str, batch_first: bool) -> torch.Tensor:
    """Write the model with a free batch size; an input of another one."""
    axis = 0 if batch_first else 1
    x = torch.randn(6, 5, 3)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporters
            if exporter == "dynamo":
                free = ({axis: torch.export.Dim("B")},)
                torch.onnx.export(net, (x,), path, dynamo=True, dynamic_shapes=free, verbose=False)
            else:
                names = {"input_names": ["x"], "dynamic_axes": {"x": {axis: "B"}}}
                torch.onnx.export(net, (x,), path, dynamo=False, opset_version=17, **names)
    finally:
        logging.disable(logging.NOTSET)
    return torch.randn(8, 5, 3) if batch_first else torch.randn(6, 8, 3)


#: The newer exporter takes seconds for each.
LEARNED = [
    ("TorchScript", {}),
    ("TorchScript", {"bidirectional": True}),
    ("TorchScript", {"num_layers": 2, "batch_first": True}),
    ("dynamo", {"num_layers": 2, "batch_first": True}),
    ("dynamo", {"bidirectional": True}),
]


@pytest.mark.parametrize(("exporter", "options"), LEARNED, ids=str)
def test_learned_states_of_torchs_exporters(options: dict, exporter: str, tmp_path: Path) -> None:
    net, path = Learned(**options).eval(), tmp_path / "m.onnx"
    x = exported(net, path, exporter, bool(options.get("batch_first")))
    with pytest.raises(ValueError, match=r"has its own initial_h: use cylstm\.onnx\.load"):
        cylstm.load(path)
    X = x.numpy().swapaxes(0, 1) if options.get("batch_first") else x.numpy()
    Y, _, _ = cylstm.onnx.load(path)(X)
    with torch.no_grad():
        wanted = net(x).numpy()
    wanted = wanted.swapaxes(0, 1) if options.get("batch_first") else wanted
    assert_close([Y.swapaxes(1, 2).reshape(wanted.shape)], [wanted])


@pytest.mark.parametrize(
    ("exporter", "bidirectional", "batch_first"),
    [("TorchScript", False, False), ("TorchScript", True, True), ("dynamo", True, True), ("dynamo", False, False)],
)
def test_stacked_layers_with_a_free_batch_are_one(
    batch_first: bool, bidirectional: bool, exporter: str, tmp_path: Path
) -> None:
    net = Plain(num_layers=3, bidirectional=bidirectional, batch_first=batch_first).eval()
    x = exported(net, tmp_path / "m.onnx", exporter, batch_first)
    lstm = cylstm.load(tmp_path / "m.onnx")
    assert (lstm.num_layers, lstm.bidirectional, lstm.batch_first) == (3, bidirectional, batch_first)
    with torch.no_grad():
        assert_close([lstm(x)[0]], [net(x).numpy()])


def test_a_projection_that_the_exporter_writes_wrongly_is_refused(tmp_path: Path) -> None:
    """ONNX has no projection: the file has a smaller LSTM with a state of another size."""
    net = Plain(proj_size=2).eval()
    exported(net, tmp_path / "m.onnx", "dynamo", False)
    with pytest.raises(ValueError, match=r"has initial_c of shape \(1, \d, 4\), which must be \(1, B, 2\)"):
        cylstm.load(tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="has initial_c of shape"):
        cylstm.onnx.load(tmp_path / "m.onnx")


def test_a_projection_whose_biases_the_exporter_mixes_up_is_named(tmp_path: Path) -> None:
    """With more layers the names of weight_hr are taken for those of biases: what is stored does not fit together."""
    net = Plain(proj_size=1, num_layers=3).eval()
    exported(net, tmp_path / "m.onnx", "dynamo", False)
    with pytest.raises(ValueError, match=r"on the way to [WRB] of an LSTM\. PyTorch's exporter .* proj_size"):
        cylstm.load(tmp_path / "m.onnx")


def test_states_that_are_parts_of_an_input_in_another_order_are_not_joined(tmp_path: Path) -> None:
    lstm = cylstm.LSTM(3, 4, 2)
    cylstm.onnx.save(lstm, tmp_path / "m.onnx", states=True)
    assert cylstm.load(tmp_path / "m.onnx").num_layers == 2
    model = onnx.load(tmp_path / "m.onnx")
    slices = [node for node in model.graph.node if node.op_type == "Slice" and node.input[0] == "h_0"]
    slices[0].output[0], slices[1].output[0] = slices[1].output[0], slices[0].output[0]
    onnx.save(model, tmp_path / "m.onnx")
    assert len(cylstm.onnx.find(tmp_path / "m.onnx")) == 2
