"""The pieces equal the whole: any blocks, workers and executors, against a plain oracle."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.segmentation.helpers import EXECUTORS, SERIAL, decode, noise
from tests.segmentation.oracle import canonical, drop_small, label_26, passes, watershed, widen

from cristae.engine.executors import Resources

pytestmark = pytest.mark.usefixtures("processes")

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 13), st.integers(1, 13))
BLOCKS = st.tuples(st.integers(1, 6), st.integers(3, 9), st.integers(3, 9))
SEEDS = st.integers(0, 10**6)
LEVELS = st.sampled_from([4, 12, 255])
"""Few: wide plateaus, where the order of equal values decides."""


@settings(max_examples=40)
@given(
    SHAPES, BLOCKS, SEEDS, LEVELS, st.booleans(), st.integers(0, 4), st.integers(0, 6), EXECUTORS
)
def test_bc_watershed_equals_heap_flood(
    shape, blocks, seed, levels, smooth, seed_size, size, resources
):
    prediction = noise(shape, seed, levels, smooth)
    mask, contour = prediction[0], prediction[1]
    seeds = passes(mask, 0.6) & (contour < int(255 * 0.6))
    expected = watershed(prediction, seeds, passes(mask, 0.4), seed_size, size)
    found = decode(
        prediction[:2],
        block_shape=blocks,
        resources=resources,
        decoder="bc_watershed",
        seed_threshold=0.6,
        contour_threshold=0.6,
        foreground_threshold=0.4,
        min_seed_size=seed_size,
        min_size=size,
    )
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=30)
@given(SHAPES, BLOCKS, SEEDS, LEVELS, st.integers(0, 4), EXECUTORS)
def test_seeds_may_lie_outside_the_foreground(shape, blocks, seed, levels, seed_size, resources):
    prediction = noise(shape, seed, levels)
    mask, distance = prediction[0], prediction[2] / 127.5 - 1.0
    seeds = passes(mask, 0.35) & (prediction[1] < int(255 * 0.7)) & (distance > -0.6)
    foreground = passes(mask, 0.5) & (distance > -0.2)
    expected = watershed(prediction, seeds, foreground, seed_size, 2)
    found = decode(
        prediction,
        block_shape=blocks,
        resources=resources,
        decoder="bcd_watershed",
        seed_threshold=0.35,
        contour_threshold=0.7,
        foreground_threshold=0.5,
        distance_seed_threshold=-0.6,
        distance_foreground_threshold=-0.2,
        min_seed_size=seed_size,
        min_size=2,
    )
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=30)
@given(SHAPES, BLOCKS, SEEDS, st.booleans(), st.integers(0, 5), EXECUTORS)
def test_binary_connected_equals_plain_labelling(shape, blocks, seed, smooth, size, resources):
    prediction = noise(shape, seed, smooth=smooth)
    expected = canonical(drop_small(label_26(passes(prediction[0], 0.6)), size))
    found = decode(
        prediction[:1],
        block_shape=blocks,
        resources=resources,
        decoder="binary_connected",
        foreground_threshold=0.6,
        min_size=size,
    )
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=30)
@given(SHAPES, BLOCKS, SEEDS, st.sampled_from([(1, 5, 5), (1, 1, 3), (1, 7, 1)]), EXECUTORS)
def test_widening_crosses_blocks(shape, blocks, seed, dilation, resources):
    prediction = noise(shape, seed, smooth=False)
    mask = passes(prediction[0], 0.8) & (prediction[1] < int(255 * 0.6))
    wide = widen(label_26(mask), (dilation[1] // 2, dilation[2] // 2))
    expected = canonical(drop_small(wide, 6))
    found = decode(
        prediction[:2],
        block_shape=blocks,
        resources=resources,
        decoder="bc_connected",
        foreground_threshold=0.8,
        contour_threshold=0.6,
        dilation=dilation,
        min_size=6,
    )
    np.testing.assert_array_equal(found, expected)


DIRECTIONS = [d for d in itertools.product((-1, 0, 1), repeat=3) if d > (0, 0, 0)]


@pytest.mark.parametrize("decoder", ["binary_connected", "binary_watershed"])
@pytest.mark.parametrize("direction", DIRECTIONS, ids=str)
def test_contact_of_two_voxels_across_the_borders_of_blocks(direction, decoder):
    """Faces, edges and corners, all 13 directions: one component, one seed, whatever the blocks."""
    prediction = np.zeros((1, 8, 8, 8), np.uint8)
    near = np.array([4 if d < 0 else 3 for d in direction])
    far = near + direction
    for voxel in (near, far):
        prediction[(0, *voxel)] = 255
    small = {"min_size": 1} | ({"min_seed_size": 2} if "watershed" in decoder else {})
    found = decode(prediction, block_shape=(4, 4, 4), decoder=decoder, **small)
    assert found[tuple(near)] == found[tuple(far)] == found.max() == 1


def snake(shape):
    """A line one voxel thick that winds through every second row of every second section."""
    mask = np.zeros(shape, bool)
    mask[::2, ::2] = True
    for k, y in enumerate(range(1, shape[1], 2)):
        mask[::2, y, 0 if k % 2 else -1] = True
    for k, z in enumerate(range(1, shape[0], 2)):
        mask[z, 0 if k % 2 else -1, 0] = True
    return mask


@pytest.mark.parametrize("block", [(2, 3, 4), (7, 7, 2), (3, 15, 1)])
def test_a_thread_through_every_block_with_a_seed_at_each_end(block):
    """30 % of the volume in one component, one voxel thick: where two floods meet is far away."""
    mask = snake((7, 7, 15))  # rows in even number, so that each plane ends where it began
    line = np.where(mask, 220, 0).astype(np.uint8)
    line[0, 0, :2], line[-1, -1, -2:] = 255, 255
    prediction = np.stack([line, np.zeros_like(line)])
    assert label_26(mask).max() == 1
    assert mask.mean() > 0.3
    expected = watershed(prediction, line == 255, mask, 2, 2)
    found = decode(
        prediction, block_shape=block, decoder="bc_watershed", min_seed_size=2, min_size=2
    )
    np.testing.assert_array_equal(found, expected)
    assert found.max() == 2
    assert (found[mask] > 0).all()


def test_diagonal_part_keeps_no_label():
    """Components are 26-connected, the flood is 6-connected: a part hanging on by an edge is 0."""
    prediction = np.zeros((2, 3, 6, 8), np.uint8)
    prediction[0, 1, 1:3, 1:4] = 255
    prediction[0, 1, 3, 4] = 220  # foreground, no seed, touches by a corner only
    found = decode(
        prediction,
        block_shape=(2, 3, 4),
        decoder="bc_watershed",
        min_seed_size=1,
        min_size=1,
    )
    assert found[1, 1, 1] == 1
    assert found[1, 3, 4] == 0
    assert np.count_nonzero(found) == 6


@pytest.mark.parametrize("value", [0, 255])
def test_nothing_and_everything(value):
    prediction = np.full((2, 5, 7, 6), value, np.uint8)
    prediction[1] = 0
    found = decode(prediction, block_shape=(2, 3, 4), decoder="mitoem", min_size=1)
    assert (found == (value > 0)).all()


def test_checkerboard():
    board = (np.indices((6, 9, 11)).sum(axis=0) % 2 * 255).astype(np.uint8)[None]
    parameters = {"decoder": "binary_connected", "min_size": 1}
    found = decode(board, block_shape=(4, 4, 4), **parameters)
    np.testing.assert_array_equal(found, board[0] // 255)
    alone = decode(
        board, block_shape=(4, 4, 4), decoder="binary_watershed", min_seed_size=0, min_size=1
    )
    np.testing.assert_array_equal(alone, found)  # one 26-connected seed


@pytest.mark.parametrize(
    "resources", [Resources(n, "threads") for n in (2, 3, 4)] + [Resources(2, "processes")], ids=str
)
def test_workers_change_nothing(resources):
    prediction = noise((20, 70, 66), 5)[:2]
    parameters = {
        "decoder": "bc_watershed",
        "foreground_threshold": 0.55,
        "seed_threshold": 0.7,
        "min_seed_size": 3,
        "min_size": 10,
    }
    expected = decode(prediction, resources=SERIAL, **parameters)
    assert expected.max() > 10
    found = decode(prediction, block_shape=(9, 32, 19), resources=resources, **parameters)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype == np.uint32
