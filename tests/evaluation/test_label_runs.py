"""Runs of label volumes: from voxels, from run tables, and what is made of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from cristae.engine.executors import Resources
from cristae.errors import InputError
from cristae.evaluation.label_runs import connected_labels, run_table_of, volume_runs
from cristae.measurement import blocks
from cristae.measurement.tally import tally_block, tally_runs
from cristae.segmentation.decoders import SegmentConfig
from cristae.segmentation.runs import Raster, paint_into
from cristae.segmentation.segment import segment_volume
from cristae.volumes.sources import open_volume
from cristae.volumes.volume import array_volume

SERIAL = Resources(1, "serial")


def painted(found, shape):
    array = np.zeros(shape, np.uint64)
    paint_into(array, found.runs, found.label, array_volume(array).box, Raster(shape))
    return array


@pytest.mark.parametrize("block_voxels", [1 << 20, 40])
def test_runs_of_voxels_paint_the_voxels(labels, monkeypatch, block_voxels):
    monkeypatch.setattr(blocks, "BLOCK_VOXELS", block_voxels)
    array, _ = labels(3)
    volume = array_volume(array.astype(np.int64) * (1 << 40)).with_(chunk_shape=(2, 3, 5))
    found = volume_runs(volume, SERIAL)
    np.testing.assert_array_equal(painted(found, array.shape), volume.read())
    assert len(found.label) == ((np.diff(array, axis=2, prepend=0) != 0) & (array > 0)).sum()


def test_negative_labels_are_refused():
    with pytest.raises(InputError, match="label -3"):
        volume_runs(array_volume(np.array([[[0, -3, 1]]], np.int16)), SERIAL)


def test_a_volume_without_labels_has_no_runs():
    assert len(volume_runs(array_volume(np.zeros((2, 3, 4), np.uint8)), SERIAL).label) == 0


@given(st.integers(0, 10_000))
def test_tally_of_runs_equals_tally_of_voxels(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 7, 3).tolist())
    one, two = (rng.integers(0, 4, shape).astype(np.uint8) for _ in range(2))
    one[rng.random(shape) < 0.4] = 0
    rows = [volume_runs(array_volume(a), SERIAL).rows(Raster(shape)) for a in (one, two)]
    expected, found = tally_block(one, two), tally_runs(*rows, shape)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.facts, expected.facts)
    assert found.voxels == expected.voxels


def test_run_tables_stand_for_voxels(tmp_path):
    rng = np.random.default_rng(5)
    mask = ndimage.gaussian_filter(rng.random((12, 20, 30)), 1.5)
    mask = ((mask > np.quantile(mask, 0.7)) * 255).astype(np.uint8)
    config = SegmentConfig(decoder="binary_connected", min_size=4)
    found = segment_volume(array_volume(mask), tmp_path / "found.zarr", config=config)
    assert run_table_of(found) == tmp_path / "found.zarr"
    assert run_table_of(array_volume(mask)) is None
    part = open_volume(str(tmp_path / "found.zarr"), roi="3:9,5:18,7:29")
    for volume in (found, part):
        runs = volume_runs(volume, SERIAL)
        assert run_table_of(volume) is not None
        np.testing.assert_array_equal(painted(runs, volume.shape), volume.read())


@given(st.integers(0, 10_000))
def test_connected_parts_of_every_label(seed):
    rng = np.random.default_rng(seed)
    shape = (4, 6, 8)
    array = np.where(rng.random(shape) < 0.5, rng.integers(1, 4, shape), 0).astype(np.uint8)
    raster = Raster(shape)
    found = painted(connected_labels(volume_runs(array_volume(array), SERIAL), raster), shape)
    expected = np.zeros(shape, np.int64)
    for label in (1, 2, 3):
        parts, _ = ndimage.label(array == label, np.ones((3, 3, 3)))
        expected += np.where(parts > 0, parts + expected.max(), 0)
    assert ((found > 0) == (array > 0)).all()
    pairs = set(zip(found[array > 0].tolist(), expected[array > 0].tolist(), strict=True))
    assert len(pairs) == len(np.unique(found[found > 0])) == expected.max()
    firsts = np.unique(found[found > 0], return_index=True)
    assert firsts[0].tolist() == list(range(1, len(firsts[0]) + 1))
    assert (np.diff(firsts[1]) > 0).all()
