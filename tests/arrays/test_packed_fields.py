"""Fields of a PackedSequence that its constructor never saw, or that another thread changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from processes import run
from torch.nn.utils import rnn

import cylstm
from cylstm.arrays.packed import as_packed

LSTM = cylstm.LSTM(3, 5)
PACKED = cylstm.pack_padded_sequence(cylstm.randn(2, 4, 3), [2, 2, 1, 1])
STATE = np.zeros((1, 4, 5), np.float32), np.zeros((1, 4, 5), np.float32)


@pytest.mark.parametrize("dtype", [">i8", "<i8", "i4", "u1", ">u2"])
def test_sizes_of_any_integers_and_byte_order_are_taken(dtype, backend):
    lstm = cylstm.LSTM._of(LSTM.state_dict(), input_size=3, hidden_size=5, backend=backend)
    changed = PACKED._replace(batch_sizes=PACKED.batch_sizes.astype(dtype))
    np.testing.assert_array_equal(lstm(changed, STATE)[0].data, lstm(PACKED, STATE)[0].data)
    np.testing.assert_array_equal(cylstm.unpack_sequence(changed)[0], cylstm.unpack_sequence(PACKED)[0])


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("batch_sizes", [4, 2], TypeError),
        ("batch_sizes", None, RuntimeError),
        ("batch_sizes", np.array([4, 2], object), TypeError),
        ("batch_sizes", np.array([4.0, 2.0]), TypeError),
        ("batch_sizes", np.array([2**62] * 4), RuntimeError),
        ("batch_sizes", np.array([2**63 + 4, 2], np.uint64), RuntimeError),
        ("batch_sizes", np.array(6), RuntimeError),
        ("data", None, TypeError),
        ("data", np.float32(1), RuntimeError),
        ("sorted_indices", [0, 1, 2, 3], TypeError),
        ("sorted_indices", np.array([[0, 1], [2, 3]]), RuntimeError),
        ("unsorted_indices", np.array([0, 1, 2, 2**40]), RuntimeError),
    ],
)
@pytest.mark.parametrize("use", [LSTM, LSTM.vjp, cylstm.pad_packed_sequence, cylstm.unpack_sequence])
def test_fields_that_passed_by_the_constructor_are_errors(field, value, error, use):
    with pytest.raises(error, match=f"{field} must|sorted_indices must|data must have 1844"):
        use(PACKED._replace(**{field: value}))


def test_no_rows_for_huge_sizes():
    with pytest.raises(RuntimeError, match="data must have 18446744073709551616 rows"):
        LSTM(PACKED._replace(data=np.zeros((0, 3), np.float32), batch_sizes=np.array([2**62] * 4)))


def test_big_endian_data_and_gradients_are_taken():
    output, _, pullback = LSTM.vjp(PACKED._replace(data=PACKED.data.astype(">f4")))
    expected = LSTM(PACKED)[0].data
    np.testing.assert_array_equal(output.data, expected)
    for swapped in (output._replace(data=expected.astype(">f4")), output.data.astype(">f4")):
        grad = swapped if isinstance(swapped, cylstm.PackedSequence) else output._replace(data=swapped)
        np.testing.assert_array_equal(pullback(grad).input.data, pullback(output).input.data)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_what_is_checked_is_what_is_used(kind):
    """No later write of the caller reaches sizes or indices."""
    sizes, indices = np.array([2, 1]), np.array([1, 0])
    given = cylstm.PackedSequence(cylstm.randn(3, 3), sizes, indices)
    if kind == "torch":
        given = rnn.PackedSequence(*(torch.from_numpy(a) for a in (given.data, sizes, indices, given.unsorted_indices)))
    packed = as_packed(given)
    for array, own in ((sizes, packed.batch_sizes), (indices, packed.sorted_indices)):
        assert not np.shares_memory(array, own)
        assert not own.flags.writeable
    expected = cylstm.LSTM._of(LSTM.state_dict(), input_size=3, hidden_size=5).vjp(given)
    output, _, pullback = LSTM.vjp(given)
    sizes[:], indices[:] = 2**40, -1
    np.testing.assert_array_equal(pullback(output).input.data, expected[2](expected[0]).input.data)


def test_sizes_that_another_thread_changes_meanwhile():
    code = """
import sys, threading, time
import numpy as np
import cylstm
sys.setswitchinterval(1e-5)
lstm = cylstm.LSTM(1, 16)
T = 600
sizes = np.full(T, 4, np.int64)
packed = cylstm.PackedSequence(cylstm.randn(4 * T, 1), sizes)
expected = lstm(packed)[0].data
done = False
def flip():
    while not done:
        sizes[T // 2] = 1 << 40
        sizes[T // 2] = 4
thread = threading.Thread(target=flip)
thread.start()
computed = refused = 0
for _ in range(400):
    try:
        assert np.array_equal(lstm(packed)[0].data, expected)
        computed += 1
    except RuntimeError as error:
        assert "batch_sizes" in str(error)
        refused += 1
done = True
thread.join()
print(computed + refused)
"""
    assert run(code) == "400"


def test_unpad_sequence():
    arrays = [np.arange(n * 2.0).reshape(n, 2) for n in (3, 0, 2)]
    for batch_first in (False, True):
        padded = cylstm.pad_sequence(arrays, batch_first)
        ours = cylstm.unpad_sequence(padded, [3, 0, 2], batch_first)
        theirs = torch.nn.utils.rnn.unpad_sequence(
            torch.from_numpy(padded.copy()), torch.tensor([3, 0, 2]), batch_first
        )
        for mine, yours in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(mine, yours.numpy())
        ours[0][:] = 7
        assert not np.any(padded == 7)  # copies


@pytest.mark.parametrize(
    ("lengths", "error"),
    [([3, 2], ValueError), ([3, 2, 4], ValueError), ([-1, 2, 3], ValueError), (["a"] * 3, TypeError)],
)
def test_unpad_sequence_refuses(lengths, error):
    with pytest.raises(error, match="lengths must"):
        cylstm.unpad_sequence(np.zeros((3, 3, 2)), lengths)
    with pytest.raises(ValueError, match="padded_sequences must"):
        cylstm.unpad_sequence(np.zeros(3), [1])
