"""``cylstm convert`` and ``cylstm inspect``, and models on their way through all the formats."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch

import cylstm
import cylstm.onnx
from cylstm import keras as ck
from cylstm.cli import main

EXTENSIONS = [".safetensors", ".npz", ".onnx", ".weights.h5"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def keras_like(**options: object) -> cylstm.LSTM:
    """An LSTM with one bias, for Keras has no place for two."""
    lstm = cylstm.LSTM(3, 4, **options).eval()
    with lstm.unlocked() as params:
        for name, array in params.items():
            if name.startswith("bias_hh"):
                array[:] = 0
    return lstm


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(EXTENSIONS, 2)))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 3, "bidirectional": True, "dropout": 0.25},
        {"num_layers": 2, "bias": False, "batch_first": True},
    ],
    ids=["plain", "bidirectional", "no bias"],
)
def test_round_trips_are_exact(options: dict, source: str, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    lstm = keras_like(**options)
    cylstm.save(lstm, f"a{source}")
    assert main(["convert", f"a{source}", f"b{target}"]) == 0
    assert capsys.readouterr().out == f"b{target}: {lstm!r}, float32\n"
    assert main(["convert", f"b{target}", f"c{source}"]) == 0
    for path in (f"b{target}", f"c{source}"):
        back = cylstm.load(path)
        assert repr(back) == repr(lstm)
        for name, array in lstm.state_dict().items():
            np.testing.assert_array_equal(back.state_dict()[name], array)


def test_one_of_several(capsys: pytest.CaptureFixture[str]) -> None:
    encoder, decoder = cylstm.LSTM(3, 4), cylstm.LSTM(4, 2)
    cylstm.save({"encoder": encoder, "decoder": decoder, "head": cylstm.Linear(2, 1)}, "m.safetensors")
    assert main(["convert", "m.safetensors", "d.onnx", "--prefix", "decoder."]) == 0
    np.testing.assert_array_equal(cylstm.load("d.onnx").weight_ih_l0, decoder.weight_ih_l0)
    capsys.readouterr()
    assert main(["convert", "m.safetensors", "e.onnx"]) == 2
    assert "'encoder.', 'decoder.'" in capsys.readouterr().err
    assert main(["convert", "m.safetensors", "e.onnx", "--prefix", "head."]) == 2
    assert "module must be an LSTM" in capsys.readouterr().err
    assert not Path("e.onnx").exists()


@pytest.mark.parametrize(
    ("target", "word"), [("m.txt", "must end in"), ("m.keras", ".weights.h5"), ("m.onnx", "proj_size=2")]
)
def test_what_cannot_be_written(target: str, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    cylstm.save(cylstm.LSTM(3, 4, proj_size=2), "m.safetensors")
    assert main(["convert", "m.safetensors", target]) == 2
    error = capsys.readouterr().err
    assert word in error
    assert error.count("\n") == 1
    assert not Path(target).exists()


def test_inspect(capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("m.npz", **{"rnn.weight_hh_l0": np.zeros((6, 2), "f4"), "noise": np.zeros(3, "f4")})
    cylstm.save({"encoder": cylstm.LSTM(3, 4, 2), "head": cylstm.Linear(2, 1)}, "m.safetensors")
    ck.Sequential([ck.Input((5, 3)), ck.Bidirectional(ck.LSTM(4)), ck.Dense(1)]).save_weights("m.weights.h5")
    cylstm.save(cylstm.LSTM(3, 4, dtype="float64"), "m.onnx")

    def shown(name: str) -> list[str]:
        assert main(["inspect", name]) == 0
        first, *lines = capsys.readouterr().out.splitlines()
        assert first == f"{name}: {Path(name).stat().st_size:,} bytes"
        return lines

    assert shown("m.safetensors") == [
        "  encoder.  LSTM(3, 4, num_layers=2), 304 parameters, float32",
        "  head.  Linear(in_features=2, out_features=1, bias=True), 3 parameters, float32",
    ]
    *modules, assumed = shown("m.weights.h5")
    assert modules == [
        "  bidirectional.  LSTM(3, 4, batch_first=True, bidirectional=True), 256 parameters, float32",
        "  dense.  another layer, 9 parameters",
    ]
    assert "the file has no configuration" in assumed
    assert shown("m.onnx") == ["  lstm.  LSTM(3, 4), 144 parameters, float64"]
    refused, others = shown("m.npz")
    assert refused.startswith("  rnn.  refused: ")
    assert "RNN or GRU" in refused
    assert others == "  (no prefix)  noise (3,) float32: 3 parameters"
    assert main(["inspect", "m.safetensors", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [one["prefix"] for one in report["contents"]] == ["encoder.", "head."]


def test_inspect_names_everything_in_the_order_of_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.zembedding = torch.nn.Embedding(50, 8)
            self.norm = torch.nn.LayerNorm(8)
            self.lstm = torch.nn.LSTM(8, 4)
            self.gru = torch.nn.GRU(4, 4)
            self.batch_norm = torch.nn.BatchNorm1d(4)
            self.head = torch.nn.Linear(4, 1)

    model = Model()
    np.savez("m.npz", **{name: tensor.numpy() for name, tensor in model.state_dict().items()})
    assert main(["inspect", "m.npz"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert lines == [
        "  zembedding.  Linear(in_features=8, out_features=50, bias=False) or an Embedding: a matrix alone, "
        "400 parameters, float32",
        "  norm.  weight (8,) float32, bias (8,) float32: 16 parameters",
        "  lstm.  LSTM(8, 4), 224 parameters, float32",
        "  gru.  refused: is an RNN or GRU, not an LSTM",
        "  batch_norm.  weight (4,) float32, bias (4,) float32, running_mean (4,) float32, running_var (4,) float32, "
        "num_batches_tracked () int64: 17 parameters",
        "  head.  Linear(in_features=4, out_features=1, bias=True), 5 parameters, float32",
    ]


def test_names_do_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b[31mred\x1b[0m\r\u202e\x9b2J"
    cylstm.save({evil: cylstm.LSTM(3, 4), "b": cylstm.LSTM(3, 4)}, "m.safetensors")
    for command in (["inspect", "m.safetensors"], ["convert", "m.safetensors", "m.npz"]):
        main(command)
        captured = capsys.readouterr()
        text = captured.out + captured.err
        assert "red" in text
        assert all(character.isprintable() or character == "\n" for character in text)


def test_a_head_is_not_taken_for_what_stands_before_it(capsys: pytest.CaptureFixture[str]) -> None:
    """A GRU with a linear layer behind it: without a prefix nothing is meant that cylstm could compute."""
    gru, head = torch.nn.GRU(3, 4), torch.nn.Linear(4, 2)
    arrays = {f"gru.{name}": tensor for name, tensor in gru.state_dict().items()}
    arrays |= {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
    safetensors.torch.save_file(arrays, "m.safetensors")
    with pytest.raises(ValueError, match="an RNN or GRU, not an LSTM, under the prefix 'gru"):
        cylstm.load("m.safetensors")
    assert isinstance(cylstm.load("m.safetensors", "head"), cylstm.Linear)


def test_inspect_shows_what_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    model = cylstm.onnx.export(cylstm.LSTM(3, 4))
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("zoneout", 2.0))
    onnx.save(model, "m.onnx")
    assert main(["inspect", "m.onnx"]) == 0
    assert "lstm.  refused: has the attribute 'zoneout'" in capsys.readouterr().out


def test_inspect_shows_recurrent_layers_of_onnx_that_are_not_lstms(capsys: pytest.CaptureFixture[str]) -> None:
    def weights(name: str, *shape: int) -> onnx.TensorProto:
        return onnx.numpy_helper.from_array(np.ones(shape, "f4"), name)

    model = cylstm.onnx.export(cylstm.LSTM(3, 4))
    model.graph.node.append(onnx.helper.make_node("GRU", ["input", "W_gru", "R_gru"], ["Y_gru"], name="gru"))
    model.graph.node.append(onnx.helper.make_node("RNN", ["input", "W_rnn", "nowhere"], ["Y_rnn"], name="gru"))
    model.graph.initializer.extend([weights("W_gru", 1, 12, 3), weights("R_gru", 1, 12, 4), weights("W_rnn", 1, 4, 3)])
    onnx.save(model, "m.onnx")
    assert main(["inspect", "m.onnx"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert lines == ["  lstm.  LSTM(3, 4), 144 parameters, float32", "  gru.  GRU, 84 parameters", "  gru_2.  RNN"]
    assert main(["convert", "m.onnx", "m.npz"]) == 0
    assert "not converted, and only in m.onnx: 'gru.', 'gru_2.'" in "".join(capsys.readouterr())

    [lstm] = [node for node in model.graph.node if node.op_type == "LSTM"]
    model.graph.node.remove(lstm)
    onnx.save(model, "m.onnx")
    assert main(["inspect", "m.onnx"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["  gru.  GRU, 84 parameters", "  gru_2.  RNN"]
    with pytest.raises(ValueError, match=r"must hold an LSTM.*got GRU, 84 parameters, under the prefix 'gru\.'"):
        cylstm.load("m.onnx")
    with pytest.raises(ValueError, match="must hold an LSTM node, got"):
        cylstm.onnx.load("m.onnx")


def test_bridges_import_what_they_need_when_they_need_it() -> None:
    """Without onnx and h5py everything else works, and the error says what to install."""
    cylstm.save(lstm := cylstm.LSTM(3, 4), "m.onnx")
    cylstm.save(lstm, "m.weights.h5")
    code = """
