"""``make fuzz-readers``: damaged files that a coverage-guided fuzzer, Atheris, makes for one reader.

    tools/fuzz_readers.py npz -runs=100000          of READERS; what libFuzzer takes goes through
    tools/fuzz_readers.py npz crash-0123abcd        a file that was kept, again

A file gives a module or a ValueError: everything else ends the run, and so do 10 s or 1 GiB for one file. The file is
kept then, with the extension that it needs.
"""

from __future__ import annotations

import contextlib
import io
import random
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

with atheris.instrument_imports(include=["cylstm"]):
    import cylstm
    import cylstm.keras
    import cylstm.onnx
    from cylstm.cli.inspect import inspect_file

#: The seeds of each, by their names in tests/support/damaged_files.py; the first has the extension that is read.
READERS = {
    "safetensors": ("m.safetensors",),
    "npz": ("m.npz", "deflated.npz", "norm.npz"),
    "pt": ("zip.pt", "zip4.pt", "old.pt", "whole.pt", "script.pt"),
    "onnx": ("m.onnx",),
    "keras": ("m.keras",),
    "h5": ("m.weights.h5",),
    "index": ("m.safetensors.index.json",),
}
ARCHIVES = ("npz", "pt", "keras")


def mutated(data: bytes, max_size: int, seed: int) -> bytes:
    """A mutant; of an archive, half of the time one of whose members, packed anew, is mutated."""
    if seed % 2:
        with contextlib.suppress(Exception):  # it is no archive any more
            return _member_mutated(data, max_size, random.Random(seed))
    return atheris.Mutate(data, max_size)


def _member_mutated(data: bytes, max_size: int, rng: random.Random) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(packed, "w") as new:
        names = old.namelist()
        chosen = rng.choice(names)
        for name in names:
            content = old.read(name)
            new.writestr(name, atheris.Mutate(content, len(content) + 64) if name == chosen else content)
    if packed.tell() > max_size:
        raise ValueError("too large")
    return packed.getvalue()


def main() -> None:
    reader = sys.argv.pop(1)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-readers-"))  # libFuzzer ends the process: it stays
    corpus = folder / "corpus"
    corpus.mkdir()
    import damaged_files

    damaged_files.seeds(folder)
    damaged_files.seeds_of_packages(folder)
    for name in READERS[reader]:
        (corpus / name).write_bytes((folder / name).read_bytes())
    path = folder / f"mutant.{READERS[reader][0].partition('.')[2]}"
    reads = [cylstm.load, inspect_file, *([cylstm.keras.load_model] if reader in ("keras", "h5") else [])]
    warnings.simplefilter("ignore")
    count = 0

    def one(content: bytes) -> None:
        nonlocal count
        count += 1
        path.write_bytes(content)
        try:
            reads[count % len(reads)](path)
        except ValueError as error:
            if len(str(error)) > damaged_files.LONGEST_MESSAGE:
                raise AssertionError("a long message") from error
        except FileNotFoundError:
            if reader != "index":  # it names other files
                raise

    given = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    options = ["-timeout=10", "-rss_limit_mb=1024", "-max_len=65536", *sys.argv[1:]]
    atheris.Setup(
        [sys.argv[0], *options, *([] if given else [str(corpus)])],
        one,
        **({"custom_mutator": mutated} if reader in ARCHIVES else {}),
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
