"""A component too large for memory: refused with its size, or cut and flagged where allowed."""

import logging

import numpy as np
import pytest
from tests.segmentation.helpers import noise
from tests.segmentation.test_golden_decode import same_partition

from cristae.engine.executors import Resources
from cristae.errors import MemoryLimitError, OutputExistsError
from cristae.segmentation import segment as stage
from cristae.segmentation.config import SegmentConfig
from cristae.segmentation.segment import read_instances_table, segment_volume
from cristae.volumes.volume import array_volume

SERIAL = Resources(1, "serial")
BLOCKS = (8, 8, 8)


def two_seeds_in_a_slab():
    """A slab through all blocks with a seed at each end, and a blob that touches nothing."""
    prediction = np.zeros((2, 8, 24, 40), np.uint8)
    prediction[0, :, :16] = 220
    prediction[0, 2:5, 3:6, [1, 38]] = 250
    prediction[0, 2:5, 19:22, 10:20] = 250
    return prediction


def segment(array, out, *, resources=SERIAL, **parameters):
    defaults = {"decoder": "bc_watershed", "min_seed_size": 4, "min_size": 1}
    volume = array_volume(array)
    config = SegmentConfig(**{**defaults, **parameters})
    arguments = {"block_shape": BLOCKS, "resources": resources, "pyramid": False}
    return segment_volume(volume, out, config=config, **arguments).read()


@pytest.fixture
def small_budget(monkeypatch):
    """Four blocks of the slab fit, five do not.

    512 voxels in 64 runs take 13,184 bytes, the nine runs of each seed 1,170.
    """
    real = stage._budget
    budget = lambda job, resources: None if real(job, resources) is None else 55_076  # noqa: E731
    monkeypatch.setattr(stage, "_budget", budget)


def test_nothing_is_flagged_where_all_fits(tmp_path):
    array = noise((13, 40, 37), 3)[:2]
    parameters = {"foreground_threshold": 0.55, "seed_threshold": 0.7}
    exact = segment(array, tmp_path / "a.zarr", **parameters)
    allowed = segment(array, tmp_path / "b.zarr", **parameters, allow_approximate=True)
    assert exact.max() > 3
    np.testing.assert_array_equal(allowed, exact)
    assert not read_instances_table(tmp_path / "b.zarr")["approximate"].any()


def test_a_component_is_cut_and_its_pieces_are_flagged(tmp_path, small_budget, caplog):
    array = two_seeds_in_a_slab()
    exact = segment(array, tmp_path / "exact.zarr")
    assert exact.max() == 3
    assert not read_instances_table(tmp_path / "exact.zarr")["approximate"].any()
    found = segment(array, tmp_path / "cut.zarr", allow_approximate=True)
    assert "1 components too large for memory cut into 3 parts" in caplog.text
    np.testing.assert_array_equal(found > 0, exact > 0)  # no voxel is lost
    table = read_instances_table(tmp_path / "cut.zarr")
    blob = np.unique(found[:, 19:22])[1:]
    assert table["id"][~table["approximate"]].tolist() == blob.tolist()
    assert found[3, 4, 1] != found[3, 4, 38]
    assert found.max() == table["id"].size > 3


def test_parts_no_seed_reaches_are_instances_of_their_own(tmp_path, small_budget):
    array = two_seeds_in_a_slab()
    found = segment(array, tmp_path / "cut.zarr", allow_approximate=True)
    # blocks 0..3, 4..7 and 8..9 of the slab: the second holds x 32:40 of the upper row and x 0:24
    # of the lower; only its upper part has a seed
    parts = np.zeros_like(found)
    parts[:, :8, :32], parts[:, :8, 32:], parts[:, 8:16, :24], parts[:, 8:16, 24:] = 1, 2, 3, 4
    parts[2:5, 19:22, 10:20] = 5
    assert same_partition(found, parts)


