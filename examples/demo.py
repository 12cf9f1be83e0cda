"""Read held-out handwritten digits with the LSTM in ``digits.safetensors`` through ``cylstm run``, and draw how it did.

``make demo`` installs what this needs and runs it. By hand, with the ``examples`` extra installed, from anywhere::

    python examples/demo.py

Writes into ``demo-output/``: the images (``images.npy``), scores and states (``scores.npz``) and a picture
(``digits.png``). The exit status is 1 if less than 0.97 of the held-out images are read right.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from settings import add_output, missing

try:
    import matplotlib as mpl
    import numpy as np
    from digits import Digits, split

    import cylstm
except ModuleNotFoundError as error:
    raise SystemExit(missing(error)) from None

MODEL = Path(__file__).with_name("digits.safetensors")
REQUIRED_ACCURACY = 0.97
BATCH = 50  # images at a time, so that there is progress to see


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_output(parser)
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)

    _, held_out = split()
    report, results = run_cylstm(held_out.images, folder)
    predictions = results["logits"].argmax(axis=1)
    right = int((predictions == held_out.digits).sum())
    accuracy = right / len(predictions)
    picture = folder / "digits.png"
    draw(held_out, predictions, results["output"], picture)

    backend = report["backend"]
    rows = {
        "held-out accuracy": f"{accuracy:.4f} ({right} of {len(predictions)} images, {REQUIRED_ACCURACY} required)",
        "sequences per second": f"{report['sequences_per_second']:,.0f}",
        "backend": backend["name"],
        "instruction set": backend.get("instruction_set", "that of NumPy"),
        "threads": backend.get("threads", "those of NumPy"),
        "picture": picture.resolve(),
    }
    print()
    for name, value in rows.items():
        print(f"{name:20}  {value}")
    return 0 if accuracy >= REQUIRED_ACCURACY else 1


def run_cylstm(images: np.ndarray, folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Call ``cylstm run`` on the images. Returns its report and the arrays that it wrote."""
    images_path, scores_path = folder / "images.npy", folder / "scores.npz"
    np.save(images_path, images)
    options = ["--prefix", "lstm.", "--head", "head.", "--batch-chunk", str(BATCH), "--force"]
    command = ["run", str(MODEL), str(images_path), "--output", str(scores_path), *options]
    print("$ cylstm", *command, flush=True)
    command = [sys.executable, "-m", "cylstm", *command, "--progress", "--json"]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if finished.returncode:
        sys.exit(finished.returncode)  # it has said why
    with np.load(scores_path) as results:
        return json.loads(finished.stdout), dict(results)


def draw(data: Digits, predictions: np.ndarray, output: np.ndarray, path: Path) -> None:
    """Draw one image of each digit and two that are read wrong; the hidden states and what is read, row after row."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    right = predictions == data.digits
    firsts = [np.flatnonzero(right & (data.digits == digit))[:1] for digit in range(10)]
    chosen = np.concatenate([*firsts, np.flatnonzero(~right)[:2]]).tolist()
    head = cylstm.load(MODEL, "head.")
    # Units in the order of the row at which they are most active, the same order in all columns.
    activity = np.abs(output).mean(axis=0)
    order = np.argsort(activity.T @ np.arange(8) / activity.sum(axis=0))

    heatmap: dict[str, Any] = {"aspect": "auto", "interpolation": "nearest"}
    figure, axes = plt.subplots(
        3, len(chosen), figsize=(15, 7.2), height_ratios=[1, 3, 1.3], layout="constrained", squeeze=False
    )
    figure.suptitle("An LSTM reads handwritten digits, one row of pixels a step", fontsize=15, fontweight="bold")
    for column, n in zip(axes.T, chosen, strict=True):
        image, states, belief = column
        image.imshow(data.images[n], cmap="gray_r", vmin=0, vmax=1)
        title = f"read as {predictions[n]}" if right[n] else f"{predictions[n]}, but is {data.digits[n]}"
        image.set_title(title, fontsize=11, color="#1b7837" if right[n] else "#c2410c", fontweight="bold")
        image.set(xticks=[], yticks=[])
        drawn = states.imshow(output[n].T[order], cmap="RdBu_r", vmin=-1, vmax=1, **heatmap)
        scores = head(output[n])
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        read = belief.imshow(shares.T, cmap="Greens", vmin=0, vmax=1, **heatmap)
        states.set(xticks=[], yticks=[])
        belief.set(xticks=[0, 7], xticklabels=["1", "8"], yticks=range(10), yticklabels=[])
        belief.tick_params(length=2)
        belief.set_xlabel("row", fontsize=9, labelpad=-6)
    axes[1, 0].set_ylabel("hidden state h, 64 units")
    axes[2, 0].set_ylabel("digit read so far")
    axes[2, 0].set_yticks(range(10), [str(digit) for digit in range(10)], fontsize=7)
    figure.colorbar(drawn, ax=axes[1, :], fraction=0.02, pad=0.01, ticks=[-1, 0, 1])
    figure.colorbar(read, ax=axes[2, :], fraction=0.02, pad=0.01, ticks=[0, 1], label="probability")
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
