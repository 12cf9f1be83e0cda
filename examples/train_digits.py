"""Train an LSTM to read handwritten digits, with cylstm alone, and write ``demo-output/digits.safetensors``.

Run it from anywhere, with the ``examples`` extra installed::

    python examples/train_digits.py

The split is in ``digits.py``. The file holds the LSTM under the prefix ``lstm.`` and the linear layer that turns the
last hidden state into ten scores under ``head.``; a picture of the training lies beside it, ``digits-training.png``.
``examples/digits.safetensors``, which the demo reads, is such a file: to replace it, copy the new one there.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import NamedTuple

from settings import add_output, missing

try:
    import matplotlib as mpl
    import numpy as np
    from digits import Digits, split
    from tqdm import trange

    import cylstm
    from cylstm.optim import Adam, cross_entropy
except ModuleNotFoundError as error:
    raise SystemExit(missing(error)) from None

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
    parser.add_argument("--epochs", type=int, default=60, help="how often each image is seen (60)")
    add_output(parser)
    arguments = parser.parse_args()
    model, picture = arguments.output / "digits.safetensors", arguments.output / "digits-training.png"

    training, held_out = split()
    reader, losses = train(training, epochs=arguments.epochs)
    draw(losses, reader, held_out, picture)
    reached = np.mean(reader.read(held_out.images) == held_out.digits)
    print(f"accuracy: {np.mean(reader.read(training.images) == training.digits):.4f} of the training images,")
    print(f"          {reached:.4f} of {len(held_out.digits)} held-out images")
    print(f"picture:  {picture.resolve()}")
    if reached < HELD_OUT_ACCURACY:
        raise SystemExit(f"less than {HELD_OUT_ACCURACY}: {model} is not written")
    cylstm.save(reader._asdict(), model)
    print(f"model:    {model.resolve()}, {model.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
