"""The LSTM in scikit-learn's cross-validation, by skorch: the scores are those of torch.nn.LSTM."""

from __future__ import annotations

import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone

import cylstm.torch

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def _examples_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)


def test_scores_are_those_of_pytorch(backend: str) -> None:
    import cross_validation as example

    training, _ = example.split()
    pixels, digits = training.images.reshape(-1, 64)[:300], training.digits[:300]
    with cylstm.use_backend(backend):
        ours = example.cross_validate(pixels, digits, epochs=4)
    theirs = example.cross_validate(pixels, digits, epochs=4, lstm=torch.nn.LSTM)
    assert ours.shape == (3,)
    assert ours.min() > 0.5
    np.testing.assert_allclose(ours, theirs, atol=0.021)  # an image or two of 100: roundings grow in training


def test_the_pipeline_clones_and_pickles() -> None:
    import cross_validation as example

    training, _ = example.split()
    pixels, digits = training.images.reshape(-1, 64)[:100], training.digits[:100]
    pipeline = example.make_pipeline(epochs=1, hidden_size=8)
    torch.manual_seed(0)
    pipeline.fit(pixels, digits)
    assert isinstance(pipeline["net"].module_.lstm, cylstm.torch.LSTM)
    again = pickle.loads(pickle.dumps(pipeline))
    np.testing.assert_array_equal(again.predict_proba(pixels), pipeline.predict_proba(pixels))
    torch.manual_seed(0)
    np.testing.assert_array_equal(clone(pipeline).fit(pixels, digits).predict(pixels), pipeline.predict(pixels))


def test_the_example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import cross_validation as example

    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["cross_validation.py"])
    try:
        assert example.main() == 0
    finally:
        torch.set_num_threads(threads)
    captured = capsys.readouterr()
    printed = captured.out
    assert "13 trainings" in captured.err
    theirs, ours = re.findall(r"accuracy in 3 folds: (.*)", printed)
    np.testing.assert_allclose(*([float(s) for s in text.split()] for text in (ours, theirs)), atol=0.02)
    assert re.findall(r"hidden size (\d+) +mean accuracy", printed) == ["16", "64"]
    assert re.search(r"best size +64 of", printed)
    assert float(re.search(r"held-out accuracy +(\S+)", printed)[1]) >= example.REQUIRED_ACCURACY


def test_the_example_fails_where_too_little_is_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    import cross_validation as example

    monkeypatch.setattr(sys, "argv", ["cross_validation.py", "--epochs", "1"])
    monkeypatch.setattr(example, "SIZES", [4])
    assert example.main() == 1
