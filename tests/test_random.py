"""Random numbers: those of PyTorch's CPU generator from the same seed."""

from __future__ import annotations

import math
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_cases import BITS_COME_FROM_MKL
from torch.nn.utils import rnn

import cylstm
from cylstm import random

REAL = ["float16", "float32", "float64"]
DTYPES = [*REAL, "complex64", "complex128"]
SEEDS = [0, 1, 42, 2**32 - 1, 2**32 + 5, 2**63, 2**64 - 1, -1, -5, -(2**63)]
#: Around the border between the small and the vectorised normals, across blocks of 16, chunks, the twister's 624.
SIZES = [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 624, 1000, 40001]


def seed_both(seed):
    torch.manual_seed(seed)
    random.manual_seed(seed)


def torch_uniform(shape, low, high, dtype):
    return torch.nn.init.uniform_(torch.empty(shape, dtype=getattr(torch, dtype)), low, high).numpy()


def assert_same_bits(mine, yours):
    assert mine.dtype == yours.dtype
    assert mine.shape == yours.shape
    assert mine.tobytes() == yours.tobytes()


@pytest.mark.parametrize("seed", SEEDS)
def test_seeds(seed):
    seed_both(seed)
    assert random.initial_seed() == torch.initial_seed()
    assert_same_bits(random.rand(5), torch.rand(5).numpy())


@pytest.mark.parametrize("seed", [1.9, True, "7", np.int64(3), np.float32(3)])
def test_seeds_that_are_converted(seed):
    seed_both(seed)
    assert random.initial_seed() == torch.initial_seed()


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, None, "x", [1]])
def test_seeds_that_are_refused(seed):
    random.manual_seed(3)
    with pytest.raises((TypeError, ValueError)) as yours:
        torch.manual_seed(seed)
    with pytest.raises(yours.type):
        random.manual_seed(seed)
    assert random.initial_seed() == 3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_every_draw_leaves_the_stream_where_torch_leaves_it(dtype, size):
    seed_both(size)
    tolerance = {"float16": 1e-3}.get(dtype, 1e-6)  # one unit of float16 near 1
    for _ in range(2):
        assert_same_bits(random.uniform((size,), -1 / 3, 1 / 3, dtype), torch_uniform((size,), -1 / 3, 1 / 3, dtype))
        assert_same_bits(random.rand(size, dtype=dtype), torch.rand(size, dtype=getattr(torch, dtype)).numpy())
        mine, yours = random.randn(size, dtype=dtype), torch.randn(size, dtype=getattr(torch, dtype)).numpy()
        assert mine.dtype == yours.dtype
        np.testing.assert_allclose(mine, yours, rtol=tolerance, atol=tolerance)
        if dtype in REAL:
            assert_same_bits(random.dropout_mask((size,), 0.3, dtype), dropout_by_torch((size,), 0.3, dtype))
    assert random.rand(1)[0] == torch.rand(1)[0].item()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("low", "high"),
    [
        (0, 1),
        (-0.1, 0.1),
        (-1 / 3, 1 / 3),
        (-0.5, 2.7),
        (1e-3, 1.1),
        (1, 1.01),
        (1, 1 + 3e-7),
        (1, 1 + 1e-15),
        (-0.01, -0.0099),
        (0, 0),
        (0.5, 0.5),
        (-6e4, 100.0),
        (1e-9, 3e-9),
    ],
)
def test_uniform_bounds(dtype, low, high):
    seed_both(7)
    mine = random.uniform((5, 4001), low, high, dtype)
    assert_same_bits(mine, torch_uniform((5, 4001), low, high, dtype))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 40), max_size=3).map(tuple),
    st.integers(1, 5000),
)
def test_initial_weights(seed, dtype, shape, hidden_size):
    seed_both(seed)
    bound = 1 / math.sqrt(hidden_size)
    for _ in range(2):
        assert_same_bits(random.uniform(shape, -bound, bound, dtype), torch_uniform(shape, -bound, bound, dtype))


@pytest.mark.parametrize("bounds", [(1, 0), (0, 1e39), (math.nan, 1), (0, math.inf), (-3e38, 3e38)])
def test_uniform_bounds_that_are_refused(bounds):
    random.manual_seed(0)
    before = random.get_rng_state()
    with pytest.raises(RuntimeError):
        torch.empty(2).uniform_(*bounds)
    with pytest.raises(RuntimeError, match=r"(low|high) must be|high - low must be"):
        random.uniform((2,), *bounds)
    np.testing.assert_array_equal(random.get_rng_state(), before)


def test_float64_normals_are_those_of_torch_to_the_last_digits():
    seed_both(3)
    np.testing.assert_allclose(random.randn(1000, dtype="float64"), torch.randn(1000, dtype=torch.float64), rtol=1e-14)
    np.testing.assert_allclose(random.randn(7, dtype="float64"), torch.randn(7, dtype=torch.float64), rtol=1e-14)


