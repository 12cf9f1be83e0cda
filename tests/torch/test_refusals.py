"""Selection of the backend of a drop-in module, and its errors: those of PyTorch."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from available import names
from torch.nn.utils import rnn
from torch_modules import KINDS, Counting, both

import cylstm
import cylstm.torch

torch.set_num_threads(1)

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning"),
    # PyTorch compiles, pickles and traces with functions of its own and of Python that it deprecates
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:torch"),
]


def test_selection_of_the_backend():
    module = cylstm.torch.LSTM(2, 3)
    cell = cylstm.torch.LSTMCell(2, 3, backend="cylstm.backends.numpy_backend:NumpyBackend")
    x = torch.randn(4, 2)
    counting = Counting()
    counted = cylstm.torch.LSTM(2, 3, backend=counting)
    counted(x)
    assert counting.prepared == 1
    cell(x)
    with cylstm.use_backend("numpy"):
        by_numpy = module(x)[0]
    by_name = cylstm.torch.LSTM(2, 3, backend="numpy")
    by_name.load_state_dict(module.state_dict())
    assert torch.equal(by_name(x)[0], by_numpy)
    with pytest.raises(cylstm.UnknownBackendError, match="nmpy"):
        cylstm.torch.LSTM(2, 3, backend="nmpy")
    with pytest.raises(TypeError, match="backend must be"):
        cylstm.torch.LSTMCell(2, 3, backend=3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_backend_leaves_the_generator_as_it_is(kind: str) -> None:
    before = torch.get_rng_state()
    with pytest.raises(cylstm.UnknownBackendError, match="nope"):
        KINDS[kind][1](3, 4, backend="nope")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif("cython" not in names(), reason="not built")
@pytest.mark.filterwarnings("ignore:Complex modules are a new feature:UserWarning")
def test_explicit_backend_that_cannot_is_refused():
    with pytest.raises(cylstm.UnsupportedError, match="complex64"):
        cylstm.torch.LSTM(2, 3, dtype=torch.complex64, backend="cython")


def state(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


#: kind, input, hx, what the message says. PyTorch's exception has the same type, unless it leaks another one.
MISTAKES = [
    ("LSTM", state(5, 2, 4), None, "expected 3, got 4"),
    ("LSTM", state(5), None, "2-D"),
    ("LSTM", state(1, 5, 2, 3), None, "3-D"),
    ("LSTM", state(5, 2, 3, dtype=torch.float64), None, r"torch.float32, got torch.float64: .*\.to\(torch.float32\)"),
    ("LSTM", state(0, 2, 3), None, "at least one time step"),
    ("LSTM", state(5, 2, 3), (state(1, 3, 4), state(1, 2, 4)), r"h_0 of shape \(1, 2, 4\)"),
    ("LSTM", state(5, 2, 3), (state(1, 2, 4), state(1, 2, 5)), r"c_0 of shape \(1, 2, 4\)"),
    ("LSTM", state(5, 2, 3), (state(1, 4), state(1, 4)), "batched 3-D input"),
    ("LSTM", state(5, 3), (state(1, 1, 4), state(1, 1, 4)), "unbatched 2-D input"),
    ("LSTM", state(5, 2, 3), (state(1, 2, 4),) * 3, "two tensors"),
    ("LSTMCell", state(2, 4), None, "input_size = 3, got 4"),
    ("LSTMCell", state(1, 2, 3), None, "1-D"),
    ("LSTMCell", state(2, 3), (state(3, 4), state(2, 4)), r"h_0 must have shape \(2, 4\)"),
    ("LSTMCell", state(2, 3), (state(2, 4), state(2, 5)), r"c_0 must have shape \(2, 4\)"),
    ("LSTMCell", state(2, 3), (state(2, 4), None), "c_0 must be a torch.Tensor, got NoneType"),
    ("LSTMCell", state(2, 3), state(2, 2, 4), "hx must be a tuple of two tensors"),
    (
        "LSTMCell",
        state(2, 3, dtype=torch.float64),
        None,
        "input must have the dtype of the weights, torch.float32, got torch.float64",
    ),
]


@pytest.mark.parametrize(("kind", "input", "hx", "message"), MISTAKES)
def test_errors_are_pytorchs(kind, input, hx, message):
    theirs, ours = both(3, 4, kind=kind)
    with pytest.raises((ValueError, TypeError, RuntimeError), match=message) as ours_raised:
        ours(input, hx)
    with pytest.raises(Exception) as theirs_raised:  # noqa: PT011  any, for the types are compared
        theirs(input, hx)
    if theirs_raised.type in (ValueError, TypeError, RuntimeError):
        assert ours_raised.type is theirs_raised.type


@pytest.mark.parametrize(
    "hx", [(state(1, 2, 4),), state(2, 1, 4), (state(1, 2, 4), None)], ids=["one", "tensor", "None"]
)
def test_errors_where_pytorch_leaks_others(hx):
    with pytest.raises((ValueError, TypeError), match=r"hx must be a tuple|c_0 must be a torch.Tensor"):
        cylstm.torch.LSTM(3, 4)(state(5, 2, 3), hx)
    with pytest.raises(TypeError, match=r"input must be a torch.Tensor, got ndarray"):
        cylstm.torch.LSTM(3, 4)(np.zeros((5, 2, 3), np.float32))


def test_states_of_another_dtype_are_refused():
    with pytest.raises(ValueError, match=r"h_0 must have the dtype of the weights, torch\.float32, got torch\.float64"):
        cylstm.torch.LSTM(3, 4)(state(5, 2, 3), (state(1, 2, 4, dtype=torch.float64),) * 2)


def test_packed_input_of_another_size_is_refused():
    packed = rnn.pack_sequence([state(3, 5), state(2, 5)])
    with pytest.raises(RuntimeError, match="expected 3, got 5"):
        cylstm.torch.LSTM(3, 4)(packed)


def test_weights_that_do_not_fit_are_refused():
    module = cylstm.torch.LSTM(3, 4)
    module.weight_hh_l0 = torch.nn.Parameter(state(16, 5))
    with pytest.raises(RuntimeError, match=r"weight_hh_l0 must have shape \(16, 4\).*got shape \(16, 5\)"):
        module(state(5, 2, 3))


def test_dtypes_that_numpy_lacks_are_refused():
    module = cylstm.torch.LSTM(3, 4, dtype=torch.bfloat16)
    with pytest.raises(RuntimeError, match=r"one of float16.*got bfloat16"):
        module(state(5, 2, 3, dtype=torch.bfloat16))


def test_two_devices_are_refused():
    with pytest.raises(RuntimeError, match=r"input must lie on cpu, as the weights do, got meta: move one of them"):
        cylstm.torch.LSTM(3, 4)(torch.empty(5, 2, 3, device="meta"))


@pytest.mark.parametrize(
    "kwargs", [{"hidden_size": 0}, {"proj_size": 9}, {"dropout": 2}, {"bias": 1}, {"frobnicate": 1}]
)
def test_constructor_refuses_what_pytorch_refuses(kwargs):
    arguments = {"input_size": 3, "hidden_size": 4, **kwargs}
    with pytest.raises((ValueError, TypeError)) as expected:
        torch.nn.LSTM(**arguments)
    with pytest.raises(expected.type):
        cylstm.torch.LSTM(**arguments)


def test_importing_cylstm_does_not_import_pytorch():
    command = "import sys, cylstm; assert not {m for m in sys.modules if m.split('.')[0] == 'torch'}"
    subprocess.run(
        [sys.executable, "-c", command], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
def test_tensors_that_are_not_dense_are_refused():
    module = cylstm.torch.LSTM(3, 4)
    x = state(5, 2, 3)
    nested = torch.nested.nested_tensor([state(3, 3), state(2, 3)])
    for input, hx, message in (
        (
            x.to_sparse(),
            None,
            r"input must be a dense tensor, got one of layout torch\.sparse_coo: call \.to_dense\(\)",
        ),
        (x.to_mkldnn(), None, r"input must be a dense tensor, got one of layout torch\._mkldnn"),
        (nested, None, r"input must be a dense tensor, got a nested one: use torch\.nn\.utils\.rnn\.pack_sequence"),
        (x, (state(1, 2, 4), state(1, 2, 4).to_sparse()), "c_0 must be a dense tensor"),
    ):
        with pytest.raises(RuntimeError, match=message):
            module(input, hx)
    packed = rnn.pack_sequence(nested.unbind(), enforce_sorted=False)
    assert module(packed)[0].data.shape == (5, 4)
