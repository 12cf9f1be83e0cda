"""Training on a GPU moves nothing: counted over whole steps, with cuDNN's stand-in and the other tiers. No GPU."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_host import HostBackend, needs_compiler
from device_array import DeviceArray, here, to_device
from host_cudnn import HostCudnn

import cylstm
from cylstm.backends.cupy_backend.cudnn import Cudnn
from cylstm.backends.cupy_backend.cudnn.library import Library

pytestmark = [pytest.mark.names_backend("cupy"), needs_compiler]


@pytest.mark.parametrize("tier", ["cudnn", "steps", "array"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_step_of_training_moves_norms_alone(tier: str, dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks, gradients, clipping, parameters and the optimiser's own arrays: after the first step nothing goes up."""
    functions = HostCudnn()
    monkeypatch.setattr(Cudnn, "find", staticmethod(lambda: Library(functions)))
    options = {"num_layers": 2, "bidirectional": True, "dropout": dropout}
    lstm, reference = (cylstm.LSTM(4, 5, backend=b, **options) for b in (HostBackend(tier=tier), "numpy"))
    head, head_reference = cylstm.Linear(10, 3), cylstm.Linear(10, 3)
    reference.load_state_dict(lstm.state_dict())
    head_reference.load_state_dict(head.state_dict())
    x = cylstm.randn(20, 3, 4)
    for module, top, there in ((reference, head_reference, x), (lstm, head, to_device(x))):
        optimizer = cylstm.optim.SGD([module, top], lr=0.1, momentum=0.9)
        for step in range(4):
            before = (here.to_host, here.to_device)
            output, _, pullback = module.vjp(there)
            result, pull_top = top.vjp(output)
            of_top = pull_top(result)
            grads = pullback(of_top.input).parameters
            together = {f"lstm.{name}": grad for name, grad in grads.items()} | of_top.parameters
            cylstm.optim.clip_grad_norm(together, 0.5)
            optimizer.step([grads, of_top.parameters])
            if module is lstm:
                assert all(isinstance(grad, DeviceArray) for grad in together.values())
                to_host, to_device_ = here.to_host - before[0], here.to_device - before[1]
                assert to_host <= len(together) + 4 * (step == 0)
                assert step == 0 or to_device_ == 0
    if tier == "cudnn":
        assert {name for name, _ in functions.calls} >= {"cudnnRNNForward", "cudnnRNNBackwardWeights_v8"}
    if not dropout:
        for ours, theirs in ((lstm, reference), (head, head_reference)):
            for name, array in theirs.state_dict().items():
                np.testing.assert_allclose(ours.state_dict()[name], array, rtol=1e-3, atol=1e-5)
