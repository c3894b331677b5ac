"""Samples: every fault is told before work starts, all at once."""

import numpy as np
import pytest

from cristae.engine.executors import Resources
from cristae.errors import ConfigError, InputError
from cristae.volumes.dataset import (
    Sample,
    compact_ids,
    keep_simulated,
    load_samples,
    open_sample,
    open_samples,
)
from cristae.volumes.simulate import SimulationConfig
from cristae.volumes.sources.ome_zarr import create_ome_zarr

SIZE = (30.0, 8.0, 8.0)


def write(path, array, voxel_size_nm=SIZE, kind="labels"):
    volume = create_ome_zarr(
        path, shape=array.shape, dtype=array.dtype, kind=kind, voxel_size_nm=voxel_size_nm
    )
    volume.write(volume.box, array)
    return str(path)


@pytest.fixture
def pair(tmp_path):
    """An image and labels with one instance of 1 x 2 x 2 voxels."""
    image = np.arange(6 * 8 * 8, dtype=np.uint16).reshape(6, 8, 8)
    labels = np.zeros((6, 8, 8), np.uint32)
    labels[3, 3:5, 3:5] = 70000
    return {
        "image": write(tmp_path / "image.zarr", image, kind="image"),
        "labels": write(tmp_path / "labels.zarr", labels),
    }


def test_opens_and_loads(pair):
    sample = Sample(name="a", **pair, label_widening_nm=8.0, roi="1:6,:,:")
    opened = open_sample(sample)
    assert opened.labels.read().sum() == 12 * 70000  # 2 x 2 voxels and 8 beside them in plane
    held = load_samples([opened], 1 << 20)[0]
    assert held.in_memory
    assert held.labels.dtype == np.uint8
    assert np.array_equal(held.labels.read() > 0, opened.labels.read() > 0)
    assert np.array_equal(held.image.read(), opened.image.read())
    assert held.fingerprint == opened.fingerprint


def test_stays_on_disk_without_room(pair):
    opened = open_samples([Sample(name="a", **pair), Sample(name="b", **pair)])
    one = sum(v.size * v.dtype.itemsize for v in (opened[0].image, opened[0].labels))
    assert [o.in_memory for o in load_samples(opened, one)] == [True, False]
    assert [o.in_memory for o in load_samples(opened, one - 1)] == [False, False]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        pytest.param(np.full((6, 8, 8), -2, np.int16), "label -2", id="negative"),
        pytest.param(np.full((6, 8, 8), 0.5, np.float32), "label 0.5", id="fractional"),
        pytest.param(np.zeros((6, 8, 8), np.uint8), "no label above 0", id="empty"),
        pytest.param(np.ones((6, 8, 9), np.uint8), r"\(6, 8, 9\).*\(6, 8, 8\)", id="shape"),
    ],
)
def test_unusable_labels(pair, tmp_path, labels, message):
    bad = write(tmp_path / "bad.zarr", labels)
    with pytest.raises(InputError, match=message):
        open_sample(Sample(name="a", image=pair["image"], labels=bad))


def test_whole_numbers_stored_as_floats_are_labels(pair, tmp_path):
    path = write(tmp_path / "float.zarr", np.full((6, 8, 8), 3.0, np.float32))
    held = load_samples([open_sample(Sample(name="a", image=pair["image"], labels=path))], 1 << 20)
    assert held[0].labels.dtype == np.uint8


def test_unknown_voxel_size(pair, tmp_path):
    image = write(tmp_path / "nosize.zarr", np.ones((6, 8, 8), np.uint8), None, "image")
    sample = Sample(name="a", image=image, labels=pair["labels"])
    with pytest.raises(InputError, match="unknown voxel size"):
        open_sample(sample)
    assert open_sample(sample, voxel_size_needed=False).image.voxel_size_nm is None


def test_all_faults_at_once(pair, tmp_path):
    empty = write(tmp_path / "empty.zarr", np.zeros((6, 8, 8), np.uint8))
    samples = [
        Sample(name="a", image=str(tmp_path / "no.zarr"), labels=str(tmp_path / "none.zarr")),
        Sample(name="b", image=pair["image"], labels=empty),
        Sample(name="b", image=pair["image"], labels=pair["labels"], weight=-1.0, z_steps=()),
    ]
    with pytest.raises(InputError) as caught:
        open_samples(samples)
    for part in ("no.zarr", "none.zarr", "no label above 0", "weight -1.0", "z_steps", "2 times"):
        assert part in str(caught.value)


def test_image_without_labels():
    with pytest.raises(ConfigError, match="expected both, or `simulate`"):
        open_sample(Sample(name="a", image="x.tif"))


@pytest.mark.parametrize(
    ("ids", "expected", "dtype"),
    [
        pytest.param([0, 9, 3], [0, 9, 3], np.uint8, id="small"),
        pytest.param([0, 300, 3], [0, 300, 3], np.uint16, id="medium"),
        pytest.param([0, 5_000_000, 70_000, 5_000_000, 8], [0, 3, 2, 3, 1], np.uint8, id="large"),
        pytest.param([70_000, 70_000, 2**40], [1, 1, 2], np.uint8, id="no background"),
    ],
)
def test_compact_ids(ids, expected, dtype):
    found = compact_ids(np.array(ids, np.int64).reshape(1, 1, -1))
    assert found.dtype == dtype
    assert found.ravel().tolist() == expected


def test_compact_ids_of_very_many():
    """70,000 different ids need 32 bits."""
    labels = np.arange(3, 140_003, 2, dtype=np.uint64).reshape(1, 7, -1)
    found = compact_ids(labels)
    assert found.dtype == np.uint32
    assert np.array_equal(found.ravel(), np.arange(1, 70_001))


def test_simulated_samples_are_made_once(tmp_path):
    sample = Sample(name="sim", simulate=SimulationConfig(shape=(8, 96, 96), seed=3))
    opened = open_sample(sample)
    kept = keep_simulated(opened, tmp_path, Resources(1))
    assert np.array_equal(kept.image.read(), opened.image.read())
    assert np.array_equal(kept.labels.read(), opened.labels.read())
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert keep_simulated(opened, tmp_path, Resources(1)).labels.fingerprint
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == written


def test_simulated_beside_sources():
    with pytest.raises(ConfigError, match="image given beside `simulate`"):
        open_sample(Sample(name="a", image="x.tif", simulate=SimulationConfig()))
