"""Train an LSTM to read handwritten digits, with PyTorch, and write ``examples/digits.safetensors``.

Run it from anywhere, with PyTorch and safetensors installed beside the ``examples`` extra::

    python examples/train_digits.py

The split is in ``digits.py``. The file holds the LSTM under the prefix ``lstm.`` and the linear layer that turns the
last hidden state into ten scores under ``head.``: the ``state_dict`` of :class:`DigitReader`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from digits import Digits, split
from safetensors.torch import save_file
from torch import nn
from tqdm import trange

HELD_OUT_ACCURACY = 0.97  # what the demo asks for


class DigitReader(nn.Module):
    """One LSTM over the rows of an image, one linear layer on its last hidden state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(input_size=8, hidden_size=64, batch_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        _, (h_n, _) = self.lstm(images)
        return self.head(h_n[-1])


def train(data: Digits, *, epochs: int, batch_size: int = 32, seed: int = 0) -> DigitReader:
    """Adam, a learning rate that falls to zero along a cosine, and some noise on the images."""
    torch.manual_seed(seed)
    model = DigitReader()
    images, digits = torch.from_numpy(data.images), torch.from_numpy(data.digits)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3, weight_decay=1e-5)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    progress = trange(epochs, unit="epoch", desc="training")
    for _ in progress:
        total = 0.0
        for chosen in torch.randperm(len(images)).split(batch_size):
            noisy = images[chosen] + 0.1 * torch.randn(len(chosen), 8, 8)
            loss = nn.functional.cross_entropy(model(noisy), digits[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(chosen)
        scheduler.step()
        progress.set_postfix(loss=f"{total / len(images):.4f}")
    return model


@torch.no_grad()
def accuracy(model: DigitReader, data: Digits) -> float:
    """The share of images that are read right."""
    scores = model(torch.from_numpy(data.images))
    return (scores.argmax(dim=1) == torch.from_numpy(data.digits)).double().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).with_name("digits.safetensors"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the same sums in the same order on any machine with this build of PyTorch

    training, held_out = split()
    model = train(training, epochs=arguments.epochs)
    reached = accuracy(model, held_out)
    print(f"accuracy: {accuracy(model, training):.4f} of {len(training.digits)} training images,")
    print(f"          {reached:.4f} of {len(held_out.digits)} held-out images")
    if reached < HELD_OUT_ACCURACY:
        raise SystemExit(f"less than {HELD_OUT_ACCURACY}: not written")
    # Names and shapes tell everything but the order of the axes, so that goes into the metadata.
    save_file(model.state_dict(), arguments.output, metadata={"format": "pt", "lstm.batch_first": "true"})
    print(f"{arguments.output}: {arguments.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