def test_the_second_value_of_a_pair_waits():
    seed_both(11)
    for size in [(), (1,), (2,), (16,), (1,), (3,), (0,), (4,)]:
        np.testing.assert_allclose(random.randn(size), torch.randn(size), rtol=1e-6, atol=1e-7)
    seed_both(11)  # forgets what waits
    np.testing.assert_allclose(random.randn(1), torch.randn(1), rtol=1e-6)


# ------------------------------------------------------------------------------------------------------------ dropout


def dropout_by_torch(shape, p, dtype):
    """What ``torch.dropout`` does, except on an Intel CPU, where MKL draws the bits."""
    dtype = getattr(torch, dtype)
    return (torch.rand(shape, dtype=torch.float64) < 1 - p).to(dtype).div_(1 - p).numpy()


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("p", [0.1, 1 / 3, 0.5, 0.999, 1e-9])
def test_dropout_mask(p, dtype):
    seed_both(5)
    mine = random.dropout_mask((50, 3, 7), p, dtype)
    assert_same_bits(mine, dropout_by_torch((50, 3, 7), p, dtype))
    torch.manual_seed(5)
    yours = torch.dropout(torch.ones(50, 3, 7, dtype=getattr(torch, dtype)), p, train=True).numpy()
    assert set(np.unique(yours)) <= {*np.unique(mine), mine.dtype.type(0)}
    if not BITS_COME_FROM_MKL:
        assert_same_bits(mine, yours)


