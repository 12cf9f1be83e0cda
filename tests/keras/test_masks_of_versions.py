"""Masks in Functional models, which versions of Keras pass on in different ways."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras_layers import assert_close, fill, saved

from cylstm import keras as ck

IDS = np.array([[3, 1, 4, 1, 5], [9, 2, 0, 0, 0], [0, 0, 0, 0, 0]])


def of_version(model: keras.Model, version: str, folder: Path, change: Callable[[Any], Any] = lambda one: one) -> Path:
    """The file of a model as another version writes it, with its configuration changed."""
    path = folder / "other.keras"
    with zipfile.ZipFile(saved(model, folder, ".keras")) as now, zipfile.ZipFile(path, "w") as other:
        other.writestr("metadata.json", json.dumps({"keras_version": version}))
        other.writestr("config.json", json.dumps(change(json.loads(now.read("config.json")))))
        other.writestr("model.weights.h5", now.read("model.weights.h5"))
    return path


def test_masks_beside_initial_states_in_keras_2(tmp_path: Path) -> None:
    """They are passed on there, as Keras 3 does where it is told to."""
    ids = keras.Input((5,), name="ids")
    embedding = kl.Embedding(20, 4, mask_zero=True, name="words")
    y, *states = kl.LSTM(4, return_sequences=True, return_state=True, name="one")(embedding(ids))
    decoder = kl.LSTM(4, return_sequences=True, name="other")
    theirs = keras.Model(ids, decoder(y, initial_state=states, mask=embedding.compute_mask(ids)))
    fill(theirs, 0)
    calls = {
        "words": [[["ids", 0, 0, {}]]],
        "one": [[["words", 0, 0, {}]]],
        "other": [[["one", 0, 0, {"initial_state": [["one", 0, 1], ["one", 0, 2]]}]]],
    }

    def changed(model: Any) -> Any:
        layers = [one for one in model["config"]["layers"] if one["name"] in {"ids", *calls}]
        model["config"]["layers"] = [one | {"inbound_nodes": calls.get(one["name"], [])} for one in layers]
        return model

    ours = ck.load_model(of_version(theirs, "2.15.0", tmp_path, changed))
    assert_close(ours.predict(IDS), theirs(IDS))
    with pytest.raises(ValueError, match="other must be called without initial_state in a model with masks"):
        ours.save(tmp_path / "ours.keras")


@pytest.mark.parametrize("version", ["3.0.5", "3.3.3"])
@pytest.mark.parametrize("axis", [-1, 1])
def test_masks_at_merges_of_the_first_keras_3(axis: int, version: str, tmp_path: Path) -> None:
    """They are lost there, and kept since 3.4."""
    ids = keras.Input((5,))
    x = kl.Embedding(20, 4, mask_zero=True)(ids)
    theirs = keras.Model(ids, kl.LSTM(3)(kl.Concatenate(axis)([x, x])))
    ours = ck.load_model(of_version(theirs, version, tmp_path))
    with pytest.raises(ValueError, match=r"inputs of concatenate.* must have no mask"):
        ours.predict(IDS)
    assert_close(ck.load_model(of_version(theirs, "3.4.0", tmp_path)).predict(IDS), theirs(IDS))
