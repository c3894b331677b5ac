"""Widened labels against SciPy's distance transform."""

import numpy as np
import pytest
from scipy import ndimage

from cristae.errors import InputError
from cristae.grid import tile
from cristae.samples.dilation import dilate_labels, dilated_volume
from cristae.volumes.volume import array_volume

SIZE = (20.0, 5.0, 7.0)


@pytest.fixture
def labels():
    random = np.random.default_rng(4)
    array = np.zeros((6, 40, 44), np.uint16)
    for i in range(1, 9):
        z, y, x = (int(random.integers(0, n - 4)) for n in array.shape)
        array[z : z + 3, y : y + 6, x : x + 5] = 100 - i
    return array


@pytest.mark.parametrize("radius", [4.0, 11.0, 21.0])
def test_equals_distance_transform(labels, radius):
    """Where the nearest instance is unique, it is the one found; nothing further is touched."""
    found = dilate_labels(labels, radius, SIZE)
    distance = ndimage.distance_transform_edt(labels == 0, SIZE)
    assert np.array_equal(found > 0, distance <= radius)
    assert np.array_equal(found[labels > 0], labels[labels > 0])
    to_each = {
        i: ndimage.distance_transform_edt(labels != i, SIZE) for i in np.unique(labels)[1:].tolist()
    }
    nearest = np.stack(list(to_each.values())).min(axis=0)
    for voxel in np.argwhere((found > 0) & (labels == 0)):
        z, y, x = voxel
        near = [i for i, d in to_each.items() if abs(d[z, y, x] - nearest[z, y, x]) < 1e-9]
        assert found[z, y, x] == min(near)


def test_nothing_within_reach_changes_nothing(labels):
    assert np.array_equal(dilate_labels(labels, 4.9, SIZE), labels)


def test_boxes_do_not_show(labels):
    volume = dilated_volume(array_volume(labels, voxel_size_nm=SIZE), 21.0)
    whole = dilate_labels(labels, 21.0, SIZE)
    assert np.array_equal(volume.read(), whole)
    for box in tile(volume.box, (4, 13, 17)):
        assert np.array_equal(volume.read(box), whole[box.slices()])
    part = volume.crop(tile(volume.box, (3, 20, 20))[1])
    assert np.array_equal(part.read(), whole[0:3, 0:20, 20:40])


def test_unknown_voxel_size_is_refused(labels):
    with pytest.raises(InputError, match="known voxel size"):
        dilated_volume(array_volume(labels), 5.0)
