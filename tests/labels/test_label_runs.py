"""Runs of label volumes: from voxels, from run tables, and what is made of them."""

from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from cristae.engine.executors import Resources
from cristae.engine.identity import Identity
from cristae.errors import InputError
from cristae.evaluation.evaluate import EvaluateConfig, score_instances
from cristae.evaluation.overlap_pass import overlap_table
from cristae.evaluation.placement import Compared
from cristae.grid import Box
from cristae.labels import blocks
from cristae.labels import label_runs as label_runs_module
from cristae.labels.label_runs import connected_labels, run_table_of, volume_runs
from cristae.labels.overlap_table import overlaps_of_block, overlaps_of_runs
from cristae.labels.runs import Raster, paint_into
from cristae.measurement.measure import measure_instances
from cristae.segmentation.config import SegmentConfig
from cristae.segmentation.segment import segment_volume
from cristae.volumes.formats import open_volume
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
    expected, found = overlaps_of_block(one, two), overlaps_of_runs(*rows, shape)
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


def segmented(tmp_path, name, seed, shape=(12, 20, 30)):
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.random(shape), 0.9)
    mask = ((field > np.quantile(field, 0.85)) * 255).astype(np.uint8)
    config = SegmentConfig(decoder="binary_connected", min_size=4)
    volume = array_volume(mask).with_(identity=Identity.of(name), voxel_size_nm=(30.0, 8.0, 8.0))
    return segment_volume(volume, tmp_path / f"{name}.zarr", config=config, pyramid=False)


@pytest.mark.parametrize("slab_runs", [1, 1 << 20])
def test_overlaps_of_run_tables_equal_those_of_voxels(tmp_path, monkeypatch, slab_runs):
    monkeypatch.setattr(label_runs_module, "SLAB_RUNS", slab_runs)
    one, two = segmented(tmp_path, "one", 1), segmented(tmp_path, "two", 2)
    box = Box((2, 3, 4), (11, 18, 27))
    for volumes, crop in ((Compared(one, two), False), (Compared(one, two.crop(box)), True)):
        by_voxels = overlap_table(volumes, crop=crop, block_shape=(3, 7, 8), resources=SERIAL)
        with monkeypatch.context() as patch:
            patch.setattr(type(one.reader), "read", None)
            by_runs = overlap_table(volumes, crop=crop, resources=SERIAL)
        assert len(by_runs.voxels) > 4
        for side in ("prediction", "truth"):
            for field in fields(getattr(by_runs, side)):
                found, expected = (
                    getattr(getattr(t, side), field.name) for t in (by_runs, by_voxels)
                )
                np.testing.assert_array_equal(found, expected)
        for name in ("predicted", "true", "voxels"):
            np.testing.assert_array_equal(getattr(by_runs, name), getattr(by_voxels, name))


def test_relabelled_parts_are_scored_apart():
    truth, found = np.zeros((2, 1, 3, 12), np.uint8)
    truth[0, 1, 1:4] = truth[0, 1, 7:10] = 5
    found[0, 1, 1:4], found[0, 1, 7:10], found[0, 2, 11] = 1, 2, 2
    config = EvaluateConfig(bootstrap_samples=0)
    whole = score_instances(found, truth, config=config, resources=SERIAL)
    assert whole.matching["0.75"]["all"]["tp"] == 0
    heat = np.where(found == 1, 0.5, 1.0).astype(np.float32)
    parts = score_instances(
        found, truth, scores=heat, config=replace(config, relabel=True), resources=SERIAL
    )
    counts = parts.matching["0.75"]["all"]
    assert (counts["tp"], counts["fp"], counts["fn"]) == (2, 1, 0)
    assert parts.tables.truth["truth"].tolist() == [1, 2]
    assert parts.tables.prediction["instance"].tolist() == [1, 2, 3]
    assert parts.tables.prediction["score"].tolist() == [0.5, 1.0, 1.0]


def test_relabelling_refuses_volumes_before_it_reads_them():
    one = array_volume(np.ones((1, 2, 3), np.uint8)).with_(reader=None)
    other = array_volume(np.ones((1, 2, 4), np.uint8))
    with pytest.raises(InputError, match="same place"):
        score_instances(one, other, config=EvaluateConfig(relabel=True))


@pytest.mark.parametrize("slab_runs", [1, 1 << 20])
def test_measurements_of_run_tables_equal_those_of_voxels(tmp_path, monkeypatch, slab_runs):
    monkeypatch.setattr(label_runs_module, "SLAB_RUNS", slab_runs)
    labels = segmented(tmp_path, "one", 1)
    part = labels.crop(Box((2, 3, 4), (11, 18, 27)))
    for volume in (labels, part):
        plain = array_volume(volume.read(), voxel_size_nm=volume.voxel_size_nm, kind="labels")
        expected = measure_instances(plain.with_(origin_nm=volume.origin_nm))
        assert run_table_of(volume) is not None
        pd.testing.assert_frame_equal(measure_instances(volume), expected)
