"""Layers of a block and the block at once give the same; so do rows counted and places sorted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.segmentation.helpers import noise

from cristae.grid import Box
from cristae.labels.runs import Raster, Runs, intersect
from cristae.segmentation import reading
from cristae.segmentation.config import SegmentConfig
from cristae.segmentation.decoders import resolve
from cristae.segmentation.job import SegmentJob
from cristae.segmentation.scanning import (
    ThresholdRule,
    is_within,
    scan,
    scan_rule,
    scan_within,
    select_values,
)
from cristae.segmentation.scratch import FolderScratch, MemoryScratch
from cristae.segmentation.writing import sort_by_row
from cristae.volumes.volume import array_volume

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 7), st.integers(1, 20))
SEEDS = st.integers(0, 10**6)


@pytest.mark.parametrize("decoder", ["bcd_watershed", "binary_connected"])
def test_layers_of_a_block_give_the_table_of_the_block(decoder, monkeypatch):
    monkeypatch.setattr(reading, "LAYER", 2)
    volume = array_volume(noise((11, 9, 13), 3)).with_(chunk_shape=(3, 4, 4))
    decoding = resolve(SegmentConfig(decoder=decoder, foreground_threshold=0.4), volume)
    job = SegmentJob(volume, decoding, (10, 9, 13), MemoryScratch())
    box = Box((1, 0, 0), (11, 9, 13))
    layers = list(reading.read_layers(job, box))
    assert [(layer.start[0], layer.stop[0]) for layer, _ in layers] == [
        (1, 3), (3, 6), (6, 9), (9, 11),
    ]  # fmt: skip
    pieces = decoding.label(job, box)
    monkeypatch.setattr(reading, "LAYER", 99)
    whole = decoding.label(job, box)
    assert whole.start.size > 20
    for field, found, expected in zip(whole._fields, pieces, whole, strict=True):
        np.testing.assert_array_equal(found, expected, err_msg=field)


RULES = st.builds(ThresholdRule, st.integers(0, 254), st.integers(1, 256), st.integers(-1, 254))


@settings(max_examples=40)
@given(SHAPES, SEEDS, RULES)
def test_seeds_inside_the_foreground(shape, seed, rule):
    """What passes the stricter rule is the same, sought everywhere or in the foreground alone."""
    planes, raster = tuple(noise(shape, seed)), Raster((shape[0] + 4, *shape[1:]))
    box = Box((2, 0, 0), (2 + shape[0], *shape[1:]))
    foreground = ThresholdRule(max(0, rule.mask_above - 60))
    assert is_within(rule, foreground)
    assert not is_within(foreground, rule) or rule == foreground
    runs = scan_rule(planes, box, raster, foreground)
    found = scan_within(runs, planes, box, raster, rule)
    expected, _, _ = intersect(runs, scan_rule(planes, box, raster, rule))
    np.testing.assert_array_equal(found.start, expected.start)
    np.testing.assert_array_equal(found.length, expected.length)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), max_size=12), SEEDS)
def test_values_of_some_runs(runs, seed):
    length = np.array([n for n, _ in runs], np.int32)
    wanted = np.array([w for _, w in runs], bool)
    value = np.random.default_rng(seed).integers(0, 256, length.sum()).astype(np.uint8)
    expected = value[np.repeat(wanted, length)]
    np.testing.assert_array_equal(select_values(length, wanted, value), expected)


def test_runs_of_blocks_in_raster_order():
    """Rows of few runs and of many, given in parts that alternate along x."""
    mask = np.zeros((2, 3, 400), np.uint8)
    mask[0, 1, ::2] = mask[1, 0, ::50] = mask[1, 2, 5:9] = 1
    raster = Raster((5, *mask.shape[1:]))
    runs = scan(mask, Box((3, 0, 0), (5, *mask.shape[1:])), raster)
    parts = np.random.default_rng(0).integers(0, 3, runs.start.size)
    mixed = Runs(*(np.concatenate([field[parts == k] for k in range(3)]) for field in runs))
    rows = raster.plane // raster.row
    order = sort_by_row(mixed.start, raster.row, 3 * rows, 2 * rows)
    np.testing.assert_array_equal(mixed.start[order], runs.start)


@pytest.mark.parametrize("kind", ["files", "memory"])
def test_parts_of_a_scratch_table(kind, tmp_path):
    scratch = FolderScratch(tmp_path) if kind == "files" else MemoryScratch()
    table = np.arange(12).reshape(6, 2)
    assert not scratch.holds("a")
    scratch.save("a", {"flat": np.ones(3, np.uint8), "table": table})
    assert scratch.holds("a")
    assert scratch.shapes("a", "table", "flat") == [[6, 2], [3]]
    np.testing.assert_array_equal(scratch.load("a", "table")[0], table)
    np.testing.assert_array_equal(scratch.rows("a", "table", 2, 5), table[2:5])
    assert scratch.rows("a", "table", 4, 4).shape == (0, 2)


def test_a_scratch_file_that_is_cut_off(tmp_path):
    scratch = FolderScratch(tmp_path)
    scratch.save("a", {"table": np.arange(12)})
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:-70])
    assert not scratch.holds("a")
    with pytest.raises(ValueError, match=r"a: \d+ bytes found, expected \d+"):
        scratch.load("a", "table")


def test_a_block_by_its_index():
    volume = array_volume(np.zeros((7, 10, 9), np.uint8))
    decoding = resolve(SegmentConfig(decoder="binary_connected"), volume)
    job = SegmentJob(volume, decoding, (3, 4, 9), MemoryScratch())
    assert [job.block(i) for i in range(9)] == job.blocks
