"""Models of PyTorch's exporters are read, and ours are what ONNX Runtime computes."""

from __future__ import annotations

import itertools
import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx_models import assert_close, ort_run, random

import cylstm
import cylstm.onnx


class Net(torch.nn.Module):
    def __init__(self, with_states: bool, **options: object) -> None:
        super().__init__()
        self.with_states = with_states
        self.lstm = torch.nn.LSTM(3, 4, **options)
        self.head = torch.nn.Linear(8 if self.lstm.bidirectional else 4, 2)

    def forward(self, x, h, c):
        output, (h_n, c_n) = self.lstm(x, (h, c)) if self.with_states else self.lstm(x)
        return self.head(output), h_n, c_n


OPTIONS = [
    {},
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 3, "batch_first": True, "bias": False},
    {"num_layers": 2, "with_states": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("exporter", ["TorchScript", "TorchScript, not folded", "dynamo"])
def test_models_of_torchs_exporters(exporter: str, options: dict, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Net(**{"with_states": False, **options}).eval()
    LD, path = net.lstm.num_layers * (2 if net.lstm.bidirectional else 1), tmp_path / "m.onnx"
    B = 6 if net.lstm.batch_first else 5
    x, h, c = torch.randn(6, 5, 3), torch.randn(LD, B, 4), torch.randn(LD, B, 4)
    kind = {"dynamo": True} if exporter == "dynamo" else {"dynamo": False, "opset_version": 17}
    if exporter.endswith("not folded"):
        kind["do_constant_folding"] = False
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporters
            torch.onnx.export(net, (x, h, c), path, verbose=False, **kind)
    finally:
        logging.disable(logging.NOTSET)

    lstm = cylstm.load(path)
    wanted = {name: getattr(net.lstm, name) for name in ("num_layers", "batch_first", "bidirectional")}
    assert {name: getattr(lstm, name) for name in wanted} == wanted
    for name, array in net.lstm.state_dict().items():
        np.testing.assert_array_equal(getattr(lstm, name), array)
    with torch.no_grad():
        output, (h_n, c_n) = net.lstm(x, (h, c) if net.with_states else None)
    got, (got_h, got_c) = lstm(x, (h, c) if net.with_states else None)
    assert_close([got, got_h, got_c], [output.numpy(), h_n.numpy(), c_n.numpy()])


# Export -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_export_is_what_onnx_runtime_computes(num_layers: int, states: bool, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    for bidirectional, bias, batch_first in itertools.product([False, True], repeat=3):
        lstm = cylstm.LSTM(3, 4, num_layers, bias, batch_first, bidirectional=bidirectional)
        cylstm.onnx.save(lstm, path, states=states)
        onnx.checker.check_model(onnx.load(path), full_check=True)
        x, B = random(7, 5, 3), 7 if batch_first else 5
        LD = num_layers * (1 + bidirectional)
        hx = (random(LD, B, 4), random(LD, B, 4)) if states else None
        inputs = {"input": x} | ({"h_0": hx[0], "c_0": hx[1]} if hx else {})
        output, (h_n, c_n) = lstm(x, hx)
        assert_close([output, h_n, c_n], ort_run(onnx.load(path), **inputs))
        back = cylstm.load(path)
        assert repr(back) == repr(lstm)
        assert all(np.array_equal(back.state_dict()[name], array) for name, array in lstm.state_dict().items())


@pytest.mark.parametrize("opset_version", range(14, onnx.defs.onnx_opset_version() + 1))
def test_every_opset(opset_version: int) -> None:
    lstm = cylstm.LSTM(3, 4, 2)
    model = cylstm.onnx.export(lstm, opset_version=opset_version, name="encoder")
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == opset_version
    assert cylstm.onnx.find(model)["encoder"].nodes == ("encoder", "encoder_1")


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_dtypes_come_back(dtype: str, tmp_path: Path) -> None:
    lstm = cylstm.LSTM(3, 4, 2, dropout=0.25, bidirectional=True, dtype=dtype)
    cylstm.save(lstm, tmp_path / "m.onnx")
    back = cylstm.load(tmp_path / "m.onnx")
    assert (repr(back), back.dtype) == (repr(lstm), lstm.dtype)
    assert all(np.array_equal(back.state_dict()[name], array) for name, array in lstm.state_dict().items())


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="proj_size=2"):
        cylstm.save(cylstm.LSTM(3, 4, proj_size=2), tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="complex64"):
        cylstm.save(cylstm.LSTM(3, 4, dtype="complex64"), tmp_path / "m.onnx")
    with pytest.raises(TypeError, match="Linear"):
        cylstm.save(cylstm.Linear(3, 4), tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="opset_version must be from 14"):
        cylstm.onnx.export(cylstm.LSTM(3, 4), opset_version=13)
    with pytest.raises(ValueError, match=r"must be 22 or more for an LSTM of bfloat16, got 17"):
        cylstm.save(cylstm.LSTM(3, 4, dtype="bfloat16"), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
    onnx.checker.check_model(cylstm.onnx.export(cylstm.LSTM(3, 4, dtype="bfloat16"), opset_version=22), full_check=True)
