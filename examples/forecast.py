"""Forecast the carbon dioxide in the air of Mauna Loa twelve months ahead, with an LSTM trained by cylstm alone.

The data are statsmodels' weekly measurements from 1958 to 2001, as monthly means. Run it from anywhere, with the
``examples`` extra installed::

    python examples/forecast.py

It prints the errors of the forecasts that begin from January 1993 on, beside those of three forecasts without a model,
and draws ``demo-output/forecast.png``.

Nothing of the future is used: scales come from the training years alone; what is forecast from a month on, the LSTM
computes from that month and those before; the epoch that is kept is the one with the least error in the validation
years; the test years are looked at once, at the end. (Five months without a measurement, in 1958 and 1964, are filled
from their neighbours: both lie in the training years.)
"""

from __future__ import annotations

import argparse
import math
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from settings import add_output, missing

try:
    import matplotlib as mpl
    import numpy as np
    from statsmodels.datasets import co2
    from tqdm import trange

    import cylstm
    from cylstm.optim import Adam, clip_grad_norm, mse_loss
except ModuleNotFoundError as error:
    raise SystemExit(missing(error)) from None

HORIZON = 12  # months
VALIDATION, TEST = np.datetime64("1986-01"), np.datetime64("1993-01")  # the first months of these periods
LEARNING_RATE = 1e-2
NOISE = 0.1  # standard deviation of what is added to the inputs, whose own is 1


class Series(NamedTuple):
    """Months, (T,), and the values of each, (T,)."""

    months: np.ndarray
    values: np.ndarray


class Origins(NamedTuple):
    """The months, as indices, from which forecasts are made: all that they forecast lies in the period."""

    training: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def load() -> Series:
    """Monthly means in parts per million."""
    monthly = co2.load_pandas().data["co2"].resample("MS").mean().interpolate()
    return Series(monthly.index.values.astype("datetime64[M]"), monthly.values)


def split(months: np.ndarray) -> Origins:
    """The first year gives no origins: the forecasts without a model need a year before."""
    first = HORIZON
    bounds = [first, *np.searchsorted(months, [VALIDATION, TEST]), len(months)]
    return Origins(*(np.arange(max(start - 1, first), end - HORIZON) for start, end in pairwise(bounds)))


def ahead(values: np.ndarray, origins: np.ndarray) -> np.ndarray:
    """The twelve months after each origin, (origins, HORIZON)."""
    return values[origins[:, np.newaxis] + np.arange(1, HORIZON + 1)]


def without_model(values: np.ndarray, origins: np.ndarray) -> dict[str, np.ndarray]:
    """Forecasts (origins, HORIZON) to compare with."""
    now, year_before = values[origins], values[origins - HORIZON]
    same_month = ahead(values, origins - HORIZON)
    return {
        "last value": np.repeat(now[:, np.newaxis], HORIZON, axis=1),
        "the same month of the year before": same_month,
        "that, and the growth since": same_month + (now - year_before)[:, np.newaxis],
    }


class Forecaster:
    """An LSTM that reads the series month by month; after each, a linear layer gives the next twelve.

    It reads the change since the month before and the time of the year. It forecasts the differences to the
    present value. Both are scaled by their means and standard deviations in the training years.
    """

    def __init__(self, series: Series, training: np.ndarray, hidden_size: int = 32) -> None:
        inputs = self._inputs(series)[training]
        self.input_mean, self.input_std = inputs.mean(axis=0), inputs.std(axis=0)
        targets = self._differences(series, training)
        self.target_mean, self.target_std = targets.mean(axis=0), targets.std(axis=0)
        self.lstm = cylstm.LSTM(inputs.shape[1], hidden_size)
        self.head = cylstm.Linear(hidden_size, HORIZON)

    @staticmethod
    def _inputs(series: Series) -> np.ndarray:
        """(T, 3)"""
        angle = 2 * np.pi * series.months.astype(int) / 12  # NumPy counts months from a January
        return np.stack([np.diff(series.values, prepend=series.values[0]), np.sin(angle), np.cos(angle)], axis=1)

    @staticmethod
    def _differences(series: Series, origins: np.ndarray) -> np.ndarray:
        """(origins, HORIZON)"""
        return ahead(series.values, origins) - series.values[origins, np.newaxis]

    def scaled_inputs(self, series: Series) -> np.ndarray:
        """(T, 3), float32"""
        return ((self._inputs(series) - self.input_mean) / self.input_std).astype(np.float32)

    def scaled_targets(self, series: Series, origins: np.ndarray) -> np.ndarray:
        """(origins, HORIZON), float32"""
        return ((self._differences(series, origins) - self.target_mean) / self.target_std).astype(np.float32)

    def forecast(self, series: Series, origins: np.ndarray) -> np.ndarray:
        """The forecasts (origins, HORIZON). Each depends on the series up to its origin alone."""
        output, _ = self.lstm(self.scaled_inputs(series))
        return self.head(output[origins]) * self.target_std + self.target_mean + series.values[origins, np.newaxis]


