"""Files of models, damaged by chance, and what may come of them: a module or a ValueError, quickly."""

from __future__ import annotations

import io
import json
import random
import tracemalloc
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import cylstm
from cylstm.cli.inspect import inspect_file

#: In letters.
LONGEST_MESSAGE = 10_000
Module = cylstm.LSTM | cylstm.LSTMCell | cylstm.Linear


def seeds(folder: Path) -> list[Path]:
    """Small files of each kind that is read here, intact."""
    model = torch.nn.ModuleDict({"lstm": torch.nn.LSTM(2, 1), "head": torch.nn.Linear(1, 2)})
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.5)
    state = {
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "at": (1.5, None, {"a"}),
    }
    for name, options in (
        ("zip.pt", {}),
        ("zip4.pt", {"pickle_protocol": 4}),
        ("old.pt", {"_use_new_zipfile_serialization": False}),
    ):
        torch.save(state, folder / name, **options)
    torch.save(model, folder / "whole.pt")
    torch.save(torch.nn.LSTM(2, 1, dtype=torch.bfloat16).state_dict(), folder / "bfloat16.ckpt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.script(model["lstm"]).save(folder / "script.pt")
    lstm = cylstm.LSTM(2, 1)
    cylstm.save(lstm, folder / "m.safetensors")
    cylstm.save(lstm, folder / "m.npz")
    np.savez_compressed(folder / "deflated.npz", **lstm.state_dict())
    norm = {f"{name}_v": array for name, array in lstm.state_dict().items()}
    norm |= {f"{name}_g": np.linalg.norm(array) for name, array in lstm.state_dict().items()}
    np.savez(folder / "norm.npz", **norm)
    return sorted(path for path in folder.iterdir() if path.is_file())


def seeds_of_packages(folder: Path) -> list[Path]:
    """Likewise, of those that need onnx or h5py."""
    import cylstm.keras as ck
    import cylstm.onnx

    cylstm.save(cylstm.LSTM(2, 1, bidirectional=True), folder / "m.onnx")
    model = ck.Sequential(
        [ck.Input((3, 2)), ck.Bidirectional(ck.LSTM(1, return_sequences=True)), ck.LSTM(1), ck.Dense(1)]
    )
    model.save(folder / "m.keras")
    model.save_weights(folder / "m.weights.h5")
    cylstm.save(cylstm.LSTM(2, 1), folder / "part.safetensors")
    names = cylstm.LSTM(2, 1).state_dict()
    index = {"metadata": {"total_size": 80}, "weight_map": dict.fromkeys(names, "part.safetensors")}
    (folder / "m.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    return [folder / name for name in ("m.onnx", "m.keras", "m.weights.h5", "m.safetensors.index.json")]


def _bytes_damaged(content: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        place = rng.randrange(len(damaged) + 1)
        match rng.randrange(6):
            case 0 | 1 if place < len(damaged):
                damaged[place] = rng.randrange(256)
            case 2:
                damaged[place:place] = rng.randbytes(rng.choice((1, 4, 8)))
            case 3:
                del damaged[place : place + rng.choice((1, 4, 100))]
            case 4:
                begin = rng.randrange(len(damaged) + 1)
                damaged[place:place] = damaged[begin : begin + rng.randrange(64)]
            case 5:
                damaged[place : place + 4] = rng.choice((b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0"))
        if not damaged:
            break
    return bytes(damaged)


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The content of a file with some bytes changed; of an archive, half of the time those of one member, repacked."""
    if not content.startswith(b"PK") or rng.random() < 0.5:
        return _bytes_damaged(content, rng)
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(packed, "w") as new:
        names = old.namelist()
        chosen = rng.choice([name for name in names if name.endswith(".pkl")] or names)
        for name in names:
            member = old.read(name)
            new.writestr(name, _bytes_damaged(member, rng) if name == chosen else member)
    return packed.getvalue()


def check(path: Path) -> Module | None:
    """Load and inspect a file: the module, or None after a ValueError.

    Raises
    ------
    Exception
        Whatever else comes.
    AssertionError
        If much memory is taken, or the message is long.
    """
    module = None
    tracemalloc.start()
    try:
        for read in (cylstm.load, inspect_file):
            try:
                result = read(path)
            except ValueError as error:
                if len(str(error)) > LONGEST_MESSAGE:
                    raise AssertionError("a long message") from error
                continue
            if read is cylstm.load:
                module = result
        assert tracemalloc.get_traced_memory()[1] < 64 << 20, "much memory"
    finally:
        tracemalloc.stop()
    assert module is None or isinstance(module, Module)
    return module


def mutants(contents: dict[Path, bytes], seed: int) -> Iterator[tuple[Path, bytes]]:
    """Names and contents of damaged files, without end; the same ones for the same seed."""
    rng = random.Random(seed)
    while True:
        for path, content in contents.items():
            yield path, damaged(content, rng)
