"""ONNX files that are damaged or mean harm."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx_models import inside, node_model, with_weights_through

import cylstm
import cylstm.onnx

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # overflows in ONNX's own cases for other operators
    from onnx.backend.test.case.node import collect_testcases

    NODE_TESTS = [case for case in collect_testcases("LSTM") if case.name.startswith("test_lstm")]

#: Those that cylstm does not compute, and the word that its error must have.


def test_truncated_files(tmp_path: Path) -> None:
    whole, path = cylstm.onnx.export(cylstm.LSTM(3, 4)).SerializeToString(), tmp_path / "m.onnx"
    for size in {*range(0, len(whole), 37), len(whole) - 1}:
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"m\.onnx"):
            cylstm.load(path)


def test_random_bytes(tmp_path: Path) -> None:
    whole = bytearray(cylstm.onnx.export(cylstm.LSTM(3, 4, 2)).SerializeToString())
    random_bytes, path = np.random.default_rng(0), tmp_path / "m.onnx"
    for _ in range(300):
        changed = whole.copy()
        for position in random_bytes.integers(0, len(whole), 3):
            changed[position] = random_bytes.integers(0, 256)
        path.write_bytes(changed)
        with contextlib.suppress(ValueError):  # else only a weight was changed, or a name
            assert isinstance(cylstm.load(path), cylstm.LSTM)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        cylstm.load(tmp_path / "m.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ValueError, match="regular file"):
        cylstm.load(tmp_path / "folder.onnx")


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "missing.data"])
def test_external_data_stays_in_the_folder(location: str, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(1000))
    folder = tmp_path / "folder"
    folder.mkdir()
    model = node_model()
    for one in model.graph.initializer:
        one.ClearField("raw_data")
        one.data_location = TensorProto.EXTERNAL
        one.external_data.add(key="location", value=location)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=r"m\.onnx"):
        cylstm.load(folder / "m.onnx")


def test_external_data_that_was_left_behind(tmp_path: Path) -> None:
    lstm = cylstm.LSTM(3, 4)
    model = cylstm.onnx.export(lstm)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    np.testing.assert_array_equal(cylstm.load(tmp_path / "m.onnx").weight_ih_l0, lstm.weight_ih_l0)
    (tmp_path / "m.onnx.data").unlink()
    with pytest.raises(ValueError, match=r"must be in the file 'm\.onnx\.data', got no such file: copy it along"):
        cylstm.load(tmp_path / "m.onnx")


def cycle() -> onnx.ModelProto:
    return with_weights_through("a = Identity(b)", "b = Identity(a)", "W = Identity(b)")[0]


def growing() -> onnx.ModelProto:
    """Each node doubles the weights."""
    doubled = [f"w{n + 1} = Concat<axis = 0>(w{n}, w{n})" for n in range(40)]
    return with_weights_through("w0 = Identity(w)", *doubled, "W = Identity(w40)")[0]


def expanding() -> onnx.ModelProto:
    return with_weights_through("shape = Constant<value_ints = [1099511627776, 16, 3]>()", "W = Expand(w, shape)")[0]


def long_chain() -> onnx.ModelProto:
    names = [f"n{i}" for i in range(5000)]
    chain = [f"{b} = Identity({a})" for a, b in itertools.pairwise(["w", *names])]
    return with_weights_through(*chain, f"W = Identity({names[-1]})")[0]


def calling_itself() -> onnx.ModelProto:
    model, _ = inside("function")
    call = model.graph.node[0]
    model.functions[0].node.append(call)
    model.functions[0].node.append(call)
    return model


def negative_shape() -> onnx.ModelProto:
    model = node_model()
    model.graph.initializer[0].dims[0] = -1
    return model


def too_large_shape() -> onnx.ModelProto:
    model = node_model()
    model.graph.initializer[0].dims[0] = 2**60
    return model


def no_such_name() -> onnx.ModelProto:
    model = node_model()
    model.graph.node[0].input[1] = "nowhere"
    return model


def no_lstm() -> onnx.ModelProto:
    model = node_model()
    model.graph.node[0].op_type = "GRU"
    return model


@pytest.mark.parametrize(
    "make",
    [cycle, growing, expanding, long_chain, calling_itself, negative_shape, too_large_shape, no_such_name, no_lstm],
)
def test_hostile_models(make: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(make().SerializeToString())
    with pytest.raises(ValueError, match=r"m\.onnx"):
        cylstm.load(tmp_path / "m.onnx")
