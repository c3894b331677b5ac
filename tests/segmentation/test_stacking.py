"""2D networks: slices are decoded alone and joined by overlap, for any blocks."""

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
    stack_slices,
    to_neighbors,
)

from cristae.errors import ConfigError
from cristae.segmentation.config import SegmentConfig
from cristae.segmentation.decoders import resolve
from cristae.segmentation.stacking import join_slices
from cristae.volumes.volume import array_volume

pytestmark = pytest.mark.usefixtures("processes")

SHAPES = st.tuples(st.integers(1, 7), st.integers(2, 12), st.integers(2, 12))
BLOCKS = st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9))


def slices_alone(mask, seed, foreground, min_seed_size):
    """Each slice flooded as a volume of its own, numbered through."""
    slices, total = [], 0
    for k in range(len(mask)):
        part = slice(k, k + 1)
        seeds = label_26(seed[part])
        n = seeds.max()
        seeds = drop_small(seeds, min_seed_size)
        flooded = heap_flood(mask[part], foreground[part], seeds)
        slices.append(np.where(flooded, flooded + total, 0))
        total += n
    return np.concatenate(slices)


@settings(max_examples=60)
@given(
    SHAPES,
    BLOCKS,
    st.integers(0, 10**6),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.0, 0.1, 0.25, 0.5]),
    st.sampled_from(["background", "neighbor"]),
    EXECUTORS,
)
def test_equals_slices_flooded_and_joined(
    shape, blocks, seed, smooth, has_contour, least, small, resources
):
    prediction = noise(shape, seed, smooth=smooth)
    mask, contour = prediction[0], prediction[1]
    seeds = passes(mask, 0.6)
    parameters = {"seed_threshold": 0.6, "foreground_threshold": 0.4, "slice_overlap": least}
    if has_contour:
        seeds &= contour < int(255 * 0.6)
        parameters["contour_threshold"] = 0.6
    expected = stack_slices(slices_alone(mask, seeds, passes(mask, 0.4), 2), least)
    if small == "neighbor":
        expected = to_neighbors(expected, 9)
    found = decode(
        prediction[: 1 + has_contour],
        block_shape=blocks,
        resources=resources,
        decoder="stack_2d",
        min_seed_size=2,
        min_size=9,
        small=small,
        **parameters,
    )
    np.testing.assert_array_equal(found, canonical(drop_small(expected, 9)))


def test_a_stranger_beside_the_next_slice_stays_a_stranger():
    """The picture of the module: c continues a, which it overlaps by 3 of 6, and b ends."""
    prediction = np.zeros((1, 2, 1, 9), np.uint8)
    prediction[0, 0, 0, [0, 1, 2, 3, 5, 6]] = 255
    prediction[0, 1, 0, 1:6] = 255
    found = decode(
        prediction, block_shape=(1, 1, 4), decoder="stack_2d", min_size=1, min_seed_size=1
    )
    np.testing.assert_array_equal(
        found[:, 0], [[1, 1, 1, 1, 0, 2, 2, 0, 0], [0, 1, 1, 1, 1, 1, 0, 0, 0]]
    )


def test_slices_that_touch_without_enough_overlap_are_two():
    prediction = np.zeros((1, 2, 4, 4), np.uint8)
    prediction[0, 0, :2], prediction[0, 1, 1:] = 255, 255  # 4 of 16 pixels
    for least, count in ((0.25, 1), (0.26, 2)):
        found = decode(
            prediction, decoder="stack_2d", slice_overlap=least, min_size=1, min_seed_size=1
        )
        assert found.max() == count


def test_ties_go_to_the_lowest_number():
    pairs, count = np.array([[0, 2], [1, 2], [0, 3], [2, 4]]), np.array([2, 2, 2, 1])
    voxels = np.array([4, 4, 4, 4, 9])
    assert join_slices(pairs, count, voxels, 0.2).tolist() == [0, 1, 0, 3, 4]
    assert join_slices(pairs, count, voxels, 0.05).tolist() == [0, 1, 0, 3, 0]


def test_without_contour_its_threshold_is_refused():
    prediction = array_volume(np.zeros((1, 2, 3, 4), np.uint8))
    with pytest.raises(ConfigError, match="contour_threshold: stack_2d has no such parameter"):
        resolve(SegmentConfig(decoder="stack_2d", contour_threshold=0.5), prediction)
    with pytest.raises(ConfigError, match=r"slice_overlap: 1\.5 found"):
        resolve(SegmentConfig(decoder="stack_2d", slice_overlap=1.5), prediction)
