"""Weights that PyTorch computes from others: what it computes in evaluation mode comes out of its state_dicts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import cylstm

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated"),
    pytest.mark.filterwarnings("ignore:.*spectral_norm. is deprecated"),
    pytest.mark.filterwarnings("ignore:RNN module weights are not part of single contiguous chunk"),
]
#: Each way, of the weight of one name.
WAYS: dict[str, Callable] = {
    "weight_norm": weight_norm,
    "weight_norm, dim=1": lambda m, n: weight_norm(m, n, dim=1),
    "weight_norm, dim=None": lambda m, n: weight_norm(m, n, dim=None),
    "parametrizations.weight_norm": parametrizations.weight_norm,
    "parametrizations.weight_norm, dim=1": lambda m, n: parametrizations.weight_norm(m, n, dim=1),
    "spectral_norm": spectral_norm,
    "spectral_norm, dim=1": lambda m, n: spectral_norm(m, n, dim=1),
    "parametrizations.spectral_norm": parametrizations.spectral_norm,
    "parametrizations.spectral_norm, dim=1": lambda m, n: parametrizations.spectral_norm(m, n, dim=1),
    "prune": lambda m, n: prune.l1_unstructured(m, n, amount=0.4),
}
EXTENSIONS = [".safetensors", ".npz", ".pt"]


def write(state: dict[str, torch.Tensor], path: Path) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in state.items()})
    elif path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    return path


def output(module: torch.nn.LSTM, x: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        module.train()(x)  # as in training: a step of the power iteration
        return module.eval()(x)[0].numpy()


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_weights_of_the_top_layer(tmp_path: Path, way: str, bias: bool, extension: str) -> None:
    module, x = torch.nn.LSTM(3, 4, 2, bias=bias, bidirectional=True), torch.randn(5, 2, 3)
    for name in ("weight_ih_l1_reverse", "weight_hh_l1_reverse", "weight_hh_l1"):
        WAYS[way](module, name)
    expected = output(module, x)
    lstm = cylstm.load(write(module.state_dict(), tmp_path / f"m{extension}"))
    assert (lstm.num_layers, lstm.bias, lstm.bidirectional) == (2, bias, True)
    np.testing.assert_allclose(lstm(x)[0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("way", WAYS)
def test_load_state_dict(way: str) -> None:
    module, x = torch.nn.LSTM(3, 4, 2), torch.randn(5, 2, 3)
    for name in ("weight_ih_l1", "weight_hh_l0"):
        WAYS[way](module, name)
    expected = output(module, x)
    for strict in (True, False):
        lstm = cylstm.LSTM(3, 4, 2)
        assert lstm.load_state_dict(module.state_dict(), strict) == ([], [])
        np.testing.assert_allclose(lstm(x)[0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("way", WAYS)
def test_linear_and_cell(tmp_path: Path, way: str) -> None:
    model = torch.nn.ModuleDict({"cell": torch.nn.LSTMCell(3, 4), "head": torch.nn.Linear(4, 2)})
    WAYS[way](model["cell"], "weight_hh")
    WAYS[way](model["head"], "weight")
    x = torch.randn(5, 3)
    with torch.no_grad():
        model["head"](model["cell"](x)[0])
        h = model.eval()["cell"](x)[0]
        expected = model["head"](h).numpy()
    path = write(model.state_dict(), tmp_path / "m.pt")
    h, _ = cylstm.load(path)(x)
    np.testing.assert_allclose(cylstm.load(path, "head")(h), expected, atol=1e-6, rtol=0)


def test_every_parameter_pruned(tmp_path: Path) -> None:
    module, x = torch.nn.LSTM(3, 4, 2), torch.randn(5, 2, 3)
    for name, _ in list(module.named_parameters()):
        prune.random_unstructured(module, name, amount=0.3)
    expected = output(module, x)
    lstm = cylstm.load(write(module.state_dict(), tmp_path / "m.pt"))
    np.testing.assert_allclose(lstm(x)[0], expected, atol=1e-6, rtol=0)


def test_of_two_lstms_the_pruned_one_is_there(tmp_path: Path) -> None:
    model = torch.nn.ModuleDict({"a": torch.nn.LSTM(3, 4), "b": torch.nn.LSTM(3, 4)})
    for name, _ in list(model["a"].named_parameters()):
        prune.identity(model["a"], name)
    with pytest.raises(ValueError, match=r"got 2: give the prefix of one of them: 'b\.', 'a\.'"):
        cylstm.load(write(model.state_dict(), tmp_path / "m.pt"))


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("stale", [True, False])
def test_weight_drop(tmp_path: Path, extension: str, inside: bool, stale: bool) -> None:
    """AWD-LSTM keeps ``_raw`` beside the other parameters, fastai outside of its ``module.``; a copy may be there."""
    module = torch.nn.LSTM(3, 4)
    state = {f"rnns.0.module.{name}": tensor for name, tensor in module.state_dict().items()}
    dropped = state.pop("rnns.0.module.weight_hh_l0")
    state[f"rnns.0.{'module.' if inside else ''}weight_hh_l0_raw"] = dropped
    if stale:
        state["rnns.0.module.weight_hh_l0"] = torch.nn.functional.dropout(dropped, 0.5)
    lstm = cylstm.load(write(state, tmp_path / f"m{extension}"))
    for name, tensor in module.state_dict().items():
        np.testing.assert_array_equal(getattr(lstm, name), tensor.numpy())


class Symmetric(torch.nn.Module):
    """A parametrisation of somebody's own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.triu() + x.triu(1).transpose(-1, -2)


