"""bfloat16, which NumPy has from the package ml_dtypes: computed in float32, the states rounded after each step."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import LIMIT

import cylstm
import cylstm.testing
import cylstm.torch

ml_dtypes = pytest.importorskip("ml_dtypes")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
EPS = 2.0**-7


def bits(value: Any) -> np.ndarray:
    """The 16 bits of each number of an array or a tensor."""
    if isinstance(value, torch.Tensor):
        return value.detach().contiguous().view(torch.int16).numpy()
    return value.view(np.int16)


@pytest.mark.parametrize("spelling", ["bfloat16", BFLOAT16, ml_dtypes.bfloat16, torch.bfloat16], ids=repr)
def test_spellings(spelling: Any) -> None:
    assert cylstm.LSTM(3, 4, dtype=spelling).dtype == BFLOAT16
    assert cylstm.LSTM(3, 4).to(spelling).dtype == BFLOAT16
    assert cylstm.Linear(3, 4).bfloat16().dtype == BFLOAT16


@pytest.mark.parametrize("hidden_size", [1, 5, 16, 33])
def test_a_seed_gives_the_bits_of_torch(hidden_size: int) -> None:
    torch.manual_seed(hidden_size)
    theirs = torch.nn.LSTM(7, hidden_size, bidirectional=True, dtype=torch.bfloat16)
    numbers = torch.randn(3, hidden_size, dtype=torch.bfloat16)
    cylstm.manual_seed(hidden_size)
    ours = cylstm.LSTM(7, hidden_size, bidirectional=True, dtype="bfloat16")
    for name, parameter in theirs.named_parameters():
        np.testing.assert_array_equal(bits(getattr(ours, name)), bits(parameter))
    np.testing.assert_array_equal(bits(cylstm.randn(3, hidden_size, dtype="bfloat16")), bits(numbers))


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2}, {"proj_size": 3}], ids=str)
def test_lstm_is_that_of_torch(options: dict[str, Any]) -> None:
    """Values and gradients: as near to the exact ones as PyTorch's are, which rounds more often."""
    theirs = torch.nn.LSTM(6, 8, dtype=torch.bfloat16, **options)
    ours = cylstm.LSTM.from_torch(theirs, backend="numpy")
    assert all(np.array_equal(bits(getattr(ours, name)), bits(p)) for name, p in theirs.named_parameters())
    x = torch.randn(5, 3, 6, dtype=torch.bfloat16, requires_grad=True)
    exact = torch.nn.LSTM(6, 8, dtype=torch.float64, **options)
    exact.load_state_dict(theirs.state_dict())
    wide = x.detach().double().requires_grad_()
    grad = torch.randn(5, 3, theirs(x)[0].shape[-1], dtype=torch.bfloat16)
    output, (h_n, c_n), pullback = ours.vjp(x)
    grads = pullback(grad)
    got = [output, h_n, c_n, grads.input, *grads.parameters.values()]
    expected = []
    for module, start, g in ((theirs, x, grad), (exact, wide, grad.double())):
        out, (h, c) = module(start)
        expected.append([out, h, c, *torch.autograd.grad(out, [start, *module.parameters()], g)])
    for one, torchs, true in zip(got, *expected, strict=True):
        assert one.dtype == BFLOAT16
        scale = max(1.0, true.detach().abs().max().item())
        error = np.abs(one.astype(np.float64) - true.detach().numpy()).max() / scale
        assert error <= 4 * EPS
        assert error <= 2 * EPS + (torchs.double() - true).abs().max().item() / scale


@pytest.mark.parametrize("make", [lambda lib: lib.LSTMCell(5, 7), lambda lib: lib.Linear(5, 7)], ids=["cell", "linear"])
def test_other_modules_are_those_of_torch(make: Callable[[Any], Any]) -> None:
    theirs = make(torch.nn).bfloat16()
    ours = make(cylstm).bfloat16()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 5, dtype=torch.bfloat16)
    for got, expected in zip(np.atleast_1d(ours(x)), theirs(x), strict=True):
        np.testing.assert_allclose(got.astype(float), expected.detach().double().numpy(), rtol=0, atol=4 * EPS)
    for name, parameter in cylstm.torch.to_torch(ours).named_parameters():
        np.testing.assert_array_equal(bits(parameter), bits(getattr(theirs, name)))


def test_what_does_not_compute_it_says_so(new_registry: None, tmp_path: Path) -> None:
    with pytest.raises(cylstm.UnsupportedError, match=r"cannot compute dtype bfloat16.*Backends that can: numpy"):
        cylstm.LSTM(3, 4, dtype="bfloat16", backend="cython")
    with pytest.raises(TypeError, match=r"got bfloat16, too coarse.*module.to\('bfloat16'\)"):
        cylstm.optim.SGD(cylstm.Linear(3, 4).bfloat16(), lr=0.1)
    with pytest.raises(ValueError, match=r"must be of a dtype that \.npz has, got bfloat16.*\.safetensors"):
        cylstm.save(cylstm.Linear(3, 4).bfloat16(), tmp_path / "linear.npz")
    assert not list(tmp_path.iterdir())


def test_file(tmp_path: Path) -> None:
    """Written as bfloat16, read as float32, which holds each of its values."""
    import safetensors.torch

    module = cylstm.LSTM(3, 4, dtype="bfloat16")
    cylstm.save(module, tmp_path / "lstm.safetensors")
    tensors = safetensors.torch.load_file(tmp_path / "lstm.safetensors")
    loaded = cylstm.load(tmp_path / "lstm.safetensors").bfloat16()
    for name, parameter in module.named_parameters():
        np.testing.assert_array_equal(bits(tensors[name]), bits(parameter))
        np.testing.assert_array_equal(bits(getattr(loaded, name)), bits(parameter))


def test_without_ml_dtypes_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    lstm = cylstm.LSTM(3, 4)
    for use in (lambda: cylstm.LSTM(3, 4, dtype="bfloat16"), lambda: lstm.to("bfloat16")):
        with pytest.raises((RuntimeError, TypeError), match="pip install 'ml_dtypes"):
            use()
    assert lstm.dtype == np.float32
    of_dtypes = {check.id.replace("float32-bfloat16", "") for check in cylstm.testing.checks("numpy")}
    assert not any("bfloat16" in name for name in of_dtypes)


def test_importing_cylstm_imports_no_ml_dtypes() -> None:
    script = "import sys, cylstm; cylstm.LSTM(3, 4)(cylstm.randn(2, 3)); print('ml_dtypes' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=True,
        env={"PYTHONPATH": str(Path(cylstm.__file__).parents[1])},
    )
    assert done.stdout.strip() == "False"