@pytest.mark.parametrize("resources", [Resources(3, "threads"), Resources(2, "processes")], ids=str)
def test_workers_change_nothing(tmp_path, small_budget, resources):
    array = two_seeds_in_a_slab()
    one = segment(array, tmp_path / "a.zarr", allow_approximate=True)
    many = segment(array, tmp_path / "b.zarr", allow_approximate=True, resources=resources)
    np.testing.assert_array_equal(one, many)


def test_agglomeration_is_cut_too(tmp_path, small_budget):
    affinities = np.full((3, 8, 16, 40), 200, np.uint8)  # edges, but of no fragment
    parameters = {"decoder": "affinity_agglomeration", "min_size": 1}
    volume = array_volume(affinities)
    arguments = {"block_shape": BLOCKS, "resources": SERIAL, "pyramid": False}
    config = SegmentConfig(**parameters)
    exact = segment_volume(volume, tmp_path / "a.zarr", config=config, **arguments).read()
    assert exact.max() == 1
    config = SegmentConfig(**parameters, allow_approximate=True)
    found = segment_volume(volume, tmp_path / "b.zarr", config=config, **arguments).read()
    assert found.max() == 10  # blocks: contacts take more memory
    assert read_instances_table(tmp_path / "b.zarr")["approximate"].all()
    assert (found > 0).all()


def test_real_memory(tmp_path, caplog):
    """1.05 M voxels in one piece need 10 MB and more; 9 MB are allowed beside what is fixed."""
    array = np.full((2, 64, 128, 128), 220, np.uint8)
    array[1] = 0
    array[0, 10:20, 10:20, [5, 120]] = 255
    resources = Resources(1, "serial", memory_gib=(stage.FIXED_BYTES + 9_000_000) / 2**30)
    config = SegmentConfig(decoder="bc_watershed")
    volume = array_volume(array)
    arguments = {"block_shape": (16, 64, 64), "resources": resources, "pyramid": False}
    expected = r"needs 0\.0\d GiB of .* 1048576 voxels in box 0:64,0:128,0:128.*--allow-approximate"
    with pytest.raises(MemoryLimitError, match=expected):
        segment_volume(volume, tmp_path / "a.zarr", config=config, **arguments)
    left = {file.name for file in (tmp_path / "a.zarr" / ".cristae").rglob("*")}
    assert {"label-0", "plan"} <= left
    assert "flood-0" not in left  # told before the first flood
    config = SegmentConfig(decoder="bc_watershed", allow_approximate=True)
    with caplog.at_level(logging.WARNING, logger="cristae"):
        found = segment_volume(volume, tmp_path / "b.zarr", config=config, **arguments)
    assert "too large for memory" in caplog.text
    assert (found.read() > 0).all()
    assert read_instances_table(tmp_path / "b.zarr")["approximate"].all()


def test_interrupted_equals_uninterrupted_with_other_memory(tmp_path, monkeypatch):
    """The first run's memory says where to cut, and other blocks are other settings."""
    array = np.full((2, 64, 128, 128), 220, np.uint8)
    array[1] = 0
    array[0, 10:20, 10:20, [5, 120]] = 255
    volume = array_volume(array)
    config = SegmentConfig(decoder="bc_watershed", allow_approximate=True)
    arguments = {"config": config, "block_shape": (16, 64, 64), "pyramid": False}
    tight = Resources(1, "serial", memory_gib=(stage.FIXED_BYTES + 9_000_000) / 2**30)
    whole = segment_volume(volume, tmp_path / "a.zarr", resources=tight, **arguments).read()
    real = stage.write_step

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "write_step", stop)
    with pytest.raises(KeyboardInterrupt):
        segment_volume(volume, tmp_path / "b.zarr", resources=tight, **arguments)
    monkeypatch.setattr(stage, "write_step", real)
    with pytest.raises(OutputExistsError, match="block_shape"):
        segment_volume(
            volume, tmp_path / "b.zarr", resources=SERIAL, **{**arguments, "block_shape": None}
        )
    found = segment_volume(volume, tmp_path / "b.zarr", resources=SERIAL, **arguments)
    np.testing.assert_array_equal(found.read(), whole)
