"""The examples: the trained file is what the script gives, and the demo does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import cylstm
import cylstm.torch

EXAMPLES = Path(__file__).parents[2] / "examples"
MODEL = EXAMPLES / "digits.safetensors"


@pytest.fixture(autouse=True)
def _examples_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)


def test_the_split_is_what_it_says() -> None:
    from digits import split

    training, held_out = split()
    assert (training.images.shape, held_out.images.shape) == ((1198, 8, 8), (599, 8, 8))
    assert held_out.images.dtype == np.float32
    assert (held_out.images.min(), held_out.images.max()) == (0, 1)
    both = np.concatenate([training.images, held_out.images]).reshape(1797, -1)
    assert len(np.unique(both, axis=0)) == 1797  # no image on both sides
    shares = np.bincount(held_out.digits) / (np.bincount(training.digits) + np.bincount(held_out.digits))
    np.testing.assert_allclose(shares, 1 / 3, atol=0.01)
    np.testing.assert_array_equal(split()[1].images, held_out.images)


def test_the_trained_file_reads_held_out_digits_as_torch_does(backend: str) -> None:
    from digits import split

    assert MODEL.stat().st_size < 300_000
    _, held_out = split()
    theirs = torch.nn.ModuleDict({"lstm": torch.nn.LSTM(8, 64, batch_first=True), "head": torch.nn.Linear(64, 10)})
    theirs.load_state_dict(safetensors.torch.load_file(MODEL))
    with torch.no_grad():
        _, (h_n, _) = theirs["lstm"](torch.from_numpy(held_out.images))
        expected = theirs["head"](h_n[-1]).numpy()
    assert np.mean(expected.argmax(axis=1) == held_out.digits) >= 0.97
    lstm, head = cylstm.load(MODEL, "lstm", backend=backend), cylstm.load(MODEL, "head")
    _, (h_n, _) = lstm(held_out.images)
    np.testing.assert_allclose(head(h_n[-1]), expected, atol=1e-4, rtol=0)


def test_training_gives_such_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import train_digits

    folder = tmp_path / "new"
    model, picture = folder / "digits.safetensors", folder / "digits-training.png"
    arguments = ["train_digits.py", "--output", str(folder)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--epochs", "1"])
    with pytest.raises(SystemExit, match="not written"):
        train_digits.main()
    assert not model.exists()
    monkeypatch.setattr(sys, "argv", arguments)
    train_digits.main()
    assert repr(cylstm.load(model, "lstm")) == repr(cylstm.load(MODEL, "lstm"))
    assert model.stat().st_size == MODEL.stat().st_size
    assert picture.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr()
    reached = re.findall(r"([\d.]+) of 599 held-out images", printed.out)
    assert float(reached[-1]) >= 0.97
    assert "60/60" in printed.err


def test_training_is_decided_by_the_seed() -> None:
    import train_digits

    training, _ = train_digits.split()
    some = train_digits.Digits(training.images[:100], training.digits[:100])
    (a, losses), (b, again), (c, other) = (train_digits.train(some, epochs=2, seed=seed) for seed in (1, 1, 2))
    assert losses == again != other
    for mine, same, different in zip(a.lstm.parameters(), b.lstm.parameters(), c.lstm.parameters(), strict=True):
        assert mine.tobytes() == same.tobytes() != different.tobytes()


def test_the_forecast_is_split_in_time() -> None:
    import forecast

    series = forecast.load()
    assert len(series.values) == 526
    assert np.isfinite(series.values).all()
    origins = forecast.split(series.months)
    assert [len(period) for period in origins] == [310, 73, 97]
    begin = [series.months[period[0] + 1] for period in origins]
    end = [series.months[period[-1] + forecast.HORIZON] for period in origins]
    assert list(map(str, begin)) == ["1959-04", "1986-01", "1993-01"]
    assert list(map(str, end)) == ["1985-12", "1992-12", "2001-12"]


def test_the_forecast_uses_nothing_of_the_future() -> None:
    import forecast

    series = forecast.load()
    origins = forecast.split(series.months)
    model, _ = forecast.train(series, origins, epochs=5)
    # What comes after the validation years changes nothing in the training ...
    changed = series._replace(values=np.where(series.months < forecast.TEST, series.values, 0.0))
    other, _ = forecast.train(changed, origins, epochs=5)
    for module, same in ((model.lstm, other.lstm), (model.head, other.head)):
        for name, array in module.named_parameters():
            np.testing.assert_array_equal(array, same.state_dict()[name])
    np.testing.assert_array_equal(model.input_mean, other.input_mean)
    np.testing.assert_array_equal(model.target_std, other.target_std)
    # ... and what comes after a month, nothing in the forecasts from there.
    forecasts = model.forecast(series, origins.test)
    for n in (0, 40, 96):
        known = forecast.Series(*(array[: origins.test[n] + 1] for array in series))
        np.testing.assert_allclose(model.forecast(known, origins.test[n : n + 1])[0], forecasts[n], rtol=1e-7)


def test_the_forecast_is_ahead_of_the_baselines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import forecast

    picture = tmp_path / "forecast.png"
    monkeypatch.setattr(sys, "argv", ["forecast.py", "--output", str(tmp_path)])
    forecast.main()
    assert picture.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    rows = re.findall(r"^(\S.*?)  +(\d\.\d{3})  (\d\.\d{3})$", printed, re.MULTILINE)
    errors = {name: (float(mae), float(rmse)) for name, mae, rmse in rows}
    assert errors["last value"] == (2.647, 3.243)
    assert errors["the same month of the year before"] == (1.683, 1.833)
    assert errors["that, and the growth since"] == (0.638, 0.844)
    assert errors["LSTM"][0] < 0.55
    assert errors["LSTM"][1] < 0.70
    assert "ahead of the best of the others" in printed


def test_the_loop_in_pytorch_has_the_losses_of_pytorch() -> None:
    import train_in_pytorch as example

    training, held_out = example.split()
    _, theirs = example.train(torch.nn.LSTM, training, name="", epochs=2)
    model, ours = example.train(cylstm.torch.LSTM, training, name="", epochs=2)
    assert isinstance(model.lstm, cylstm.torch.LSTM)
    np.testing.assert_allclose(ours, theirs, rtol=example.TOLERANCE)
    assert ours[-1] < 0.6 * ours[0]
    assert 0.3 < example.accuracy(model, held_out) <= 1


def test_demo(tmp_path: Path) -> None:
    command = [sys.executable, EXAMPLES / "demo.py", "--output", tmp_path / "demo-output"]
    process = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, encoding="utf-8")
    assert process.returncode == 0, process.stderr
    summary = dict(re.findall(r"^(\S+(?: \S+)*)  +(.+)$", process.stdout, re.MULTILINE))
    assert list(summary) == [
        "held-out accuracy",
        "sequences per second",
        "backend",
        "instruction set",
        "threads",
        "picture",
    ]
    assert float(summary["held-out accuracy"].split()[0]) >= 0.97
    assert float(summary["sequences per second"].replace(",", "")) > 0
    assert summary["backend"] in ("cython", "numpy", "cupy")
    assert "599/599 sequences" in process.stderr
    assert Path(summary["picture"]).read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (tmp_path / "demo-output").iterdir()} == {"images.npy", "scores.npz", "digits.png"}


def test_demo_fails_where_the_model_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import demo

    cylstm.manual_seed(0)
    lstm, head = cylstm.LSTM(8, 64, batch_first=True), cylstm.Linear(64, 10)
    cylstm.save({"lstm": lstm, "head": head}, tmp_path / "untrained.safetensors")
    monkeypatch.setattr(demo, "MODEL", tmp_path / "untrained.safetensors")
    monkeypatch.setattr(sys, "argv", ["demo.py", "--output", str(tmp_path / "demo-output")])
    assert demo.main() == 1
    monkeypatch.setattr(demo, "MODEL", tmp_path / "none.safetensors")
    with pytest.raises(SystemExit) as error:
        demo.main()
    assert error.value.code == 2
