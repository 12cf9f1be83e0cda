"""The four invariances of the compiled backend, bit for bit, for every instruction set of this machine.

Bulk = step by step; alone = in any batch; one thread = many; packed = padded; and chunked = whole. Gradients: any
number of threads, and kept or recomputed gates.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import cylstm

_layer = pytest.importorskip("cylstm.backends.cython_backend._layer", reason="the compiled backend is not built")
cython_backend = pytest.importorskip("cylstm.backends.cython_backend")
pytestmark = pytest.mark.names_backend("cython")

#: Instruction set, dtype, precision: each line of the table of kernels that runs here.
TRAINING = [(isa, dtype, "float32") for isa in _layer.instruction_sets() for dtype in ("float32", "float64")]
KERNELS = TRAINING + [
    (isa, "float32", precision) for precision in ("bfloat16", "int8") for isa in _layer.instruction_sets(precision)
]
# input_size, hidden_size, num_layers, bidirectional, proj_size: sizes above and below the point where threads come in,
# and none a multiple of the vector
SHAPES = [
    (3, 5, 1, False, 0),
    (37, 100, 2, False, 0),
    (20, 130, 1, True, 0),
    (65, 129, 1, False, 70),
    (9, 16, 2, True, 7),
]


@pytest.fixture(params=SHAPES, ids=str)
def shape(request: pytest.FixtureRequest) -> tuple[int, int, int, bool, int]:
    return request.param


@pytest.fixture(params=KERNELS, ids="-".join)
def lstm(request: pytest.FixtureRequest, shape: tuple[int, int, int, bool, int]) -> cylstm.LSTM:
    return made(request.param, shape)


@pytest.fixture(params=TRAINING, ids="-".join)
def trained(request: pytest.FixtureRequest, shape: tuple[int, int, int, bool, int]) -> cylstm.LSTM:
    return made(request.param, shape)


def made(kernels: tuple[str, str, str], shape: tuple[int, int, int, bool, int]) -> cylstm.LSTM:
    cylstm.manual_seed(1)
    isa, dtype, precision = kernels
    backend = cython_backend.CythonBackend()
    backend._cap = isa
    I, H, layers, bidirectional, P = shape
    options = {"bidirectional": bidirectional, "proj_size": P, "dtype": dtype, "precision": precision}
    return cylstm.LSTM(I, H, layers, backend=backend, **options)


def one_way(lstm: cylstm.LSTM) -> cylstm.LSTM:
    """Another LSTM where this one has two directions: a second direction begins at the end."""
    if not lstm.bidirectional:
        return lstm
    sizes = (lstm.input_size, lstm.hidden_size, lstm.num_layers)
    return cylstm.LSTM(*sizes, dtype=lstm.dtype, backend=lstm.backend, precision=lstm.precision)


@pytest.fixture(autouse=True)
def threads_restored() -> Iterator[None]:
    from cylstm.backends.cython_backend import threads

    before = threads._count
    yield
    threads._count = before


def draw(lstm: cylstm.LSTM, *shape: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((*shape, lstm.input_size)).astype(lstm.dtype)


def states(lstm: cylstm.LSTM, B: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(8)
    LD, R = lstm.num_layers * (2 if lstm.bidirectional else 1), lstm.proj_size or lstm.hidden_size
    return tuple(rng.standard_normal((LD, B, n)).astype(lstm.dtype) for n in (R, lstm.hidden_size))


def same(a: object, b: object) -> None:
    np.testing.assert_array_equal(a, b, strict=True)


@pytest.mark.parametrize("B", [1, 7, 64])
def test_any_number_of_threads(lstm: cylstm.LSTM, B: int) -> None:
    x, hx = draw(lstm, 11, B), states(lstm, B)
    results = []
    for threads in (1, 2, 3, 8):
        cylstm.set_num_threads(threads)
        results.append(lstm(x, hx))
    for output, (h_n, c_n) in results[1:]:
        same(output, results[0][0])
        same(h_n, results[0][1][0])
        same(c_n, results[0][1][1])


@pytest.mark.parametrize("B", [5, 64])
def test_a_sequence_alone_and_in_a_batch(lstm: cylstm.LSTM, B: int) -> None:
    cylstm.set_num_threads(2)
    x, (h_0, c_0) = draw(lstm, 9, B), states(lstm, B)
    output, (h_n, c_n) = lstm(x, (h_0, c_0))
    for b in (0, 3, B - 1):
        alone = lstm(np.ascontiguousarray(x[:, b : b + 1]), (h_0[:, b : b + 1], c_0[:, b : b + 1]))
        same(alone[0], output[:, b : b + 1])
        same(alone[1][0], h_n[:, b : b + 1])
        same(alone[1][1], c_n[:, b : b + 1])


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("B", [1, 6, 40])
def test_bulk_and_in_chunks_of_any_length(lstm: cylstm.LSTM, B: int, chunk: int) -> None:
    lstm = one_way(lstm)
    x = draw(lstm, 130 if chunk == 100 else 13, B)
    output, state = lstm(x)
    hx, parts = None, []
    for start in range(0, len(x), chunk):
        part, hx = lstm(x[start : start + chunk], hx)
        parts.append(part)
    same(np.concatenate(parts), output)
    same(hx[0], state[0])
    same(hx[1], state[1])


def test_bulk_and_stream(lstm: cylstm.LSTM) -> None:
    lstm = one_way(lstm)
    x = draw(lstm, 50, 3)
    stream = lstm.stream(batch_size=3)
    output, (h_n, c_n) = lstm(x)
    same(np.stack([stream(x_t) for x_t in x]), output)
    same(stream.state[0], h_n)
    same(stream.state[1], c_n)


def test_packed_and_padded(lstm: cylstm.LSTM) -> None:
    cylstm.set_num_threads(2)
    lengths = [3, 17, 17, 1, 9, 30, 2, 12, 17, 4, 29, 8, 5, 30, 21]
    x, (h_0, c_0) = draw(lstm, 30, len(lengths)), states(lstm, len(lengths))
    packed = cylstm.pack_padded_sequence(x, lengths, enforce_sorted=False)
    output, (h_n, c_n) = lstm(packed, (h_0, c_0))
    output, _ = cylstm.pad_packed_sequence(output)
    for b, length in enumerate(lengths):
        alone, (h, c) = lstm(x[:length, b : b + 1], (h_0[:, b : b + 1], c_0[:, b : b + 1]))
        same(output[:length, b : b + 1], alone)
        same(h_n[:, b : b + 1], h)
        same(c_n[:, b : b + 1], c)
        assert not output[length:, b].any()


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("B", [1, 5, 40])
def test_gradients_with_any_number_of_threads_kept_or_recomputed(trained: cylstm.LSTM, B: int, ragged: bool) -> None:
    lstm = trained
    x = draw(lstm, 23, B)
    if ragged:
        lengths = np.random.default_rng(2).integers(1, 24, B)
        lengths[0] = 23
        x = cylstm.pack_padded_sequence(x, lengths, enforce_sorted=False)
    rng = np.random.default_rng(9)
    grad_hx = tuple(rng.standard_normal(a.shape).astype(a.dtype) for a in states(lstm, B))
    results = []
    for threads in (1, 2, 3):
        for recompute in (False, True):
            cylstm.set_num_threads(threads)
            output, _, pullback = lstm.vjp(x, states(lstm, B), recompute=recompute)
            data = output.data if ragged else output
            grad = np.random.default_rng(10).standard_normal(data.shape).astype(data.dtype)
            grads = pullback(output._replace(data=grad) if ragged else grad, grad_hx)
            results.append(grads)
    first = results[0]
    for grads in results[1:]:
        same(grads.input.data if ragged else grads.input, first.input.data if ragged else first.input)
        same(grads.hx[0], first.hx[0])
        same(grads.hx[1], first.hx[1])
        for name, array in grads.parameters.items():
            same(array, first.parameters[name])


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("T", "B"), [(3000, 1), (60, 40), (20, 200)])
def test_recomputing_over_several_segments(T: int, B: int, bidirectional: bool) -> None:
    """The backward pass that computes gates again goes through the sequence in segments: the same bits."""
    cylstm.manual_seed(4)
    lstm = cylstm.LSTM(6, 20, bidirectional=bidirectional, backend="cython")
    x = cylstm.randn(T, B, 6)
    lengths = np.random.default_rng(5).integers(1, T + 1, B)
    lengths[0] = T
    packed = cylstm.pack_padded_sequence(x, lengths, enforce_sorted=False)
    assert _layer.segments(T, B) > 1
    grads = []
    for recompute in (False, True):
        output, _, pullback = lstm.vjp(packed, recompute=recompute)
        grads.append(pullback(output._replace(data=np.cos(output.data))))
    same(grads[0].input.data, grads[1].input.data)
    for name, array in grads[0].parameters.items():
        same(grads[1].parameters[name], array)