def pruned_norm(module: torch.nn.LSTM, name: str) -> None:
    weight_norm(module, name)
    prune.l1_unstructured(module, f"{name}_v", amount=0.4)


def without_v(module: torch.nn.LSTM, name: str) -> None:
    spectral_norm(module, name)
    del module._buffers[f"{name}_v"]  # as PyTorch before 1.0


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize(
    ("change", "part"),
    [
        (parametrizations.orthogonal, r"parametrizations\.weight_hh_l1\.0\.base"),
        (lambda m, n: parametrize.register_parametrization(m, n, Symmetric(), unsafe=True), r"weight_hh_l1\.original"),
        (pruned_norm, "weight_hh_l1_v_mask"),
        (without_v, "weight_hh_l1_orig, weight_hh_l1_u"),
        (lambda m, n: m.register_parameter(f"{n}_low_rank", m._parameters.pop(n)), "weight_hh_l1_low_rank"),
    ],
)
def test_what_cannot_be_put_together(tmp_path: Path, change: Callable, part: str, extension: str) -> None:
    module = torch.nn.LSTM(3, 4, 2, bias=False)
    change(module, "weight_hh_l1")
    path = write(module.state_dict(), tmp_path / f"m{extension}")
    with pytest.raises(ValueError, match=f"weight_hh_l1 must be a plain tensor, got .*{part}.* save the plain weight"):
        cylstm.load(path)
    lstm = cylstm.LSTM(3, 4, 2, bias=False)
    before = lstm.state_dict()
    for strict in (True, False):
        with pytest.raises(RuntimeError, match=f"nothing was loaded:\n\tweight_hh_l1 must be a plain tensor.*{part}"):
            lstm.load_state_dict(module.state_dict(), strict)
    assert all(lstm.state_dict()[name] is array for name, array in before.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_hh_l0_v": (16, 4), "weight_hh_l0_g": (15, 1)}, r"norms of shape \(15, 1\)"),
        ({"weight_hh_l0_v": (16, 4), "weight_hh_l0_g": (16, 4)}, r"norms of shape \(16, 4\)"),
        ({"weight_hh_l0_v": (16, 4), "weight_hh_l0_g": (16,)}, r"norms of shape \(16,\)"),
        ({"weight_hh_l0_orig": (16, 4), "weight_hh_l0_mask": (1, 4)}, r"a mask of shape \(1, 4\)"),
        ({"weight_hh_l0_orig": (16, 4), "weight_hh_l0_u": (16,), "weight_hh_l0_v": (5,)}, "vectors of shapes"),
    ],
)
def test_shapes_that_do_not_fit(tmp_path: Path, changes: dict, message: str) -> None:
    state = {"weight_ih_l0": torch.zeros(16, 3), **{name: torch.ones(shape) for name, shape in changes.items()}}
    with pytest.raises(ValueError, match=f"weight_hh_l0 must be a plain tensor, got {message}"):
        cylstm.load(write(state, tmp_path / "m.pt"))


@pytest.mark.parametrize("way", ["spectral_norm", "parametrizations.spectral_norm"])
def test_a_square_weight_does_not_tell_the_axis(tmp_path: Path, way: str) -> None:
    module = torch.nn.LSTM(16, 4)
    WAYS[way](module, "weight_ih_l0")
    with pytest.raises(ValueError, match="weight_ih_l0 must be a plain tensor, got a square weight with spectral_norm"):
        cylstm.load(write(module.state_dict(), tmp_path / "m.pt"))


def test_a_direction_of_zeros_gives_nan_as_in_pytorch(tmp_path: Path) -> None:
    module = weight_norm(torch.nn.LSTM(3, 4), "weight_hh_l0")
    with torch.no_grad():
        module.weight_hh_l0_v[2] = 0
    lstm = cylstm.load(write(module.state_dict(), tmp_path / "m.pt"))
    assert np.isnan(lstm.weight_hh_l0).any(axis=1).tolist() == [k == 2 for k in range(16)]


def test_names_of_other_things_stay(tmp_path: Path) -> None:
    module = torch.nn.LSTM(3, 4)
    state = {
        **module.state_dict(),
        "weight_hh_l0_mask": torch.ones(2),  # a buffer beside the weight itself
        "bias_v": torch.ones(3),
        "optimizer.weight_hh_l0.exp_avg": torch.ones(16, 4),
        "attention.bias_correction": torch.ones(1),
    }
    lstm = cylstm.load(write(state, tmp_path / "m.pt"))
    np.testing.assert_array_equal(lstm.weight_hh_l0, module.weight_hh_l0.detach())
