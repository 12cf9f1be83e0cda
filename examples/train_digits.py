"""Train an LSTM to read handwritten digits, with cylstm alone, and write ``examples/digits.safetensors``.

Run it from anywhere, with the ``examples`` extra installed::

    python examples/train_digits.py

The split is in ``digits.py``. The file holds the LSTM under the prefix ``lstm.`` and the linear layer that turns the
last hidden state into ten scores under ``head.``. A picture of the training goes to
``demo-output/digits-training.png``.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from digits import Digits, split
from tqdm import trange

import cylstm
from cylstm.optim import Adam

HELD_OUT_ACCURACY = 0.97  # what the demo asks for
LEARNING_RATE = 4e-3
NOISE = 0.1  # standard deviation of what is added to the pixels, which go from 0 to 1


class DigitReader(NamedTuple):
    """One LSTM over the rows of an image, one linear layer on its last hidden state."""

    lstm: cylstm.LSTM
    head: cylstm.Linear

    def read(self, images: np.ndarray) -> np.ndarray:
        """The most likely digit of each image."""
        _, (h_n, _) = self.lstm(images)
        return self.head(h_n[-1]).argmax(axis=1)


def train(data: Digits, *, epochs: int, batch_size: int = 32, seed: int = 0) -> tuple[DigitReader, list[float]]:
    """Adam, a learning rate that falls to zero along a cosine, and some noise on the images.

    Returns the reader and the mean loss of each epoch.
    """
    cylstm.manual_seed(seed)
    lstm, head = cylstm.LSTM(input_size=8, hidden_size=64, batch_first=True), cylstm.Linear(64, 10)
    optimizer = Adam([lstm, head], lr=LEARNING_RATE, weight_decay=1e-5)
    losses = []
    for epoch in (progress := trange(epochs, unit="epoch", desc="training")):
        optimizer.lr = LEARNING_RATE * (1 + math.cos(math.pi * epoch / epochs)) / 2
        order = np.argsort(cylstm.rand(len(data.images)))
        total = 0.0
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            images = data.images[chosen] + NOISE * cylstm.randn(len(chosen), 8, 8)

            _, (h_n, _), lstm_pullback = lstm.vjp(images)
            scores, head_pullback = head.vjp(h_n[-1])
            loss, grad_scores = cross_entropy(scores, data.digits[chosen])
            head_grads = head_pullback(grad_scores)
            lstm_grads = lstm_pullback(grad_hx=(head_grads.input[np.newaxis], None))
            optimizer.step([lstm_grads.parameters, head_grads.parameters])

            total += loss * len(chosen)
        losses.append(total / len(order))
        progress.set_postfix(loss=f"{losses[-1]:.4f}", refresh=False)
    return DigitReader(lstm, head), losses


def cross_entropy(scores: np.ndarray, digits: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean of −log(probability of the right digit), and its gradient with respect to the scores."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    right = np.arange(len(digits)), digits
    grad = np.exp(log_probabilities)
    grad[right] -= 1
    return float(-log_probabilities[right].mean()), grad / len(digits)


def draw(losses: list[float], reader: DigitReader, held_out: Digits, path: Path) -> None:
    """Draw the loss, epoch by epoch, and which held-out digits are read as which."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    counts = np.zeros((10, 10), int)
    np.add.at(counts, (held_out.digits, reader.read(held_out.images)), 1)
    figure, (curve, table) = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
    figure.suptitle("An LSTM learns to read handwritten digits", fontsize=14, fontweight="bold")
    curve.semilogy(range(1, len(losses) + 1), losses, color="#2166ac")
    curve.set(title="training", xlabel="epoch", ylabel="cross-entropy, mean of the epoch")
    curve.grid(alpha=0.3)
    table.imshow(np.log1p(counts), cmap="Greens")
    for (digit, read), count in np.ndenumerate(counts):
        if count:
            color = "white" if digit == read else "#c2410c"
            table.text(read, digit, count, ha="center", va="center", color=color, fontweight="bold")
    table.set(title="held-out images", xlabel="read as", ylabel="digit", xticks=range(10), yticks=range(10))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).with_name("digits.safetensors"))
    parser.add_argument("--picture", type=Path, default=Path("demo-output", "digits-training.png"))
    arguments = parser.parse_args()

    training, held_out = split()
    reader, losses = train(training, epochs=arguments.epochs)
    draw(losses, reader, held_out, arguments.picture)
    reached = np.mean(reader.read(held_out.images) == held_out.digits)
    print(f"accuracy: {np.mean(reader.read(training.images) == training.digits):.4f} of the training images,")
    print(f"          {reached:.4f} of {len(held_out.digits)} held-out images")
    print(f"picture:  {arguments.picture.resolve()}")
    if reached < HELD_OUT_ACCURACY:
        raise SystemExit(f"less than {HELD_OUT_ACCURACY}: {arguments.output} is not written")
    cylstm.save(reader._asdict(), arguments.output)
    print(f"model:    {arguments.output}, {arguments.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
