"""Models in files: safetensors and .npz come back, and against the packages that the formats come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from model_files import NPZ_DTYPES, OPTIONS, SAFETENSORS_DTYPES, assert_same_module, lstm_tensors

import cylstm


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("extension", ["safetensors", "npz"])
def test_options_and_sizes_come_back(tmp_path: Path, extension: str, options: dict) -> None:
    lstm = cylstm.LSTM(5, 4, **options)
    cylstm.save(lstm, tmp_path / f"m.{extension}")
    assert_same_module(cylstm.load(tmp_path / f"m.{extension}"), lstm)


@pytest.mark.parametrize(
    ("extension", "dtype"),
    [("safetensors", dtype) for dtype in SAFETENSORS_DTYPES] + [("npz", dtype) for dtype in NPZ_DTYPES],
)
def test_dtypes_come_back(tmp_path: Path, extension: str, dtype: str) -> None:
    lstm = cylstm.LSTM(3, 2, dtype=dtype)
    cylstm.save(lstm, tmp_path / f"m.{extension}")
    assert_same_module(cylstm.load(tmp_path / f"m.{extension}"), lstm)


@pytest.mark.parametrize("extension", ["safetensors", "npz"])
@pytest.mark.parametrize(
    "module",
    [
        lambda: cylstm.LSTMCell(3, 2),
        lambda: cylstm.LSTMCell(3, 2, bias=False),
        lambda: cylstm.Linear(3, 2),
        lambda: cylstm.Linear(3, 2, bias=False),
    ],
)
def test_cell_and_linear_come_back(tmp_path: Path, extension: str, module: object) -> None:
    one = module()
    cylstm.save(one, tmp_path / f"m.{extension}")
    assert_same_module(cylstm.load(tmp_path / f"m.{extension}"), one)


@pytest.mark.parametrize("extension", ["safetensors", "npz"])
def test_several_modules_in_one_file(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"m.{extension}"
    lstm, head = cylstm.LSTM(3, 2, batch_first=True), cylstm.Linear(2, 5)
    cylstm.save({"encoder.lstm": lstm, "head": head}, path)
    assert_same_module(cylstm.load(path), lstm)
    assert_same_module(cylstm.load(path, "encoder"), lstm)
    assert_same_module(cylstm.load(path, prefix="encoder.lstm."), lstm)
    assert_same_module(cylstm.load(path, prefix="head"), head)


def test_the_same_module_gives_the_same_bytes(tmp_path: Path) -> None:
    lstm = cylstm.LSTM(3, 2)
    for name in ("a.safetensors", "b.safetensors", "a.npz", "b.npz"):
        cylstm.save(lstm, tmp_path / name)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_load_leaves_the_generator_alone(tmp_path: Path) -> None:
    cylstm.save(cylstm.LSTM(3, 2), tmp_path / "m.npz")
    cylstm.manual_seed(1)
    expected = cylstm.rand(4)
    cylstm.manual_seed(1)
    cylstm.load(tmp_path / "m.npz")
    np.testing.assert_array_equal(cylstm.rand(4), expected)


def test_options_that_the_file_does_not_tell_can_be_given(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    safetensors.torch.save_file(torch.nn.LSTM(3, 2, 2, batch_first=True).state_dict(), path)
    assert cylstm.load(path).batch_first is False
    lstm = cylstm.load(path, batch_first=True, dropout=0.5, backend="numpy")
    assert (lstm.batch_first, lstm.dropout, lstm.backend) == (True, 0.5, "numpy")
    cylstm.save(cylstm.Linear(3, 2), path)
    with pytest.raises(TypeError, match=r"must be None for a Linear, which .* holds without a prefix: leave them out"):
        cylstm.load(path, batch_first=True)
    with pytest.raises(TypeError, match="backend must be None for a Linear"):
        cylstm.load(path, backend="numpy")


# With the real packages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", SAFETENSORS_DTYPES)
def test_safetensors_reads_what_is_saved(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "m.safetensors"
    lstm = cylstm.LSTM(5, 3, 2, bidirectional=True, proj_size=2, dtype=dtype)
    cylstm.save(lstm, path)
    by_numpy, by_torch = safetensors.numpy.load_file(path), safetensors.torch.load_file(path)
    assert by_numpy.keys() == by_torch.keys() == lstm.state_dict().keys()
    for name, array in lstm.state_dict().items():
        assert by_numpy[name].dtype == array.dtype
        np.testing.assert_array_equal(by_numpy[name], array)
        np.testing.assert_array_equal(by_torch[name].numpy(), array)
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"batch_first": "false", "dropout": "0.0"}


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_state_dict_of_torch_is_read(tmp_path: Path, dtype: str, options: dict) -> None:
    module = torch.nn.LSTM(5, 4, **options, dtype=getattr(torch, dtype)).eval()
    path = tmp_path / "m.safetensors"
    safetensors.torch.save_file(module.state_dict(), path, metadata={"format": "pt"})
    lstm = cylstm.load(path, batch_first=module.batch_first).eval()
    assert lstm.dtype == dtype
    x = torch.randn(6, 2, 5, dtype=module.weight_ih_l0.dtype)
    with torch.no_grad():
        expected = module(x)[0]
    tolerance = 1e-6 if dtype == "float32" else 1e-14
    np.testing.assert_allclose(lstm(x.numpy())[0], expected.numpy(), atol=tolerance, rtol=0)


def test_numpy_reads_what_is_saved_and_the_other_way(tmp_path: Path) -> None:
    lstm = cylstm.LSTM(5, 3, 2)
    cylstm.save(lstm, tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz", allow_pickle=False) as arrays:
        assert {name: arrays[name].tobytes() for name in arrays} == {
            name: array.tobytes() for name, array in lstm.state_dict().items()
        }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "n.npz", **{name: np.asfortranarray(a) for name, a in lstm.state_dict().items()})
        assert_same_module(cylstm.load(tmp_path / "n.npz"), lstm)


def test_big_endian_npz(tmp_path: Path) -> None:
    tensors = lstm_tensors()
    np.savez(tmp_path / "m.npz", **{name: array.astype(">f4") for name, array in tensors.items()})
    lstm = cylstm.load(tmp_path / "m.npz")
    assert lstm.weight_ih_l0.dtype.isnative
    np.testing.assert_array_equal(lstm.weight_ih_l0, tensors["weight_ih_l0"])


def test_bfloat16_becomes_float32_exactly(tmp_path: Path) -> None:
    module = torch.nn.LSTM(3, 2).bfloat16()
    safetensors.torch.save_file(module.state_dict(), tmp_path / "m.safetensors")
    lstm = cylstm.load(tmp_path / "m.safetensors")
    assert lstm.dtype == np.float32
    for name, tensor in module.state_dict().items():
        np.testing.assert_array_equal(getattr(lstm, name), tensor.float().numpy())


def test_other_layers_in_the_file_are_no_error(tmp_path: Path) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(7, 3)
            self.encoder = torch.nn.ModuleDict({"lstm": torch.nn.LSTM(3, 2), "norm": torch.nn.BatchNorm1d(2)})
            self.gru = torch.nn.GRU(2, 2)
            self.rnn = torch.nn.RNN(2, 2)
            self.cell = torch.nn.LSTMCell(2, 2)
            self.convolution = torch.nn.Conv1d(2, 2, 3)
            self.head = torch.nn.Linear(2, 4)
            self.register_buffer("small", torch.zeros(3, dtype=torch.float8_e4m3fn))

    model, path = Model(), tmp_path / "m.safetensors"
    safetensors.torch.save_file(model.state_dict(), path)
    np.testing.assert_array_equal(cylstm.load(path).weight_ih_l0, model.encoder["lstm"].weight_ih_l0.detach())
    assert isinstance(cylstm.load(path, "cell."), cylstm.LSTMCell)
    assert isinstance(cylstm.load(path, "head."), cylstm.Linear)
    with pytest.raises(ValueError, match=r"'gru'.*LSTM under the prefix 'encoder\.lstm\.'.*RNN or GRU, not"):
        cylstm.load(path, "gru")