def train(series: Series, origins: Origins, *, epochs: int, seed: int = 0) -> tuple[Forecaster, int]:
    """Adam on the whole of the training years at once. Returns the forecaster as it was at its best, and when."""
    cylstm.manual_seed(seed)
    model = Forecaster(series, origins.training)
    lstm, head = model.lstm, model.head
    optimizer = Adam([lstm, head], lr=LEARNING_RATE)
    before_validation = Series(*(array[series.months < VALIDATION] for array in series))
    inputs, targets = model.scaled_inputs(before_validation), model.scaled_targets(series, origins.training)
    best, best_epoch, best_state = math.inf, 0, (lstm.state_dict(), head.state_dict())
    for epoch in (progress := trange(epochs, unit="epoch", desc="training")):
        optimizer.lr = LEARNING_RATE * (1 + math.cos(math.pi * epoch / epochs)) / 2
        output, _, lstm_pullback = lstm.vjp(inputs + NOISE * cylstm.randn(*inputs.shape))
        forecasts, head_pullback = head.vjp(output[origins.training])
        loss, grad_forecasts = mse_loss(forecasts, targets)
        head_grads = head_pullback(grad_forecasts)
        grad_output = np.zeros_like(output)
        grad_output[origins.training] = head_grads.input
        grads = [lstm_pullback(grad_output).parameters, head_grads.parameters]
        clip_grad_norm(grads, 1.0)
        optimizer.step(grads)

        reached = mae(model.forecast(series, origins.validation), ahead(series.values, origins.validation))
        if reached < best:  # a state_dict stays as it is when the module goes on
            best, best_epoch, best_state = reached, epoch + 1, (lstm.state_dict(), head.state_dict())
        progress.set_postfix(loss=f"{loss:.4f}", validation=f"{best:.3f}", refresh=False)
    lstm.load_state_dict(best_state[0])
    head.load_state_dict(best_state[1])
    return model, best_epoch


def mae(forecasts: np.ndarray, truth: np.ndarray) -> float:
    """The mean absolute error."""
    return float(np.mean(np.abs(forecasts - truth)))


def rmse(forecasts: np.ndarray, truth: np.ndarray) -> float:
    """The root of the mean squared error."""
    return float(np.sqrt(np.mean((forecasts - truth) ** 2)))


def draw(series: Series, origins: np.ndarray, forecasts: dict[str, np.ndarray], path: Path) -> None:
    """Draw the forecasts of the LSTM from each January on, and the errors by the months ahead."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    colors = dict(zip(forecasts, ["#c2410c", "#9ca3af", "#6b7280", "#2166ac"], strict=True))
    figure, (course, errors) = plt.subplots(1, 2, figsize=(14, 5), width_ratios=[1.7, 1], layout="constrained")
    figure.suptitle("Carbon dioxide twelve months ahead, by an LSTM", fontsize=14, fontweight="bold")
    shown = series.months >= TEST - 24
    course.plot(series.months[shown], series.values[shown], color="black", linewidth=1, label="measured")
    for n in range(0, len(origins), HORIZON):
        months = series.months[origins[n]] + np.arange(1, HORIZON + 1)
        label = "forecast by the LSTM, a year at a time" if n == 0 else None
        course.plot(months, forecasts["LSTM"][n], color=colors["LSTM"], linewidth=2.5, alpha=0.7, label=label)
    course.axvline(TEST, color="#9ca3af", linestyle=":")
    course.annotate("test years", (TEST, series.values[shown].max()), xytext=(6, -4), textcoords="offset points")
    course.set(title="Mauna Loa, monthly means", ylabel="parts per million")
    course.legend(loc="lower right", frameon=False)
    for name, forecast in forecasts.items():
        by_month = np.abs(forecast - ahead(series.values, origins)).mean(axis=0)
        errors.plot(range(1, HORIZON + 1), by_month, "o-", color=colors[name], label=name, markersize=4)
    errors.set(title="mean absolute error in the test years", xlabel="months ahead", ylabel="parts per million")
    errors.set(yscale="log", xticks=range(1, HORIZON + 1))
    errors.set_yticks([0.3, 0.5, 1, 2, 3], ["0.3", "0.5", "1", "2", "3"])
    errors.minorticks_off()
    errors.grid(alpha=0.3)
    errors.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=400, help="steps of the training (400)")
    add_output(parser)
    arguments = parser.parse_args()
    picture = arguments.output / "forecast.png"

    series = load()
    origins = split(series.months)
    model, epoch = train(series, origins, epochs=arguments.epochs)
    truth = ahead(series.values, origins.test)
    forecasts = {"LSTM": model.forecast(series, origins.test), **without_model(series.values, origins.test)}
    draw(series, origins.test, forecasts, picture)

    print(f"\n{len(origins.test)} forecasts, {HORIZON} months each, {series.months[origins.test[0]] + 1} and later;")
    print(f"the LSTM after epoch {epoch}, chosen in the validation years. Errors in parts per million:\n")
    print(f"{'':36}   MAE   RMSE")
    for name, forecast in forecasts.items():
        print(f"{name:36}  {mae(forecast, truth):.3f}  {rmse(forecast, truth):.3f}")
    best_of_them = min(mae(forecast, truth) for name, forecast in forecasts.items() if name != "LSTM")
    ratio = mae(forecasts["LSTM"], truth) / best_of_them
    verdict = "ahead of" if ratio < 1 else "behind"
    print(f"\nThe LSTM is {verdict} the best of the others: {ratio:.2f} of its mean absolute error.")
    print(f"picture: {picture.resolve()}")


if __name__ == "__main__":
    main()
