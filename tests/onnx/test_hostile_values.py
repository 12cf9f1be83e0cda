"""Small files that ask for much: time and memory stay in proportion to the file, and no other file is read.

No clock decides: what was once a hang or gigabytes would be one again.
"""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import node_model, tensor

import cylstm
import cylstm.onnx

W = np.ones((1, 16, 4), np.float32)


def node(kind: str, inputs: str, outputs: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, [name.strip("-") for name in inputs.split()], outputs.split(), **attributes)


def lstm(inputs: str = "X W W", Y: str = "Y", name: str = "lstm") -> onnx.NodeProto:
    return node("LSTM", inputs, Y, name=name, hidden_size=4)


def model(
    nodes: list[onnx.NodeProto], functions: tuple[onnx.FunctionProto, ...] = (), **constants: object
) -> onnx.ModelProto:
    """X (T, B, 4), a shape N that is an input, W = R."""
    value = helper.make_tensor_value_info
    given = [value("X", TensorProto.FLOAT, ["T", "B", 4]), value("N", TensorProto.INT64, [2])]
    arrays = {"W": W, "one": [1], "zero": [0], "two": [2], "four": [4], "unit": np.float32(1)} | constants
    initializers = [tensor(name, np.asarray(array)) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "graph", given, [value("Y", TensorProto.FLOAT, None)], initializers)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=functions)


def function(name: str, nodes: list[onnx.NodeProto]) -> onnx.FunctionProto:
    return helper.make_function("own", name, ["X"], ["Y"], nodes, [helper.make_opsetid("own", 1)])


AS_P, AS_H = "X W W - - - - z", "X W W - - z"
CONSTANT = node("ConstantOfShape", "S", "z")
LARGE: dict[str, Callable[[], onnx.ModelProto]] = {
    "P of 2**40": lambda: model([CONSTANT, lstm(AS_P)], S=[1, 2**40]),
    "P of 2**60": lambda: model([CONSTANT, lstm(AS_P)], S=[1, 2**60]),
    "Expand": lambda: model([node("Expand", "unit S", "z"), lstm(AS_H)], S=[1, 2**40, 4]),
    "Tile": lambda: model([node("Tile", "t S", "z"), lstm(AS_H)], t=np.ones((1, 1, 1), np.float32), S=[1, 2**40, 4]),
    "Tile by a large value": lambda: model([CONSTANT, node("Tile", "W z", "y"), lstm("X y W")], S=[2**40]),
    "Range": lambda: model([node("Range", "a b c", "z"), lstm(AS_H)], a=0, b=2**60, c=1),
    "Range of no step": lambda: model([node("Range", "a b c", "z"), lstm(AS_H)], a=0, b=2**60, c=0),
    "Mul": lambda: model([CONSTANT, node("Mul", "z z", "y"), lstm(AS_P.replace("z", "y"))], S=[1, 2**40]),
    "outer sum": lambda: model([CONSTANT, node("ConstantOfShape", "Q", "q"), node("Add", "z q", "y"),
                                node("Add", "y unit", "p"), lstm(AS_P.replace("z", "p"))], S=[1, 2**20], Q=[2**20, 1]),
    "Reshape by a large shape": lambda: model([CONSTANT, node("Reshape", "W z", "y"), lstm("X y W")], S=[2**40]),
    "Slice by large starts": lambda: model([CONSTANT, node("Slice", "W z z", "y"), lstm("X y W")], S=[2**40]),
    "Split in many": lambda: model([node("Split", "W", "y", num_outputs=2**40), lstm("X y W")]),
    "Split by large sizes": lambda: model([CONSTANT, node("Split", "W z", "y"), lstm("X y W")], S=[2**40]),
    "Gather by large indices": lambda: model([CONSTANT, node("Gather", "W z", "y"), lstm("X y W")], S=[2**40]),
    "Cast to texts": lambda: model([CONSTANT, node("Cast", "z", "y", to=8), lstm("X y W")], S=[2**24]),
    "many Casts": lambda: model([node("ConstantOfShape", "S", "c0"), *(node("Cast", f"c{n}", f"c{n + 1}", to=1)
                                for n in range(90)), lstm("X W W - - - - c90")], S=[1, 2**22]),
    "many sums": lambda: model([node("ConstantOfShape", "S", "c0"), *(node("Add", f"c{n} unit", f"c{n + 1}")
                               for n in range(90)), lstm("X W W - - - - c90")], S=[1, 2**22]),
    "many weights": lambda: model([CONSTANT, node("ConstantOfShape", "S", "r"), *(node("LSTM", "X z r", f"Y{n}",
                                  name=f"l{n}") for n in range(90))], S=[1, 4096, 1024]),
    "a function that calls itself": lambda: model([node("F", "X", "Y", domain="own")], (function("F", [
        node("F", "X", f"y{n}", domain="own") for n in range(8000)]),)),
    "functions that call each other": lambda: model([node("F", "X", "Y", domain="own")], (
        function("F", [node("G", "X", f"y{n}", domain="own") for n in range(99)]),
        function("G", [node("F", "X", f"y{n}", domain="own") for n in range(99)]))),
    "a long function, often": lambda: model([node("F", "X", f"Y{n}", domain="own") for n in range(1990)], (
        function("F", [node("G", "X", f"y{n}", domain="own") for n in range(2000)]),)),
}  # fmt: skip


