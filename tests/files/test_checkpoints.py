"""PyTorch's checkpoints without PyTorch: what `torch.save` writes comes out as `torch.load` has it."""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from model_files import OPTIONS, assert_same_module

import cylstm
from cylstm.cli.convert import inspect_file

#: Each way of `torch.save`.
WAYS = {
    "zip": {},
    "legacy": {"_use_new_zipfile_serialization": False},
    "protocol 3": {"pickle_protocol": 3},
    "protocol 4": {"pickle_protocol": 4},
    "protocol 5": {"pickle_protocol": 5},
    "legacy, protocol 4": {"_use_new_zipfile_serialization": False, "pickle_protocol": 4},
}
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


class Tagger(torch.nn.Module):
    """A model around an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(7, 3)
        self.encoder = torch.nn.LSTM(3, 4, 2, bidirectional=True)
        self.head = torch.nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embedding(x))[0])


def assert_read(path: Path, module: torch.nn.LSTM, prefix: str = "") -> None:
    lstm = cylstm.load(path, prefix)
    assert lstm.state_dict().keys() == module.state_dict().keys()
    for name, tensor in module.state_dict().items():
        np.testing.assert_array_equal(getattr(lstm, name), tensor.numpy())


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_state_dict(tmp_path: Path, way: dict, options: dict) -> None:
    module = torch.nn.LSTM(5, 4, **options)
    torch.save(module.state_dict(), tmp_path / "m.pt", **way)
    assert_read(tmp_path / "m.pt", module)


@pytest.mark.parametrize("name", ["m.pt", "m.PTH", "m.ckpt", "m.th", "pytorch_model.bin", "m", "best.pth.tar", "m.pkl"])
@pytest.mark.parametrize("way", ["zip", "legacy"])
def test_the_content_tells(tmp_path: Path, name: str, way: str) -> None:
    module = torch.nn.LSTM(5, 4)
    torch.save(module.state_dict(), tmp_path / name, **WAYS[way])
    assert_read(tmp_path / name, module)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("dtype", ["float16", "float64", "complex64", "complex128", "bfloat16"])
def test_dtypes(tmp_path: Path, way: dict, dtype: str) -> None:
    module = torch.nn.LSTM(3, 2, dtype=getattr(torch, dtype))
    torch.save(module.state_dict(), tmp_path / "m.pt", **way)
    lstm = cylstm.load(tmp_path / "m.pt")
    assert lstm.dtype == ("float32" if dtype == "bfloat16" else dtype)
    for name, tensor in module.state_dict().items():
        expected = tensor.float() if dtype == "bfloat16" else tensor
        np.testing.assert_array_equal(getattr(lstm, name), expected.numpy())


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_views_strides_and_shared_storages(tmp_path: Path, way: dict) -> None:
    flat = torch.randn(400)  # as cuDNN keeps them: all weights in one storage
    shapes = {name: tensor.shape for name, tensor in torch.nn.LSTM(3, 4).state_dict().items()}
    tensors, begin = {}, 7
    for name, shape in shapes.items():
        tensors[name] = flat[begin : begin + shape.numel()].view(shape)
        begin += shape.numel()
    tensors["weight_hh_l0"] = torch.randn(4, 16).T
    tensors["weight_ih_l0"] = torch.randn(3, 40).T[3:35:2]
    tensors["bias_hh_l0"] = torch.randn(1).expand(16)
    torch.save(tensors, tmp_path / "m.pt", **way)
    lstm = cylstm.load(tmp_path / "m.pt")
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(getattr(lstm, name), tensor.numpy())


@pytest.mark.parametrize("change", [torch.conj, torch._neg_view, lambda x: torch._neg_view(x.conj())])
def test_bits_that_are_set_on_a_view(tmp_path: Path, change: Callable) -> None:
    tensors = {n: change(t.detach()) for n, t in torch.nn.LSTM(3, 2, dtype=torch.complex64).state_dict().items()}
    torch.save(tensors, tmp_path / "m.pt")
    for name, tensor in tensors.items():
        expected = tensor.resolve_conj().resolve_neg().numpy()
        np.testing.assert_array_equal(getattr(cylstm.load(tmp_path / "m.pt"), name), expected)


def test_parameters_with_gradients_and_attributes(tmp_path: Path) -> None:
    module = torch.nn.LSTM(3, 2)
    named = dict(module.named_parameters())  # nn.Parameter, not the detached tensors of a state_dict
    named["weight_hh_l0"].mark = 1
    tensor = named["bias_hh_l0"] = named["bias_hh_l0"].detach().clone()
    tensor.mark = {"of": "a tensor"}
    torch.save(named, tmp_path / "m.pt")
    assert_read(tmp_path / "m.pt", module)


def test_crc_may_be_left_out(tmp_path: Path) -> None:
    module = torch.nn.LSTM(3, 2)
    try:
        torch.serialization.set_crc32_options(False)
        torch.save(module.state_dict(), tmp_path / "m.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert_read(tmp_path / "m.pt", module)


def test_an_archive_that_was_packed_anew(tmp_path: Path) -> None:
    module = torch.nn.LSTM(3, 2)
    torch.save(module.state_dict(), tmp_path / "m.pt")
    with (
        zipfile.ZipFile(tmp_path / "m.pt") as old,
        zipfile.ZipFile(tmp_path / "n.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            with new.open(name, "w", force_zip64=True) as member:
                member.write(old.read(name))
    assert_read(tmp_path / "n.pt", module)


# What is around the weights -----------------------------------------------------------------------------------------


def wrapped(model: torch.nn.Module) -> dict[str, dict]:
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.zeros(2, 2, dtype=torch.long)).sum().backward()
    optimizer.step()
    state = model.state_dict()
    beside = {
        "epoch": 3,
        "best": np.float64(0.5),
        "args": argparse.Namespace(lr=0.1),
        "optimizer": optimizer.state_dict(),
    }
    return {
        "state_dict": {"state_dict": state, **beside},
        "model_state_dict": {"model_state_dict": state, **beside, "rng": torch.get_rng_state()},
        "model": {"model": state, "history": collections.defaultdict(list, loss=[1.0]), "names": {"a", "b"}},
        "module.": torch.nn.DataParallel(model).state_dict(),
        "_orig_mod.": {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
        "Lightning": {
            "state_dict": {f"model.{name}": t for name, t in state.items()},
            "hyper_parameters": beside["args"],
        },
        "a list": {"both": [state, beside]},
        "numbers as keys": {"folds": {0: state}, (1, 2): "a pair", None: 1, 2.5: 2, b"bytes": b"more"},
    }


CASES = list(wrapped(Tagger()))


@pytest.mark.parametrize("way", ["zip", "legacy"])
@pytest.mark.parametrize("case", CASES)
def test_what_training_scripts_write(tmp_path: Path, way: str, case: str) -> None:
    model, path = Tagger(), tmp_path / "m.ckpt"
    torch.save(wrapped(model)[case], path, **WAYS[way])
    assert_read(path, model.encoder)
    assert_read(path, model.encoder, "encoder")  # as in the state_dict of the model
    head = cylstm.load(path, "head")
    np.testing.assert_array_equal(head.weight, model.head.weight.detach().numpy())


def test_a_prefix_names_one_of_several(tmp_path: Path) -> None:
    one, two, path = Tagger(), Tagger(), tmp_path / "m.pt"
    torch.save({"model": one.state_dict(), "ema": torch.nn.DataParallel(two).state_dict()}, path)
    with pytest.raises(ValueError, match=r"got 2: give the prefix .*: 'model\.encoder\.', 'ema\.module\.encoder\.'"):
        cylstm.load(path)
    with pytest.raises(ValueError, match="got 2"):
        cylstm.load(path, "encoder")
    assert_read(path, one.encoder, "model")
    assert_read(path, two.encoder, "ema.encoder")
    for wrong in ("module.", "coder", "model.encode", "."):
        with pytest.raises(ValueError, match=r"must hold"):
            cylstm.load(path, wrong)


def test_names_that_are_there_twice(tmp_path: Path) -> None:
    state = torch.nn.LSTM(3, 2).state_dict()
    torch.save({"a.lstm": state, "a": {"lstm": state}}, tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"each name must be there once, got 'a\.lstm\.weight_ih_l0' twice"):
        cylstm.load(tmp_path / "m.pt")


@pytest.mark.parametrize(
    "tensor",
    [
        lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8),
        lambda w: w.to_sparse(),
        lambda w: w.numpy(),
    ],
)
@pytest.mark.parametrize("way", ["zip", "legacy"])
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_a_weight_that_is_no_plain_tensor(tmp_path: Path, tensor: Callable, way: str) -> None:
    state = torch.nn.LSTM(3, 2, 2, bias=False).state_dict()
    for name in ("weight_ih_l1", "weight_hh_l1"):
        state[name] = tensor(state[name])
    torch.save(state, tmp_path / "m.pt", **WAYS[way])
    with pytest.raises(ValueError, match=r"weight_ih_l1 must be a plain tensor, got an object of .*: save it as"):
        cylstm.load(tmp_path / "m.pt")


def test_dtypes_that_numpy_lacks(tmp_path: Path) -> None:
    state = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in torch.nn.LSTM(3, 2).state_dict().items()}
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"parameters must be float16.*, got float8_e4m3fn"):
        cylstm.load(tmp_path / "m.pt")
    torch.save(
        {**state, **torch.nn.LSTM(3, 2).state_dict(), "ids": torch.zeros(3, dtype=torch.uint16)}, tmp_path / "m.pt"
    )
    assert cylstm.load(tmp_path / "m.pt").dtype == "float32"


# What is code, and the lines that convert it ------------------------------------------------------------------------


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


@pytest.mark.parametrize("way", ["zip", "legacy"])
def test_tensors_of_a_gpu(tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:1")
    module = torch.nn.LSTM(3, 2)
    torch.save(module.state_dict(), tmp_path / "m.pt", **WAYS[way])
    assert b"cuda:1" in (tmp_path / "m.pt").read_bytes()
    assert_read(tmp_path / "m.pt", module)


def test_what_inspect_says(tmp_path: Path) -> None:
    model, other = Tagger(), torch.nn.LSTM(3, 2)
    torch.save({"state_dict": model.state_dict(), "teacher": other, "lr": argparse.Namespace()}, tmp_path / "m.ckpt")
    modules = {one["prefix"]: one for one in inspect_file(tmp_path / "m.ckpt")["modules"]}
    assert modules["state_dict.encoder."]["module"] == repr(cylstm.load(tmp_path / "m.ckpt", "state_dict"))
    assert "teacher.weight_ih_l0 must be a plain tensor" in str(modules["teacher."])
    assert "weights_only=False" in str(modules["teacher."])


def test_a_plain_pickle(tmp_path: Path) -> None:
    import pickle

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
