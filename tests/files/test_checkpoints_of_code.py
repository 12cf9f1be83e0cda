"""Checkpoints that are code, or hold some: nothing is run, and the lines in the messages convert them."""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import WAYS, Tagger, assert_read
from model_files import assert_same_module

import cylstm
from cylstm.cli.inspect import inspect_file


def run_hint(error: pytest.ExceptionInfo) -> None:
    """Execute what the message says, from "import" on."""
    exec("import " + str(error.value).partition(": import ")[2], {})


@pytest.mark.parametrize("way", ["zip", "legacy"])
@pytest.mark.parametrize(
    "around",
    [
        lambda model: model,
        lambda model: {"model": model, "epoch": 1},
        lambda model: {"nets": [1, {2: torch.nn.DataParallel(model)}], "encoder.bias": torch.zeros(3)},
    ],
)
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source")
def test_a_whole_module(tmp_path: Path, around: Callable, way: str) -> None:
    model, path = Tagger(), tmp_path / "it's whole.ckpt"
    torch.save(around(model), path, **WAYS[way])
    with pytest.raises(
        ValueError,
        match=r"must be a plain tensor, got one inside an object of .*map_location=\"cpu\", we"
        r"ights_only=False.*torch\.save\(model\.state_dict\(\)",
    ) as error:
        cylstm.load(path)
    run_hint(error)
    assert_read(tmp_path / "it's whole.state_dict.pt", model.encoder)


def test_a_module_beside_a_head(tmp_path: Path) -> None:
    """The LSTM in the object is what is meant, not the Linear beside it."""
    torch.save({"lstm": torch.nn.LSTM(3, 2), "head": torch.nn.Linear(2, 1).state_dict()}, tmp_path / "m.pt")
    with pytest.raises(
        ValueError, match=r"lstm\.weight_ih_l0 must be a plain tensor, got one inside an object of torch"
    ):
        cylstm.load(tmp_path / "m.pt")
    assert isinstance(cylstm.load(tmp_path / "m.pt", "head"), cylstm.Linear)


def test_an_object_without_weights(tmp_path: Path) -> None:
    torch.save(argparse.Namespace(lr=1), tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"got argparse\.Namespace, an object that is not read"):
        cylstm.load(tmp_path / "m.pt")


def test_nothing_is_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    module = torch.nn.LSTM(3, 2)
    for way in ("zip", "legacy"):
        torch.save({"lstm": module.state_dict(), "evil": Evil()}, tmp_path / "m.pt", **WAYS[way])
        assert_read(tmp_path / "m.pt", module)
    assert not (tmp_path / "ran").exists()
    with contextlib.suppress(Exception):
        torch.load(tmp_path / "m.pt", weights_only=False)
    assert (tmp_path / "ran").exists()  # it would have


@pytest.mark.filterwarnings("ignore")  # TorchScript is deprecated, and warns of much
@pytest.mark.parametrize("make", [torch.jit.script, lambda model: torch.jit.trace(model, torch.zeros(2, 2).long())])
def test_torchscript(tmp_path: Path, make: Callable) -> None:
    model = Tagger().eval()
    make(model).save(tmp_path / "m.pt")
    assert_read(tmp_path / "m.pt", model.encoder)
    torch.jit.freeze(torch.jit.script(model)).save(tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"an archive of TorchScript, .* save the state_dict of the model"):
        cylstm.load(tmp_path / "m.pt")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [torch.jit.script, lambda model: torch.jit.trace(model, torch.zeros(2, 6, 3))])
def test_options_that_torchscript_tells(tmp_path: Path, make: Callable) -> None:
    model = torch.nn.Sequential()
    for options in ({"batch_first": True, "dropout": 0.25, "num_layers": 2}, {}, {"batch_first": True}):
        model.append(First(torch.nn.LSTM(3, 3, **options)))
    model.eval()
    make(model).save(tmp_path / "m.pt")
    x = torch.randn(2, 6, 3)
    for k, (first, dropout) in enumerate([(True, 0.25), (False, 0.0), (True, 0.0)]):
        lstm = cylstm.load(tmp_path / "m.pt", f"{k}.lstm")
        assert (lstm.batch_first, lstm.dropout) == (first, dropout)
        np.testing.assert_allclose(lstm.eval()(x)[0], model[k](x).detach(), atol=1e-6, rtol=0)
    assert cylstm.load(tmp_path / "m.pt", "0.lstm", batch_first=False).batch_first is False


class First(torch.nn.Module):
    """The output of an LSTM alone."""

    def __init__(self, lstm: torch.nn.LSTM) -> None:
        super().__init__()
        self.lstm = lstm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0]


@pytest.mark.filterwarnings("ignore")
def test_an_exported_program(tmp_path: Path) -> None:
    model = Tagger().eval()
    path = tmp_path / "m.pt2"
    torch.export.save(torch.export.export(model, (torch.zeros(2, 2).long(),)), path)
    with pytest.raises(ValueError, match=r"got a program of torch\.export: convert it once") as error:
        cylstm.load(path)
    run_hint(error)
    assert_read(tmp_path / "m.state_dict.pt", model.encoder)


def test_an_archive_around_a_checkpoint(tmp_path: Path) -> None:
    torch.save(torch.nn.LSTM(3, 2).state_dict(), tmp_path / "policy.pth")
    with zipfile.ZipFile(tmp_path / "agent.zip", "w") as archive:
        archive.write(tmp_path / "policy.pth", "policy.pth")
    with pytest.raises(ValueError, match=r"got an archive around policy\.pth: unpack it first"):
        cylstm.load(tmp_path / "agent.zip")


def test_what_inspect_says(tmp_path: Path) -> None:
    model, other = Tagger(), torch.nn.LSTM(3, 2)
    torch.save({"state_dict": model.state_dict(), "teacher": other, "lr": argparse.Namespace()}, tmp_path / "m.ckpt")
    modules = {one["prefix"]: one for one in inspect_file(tmp_path / "m.ckpt")["contents"]}
    assert modules["state_dict.encoder."]["module"] == repr(cylstm.load(tmp_path / "m.ckpt", "state_dict"))
    assert "teacher.weight_ih_l0 must be a plain tensor" in str(modules["teacher."])
    assert "weights_only=False" in str(modules["teacher."])


def test_a_plain_pickle(tmp_path: Path) -> None:
    module = torch.nn.LSTM(3, 2)
    for state in (module.state_dict(), {name: tensor.numpy() for name, tensor in module.state_dict().items()}):
        (tmp_path / "m.pkl").write_bytes(pickle.dumps(state))
        with pytest.raises(ValueError, match="got a pickle of another kind, which can run any code") as error:
            cylstm.load(tmp_path / "m.pkl")
        run_hint(error)
        assert_read(tmp_path / "m.npz", module)


def test_big_endian(tmp_path: Path) -> None:
    module = torch.nn.LSTM(3, 2)
    torch.save(module.state_dict(), tmp_path / "m.pt")
    with zipfile.ZipFile(tmp_path / "m.pt") as old, zipfile.ZipFile(tmp_path / "n.pt", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            swapped = (
                np.frombuffer(data, "<u4").byteswap().tobytes() if "data/" in name and name[-1].isdigit() else data
            )
            new.writestr(name, b"big" if name.endswith("byteorder") else swapped)
    with pytest.raises(ValueError, match="must be written in the byte order of this machine") as error:
        cylstm.load(tmp_path / "n.pt")
    run_hint(error)
    assert_same_module(cylstm.load(tmp_path / "n.little.pt"), cylstm.load(tmp_path / "m.pt"))
