"""What people try who know ``torch.nn.Module``: moves, children, modes, another backend, and files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import cylstm
from cylstm.backends.numpy_backend import NumpyBackend

MODULES = [lambda: cylstm.LSTM(3, 4), lambda: cylstm.LSTMCell(3, 4), lambda: cylstm.Linear(3, 4)]


class Mine(NumpyBackend):
    name = "mine"


@pytest.mark.parametrize("make", MODULES)
def test_what_modules_of_pytorch_have(make) -> None:
    module = make()
    assert module.cpu() is module
    assert list(module.children()) == []
    before = module.state_dict()
    assert module.zero_grad() is None
    assert all(np.array_equal(before[name], array) for name, array in module.named_parameters())
    with pytest.raises(AttributeError, match="no attribute 'requires_grad_'"):
        module.requires_grad_(False)  # the page of differences says what to do instead


GPU = any(row.name == "cupy" and row.status == "available" for row in cylstm.available_backends())


@pytest.mark.skipif(GPU, reason="there is a GPU")
def test_cuda_is_that_of_to() -> None:
    """Without a GPU the error is the same, and the module stays where it is."""
    lstm = cylstm.LSTM(3, 4)
    for device, number in (("cuda:0", 0), ("cuda:1", 1)):
        with pytest.raises(RuntimeError) as expected:
            lstm.to(device)
        with pytest.raises(RuntimeError) as same:
            lstm.cuda(number)
        assert str(same.value) == str(expected.value)
    lstm.cpu()
    assert lstm(cylstm.randn(5, 3))[0].shape == (5, 4)


@pytest.mark.parametrize("make", MODULES[:2])
def test_the_backend_can_be_changed(make) -> None:
    module = make()
    x = cylstm.randn(2, 3)
    expected = module(x)[0]
    module.backend = mine = Mine()
    assert module.backend is mine
    np.testing.assert_allclose(module(x)[0], expected, atol=1e-6)
    module.backend = "numpy"
    np.testing.assert_allclose(module(x)[0], expected, atol=1e-6)
    for wrong, error in (("numppy", cylstm.UnknownBackendError), (3, TypeError), (NumpyBackend, TypeError)):
        with pytest.raises(error):
            module.backend = wrong
        assert module.backend == "numpy"
    module.backend = None
    np.testing.assert_allclose(module(x)[0], expected, atol=1e-6)


def test_another_backend_is_seen_by_calls_and_streams() -> None:
    calls = []

    class Counting(NumpyBackend):
        name = "counting"

        def forward(self, prepared, **arguments):
            calls.append(1)
            return super().forward(prepared, **arguments)

    lstm = cylstm.LSTM(3, 4)
    stream = lstm.stream()
    x = cylstm.randn(4, 3)
    expected = [stream(x_t) for x_t in x]
    stream.reset()
    first = [stream(x_t) for x_t in x[:2]]
    lstm.backend = Counting()
    rest = [stream(x_t) for x_t in x[2:]]
    np.testing.assert_allclose([*first, *rest], expected, atol=1e-6)
    assert calls
    with pytest.raises(cylstm.BackendError, match="'cython'"):
        cylstm.LSTM(3, 4, dtype="complex64").backend = "cython"


@pytest.mark.parametrize("select", [cylstm.set_backend, cylstm.use_backend])
def test_a_backend_object_can_be_selected(select) -> None:
    lstm, x = cylstm.LSTM(3, 4), cylstm.randn(5, 3)
    expected = lstm(x)[0]
    selection = select(Mine())
    if selection is None:
        assert cylstm.get_backend() == "mine"
        np.testing.assert_allclose(lstm(x)[0], expected, atol=1e-6)
    else:
        with selection:
            assert cylstm.get_backend() == "mine"
            np.testing.assert_allclose(lstm(x)[0], expected, atol=1e-6)
    with pytest.raises(TypeError, match="is a class: pass an instance"), cylstm.use_backend(Mine):
        pass


@pytest.mark.parametrize("extension", [".safetensors", ".npz", ".onnx", ".weights.h5"])
def test_what_is_loaded_is_in_evaluation_mode(extension: str, tmp_path: Path) -> None:
    """Two calls of a loaded model give the same; ``train`` brings dropout back."""
    path = tmp_path / f"m{extension}"
    cylstm.save(cylstm.LSTM(3, 4, num_layers=2, dropout=0.5), path)
    lstm, x = cylstm.load(path), cylstm.randn(50, 3)
    assert not lstm.training
    assert lstm.dropout == 0.5
    np.testing.assert_array_equal(lstm(x)[0], lstm(x)[0])
    stream = lstm.stream()
    np.testing.assert_allclose([stream(x_t) for x_t in x], lstm(x)[0], atol=1e-6)
    lstm.train()
    assert not np.array_equal(lstm(x)[0], lstm(x)[0])


@pytest.mark.parametrize("mode", [True, False])
def test_from_torch_keeps_the_mode(mode: bool) -> None:
    theirs = torch.nn.LSTM(3, 4, num_layers=2, dropout=0.5).train(mode)
    assert cylstm.LSTM.from_torch(theirs).training is mode