@pytest.mark.parametrize("case", LARGE)
def test_what_would_be_large_is_refused(case: str, tmp_path: Path) -> None:
    onnx.save(LARGE[case](), tmp_path / "m.onnx")
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"m\.onnx"):
            cylstm.load(tmp_path / "m.onnx")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200 << 20


@pytest.mark.parametrize("case", ["a large state", "many sequences", "large declared sizes"])
def test_states_of_any_size_are_not_computed(case: str, tmp_path: Path) -> None:
    """Views without memory have elements all the same, which are not to be compared."""
    nodes = [
        node("Shape", "X", "s"),
        node("Slice", "s one two", "B"),
        node("Concat", "one many B" if case == "many sequences" else "one B many", "shape", axis=0),
        node("Expand", "unit shape", "z"),
        lstm(AS_H),
    ]
    if case == "large declared sizes":
        nodes[2:4] = [node("Cast", "B", "b", to=6), node("Expand", "b B", "z")]
        nodes[-1] = lstm("X W W - z")
    proto = model(nodes, many=[2**40])
    if case == "large declared sizes":
        proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 2**40
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=r"m\.onnx"):
        cylstm.load(tmp_path / "m.onnx")


def stack(count: int, states: str = "") -> onnx.ModelProto:
    """Layers, one on the other."""
    nodes = [
        node("Shape", "X", "s"),
        node("Slice", "s one two", "B"),
        node("Concat", "one B four", "shape", axis=0),
        node("ConstantOfShape", "shape", "z"),
    ]
    below = "X"
    for n in range(count):
        nodes += [lstm(f"{below} W W {states}", f"Y{n}", f"l{n}"), node("Squeeze", f"Y{n} one", f"x{n}")]
        below = f"x{n}"
    return model(nodes)


@pytest.mark.parametrize("states", ["", "- - z z"])
def test_many_layers_are_joined_in_linear_time(states: str, tmp_path: Path) -> None:
    onnx.save(stack(1000, states), tmp_path / "m.onnx")
    assert cylstm.load(tmp_path / "m.onnx").num_layers == 1000


def test_many_nodes_of_one_name() -> None:
    found = cylstm.onnx.find(model([lstm(Y=f"Y{n}") for n in range(4000)]))
    assert [*found][::1333] == ["lstm", "lstm_1334", "lstm_2667", "lstm_4000"]


@pytest.mark.parametrize("kind", ["Concat", "Add", "Mul"])
def test_zeros_twice_of_themselves_many_times(kind: str) -> None:
    attributes = {"axis": 0} if kind == "Concat" else {}
    doubled = [node(kind, f"c{n} c{n}", f"c{n + 1}", **attributes) for n in range(60)]
    found = cylstm.onnx.find(model([node("ConstantOfShape", "N", "c0"), *doubled, lstm("X W W - - c60")]))
    assert found["lstm"].states["initial_h"] is None


def test_two_nodes_of_one_name_of_which_one_is_stacked() -> None:
    nodes = [lstm(), lstm(Y="Y2"), node("Squeeze", "Y2 one", "x2"), lstm("x2 W W", "Y3")]
    found = cylstm.onnx.find(model(nodes))
    assert {name: len(one.nodes) for name, one in found.items()} == {"lstm": 1, "lstm_2": 2}


