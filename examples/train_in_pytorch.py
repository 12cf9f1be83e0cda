"""Train a PyTorch model twice from one seed, with torch.nn.LSTM and with cylstm.torch.LSTM, and compare the losses.

The training loop, the optimiser and the linear layer are PyTorch's; only who computes the LSTM differs. For scale,
PyTorch trains once more with kernels of its own instead of oneDNN's. The data are scikit-learn's handwritten digits,
split as in ``digits.py``. Run it from anywhere, with PyTorch installed beside the ``examples`` extra::

    python examples/train_in_pytorch.py

Writes the picture ``demo-output/train_in_pytorch.png``. The exit status is 1 if a loss differs by more than 1e-3 of
itself (the roundings of float32 grow from step to step, whoever computes), or if less than 0.95 of the held-out images
are read right.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from settings import add_output, missing

try:
    import matplotlib as mpl
    import numpy as np
    import torch
    from digits import Digits, split
    from torch import nn
    from tqdm import tqdm

    import cylstm
    import cylstm.torch
except ModuleNotFoundError as error:
    raise SystemExit(missing(error)) from None

THEIRS, OURS = "torch.nn.LSTM", "cylstm.torch.LSTM"
TOLERANCE = 1e-3
REQUIRED_ACCURACY = 0.95


class DigitReader(nn.Module):
    """Two LSTM layers over the rows of an image, a linear layer on the last hidden state."""

    def __init__(self, lstm: type[nn.LSTM]) -> None:
        super().__init__()
        self.lstm = lstm(input_size=8, hidden_size=64, num_layers=2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        _, (h_n, _) = self.lstm(images)
        return self.head(h_n[-1])


def train(
    lstm: type[nn.LSTM], data: Digits, *, name: str, epochs: int, batch_size: int = 32
) -> tuple[DigitReader, np.ndarray]:
    """The trained model and the loss of each step. All that is random follows from one seed."""
    torch.manual_seed(0)
    model = DigitReader(lstm)
    images, digits = torch.from_numpy(data.images), torch.from_numpy(data.digits)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    losses = []
    with tqdm(total=epochs * len(images), unit="image", desc=name) as progress:
        for _ in range(epochs):
            for chosen in torch.randperm(len(images)).split(batch_size):
                loss = nn.functional.cross_entropy(model(images[chosen]), digits[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
                progress.update(len(chosen))
            scheduler.step()
            progress.set_postfix(loss=f"{losses[-1]:.4f}")
    return model.eval(), np.array(losses)


@torch.no_grad()
def accuracy(model: DigitReader, data: Digits) -> float:
    """The share of images that are read right."""
    return (model(torch.from_numpy(data.images)).argmax(dim=1).numpy() == data.digits).mean().item()


def draw(curves: dict[str, np.ndarray], differences: dict[str, np.ndarray], path: Path) -> None:
    """The loss curves, and how far they are from PyTorch's."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    styles = dict(zip(curves, [("#f4a582", 6), ("#92c5de", 3), ("#053061", 1)], strict=True))
    figure, (losses, apart) = plt.subplots(
        2, 1, figsize=(9, 6.5), sharex=True, height_ratios=[2, 1], layout="constrained"
    )
    figure.suptitle("One training loop in PyTorch, the LSTM computed by three", fontsize=14, fontweight="bold")
    for name, curve in curves.items():
        color, width = styles[name]
        losses.plot(curve, color=color, linewidth=width, label=name)
    losses.set(ylabel="loss (cross entropy)", yscale="log")
    losses.legend()
    for name, difference in differences.items():
        apart.plot(np.maximum(difference, 1e-9), ".", markersize=3, color=styles[name][0])
    apart.axhline(TOLERANCE, color="#c2410c", linewidth=1)
    style = {"xytext": (0, 3), "textcoords": "offset points", "ha": "right", "fontsize": 9}
    last = len(next(iter(curves.values())))
    apart.annotate(f"allowed: {TOLERANCE:g}", (last, TOLERANCE), color="#c2410c", **style)
    apart.annotate("equal, drawn at 1e-9", (last, 1e-9), color="#374151", **style)
    apart.set(xlabel="step", ylabel=f"difference from\n{THEIRS}", yscale="log", ylim=(5e-10, 1e-2))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=25, help="how often each image is seen (25)")
    add_output(parser)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    cylstm.set_num_threads(1)

    training, held_out = split()
    curves, rows, reached = {}, {}, []
    for name, lstm in {THEIRS: nn.LSTM, f"{THEIRS} without oneDNN": nn.LSTM, OURS: cylstm.torch.LSTM}.items():
        torch.backends.mkldnn.set_flags("without" not in name)
        model, curves[name] = train(lstm, training, name=f"{name:28}", epochs=arguments.epochs)
        reached.append(accuracy(model, held_out))
        rows[name] = f"last loss {curves[name][-1]:.6f}, held-out accuracy {reached[-1]:.4f}"
    differences = {name: abs(c - curves[THEIRS]) / curves[THEIRS] for name, c in curves.items() if name != THEIRS}
    for name, difference in differences.items():
        rows[name] += f", losses within {difference.max():.1e}"
    picture = arguments.output / "train_in_pytorch.png"
    draw(curves, differences, picture)

    rows["picture"] = str(picture.resolve())
    print()
    for name, value in rows.items():
        print(f"{name:28}  {value}")
    return 0 if differences[OURS].max() <= TOLERANCE and min(reached) >= REQUIRED_ACCURACY else 1


if __name__ == "__main__":
    sys.exit(main())
