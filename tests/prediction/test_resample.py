"""Resampling: pure functions of the voxel's index, constants and ramps kept."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cristae.prediction.resample import (
    apply_taps,
    source_taps,
    working_factors,
    working_taps,
)

factors = st.floats(0.3, 3.3).filter(lambda f: f != 1)
TAPS = [working_taps, source_taps]


def resample(taps_of, array, start, first, stop, factor):
    return apply_taps(array, 0, taps_of(first, stop, factor), start)


@pytest.mark.parametrize("taps_of", TAPS)
@given(factor=factors, first=st.integers(-20, 20), cut=st.integers(1, 29))
def test_pieces_equal_the_whole_bit_for_bit(taps_of, factor, first, cut):
    values = np.random.default_rng(0).normal(size=400).astype(np.float32)
    whole = resample(taps_of, values, -200, first, first + 30, factor)
    low, high = taps_of(first, first + cut, factor).reach
    left = resample(taps_of, values[low + 200 : high + 200], low, first, first + cut, factor)
    low, high = taps_of(first + cut, first + 30, factor).reach
    right = resample(taps_of, values[low + 200 : high + 200], low, first + cut, first + 30, factor)
    assert np.array_equal(np.concatenate([left, right]), whole)


@pytest.mark.parametrize("taps_of", TAPS)
@given(factor=factors)
def test_weights_sum_to_one_so_a_constant_stays(taps_of, factor):
    taps = taps_of(-15, 15, factor)
    assert (taps.weight >= 0).all()
    np.testing.assert_allclose(taps.weight.sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize("taps_of", TAPS)
@given(factor=factors)
def test_a_ramp_stays_a_ramp_at_the_same_place(taps_of, factor):
    """A working voxel's centre lies at (j + 0.5) factor of the source, and the other way around."""
    values = np.arange(-200, 200).astype(np.float32) + 0.5
    scale = factor if taps_of is working_taps else 1 / factor
    found = resample(taps_of, values, -200, -20, 20, factor)
    np.testing.assert_allclose(found, (np.arange(-20, 20) + 0.5) * scale, atol=1e-3)


def test_a_mean_over_the_extent_by_hand():
    """Factor 2: working voxel 1 covers source 2 and 3, whose centres are 2.5 and 3.5.

    The line between the centres 1.5, 2.5, 3.5, 4.5 with values 0, 8, 0, 8, from 2 to 4: 4 to 8 over
    a half, 8 to 0 over one, 0 to 4 over a half: (3 + 4 + 1) / 2 = 4.
    """
    found = resample(working_taps, np.float32([0, 8, 0, 8]), 1, 1, 2, 2.0)
    np.testing.assert_allclose(found, [4], rtol=1e-6)


def test_linear_by_hand():
    """Factor 0.5: working voxels 1 and 2 lie a quarter right of source 0 and left of 1."""
    found = resample(working_taps, np.float32([0, 8]), 0, 1, 3, 0.5)
    np.testing.assert_allclose(found, [2, 6], rtol=1e-6)


def test_down_and_back_keeps_a_smooth_image():
    x = np.arange(-100, 300)
    image = np.sin(x / 20).astype(np.float32)
    working = resample(working_taps, image, -100, -5, 120, 1.6)
    back = resample(source_taps, working, -5, 0, 150, 1.6)
    np.testing.assert_allclose(back, image[100:250], atol=5e-3)


@pytest.mark.parametrize(
    ("size", "working", "expected"),
    [
        ((30.0, 8.0, 8.0), (None, 8.0, 8.0), (1, 1, 1)),
        ((30.0, 7.7, 8.3), (None, 8.0, 8.0), (1, 1, 1)),  # within 5 %
        ((30.0, 4.0, 16.0), (None, 8.0, 8.0), (1, 2, 0.5)),
        ((5.0, 5.0, 5.0), (30.0, None, None), (6, 1, 1)),
        (None, (None, None, None), (1, 1, 1)),
    ],
)
def test_what_is_resampled(size, working, expected):
    assert working_factors(size, working) == pytest.approx(expected)
