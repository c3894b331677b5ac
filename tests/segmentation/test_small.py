"""Small instances join the neighbour with most contact, whatever the blocks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.segmentation.helpers import EXECUTORS, decode, noise
from tests.segmentation.oracle import (
    canonical,
    drop_small,
    heap_flood,
    label_26,
    passes,
    to_neighbors,
    widen,
)

from cristae.segmentation.resolve import UNASSIGNED
from cristae.segmentation.small import merge_small

pytestmark = pytest.mark.usefixtures("processes")

SHAPES = st.tuples(st.integers(1, 6), st.integers(3, 13), st.integers(3, 13))
BLOCKS = st.tuples(st.integers(1, 6), st.integers(2, 9), st.integers(2, 9))
SEEDS = st.integers(0, 10**6)


@settings(max_examples=50)
@given(SHAPES, BLOCKS, SEEDS, st.booleans(), st.integers(0, 30), EXECUTORS)
def test_of_a_watershed(shape, blocks, seed, smooth, size, resources):
    prediction = noise(shape, seed, smooth=smooth)
    mask, contour = prediction[0], prediction[1]
    seeds = drop_small(label_26(passes(mask, 0.6) & (contour < int(255 * 0.6))), 2)
    flooded = heap_flood(mask, passes(mask, 0.4), seeds)
    found = decode(
        prediction[:2],
        block_shape=blocks,
        resources=resources,
        decoder="bc_watershed",
        seed_threshold=0.6,
        contour_threshold=0.6,
        foreground_threshold=0.4,
        min_seed_size=2,
        min_size=size,
        small="neighbor",
    )
    np.testing.assert_array_equal(found, canonical(to_neighbors(flooded, size)))


@settings(max_examples=30)
@given(SHAPES, BLOCKS, SEEDS, st.integers(0, 60), EXECUTORS)
def test_of_widened_components(shape, blocks, seed, size, resources):
    prediction = noise(shape, seed, smooth=False)
    mask = passes(prediction[0], 0.8) & (prediction[1] < int(255 * 0.6))
    found = decode(
        prediction[:2],
        block_shape=blocks,
        resources=resources,
        decoder="bc_connected",
        foreground_threshold=0.8,
        contour_threshold=0.6,
        dilation=(1, 5, 3),
        min_size=size,
        small="neighbor",
    )
    expected = canonical(to_neighbors(widen(label_26(mask), (2, 1)), size))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("decoder", ["binary_connected"])
def test_without_neighbour_background(decoder):
    prediction = np.zeros((1, 3, 8, 8), np.uint8)
    prediction[0, 1, 1:5, 1:5] = 255
    prediction[0, 1, 7, 7] = 255
    found = decode(prediction, decoder=decoder, min_size=4, small="neighbor")
    np.testing.assert_array_equal(found, (prediction[0] > 0) & (np.indices((3, 8, 8))[1] < 5))


def test_a_voxel_that_touches_both_parts_counts_once():
    """0 joins 1 (contact 1 against none); then 1 touches 2 with one voxel and 3 with two.

    The voxel of 2 touches 0 and 1: counted twice it would tie with 3 and win by its number.
    """
    contacts = np.array([[2, 1, 0], [3, 1, 2], [4, 2, 0]])
    contacts = np.pad(contacts, ((0, 0), (0, 6)))
    small = np.array([True, True, False, False])
    goes = merge_small(contacts, np.array([3, 1, 2]), np.array([2, 3, 50, 60]), small, 9)
    assert goes.tolist() == [3, 3, 2, 3]


def test_grown_large_enough_it_stays():
    contacts = np.pad(np.array([[2, 1], [3, 2]]), ((0, 0), (0, 7)))
    small = np.array([True, True, False])
    count, voxels = np.array([1, 5]), np.array([4, 5, 50])
    assert merge_small(contacts, count, voxels, small, 9).tolist() == [1, 1, 2]
    assert merge_small(contacts, count, voxels, small, 10).tolist() == [2, 2, 2]
    assert merge_small(contacts[:0], count[:0], voxels, small, 9).tolist() == [
        UNASSIGNED,
        UNASSIGNED,
        2,
    ]