@pytest.mark.parametrize("old", [b"LSTM", b"name"])
def test_names_that_are_not_utf_8(old: bytes, tmp_path: Path) -> None:
    data = model([lstm(name="name")]).SerializeToString()
    (tmp_path / "m.onnx").write_bytes(data.replace(old, b"\xff" * len(old), 1))
    with pytest.raises(ValueError, match=r"m\.onnx: the names in nodes must be UTF-8"):
        cylstm.load(tmp_path / "m.onnx")


# External data ------------------------------------------------------------------------------------------------------


def external(path: Path, **fields: str) -> None:
    """A model whose W is in another file, as the fields say."""
    proto = node_model()
    [weights] = [one for one in proto.graph.initializer if one.name == "W"]
    data = weights.raw_data
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in ({"location": "m.data"} | fields).items():
        weights.external_data.add(key=key, value=value)
    (path.parent / "m.data").write_bytes(data)
    path.write_bytes(proto.SerializeToString())


def test_external_data_is_as_long_as_its_shape_says(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    external(path)
    wanted = np.frombuffer((tmp_path / "m.data").read_bytes(), np.float32)
    with open(tmp_path / "m.data", "r+b") as file:
        file.truncate(1 << 33)  # a hole
    assert sorted(cylstm.load(path).weight_ih_l0.ravel()) == sorted(wanted)
    for fields in ({"length": str(1 << 33)}, {"offset": str(1 << 33)}, {"offset": "-1"}, {"offset": "x"}):
        external(path, **fields)
        with pytest.raises(ValueError, match=r"m\.onnx: 'W' must"):
            cylstm.load(path)


def test_external_data_with_an_offset(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    external(path, offset="8", length="192")
    data = (tmp_path / "m.data").read_bytes()
    (tmp_path / "m.data").write_bytes(bytes(8) + data)
    assert sorted(cylstm.load(path).weight_ih_l0.ravel()) == sorted(np.frombuffer(data, np.float32))


@pytest.mark.parametrize("kind", ["symbolic link", "linked folder", "hard link", "pipe", "folder", "link to a pipe"])
def test_no_link_leads_out_of_the_folder(kind: str, tmp_path: Path) -> None:
    folder, secret = tmp_path / "model", tmp_path / "outside" / "secret.bin"
    folder.mkdir()
    secret.parent.mkdir()
    secret.write_bytes(bytes(192))
    external(folder / "m.onnx", location="linked/secret.bin" if kind == "linked folder" else "link")
    link = folder / "link"
    if kind == "symbolic link":
        link.symlink_to(secret)
    elif kind == "linked folder":
        (folder / "linked").symlink_to(secret.parent)
    elif kind == "hard link":
        link.hardlink_to(secret)
    elif kind == "folder":
        link.mkdir()
    else:
        os.mkfifo(folder / "pipe" if kind == "link to a pipe" else link)
        if kind == "link to a pipe":
            link.symlink_to("pipe")
    with pytest.raises(ValueError, match=r"m\.onnx: 'W' must be in a"):
        cylstm.load(folder / "m.onnx")


def test_a_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    external(tmp_path / "m.onnx", location="link")
    (tmp_path / "link").symlink_to("m.data")
    assert isinstance(cylstm.load(tmp_path / "m.onnx"), cylstm.LSTM)


def test_an_error_does_not_tell_what_is_outside(tmp_path: Path) -> None:
    messages = set()
    for location in ("/etc/passwd", "/etc/no such file", "../../etc/passwd"):
        external(tmp_path / "m.onnx", location=location)
        with pytest.raises(ValueError, match="in a file in the folder of the model") as caught:
            cylstm.load(tmp_path / "m.onnx")
        messages.add(str(caught.value).replace(location, ""))
    assert len(messages) == 1


def test_nodes_of_two_bytes(tmp_path: Path) -> None:
    """1 MB of them took 413 MB as objects."""
    nodes = b"\x0a\x00" * 500_000
    size = bytes([len(nodes) & 127 | 128, len(nodes) >> 7 & 127 | 128, len(nodes) >> 14])
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x08\x08\x3a" + size + nodes)
    with pytest.raises(ValueError, match="a node must have 16 bytes or more, got 500000 nodes in 1000006 bytes"):
        cylstm.load(path)