import sys
sys.modules["onnx"] = sys.modules["h5py"] = sys.modules["keras"] = None
import cylstm, cylstm.keras, cylstm.onnx, numpy
print(cylstm.keras.LSTM(4)(numpy.zeros((2, 5, 3), "f4")).shape)
for path in ("m.onnx", "m.weights.h5"):
    try:
        cylstm.load(path)
    except ImportError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    shape, for_onnx, for_keras = done.stdout.splitlines()
    assert shape == "(2, 4)"
    assert "pip install 'onnx>=" in for_onnx
    assert "pip install 'h5py>=" in for_keras


def test_a_file_of_tensors_needs_no_bridge() -> None:
    """Reading and writing safetensors or npz imports nothing of other systems' files."""
    code = """
import cylstm, sys
for path in ("m.safetensors", "m.npz"):
    cylstm.save(cylstm.LSTM(3, 4), path)
    cylstm.load(path)
print(*({"onnx", "h5py", "cylstm.onnx", "cylstm.keras"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_run_takes_them_all(extension: str, capsys: pytest.CaptureFixture[str]) -> None:
    cylstm.save(lstm := keras_like(), f"m{extension}")
    np.save("input.npy", x := cylstm.randn(6, 5, 3))
    assert main(["run", f"m{extension}", "input.npy", "-o", "output.npy"]) == 0
    np.testing.assert_array_equal(np.load("output.npy"), lstm(x)[0])