@pytest.mark.skipif(BITS_COME_FROM_MKL, reason="on an Intel CPU PyTorch has MKL draw the bits of dropout")
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("form", ["batched", "unbatched", "packed"])
@pytest.mark.parametrize(
    "options",
    [
        {"num_layers": 3, "dropout": 0.4},
        {"num_layers": 2, "dropout": 0.5, "bidirectional": True},
        {"num_layers": 2, "dropout": 0.3, "proj_size": 3},
        {"num_layers": 2, "dropout": 0.3, "batch_first": True, "bias": False},
        {"num_layers": 2, "dropout": 1.0},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_an_lstm_in_training_drops_what_torch_drops(options, form, dtype):
    seed_both(5)
    theirs = torch.nn.LSTM(4, 6, dtype=getattr(torch, dtype), **options)
    mine = cylstm.LSTM(4, 6, dtype=dtype, backend="numpy", **options)
    x = torch.randn(7, 4) if form == "unbatched" else torch.randn(5, 5, 4)
    x = x.to(getattr(torch, dtype)).requires_grad_()
    batch_first = options.get("batch_first", False)
    given = x if form != "packed" else rnn.pack_padded_sequence(x, [2, 5, 4, 1, 3], batch_first, enforce_sorted=False)
    torch.manual_seed(6)
    yours = theirs(given)[0]
    yours = yours.data if form == "packed" else yours
    tolerance = 4e-3 if dtype == "float16" else 4e-6
    cylstm.manual_seed(6)
    output = mine(given)[0]
    close = {"rtol": tolerance, "atol": tolerance}
    np.testing.assert_allclose(output.data if form == "packed" else output, yours.detach(), **close)
    cylstm.manual_seed(6)
    output, _, pullback = mine.vjp(given)
    grad = torch.ones_like(yours)
    yours.backward(grad)
    grads = pullback(output._replace(data=grad.numpy()) if form == "packed" else grad)
    for name, parameter in theirs.named_parameters():
        np.testing.assert_allclose(grads.parameters[name], parameter.grad, rtol=4 * tolerance, atol=4 * tolerance)
    mine.eval()
    before = random.get_rng_state()
    mine(given)
    np.testing.assert_array_equal(random.get_rng_state(), before)


@pytest.mark.parametrize("p", [0, 1, 0.0, 1.0])
def test_dropout_without_chance_draws_nothing(p):
    seed_both(5)
    np.testing.assert_array_equal(random.dropout_mask((4,), p), torch.dropout(torch.ones(4), p, train=True))
    assert random.rand(1)[0] == torch.rand(1)[0].item()


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_dropout_probability_out_of_range(p):
    with pytest.raises(ValueError, match="from 0 to 1"):
        random.dropout_mask((2,), p)


def test_dropout_of_complex_numbers_is_refused_as_in_torch():
    with pytest.raises(RuntimeError):
        torch.dropout(torch.ones(3, dtype=torch.complex64), 0.5, train=True)
    with pytest.raises(RuntimeError, match="dtype must be real for dropout, got complex64"):
        random.dropout_mask((3,), 0.5, "complex64")


# -------------------------------------------------------------------------------------------------- sizes and dtypes


@pytest.mark.parametrize("name", ["rand", "randn"])
class TestSize:
    @pytest.mark.parametrize("size", [(2, 3), ((2, 3),), ([2, 3],), ((),), (np.int64(2),), (torch.Size([2]),), (0,)])
    def test_forms(self, name, size):
        assert getattr(random, name)(*size).shape == tuple(getattr(torch, name)(*size).shape)

    @pytest.mark.parametrize("size", [(), (1.5,), ("a",), ((2,), 3), (True,), (-1,), (None,)])
    def test_refused(self, name, size):
        with pytest.raises((TypeError, RuntimeError)) as yours:
            getattr(torch, name)(*size)
        with pytest.raises(yours.type):
            getattr(random, name)(*size)

    @pytest.mark.parametrize("dtype", ["int32", "bool"])
    def test_dtype_refused(self, name, dtype):
        with pytest.raises(RuntimeError):
            getattr(torch, name)(3, dtype=getattr(torch, dtype))
        with pytest.raises(RuntimeError, match=dtype):
            getattr(random, name)(3, dtype=dtype)


def test_dtype_may_be_numpy_or_torch():
    assert random.rand(1).dtype == np.float32
    for dtype in (np.float64, "float64", torch.float64, np.dtype("f8")):
        assert random.randn(1, dtype=dtype).dtype == np.float64


# -------------------------------------------------------------------------------------------------------- generators


def test_generators_have_their_own_states():
    first, second = random.Generator(1), random.Generator(1)
    expected = random.rand(6, generator=first)
    seed_both(2)
    random.rand(3)
    np.testing.assert_array_equal(random.rand(6, generator=second), expected)
    np.testing.assert_array_equal(expected, torch.rand(6, generator=torch.Generator().manual_seed(1)))
    assert_same_bits(random.rand(3), torch.rand(6)[3:].numpy())


def test_a_new_generator_starts_as_in_torch():
    assert random.Generator().initial_seed() == torch.Generator().initial_seed()
    np.testing.assert_array_equal(
        random.rand(3, generator=random.Generator()), torch.rand(3, generator=torch.Generator())
    )


def test_manual_seed_returns_the_generator():
    assert random.manual_seed(1) is random.default_generator
    generator = random.Generator()
    assert generator.manual_seed(9) is generator
    assert generator.initial_seed() == 9


def test_seed_cannot_be_foreseen():
    generator = random.Generator()
    assert generator.seed() != generator.seed()
    other = random.Generator(generator.initial_seed())
    np.testing.assert_array_equal(random.rand(3, generator=generator), random.rand(3, generator=other))


@pytest.mark.parametrize("used", [1, 3, 16, 623, 624, 625, 2000])
def test_states_are_those_of_torch(used):
    seed_both(used)
    random.rand(used), torch.rand(used)
    random.randn(3), torch.randn(3)
    mine, yours = random.get_rng_state(), torch.get_rng_state()
    seed_both(0)
    random.set_rng_state(yours)
    torch.set_rng_state(torch.from_numpy(mine))
    assert random.initial_seed() == torch.initial_seed() == used
    np.testing.assert_allclose(random.randn(4), torch.randn(4), rtol=1e-6)
    assert_same_bits(random.rand(700), torch.rand(700).numpy())


def test_a_fresh_state_goes_both_ways():
    torch.set_rng_state(torch.from_numpy(random.Generator(8).get_state()))
    assert_same_bits(random.rand(3, generator=random.Generator(8)), torch.rand(3).numpy())
    torch.manual_seed(8)
    assert_same_bits(
        random.rand(3, generator=random.Generator().set_state(torch.get_rng_state())), torch.rand(3).numpy()
    )


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (np.zeros(5056, np.uint8), RuntimeError),
        (np.full(5056, 255, np.uint8), RuntimeError),
        (np.zeros(5, np.uint8), RuntimeError),
        (np.zeros(5056), TypeError),
        ("state", TypeError),
    ],
)
def test_states_that_are_refused(state, error):
    random.manual_seed(4)
    before = random.get_rng_state()
    with pytest.raises(error, match="state must"):
        random.set_rng_state(state)
    np.testing.assert_array_equal(random.get_rng_state(), before)


def test_threads_share_one_stream():
    generator, drawn = random.Generator(3), []

    def draw():
        drawn.extend(random.rand(100, generator=generator) for _ in range(50))

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = random.rand(200, 100, generator=random.Generator(3))
    assert {part.tobytes() for part in drawn} == {part.tobytes() for part in expected}


def test_importing_seeds_nothing():
    code = """
import os, numpy as np
import numpy.random
before = np.random.get_state()[1].tobytes()
def refuse(n): raise SystemExit("entropy was drawn")
urandom, os.urandom = os.urandom, refuse
import cylstm.random
cylstm.random.manual_seed(0)
cylstm.random.randn(20)
assert np.random.get_state()[1].tobytes() == before
os.urandom = urandom
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_a_seed_every_process_draws_others():
    code = "import cylstm.random as r; print(r.rand(2).tolist(), r.initial_seed())"
    runs = [subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True) for _ in range(2)]
    assert runs[0].stdout != runs[1].stdout
