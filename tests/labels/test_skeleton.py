"""Skeletons of shapes whose length is known."""

import numpy as np
import pytest

from cristae.grid import Box
from cristae.labels.runs import Raster
from cristae.labels.skeleton import NO_FACES, Rules, trace_parts
from cristae.labels.voxels import parts_of
from cristae.segmentation.scanning import scan

ISO = (1.0, 1.0, 1.0)


def trace_skeleton(mask, spacing, **rules):
    """Of an instance given as an array that holds nothing else."""
    raster = Raster(mask.shape)
    parts = parts_of(scan(mask.view(np.uint8), Box.of(mask.shape), raster), raster)
    return trace_parts(parts, spacing, Rules(**rules))


def tube(shape, axis, radius):
    """A straight tube through the middle of an array, from its first to its last plane."""
    centre = [(n - 1) / 2 for n in shape]
    grid = np.indices(shape)
    across = [k for k in range(3) if k != axis]
    return sum((grid[k] - centre[k]) ** 2 for k in across) <= radius**2


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_straight_tube_is_as_long_as_it_is(axis):
    shape = [9, 9, 9]
    shape[axis] = 60
    found = trace_skeleton(tube(shape, axis, 3), ISO)
    assert 59 <= found.length(ISO) <= 68  # the ends lie on the rims of the faces
    assert len(found.edges) == len(found.vertices) - 1
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 3.0
    assert 3 * 59 <= found.length(tuple(spacing)) <= 3 * 59 + 9


def test_lengths_scale_with_the_voxels():
    mask = tube((40, 9, 9), 0, 3)
    one = trace_skeleton(mask, (30.0, 8.0, 8.0), const=300.0)
    two = trace_skeleton(mask, (60.0, 16.0, 16.0), const=600.0)
    np.testing.assert_array_equal(one.vertices, two.vertices)
    assert two.length((60.0, 16.0, 16.0)) == pytest.approx(2 * one.length((30.0, 8.0, 8.0)))


def test_a_cut_ends_in_the_middle_of_its_section():
    mask = tube((50, 11, 11), 0, 4)
    found = trace_skeleton(mask, ISO, faces=((True, True), (False, False), (False, False)))
    ends = np.bincount(found.edges.ravel()) == 1
    assert sorted(found.vertices[ends].tolist()) == [[0, 5, 5], [49, 5, 5]]
    assert found.length(ISO) == 49.0


def test_branches_are_found_unless_covered():
    """A T of three arms; wide cubes cover the third arm, narrow ones leave it a path."""
    mask = np.zeros((7, 61, 61), bool)
    mask[2:5, 28:33, :] = True
    mask[2:5, 30:, 28:33] = True
    covered = trace_skeleton(mask, ISO, const=300.0)
    branched = trace_skeleton(mask, ISO, const=5.0)
    ends = [int((np.bincount(s.edges.ravel()) == 1).sum()) for s in (covered, branched)]
    assert ends == [2, 3]
    assert branched.length(ISO) == pytest.approx(60 + 30, rel=0.1)


def test_parts_are_traced_one_by_one_and_single_voxels_have_no_length():
    mask = np.zeros((5, 5, 30), bool)
    mask[2, 2, :12] = True
    mask[2, 2, 15:] = True
    mask[0, 0, 29] = True
    found = trace_skeleton(mask, ISO)
    assert found.length(ISO) == 11 + 14
    assert found.vertices.min(axis=0).tolist() == [2, 2, 0]
    assert found.vertices.max(axis=0).tolist() == [2, 2, 29]
    alone = trace_skeleton(np.ones((1, 1, 1), bool), ISO)
    assert alone.length(ISO) == 0.0
    assert alone.edges.shape == (0, 2)


def test_paths_step_from_neighbour_to_neighbour_inside():
    rng = np.random.default_rng(4)
    mask = np.zeros((12, 30, 30), bool)
    at = np.array([6, 15, 15])
    for _ in range(400):
        at = np.clip(at + rng.integers(-1, 2, 3), 1, np.array(mask.shape) - 2)
        mask[tuple(slice(a - 1, a + 2) for a in at)] = True
    found = trace_skeleton(mask, (3.0, 1.0, 1.0), const=2.0, faces=NO_FACES)
    assert mask[tuple(found.vertices.T)].all()
    steps = np.abs(np.diff(found.vertices[found.edges], axis=1)[:, 0])
    assert steps.max() == 1
    assert (steps.sum(axis=1) > 0).all()


def test_an_instance_that_fills_the_volume():
    faces = ((True, True),) * 3
    found = trace_skeleton(np.ones((4, 5, 6), bool), ISO, faces=faces)
    assert 0 < found.length(ISO) < 40
