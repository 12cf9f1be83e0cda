"""Rounding to bfloat16 and int8: PyTorch's bfloat16 and exact arithmetic are the judges."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from cylstm.arrays.quantization import (
    SMALLEST_STATE,
    SMALLEST_WEIGHT,
    bfloat16_bits,
    from_bfloat16_bits,
    quantized,
    quantized_state,
    rounded_to_bfloat16,
)

F32 = np.float32
TINY = np.finfo(F32).smallest_subnormal


def _by_torch(a):
    return torch.from_numpy(a.copy()).to(torch.bfloat16).float().numpy()


def _bits(*patterns):
    return np.array(patterns, np.uint32).view(F32)


def test_bfloat16_of_random_bits_is_that_of_pytorch():
    a = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint32).view(F32)
    np.testing.assert_array_equal(rounded_to_bfloat16(a), _by_torch(a))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (0x3F80_8000, 0x3F80_0000),  # a tie: to even, down
        (0x3F81_8000, 0x3F82_0000),  # a tie: to even, up
        (0x3F80_8001, 0x3F81_0000),
        (0x3F80_7FFF, 0x3F80_0000),
        (0x3FFF_8000, 0x4000_0000),  # carries into the exponent
        (0x0000_8000, 0x0000_0000),  # subnormal, a tie
        (0x0001_8000, 0x0002_0000),
        (0x007F_FFFF, 0x0080_0000),  # the largest subnormal
        (0x7F7F_FFFF, 0x7F80_0000),  # the largest float32 is nearer to infinity's place than to the largest bfloat16
        (0x7F7F_7FFF, 0x7F7F_0000),
        (0x7F80_0000, 0x7F80_0000),
        (0x8000_0000, 0x8000_0000),
    ],
)
def test_bfloat16_rounds_to_nearest_ties_to_even(pattern, expected):
    for sign in (0, 0x8000_0000):
        rounded = rounded_to_bfloat16(_bits(pattern | sign))
        assert rounded.view(np.uint32)[0] == expected | sign


def test_every_nan_stays_a_nan():
    nans = _bits(0x7F80_0001, 0xFF80_0001, 0x7FFF_FFFF, 0x7FC0_0000, 0xFFFF_8000)
    assert np.isnan(rounded_to_bfloat16(nans)).all()
    assert np.isnan(from_bfloat16_bits(bfloat16_bits(nans))).all()


def test_bits_of_bfloat16_go_there_and_back():
    every = np.arange(2**16, dtype=np.uint16)
    values = from_bfloat16_bits(every)
    np.testing.assert_array_equal(rounded_to_bfloat16(values), values)
    numbers = ~np.isnan(values)
    np.testing.assert_array_equal(bfloat16_bits(values).view(np.uint16)[numbers], every[numbers])


def test_strided_and_empty_arrays_are_rounded():
    a = np.random.default_rng(1).standard_normal((6, 8), F32)
    np.testing.assert_array_equal(rounded_to_bfloat16(a.T[::2]), _by_torch(np.ascontiguousarray(a.T[::2])))
    assert rounded_to_bfloat16(np.empty((0, 3), F32)).shape == (0, 3)


def _nearest(value, scale):
    """round-half-even of value / scale in exact arithmetic, within the levels."""
    return max(-127, min(127, round(Fraction(float(value)) / Fraction(float(scale)))))


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e30, 2.0**-118])
def test_weights_are_quantized_by_the_largest_of_each_row(scale):
    weight = (np.random.default_rng(2).standard_normal((12, 33)) * scale).astype(F32)
    values, scales = quantized(weight)
    assert values.dtype == np.int8
    assert scales.dtype == F32
    for row, levels, s in zip(weight, values, scales, strict=True):
        assert s == F32(np.abs(row).max() / np.float64(127))
        assert levels.tolist() == [_nearest(value, s) for value in row]
        assert np.abs(levels).max() == 127
    assert np.all(np.abs(weight - values * scales[:, None].astype(np.float64)) <= scales[:, None] * 0.5000001)


def test_ties_of_weights_go_to_even():
    row = np.array([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -126.5]], F32)  # the scale is 1
    assert quantized(row).values.tolist() == [[127, 0, 2, 2, 0, -2, -126]]


def test_rows_of_zeros_and_of_subnormals_are_zero():
    least = np.float32(SMALLEST_WEIGHT)
    below = np.nextafter(least, F32(0))
    weight = np.array([[0, 0], [TINY, -TINY], [below, 0], [least, -least]], F32)
    values, scale = quantized(weight)
    assert values.tolist() == [[0, 0], [0, 0], [0, 0], [127, -127]]
    assert scale.tolist() == [0, 0, 0, 2.0**-126]


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_row_that_is_not_finite_is_nan_and_the_others_are_not(bad):
    values, scale = quantized(np.array([[1, bad], [1, 0.5]], F32))
    assert values[0].tolist() == [0, 0]
    assert np.isnan(scale[0])
    assert values[1].tolist() == [127, 64]  # 0.5 / float32(1 / 127) is a little more than 63.5


def test_weights_of_wild_range_overflow_nowhere():
    largest = np.finfo(F32).max
    values, scale = quantized(np.array([[largest, -largest, 1.0], [1e-30, -1e-38, 0]], F32))
    assert values.tolist() == [[127, -127, 0], [127, 0, 0]]
    assert np.isfinite(scale).all()


def test_a_matrix_without_columns_or_rows_is_quantized():
    assert quantized(np.empty((3, 0), F32)).scale.tolist() == [0, 0, 0]
    assert quantized(np.empty((0, 3), F32)).values.shape == (0, 3)


def test_states_have_the_scale_of_their_largest():
    least = F32(SMALLEST_STATE)
    h = np.array([[0.25, -0.125], [0, 0], [np.nextafter(least, F32(0)), 0], [least, -least], [3e38, 0], [2, -1]], F32)
    values, scale = quantized_state(h)
    assert values.tolist() == [[127, -64], [0, 0], [0, 0], [127, -127], [127, 0], [127, -64]]  # 63.5 is a tie
    np.testing.assert_array_equal(scale[:, 0], np.array([0.25, 0, 0, least, 3e38, 2], F32) / F32(127))


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_state_that_is_not_finite_has_a_scale_of_nan(bad):
    values, scale = quantized_state(np.array([[0.5, bad], [0.5, 0.25]], F32))
    assert values[0].tolist() == [0, 0]
    assert np.isnan(scale[0, 0])
    assert np.isfinite(scale[1, 0])


def test_states_of_any_size_stay_within_the_levels():
    rng = np.random.default_rng(3)
    h = (rng.standard_normal((2000, 8)) * 10.0 ** rng.integers(-28, 38, (2000, 1))).astype(F32)
    h[~np.isfinite(h)] = 1
    values, _ = quantized_state(h)
    assert (np.abs(values.astype(int)).max(axis=1) == 127).all()
