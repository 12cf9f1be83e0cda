"""Models of the kinds that people publish, written by whichever Keras is installed, with what they compute.

    python tools/keras_published.py models.zip [.h5 | .keras]

The archive holds each kind of `tools/keras_kinds.py` as .h5 and as .keras, or as one of them, and expected.npz: inputs
and outputs. With tensorflow 2.15 and .h5 it is tests/keras/published/tf215.zip. `tools/keras_versions.py` runs it for
every version, and counts.
"""

from __future__ import annotations

import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from keras_kinds import IDS, KERAS_3, KINDS, keras, layers

as_numpy = keras.ops.convert_to_numpy if KERAS_3 else np.asarray


def inputs_of(model, numbers):
    for one in model.inputs:
        shape = [5, *(7 if size is None else size for size in one.shape[1:])]
        if len(shape) == 2 and shape[1] in (*IDS, 11):
            x = numbers.integers(0, 20, shape).astype("float32")
            x[1:3, 6:] = 0
        else:
            x = numbers.normal(size=shape).astype("float32")
            x[0, -2:] = -1
        yield x


def write(model, path: Path) -> None:
    """The file, if this version of Keras can write it."""
    options = {"save_format": "keras_v3"} if path.suffix == ".keras" and keras.__version__.startswith("2.12") else {}
    try:
        model.save(path, **options)
    except Exception as error:
        print(f"{path.name} is not written: {error}"[:200], file=sys.stderr)
        path.unlink(missing_ok=True)


def main(target: str, *suffixes: str) -> None:
    numbers, expected = np.random.default_rng(0), {}
    with tempfile.TemporaryDirectory() as folder:
        for name, make in KINDS.items():
            keras.backend.clear_session()
            try:
                model = make()
            except Exception as error:  # of Keras 3.0: Bidirectional with return_state
                print(f"{name} is not made: {error}"[:200], file=sys.stderr)
                continue
            model.compile("adam", "mse")
            adapted = {id(w) for one in model.layers if isinstance(one, layers.Normalization) for w in one.weights}
            for weight in model.weights:
                value = numbers.normal(size=tuple(weight.shape)) / (4 if name == "autoencoder" else 2)
                if id(weight) not in adapted:
                    weight.assign(abs(value) + 0.1 if "variance" in weight.name else value)
            xs = list(inputs_of(model, numbers))
            ys = model(xs if len(xs) > 1 else xs[0])
            expected |= {f"{name}/x{n}": x for n, x in enumerate(xs)}
            expected |= {f"{name}/y{n}": as_numpy(y) for n, y in enumerate(ys if isinstance(ys, list) else [ys])}
            for suffix in suffixes or (".h5", ".keras"):
                write(model, Path(folder, name + suffix))
        np.savez(Path(folder, "expected.npz"), **expected)
        with zipfile.ZipFile(target, "w", zipfile.ZIP_LZMA) as archive:
            for path in sorted(Path(folder).iterdir()):
                archive.write(path, path.name)


if __name__ == "__main__":
    main(*sys.argv[1:])
