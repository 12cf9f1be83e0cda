"""How many of the kinds of models that people publish open, and give what Keras gives.

    python tools/count_published.py build/keras-versions/published/*.zip

The archives are those of `tools/keras_published.py`. A kind counts where every file of it that Keras could write opens,
and the outputs are Keras's to the rounding of float32. What does not open is named.
"""

from __future__ import annotations

import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from cylstm.keras import load_model

#: Of outputs up to 1; what is larger is divided by the largest.
TOLERANCE = 3e-6
GOAL = 50


def difference(path: Path, xs: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """The largest difference from what Keras computed."""
    got = load_model(path).predict(xs if len(xs) > 1 else xs[0])
    got = got if isinstance(got, list) else [got]
    largest = max(1.0, *(float(abs(one).max()) for one in wanted))
    return max(float(abs(one - theirs).max()) for one, theirs in zip(got, wanted, strict=True)) / largest


def count(archive: Path, suffix: str) -> tuple[int, int]:
    """The kinds that open and are equal, and all."""
    equal, refused, worst = 0, [], 0.0
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(archive) as file:
        file.extractall(folder)
        names = sorted(path.stem for path in Path(folder).glob(f"*{suffix}"))
        with np.load(Path(folder, "expected.npz")) as arrays:
            expected = {key: arrays[key] for key in arrays}
        for name in names:
            xs, ys = ([expected[key] for key in expected if key.startswith(f"{name}/{of}")] for of in "xy")
            try:
                found = difference(Path(folder, name + suffix), xs, ys)
            except ValueError as error:
                refused.append(f"{name} ({str(error).rpartition(', got ')[2].partition(',')[0]})")
                continue
            worst = max(worst, found)
            equal += found <= TOLERANCE
            if found > TOLERANCE:
                print(f"{archive.stem}, {name}{suffix}: differs by {found:.1e}")
    print(
        f"{archive.stem:14} {suffix:6}  {equal} of {len(names)} equal to Keras, largest difference {worst:.0e}; "
        f"refused by name: {', '.join(refused) or 'none'}"
    )
    return equal, len(names)


def main(archives: list[str]) -> int:
    """Count all; whether each version that writes every kind reaches the goal."""
    counts = [count(Path(archive), suffix) for archive in archives for suffix in (".h5", ".keras")]
    counts = [one for one in counts if one[1]]
    print(f"{sum(one for one, _ in counts)} of {sum(all_ for _, all_ in counts)} files")
    most = max((all_ for _, all_ in counts), default=0)
    whole = [equal for equal, all_ in counts if all_ == most]
    return 0 if whole and min(whole) >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
