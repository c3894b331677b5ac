"""Fingerprints: traced by hand on a small volume, bounded on a large one."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from cristae.samples.dataset import OpenedSample, Sample
from cristae.samples.fingerprint import LABEL_BOX, fingerprint_sample, label_boxes
from cristae.volumes.volume import Volume, array_volume


def opened(labels, voxel_size_nm=(10.0, 5.0, 5.0), mask=None):
    image = array_volume(np.full(labels.shape, 9, np.uint8), voxel_size_nm=voxel_size_nm)
    known = None if mask is None else array_volume(mask)
    return OpenedSample(Sample("toy", "image", "labels"), image, array_volume(labels), known)


def test_what_is_counted():
    """Two boxes inside, one cut by the border; half of the volume is not known."""
    labels = np.zeros((8, 20, 40), np.uint32)
    labels[2:4, 2:6, 2:12] = 70_001
    labels[3:6, 10:16, 5:10] = 3
    labels[:2, 10:14, 14:18] = 5
    labels[2:4, 2:6, 25:35] = 9
    mask = np.zeros(labels.shape, np.uint8)
    mask[:, :, :20] = 1
    found = fingerprint_sample(opened(labels, mask=mask))
    assert (found.instances, found.whole) == (3, 2)
    inside = 2 * 4 * 10 + 3 * 6 * 5 + 2 * 4 * 4
    assert found.foreground_share == inside / (8 * 20 * 20)
    # all three count, as few are whole: 80, 90 and 32 voxels of 250 nm3
    assert found.volume_um3[1] == pytest.approx(80 * 250 / 1e9)
    assert found.across_nm == 20.0  # 20, 25, 20 nm
    assert found.extent_nm == pytest.approx((28.0, 28.0, 45.0))
    assert "3 instances, 2 of them whole, in 1 boxes" in found.text


def test_volumes_are_of_whole_instances_where_they_are_many():
    labels = np.zeros((4, 80, 80), np.uint16)
    for i, (y, x) in enumerate(np.ndindex(5, 5), start=1):
        labels[1:3, 16 * y + 4 : 16 * y + 9, 16 * x + 4 : 16 * x + 8] = i
    labels[:, 10:60, 76:] = 99
    found = fingerprint_sample(opened(labels))
    assert (found.instances, found.whole) == (26, 25)
    assert found.volume_um3 == (40 * 250 / 1e9,) * 3


def test_nothing_there():
    found = fingerprint_sample(opened(np.zeros((4, 8, 8), np.uint8)))
    assert (found.instances, found.volume_um3, found.across_nm) == (0, None, None)
    assert "0 instances" in found.text


@dataclass(frozen=True)
class Counted:
    """Empty labels that remember what is read of them."""

    boxes: list = field(default_factory=list)

    def read(self, box):
        self.boxes.append(box)
        return np.zeros(box.shape, np.uint8)


def test_as_much_is_read_of_a_volume_of_any_size():
    reader = Counted()
    size = (30.0, 8.0, 8.0)
    labels, image = (
        Volume("large", source, (10_000, 40_960, 40_960), np.dtype(np.uint8), voxel_size_nm=size)
        for source in (reader, Counted())
    )
    found = fingerprint_sample(OpenedSample(Sample("large"), image, labels, None), 6)
    assert len(reader.boxes) <= 6
    assert {box.shape for box in reader.boxes} == {LABEL_BOX}
    assert "of 1.68e+07" in found.sampled


def test_boxes_spread_over_the_volume():
    boxes = label_boxes((100, 2048, 1024), 12)
    assert len(boxes) == 12
    assert [len({box.start[axis] for box in boxes}) for axis in range(3)] == [2, 3, 2]
    assert len(set(boxes)) == 12
    assert label_boxes((5, 30, 40), 12)[0].shape == (5, 30, 40)
