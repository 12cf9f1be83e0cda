"""``cylstm inspect`` and ``cylstm run --head`` on files that Keras writes."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers as kl

import cylstm
from cylstm.cli import main

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def test_inspect_counts_as_keras_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    keras.utils.clear_session()
    layers = [kl.Input((6, 3)), kl.LSTM(4, return_sequences=True), kl.LSTM(4), kl.Dense(2), kl.Dense(5, "relu")]
    model = keras.Sequential(layers)
    model.save("m.keras")
    assert main(["inspect", "m.keras", "--json"]) == 0
    _, lstm, upper, head, relu = json.loads(capsys.readouterr().out)["contents"]
    assert upper["other"] == "LSTM, layer 1 of 'lstm.'"
    assert (lstm["prefix"], head["prefix"], relu["prefix"]) == ("lstm.", "dense.", "dense_1.")
    assert lstm["parameters"] == sum(layer.count_params() for layer in model.layers[:2])
    assert head["parameters"] == 10
    assert relu["other"].startswith("Dense that has activation='relu'")
    np.save("x.npy", x := np.random.default_rng(0).normal(size=(3, 6, 3)).astype("f4"))
    assert main(["run", "m.keras", "x.npy", "--prefix", "lstm", "--head", "dense", "-o", "y.npy"]) == 0
    h = cylstm.load("m.keras", "lstm")(x)[1][0][-1]
    kernel, bias = model.layers[2].get_weights()
    np.testing.assert_allclose(np.load("y.npy"), h @ kernel + bias, atol=1e-6)
    assert main(["run", "m.keras", "x.npy", "--prefix", "lstm", "--head", "dense_1"]) == 2
    assert "Dense that has activation='relu'" in capsys.readouterr().err
