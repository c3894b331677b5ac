"""The flood on runs: only voxels of the foreground take memory, however large the box."""

import numpy as np
import pytest
from tests.segmentation.helpers import noise
from tests.segmentation.oracle import heap_flood, label_26

from cristae.grid import Box
from cristae.labels.runs import Raster, Runs
from cristae.segmentation.agglomerate import find_fragments
from cristae.segmentation.flood import flood, flood_bytes, labelled_runs
from cristae.segmentation.scanning import scan

HUGE = Raster((10_000, 10_000, 10_000))


def staircase(steps):
    """Runs of four voxels along x, each a row further than the last, through a huge volume."""
    places = [HUGE.voxel_index(0, 3 * k, 3 * k) for k in range(steps)]
    rows = [HUGE.voxel_index(0, 3 * k + j, 3 * k + 3) for k in range(steps) for j in (1, 2)]
    start = np.array(places + rows)
    length = np.array([4] * steps + [1] * 2 * steps, np.int32)
    order = np.argsort(start)
    return Runs(start[order], length[order])


def test_a_component_is_decoded_from_its_runs_and_not_from_its_box():
    """A staircase over 10,000 x 10,000 pixels with a seed at each end, equal in all else."""
    runs = staircase(3_333)
    voxels = int(runs.length.sum())
    ends = runs.take([0, -1])
    seeds = Runs(ends.start, np.ones(2, np.int32))
    value = np.full(voxels, 200, np.uint8)
    label = flood(runs, value, seeds, np.array([1, 2], np.int32), HUGE)
    changes = np.flatnonzero(np.diff(label))
    assert (label[0], label[-1], changes.size) == (1, 2, 1)
    assert abs(int(changes[0]) - voxels // 2) < 10  # both go on at one pace
    assert flood_bytes(voxels, runs.start.size) < 2 << 20


def test_fragments_of_a_huge_box():
    """The staircase, cut where its thousandth stair hangs on the one before."""
    runs = staircase(3_333)
    edges = np.full((int(runs.length.sum()), 3), 250, np.uint8)
    cut = int(runs.length[runs.start < HUGE.voxel_index(0, 3_000, 3_000)].sum())
    edges[cut] = 10
    fragment, (before, after, total, count) = find_fragments(runs, edges, HUGE, 100)
    np.testing.assert_array_equal(fragment, np.arange(fragment.size) >= cut)
    assert [before.tolist(), after.tolist()] == [[0], [1]]
    assert [total.tolist(), count.tolist()] == [[10], [1]]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("levels", [1, 3, 255])
def test_equals_the_flood_with_a_heap(seed, levels):
    """Also where all values are equal and only the age decides."""
    shape = (6, 9, 11)
    value = noise(shape, seed, 255)[0] // (256 // (levels + 1) or 1)
    foreground = noise(shape, seed + 50, smooth=False)[0] > 70
    seeds = label_26((noise(shape, seed + 90, smooth=False)[0] > 220) & foreground)
    box, raster = Box.of(shape), Raster(shape)
    runs = scan(foreground.astype(np.uint8), box, raster)
    its, name, _ = labelled_runs(Runs(runs.start, runs.length), seeds[foreground].astype(np.int32))
    found = flood(runs, value[foreground].astype(np.uint8), its, name, raster)
    np.testing.assert_array_equal(found, heap_flood(value, foreground, seeds)[foreground])
