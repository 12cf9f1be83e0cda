"""``--precision`` of ``cylstm run`` and ``cylstm bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import fails, prepare

import cylstm
from cylstm.cli import main

RUN = ["run", "model.safetensors", "input.npy", "-o", "output.npy"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_run(folder: Path, capsys: Any, precision: str) -> None:
    lstm = prepare((7, 5, 3))
    lstm.precision = precision
    assert main([*RUN, "--precision", precision, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["precision"], report["dtype"]) == (precision, "float32")
    assert (f"precision='{precision}'" in report["lstm"]) == (precision != "float32")
    np.testing.assert_allclose(np.load("output.npy"), lstm(np.load("input.npy"))[0], rtol=0, atol=1e-6)


def test_run_takes_what_the_model_says(folder: Path, capsys: Any) -> None:
    lstm = prepare((7, 5, 3))
    lstm.precision = "int8"
    cylstm.save(lstm.freeze(), "model.safetensors")
    assert main([*RUN, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["precision"] == "int8"
    assert "frozen" in fails(capsys, *RUN, "--force", "--precision", "float32")
    assert main(["inspect", "model.safetensors"]) == 0
    assert "precision='int8', frozen)" in capsys.readouterr().out


def test_run_refuses(folder: Path, capsys: Any) -> None:
    prepare((7, 5, 3))
    with pytest.raises(SystemExit):
        main([*RUN, "--precision", "int4"])
    assert "invalid choice: 'int4'" in capsys.readouterr().err
    assert "for parameters of dtype float64, got 'int8'" in fails(
        capsys, *RUN, "--precision", "int8", "--dtype", "float64"
    )
    assert not Path("output.npy").exists()


def test_bench(capsys: Any) -> None:
    sizes = ["bench", "--hidden", "8", "--steps", "3", "--seconds", "0"]
    assert main([*sizes, "--precision", "int8", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["precision"] == "int8"
    errors = {row["name"]: row["error"] for row in report["rows"]}
    assert "numpy" in errors
    assert all(1e-5 < error < 1e-2 for error in errors.values())
    assert main([*sizes, "--precision", "int8"]) == 0
    assert "float32 in int8" in capsys.readouterr().out
    assert "inference only: leave out --training" in fails(capsys, *sizes, "--precision", "int8", "--training")
    assert "for parameters of dtype float64" in fails(capsys, *sizes, "--precision", "int8", "--dtype", "float64")


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_bench_refuses_a_frozen_model(folder: Path, capsys: Any, precision: str) -> None:
    cylstm.save(cylstm.LSTM(3, 4, precision=precision).freeze(), "frozen.safetensors")
    assert "must have its float32 parameters, got a frozen one" in fails(capsys, "bench", "frozen.safetensors")


def test_convert_and_inspect_what_others_quantized(folder: Path, capsys: Any) -> None:
    from onnxruntime.quantization import quantize_dynamic

    lstm = prepare((7, 5, 3))
    cylstm.save(lstm, "float32.onnx")
    quantize_dynamic("float32.onnx", "int8.onnx")
    assert main(["inspect", "int8.onnx"]) == 0
    assert "precision='int8', frozen)" in capsys.readouterr().out
    assert main(["convert", "int8.onnx", "int8.safetensors"]) == 0
    assert main(["convert", "int8.safetensors", "again.onnx"]) == 0
    x = np.load("input.npy")
    expected = cylstm.load("int8.onnx")(x)[0]
    np.testing.assert_array_equal(cylstm.load("int8.safetensors")(x)[0], expected)
    np.testing.assert_array_equal(cylstm.load("again.onnx")(x)[0], expected)
    assert main(["convert", "int8.safetensors", "int8.npz"]) == 0  # all of it is int8 and float32
    np.testing.assert_array_equal(cylstm.load("int8.npz")(x)[0], expected)
    assert "lstm must not be frozen" in fails(capsys, "convert", "int8.safetensors", "int8.weights.h5")
    assert not Path("int8.weights.h5").exists()
