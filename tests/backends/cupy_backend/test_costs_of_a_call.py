"""What a call launches, copies and asks for on the device beside its kernels: counted, for each costs the host time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cuda_host import HostBackend, HostSystem, needs_compiler
from device_array import here, to_device
from host_cudnn import HostCudnn

import cylstm
from cylstm.backends.cupy_backend.cudnn import Cudnn
from cylstm.backends.cupy_backend.cudnn.library import Library

pytestmark = [pytest.mark.names_backend("cupy"), needs_compiler]

TRAINED = ["cudnnRNNForward", "cudnnRNNBackwardData_v8", "cudnnRNNBackwardWeights_v8"]


@pytest.fixture
def functions(monkeypatch: pytest.MonkeyPatch) -> HostCudnn:
    """cuDNN's, with the layout of the weights that it has."""
    functions = HostCudnn(gaps=False)
    monkeypatch.setattr(Cudnn, "find", staticmethod(lambda: Library(functions)))
    return functions


class Counted:
    """A module on the device, and what its calls have cost once everything is made that is made once."""

    def __init__(self, tier: str, **options: Any) -> None:
        self.system = HostSystem()
        self.lstm = cylstm.LSTM(4, 8, backend=HostBackend(tier=tier, system=self.system), **options)

    def counts(self, call: Callable[[], Any]) -> tuple[int, int, int]:
        """Operations of CuPy, each a launch or a copy; launches of own kernels, also by graphs; marks in streams."""
        for _ in range(3):
            call()
        device = self.system.device(0)
        before, moved = self._now(), (here.to_host, here.to_device, len(device.recordings))
        call()
        assert (here.to_host, here.to_device, len(device.recordings)) == moved
        return tuple((self._now() - before).tolist())

    def _now(self) -> np.ndarray:
        device = self.system.device(0)
        return np.array([here.operations, len(device.launches), device.marks])


def train(lstm: cylstm.LSTM, x: Any, grad: Any) -> Callable[[], Any]:
    return lambda: lstm.vjp(x)[2](grad)


@pytest.mark.parametrize("D", [1, 2])
def test_training_by_cudnn(D: int, functions: HostCudnn) -> None:
    """Copies of input, output and reserve, zeros for the gradients of the weights; nothing is described again."""
    counted = Counted("cudnn", bidirectional=D == 2)
    x, grad = to_device(cylstm.randn(6, 3, 4)), to_device(cylstm.randn(6, 3, 8 * D))
    assert counted.counts(train(counted.lstm, x, grad)) == (4, 0, 0)
    assert functions.asked[-6:] == 2 * TRAINED
    assert counted.counts(lambda: counted.lstm(x)) == (0, 0, 0)
    assert functions.asked[-2:] == ["cudnnRNNForward"] * 2


@pytest.mark.parametrize("tier", ["cudnn", "steps"])
@pytest.mark.parametrize("sizes", [(4, 8), (3, 5), (1, 1)])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_gradients_share_no_element_and_lie_where_other_libraries_can_read_them(
    dtype: str, sizes: tuple[int, int], tier: str, functions: HostCudnn
) -> None:
    """JAX takes it for granted that an address is a multiple of 16 bytes."""
    (I, H), options = sizes, {"bidirectional": True, "dtype": dtype}
    lstm = cylstm.LSTM(I, H, backend=HostBackend(tier=tier), **options)
    reference = cylstm.LSTM(I, H, backend="numpy", **options)
    reference.load_state_dict(lstm.state_dict())
    x, grad = (cylstm.randn(6, 3, n, dtype=dtype) for n in (I, 2 * H))
    expected = reference.vjp(x)[2](grad).parameters
    grads = lstm.vjp(to_device(x))[2](to_device(grad)).parameters
    for name, array in grads.items():
        assert array.data.ptr % 16 == 0
        np.testing.assert_allclose(array.get(), expected[name], rtol=2e-2, atol=2e-2 if dtype == "float16" else 1e-5)
        array[...] = 0  # reaches no other gradient


def test_a_new_version_of_the_parameters_by_cudnn(functions: HostCudnn) -> None:
    """A copy of each parameter, one into the weight space, whose layout is known."""
    counted = Counted("cudnn")
    x = to_device(cylstm.randn(6, 3, 4))
    optimizer = cylstm.optim.SGD(counted.lstm, lr=0.1)

    def step() -> None:
        grads = counted.lstm.vjp(x)[2](to_device(np.ones((6, 3, 8), np.float32)))
        optimizer.step(grads.parameters)

    for _ in range(3):
        step()
    asked, before = len(functions.asked), here.operations
    counted.lstm.vjp(x)
    assert here.operations - before == 4 + 1 + 4 + 2
    assert functions.asked[asked:] == TRAINED[:1]


def test_training_by_steps() -> None:
    """Five products; the copies that are left are of the input, of rows and of one bias."""
    counted = Counted("steps")
    x, grad = to_device(cylstm.randn(8, 3, 4)), to_device(cylstm.randn(8, 3, 8))
    operations, kernels, marks = counted.counts(train(counted.lstm, x, grad))
    assert (operations, marks) == (12, 0)
    assert kernels == 2 * (1 + 1 + 8)  # bind, advance, steps: of two replays
    assert counted.counts(lambda: counted.lstm(x))[0] == 3


@pytest.mark.parametrize("on_gpu", [True, False])
def test_a_step_of_a_stream(on_gpu: bool) -> None:
    """On the device two copies and a graph; a frame of NumPy's is not copied once more."""
    counted = Counted("steps", num_layers=2)
    stream, frame = counted.lstm.stream(), cylstm.randn(1, 4)
    frame = to_device(frame) if on_gpu else frame
    for _ in range(5):
        stream(frame)
    before, moved = here.operations, here.to_host + here.to_device
    stream(frame)
    assert here.operations - before == (2 if on_gpu else 1)
    assert here.to_host + here.to_device - moved == (0 if on_gpu else 2)
