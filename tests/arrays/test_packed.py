"""Packed sequences: values, indices and errors are those of ``torch.nn.utils.rnn``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.utils.rnn as theirs
from hypothesis import given, settings
from hypothesis import strategies as st

from cylstm.arrays import packing as ours
from cylstm.arrays.packed import PackedSequence, as_packed, is_packed

DTYPES = ["float16", "float32", "float64", "complex64", "complex128", "int64", "uint8", "bool"]

#: Lengths of the sequences of a batch, trailing dimensions, and three switches.
ragged = st.tuples(
    st.lists(st.integers(1, 7), min_size=1, max_size=24),
    st.lists(st.integers(1, 3), max_size=2).map(tuple),
    st.booleans(),
    st.booleans(),
    st.sampled_from(DTYPES),
)


def numbers(shape, dtype="float32"):
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape) % 97 - 40
    return values.astype(dtype) * (1 + 2j if dtype.startswith("complex") else 1) if dtype != "bool" else values % 2 == 0


def assert_same(mine, yours):
    """Equal in values, shapes and dtypes: arrays and tensors, None, packed sequences, lists and tuples of these."""
    if yours is None:
        assert mine is None
    elif isinstance(yours, torch.Tensor):
        assert isinstance(mine, np.ndarray)
        assert mine.dtype.name == str(yours.dtype).removeprefix("torch.")
        assert mine.shape == tuple(yours.shape)
        np.testing.assert_array_equal(mine, yours.numpy())
    else:
        assert len(mine) == len(yours)
        for a, b in zip(mine, yours, strict=True):
            assert_same(a, b)


@settings(max_examples=150, deadline=None)
@given(ragged)
def test_pack_and_pad(case):
    lengths, trailing, batch_first, spare, dtype = case
    T, B = max(lengths) + spare, len(lengths)
    x = numbers(((B, T) if batch_first else (T, B)) + trailing, dtype)
    mine = ours.pack_padded_sequence(x, lengths, batch_first, enforce_sorted=False)
    assert_same(mine, packed_by_torch(torch.from_numpy(x), lengths, batch_first))
    yours = theirs.pack_padded_sequence(torch.from_numpy(x), lengths, batch_first, enforce_sorted=False)
    for there in (False, True):
        options = {"batch_first": there, "padding_value": 1, "total_length": max(lengths) + 2 * spare}
        assert_same(ours.pad_packed_sequence(mine, **options), theirs.pad_packed_sequence(yours, **options))
        assert_same(ours.pad_packed_sequence(yours, **options), theirs.pad_packed_sequence(yours, **options))
    assert_same(ours.unpack_sequence(mine), theirs.unpack_sequence(yours))


def packed_by_torch(input, lengths, batch_first=False):
    """Packed by PyTorch after a stable sort: where lengths are equal, its own order depends on the CPU."""
    lengths, order = torch.as_tensor(lengths).sort(descending=True, stable=True)
    packed = theirs.pack_padded_sequence(input.index_select(0 if batch_first else 1, order), lengths, batch_first)
    return theirs.PackedSequence(packed.data, packed.batch_sizes, order)


@settings(max_examples=100, deadline=None)
@given(ragged, st.sampled_from(["left", "right"]))
def test_pad_and_pack_sequences(case, side):
    lengths, trailing, batch_first, enforce_sorted, dtype = case
    lengths = sorted(lengths, reverse=True) if enforce_sorted else lengths
    arrays = [numbers((length, *trailing), dtype) for length in lengths]
    tensors = [torch.from_numpy(array) for array in arrays]
    options = {"batch_first": batch_first, "padding_value": 1.0, "padding_side": side}
    assert_same(ours.pad_sequence(arrays, **options), theirs.pad_sequence(tensors, **options))
    mine = ours.pack_sequence(arrays, enforce_sorted)
    if enforce_sorted:
        assert_same(mine, theirs.pack_sequence(tensors))
    else:
        assert_same(mine, packed_by_torch(theirs.pad_sequence(tensors), lengths))
    for back, array in zip(ours.unpack_sequence(mine), arrays, strict=True):
        np.testing.assert_array_equal(back, array)


def test_a_large_batch_with_ties():
    lengths = np.random.default_rng(0).integers(1, 9, 3000)
    x = numbers((9, 3000, 2))
    mine = ours.pack_padded_sequence(x, lengths, enforce_sorted=False)
    assert_same(mine, packed_by_torch(torch.from_numpy(x), lengths))
    assert_same(ours.pad_packed_sequence(mine), theirs.pad_packed_sequence(as_torch(mine)))


def as_torch(p):
    return theirs.PackedSequence(*(None if a is None else torch.from_numpy(a) for a in p))


@pytest.mark.parametrize(
    "lengths",
    [
        [3, 1],
        (3, 1),
        np.array([3, 1]),
        np.array([3, 1], np.int16),
        torch.tensor([3, 1]),
        [3.7, 1.2],
        torch.tensor([3.7, 1.2]),
    ],
    ids=["list", "tuple", "array", "int16", "tensor", "fractions", "fractional tensor"],
)
def test_kinds_of_lengths(lengths):
    x = numbers((3, 2, 2))
    assert_same(ours.pack_padded_sequence(x, lengths), theirs.pack_padded_sequence(torch.from_numpy(x), lengths))


def test_input_of_any_kind():
    x = numbers((4, 3, 2))
    expected = theirs.pack_padded_sequence(torch.from_numpy(x), [4, 2, 1])
    locked = x.copy()
    locked.flags.writeable = False
    strided = np.repeat(x, 2, axis=2)[:, :, ::2]
    for given_ in (x, locked, strided, np.asfortranarray(x), torch.from_numpy(x).requires_grad_()):
        mine = ours.pack_padded_sequence(given_, [4, 2, 1])
        assert_same(mine, expected)
        assert not np.shares_memory(mine.data, x)


def test_only_the_padding_takes_the_padding_value():
    mine = ours.pack_sequence([numbers((3, 1)), numbers((1, 1))])
    padded, lengths = ours.pad_packed_sequence(mine, padding_value=float("nan"), total_length=4)
    np.testing.assert_array_equal(np.isnan(padded[:, :, 0]), [[0, 0], [0, 1], [0, 1], [1, 1]])
    np.testing.assert_array_equal(lengths, [3, 1])


# ------------------------------------------------------------------------------------------------------------- errors

X = numbers((3, 2, 2))
P = ours.pack_padded_sequence(X, [1, 3], enforce_sorted=False)

#: name: call with a module (ours or torch's) and a maker of its arrays. Exceptions must be of the same type, with
#: PyTorch's leaks replaced: AttributeError by TypeError, IndexError and AssertionError by ValueError.
MISTAKES = {
    "not sorted": lambda m, a: m.pack_padded_sequence(a(X), [1, 3]),
    "length 0": lambda m, a: m.pack_padded_sequence(a(X), [3, 0]),
    "negative length": lambda m, a: m.pack_padded_sequence(a(X), [3, -1]),
    "too few lengths": lambda m, a: m.pack_padded_sequence(a(X), [3]),
    "too many lengths": lambda m, a: m.pack_padded_sequence(a(X), [3, 2, 1]),
    "no lengths": lambda m, a: m.pack_padded_sequence(a(X), []),
    "2-D lengths": lambda m, a: m.pack_padded_sequence(a(X), [[3, 1]]),
    "scalar lengths": lambda m, a: m.pack_padded_sequence(a(X), 3),
    "lengths None": lambda m, a: m.pack_padded_sequence(a(X), None),
    "empty batch": lambda m, a: m.pack_padded_sequence(a(X[:, :0]), []),
    "no steps": lambda m, a: m.pack_padded_sequence(a(X[:0]), [1, 1]),
    "no features": lambda m, a: m.pack_padded_sequence(a(X[:, :, :0]), [3, 1]),
    "1-D input": lambda m, a: m.pack_padded_sequence(a(X[:, 0, 0]), [3]),
    "0-D input": lambda m, a: m.pack_padded_sequence(a(X[0, 0, 0]), [1]),
    "list as input": lambda m, a: m.pack_padded_sequence(X.tolist(), [3, 1]),
    "short total_length": lambda m, a: m.pad_packed_sequence(pack(m, a), total_length=2),
    "negative total_length": lambda m, a: m.pad_packed_sequence(pack(m, a), total_length=-1),
    "total_length of float": lambda m, a: m.pad_packed_sequence(pack(m, a), total_length=5.0),
    "text as padding_value": lambda m, a: m.pad_packed_sequence(pack(m, a), padding_value="a"),
    "complex padding_value": lambda m, a: m.pad_packed_sequence(pack(m, a), padding_value=1j),
    "padding an array": lambda m, a: m.pad_packed_sequence(a(X)),
    "unpacking an array": lambda m, a: m.unpack_sequence(a(X)),
    "no sequences": lambda m, a: m.pad_sequence([]),
    "no sequences to pack": lambda m, a: m.pack_sequence([]),
    "number as sequences": lambda m, a: m.pad_sequence(5),
    "lists as sequences": lambda m, a: m.pad_sequence([[1, 2]]),
    "different widths": lambda m, a: m.pad_sequence([a(X[0]), a(X[0, :, :1].repeat(3, 1))]),
    "different dimensions": lambda m, a: m.pad_sequence([a(X[0]), a(np.arange(3.0))]),
    "wrong side": lambda m, a: m.pad_sequence([a(X)], padding_side="up"),
    "empty sequence": lambda m, a: m.pack_sequence([a(X), a(X[:0])]),
    "sequences not sorted": lambda m, a: m.pack_sequence([a(X[:1]), a(X)]),
    "packed from nothing": lambda m, a: m.PackedSequence(a(X)),
    "packed from a list of sizes": lambda m, a: m.PackedSequence(a(X), [2, 1]),
    "packed with bad indices": lambda m, a: m.PackedSequence(a(X), a(np.array([2, 1])), a(np.array([0, 5]))),
    "to no dtype": lambda m, a: pack(m, a).to(dtype="nothing"),
}
LEAKS = {AttributeError: TypeError, IndexError: ValueError, AssertionError: ValueError}


def pack(module, array):
    return module.pack_padded_sequence(array(X), [1, 3], enforce_sorted=False)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_raises_what_torch_raises(mistake):
    with pytest.raises(Exception) as yours:  # noqa: PT011
        MISTAKES[mistake](theirs, lambda x: torch.from_numpy(np.array(x)))
    expected = LEAKS.get(yours.type, yours.type)
    with pytest.raises(expected) as mine:
        MISTAKES[mistake](ours, np.array)
    assert mine.type is expected
    assert " must " in str(mine.value) or mine.type is TypeError


def test_a_length_beyond_the_input_is_refused():
    with pytest.raises(RuntimeError, match="at most T = 3"):
        ours.pack_padded_sequence(X, [4, 1])


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("int64", 1j),
        ("float32", 1j),
        ("int64", float("nan")),
        ("int64", float("inf")),
        ("uint8", 300),
        ("float16", 1e6),
        ("float32", 1e300),
        ("complex64", 1e300),
    ],
)
def test_a_padding_value_that_the_dtype_cannot_hold(dtype, value):
    mine = ours.pack_sequence([np.ones((3, 1), dtype), np.ones((2, 1), dtype)])
    with pytest.raises(RuntimeError):
        theirs.pad_packed_sequence(as_torch(mine), padding_value=value)
    with pytest.raises(RuntimeError, match=f"padding_value must be a number that {dtype} can hold"):
        ours.pad_packed_sequence(mine, padding_value=value)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("int64", 2.7),
        ("int64", True),
        ("bool", 2),
        ("float32", float("-inf")),
        ("float16", 65504),
        ("complex64", 1 + 2j),
    ],
)
def test_padding_values_are_converted(dtype, value):
    mine = ours.pack_sequence([np.ones((3, 1), dtype), np.ones((2, 1), dtype)])
    options = {"padding_value": value}
    assert_same(ours.pad_packed_sequence(mine, **options), theirs.pad_packed_sequence(as_torch(mine), **options))


def test_sequences_are_not_broadcast():
    with pytest.raises(RuntimeError, match=r"sequences\[1\] must have shape \(L, 2, 2\), got \(2,\)"):
        ours.pad_sequence([X, X[0, 0]])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((X, [2, 2]), "data must have 4 rows"),
        ((X, [1, 2]), "never grow"),
        ((X, [3, 0]), "positive"),
        ((X, []), "batch_sizes must have shape"),
        ((X, [[2, 1]]), "batch_sizes must have shape"),
        ((X[0, 0, 0], [1]), "data must have 1 rows"),
        ((X, [2, 1], None, [0, 0]), "permutation"),
        ((X, [2, 1], None, [0]), "permutation"),
        ((X, [2, 1], [0, 1, 2], [0, 1]), "permutation"),
    ],
)
def test_inconsistent_packed_sequences_are_refused_when_used(parts, message):
    data, *integers = parts
    arrays = [None if part is None else np.array(part, np.int64) for part in integers]
    with pytest.raises(RuntimeError, match=message):
        as_packed(PackedSequence(data, *arrays))


# ----------------------------------------------------------------------------------------------------- the named tuple


def test_a_packed_sequence_is_a_named_tuple():
    data, batch_sizes, sorted_indices, unsorted_indices = P
    assert P._fields == ("data", "batch_sizes", "sorted_indices", "unsorted_indices") == theirs.PackedSequence._fields
    assert P[0] is data is P.data
    assert P[1] is batch_sizes is P.batch_sizes
    np.testing.assert_array_equal(sorted_indices, [1, 0])
    np.testing.assert_array_equal(unsorted_indices, [1, 0])
    assert isinstance(P._replace(data=data * 2), PackedSequence)
    assert repr(P).startswith("PackedSequence(data=array(")


def test_constructor():
    data, sizes, order = numbers((4, 1)), np.array([3, 1]), np.array([2, 0, 1])
    assert PackedSequence(data, sizes).unsorted_indices is None
    np.testing.assert_array_equal(PackedSequence(data, sizes, order).unsorted_indices, [1, 2, 0])
    np.testing.assert_array_equal(PackedSequence((data, sizes)).batch_sizes, sizes)
    assert PackedSequence(data=data, batch_sizes=torch.tensor([3, 1], dtype=torch.int32)).batch_sizes.dtype == np.int64
    with pytest.raises(TypeError, match="int64"):
        PackedSequence(data, np.array([3.0, 1.0]))


def test_conversion():
    tensors = as_torch(P)
    for name in ("double", "float", "half", "long", "int", "short", "char"):
        assert_same(getattr(P, name)(), getattr(tensors, name)())
    assert P.byte().data.dtype == np.uint8
    assert P.to(np.float32) is P.float() is P.to("cpu") is P.to() is P.cpu() is P
    for argument in (np.float64, "float64", torch.float64, np.zeros(1)):
        assert P.to(argument).data.dtype == np.float64
    assert P.to("cpu", np.float64).data.dtype == P.to(dtype=torch.float64).data.dtype == np.float64
    assert P.is_cuda is tensors.is_cuda is False
    with pytest.raises(RuntimeError, match="cuda"):
        P.to("cuda")


def test_is_packed():
    assert is_packed(P)
    assert is_packed(as_torch(P))
    assert not is_packed(X)
    assert not is_packed(torch.from_numpy(X))
    assert not is_packed((X, X))
    assert as_packed(P).data is P.data
    assert_same(as_packed(as_torch(P)), as_torch(P))
