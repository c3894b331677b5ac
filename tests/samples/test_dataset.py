"""Samples: every fault is told before work starts, all at once."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
import tifffile

from cristae.engine.executors import Resources
from cristae.errors import ConfigError, DiskSpaceError, InputError
from cristae.samples import held
from cristae.samples.dataset import Sample, open_sample, open_samples
from cristae.samples.held import compact_ids, keep_on_disk, load_samples
from cristae.simulation.simulate import SimulationConfig
from cristae.volumes.formats import slices as source
from cristae.volumes.formats.ome_zarr import create_ome_zarr
from cristae.volumes.formats.pages import PlaneCache, decode_plane
from cristae.volumes.volume import ArrayReader

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


def in_memory(opened):
    return isinstance(opened.image.reader, ArrayReader)


def test_opens_and_loads(pair):
    sample = Sample(name="a", **pair, label_dilation_nm=8.0, roi="1:6,:,:")
    opened = open_sample(sample)
    assert opened.labels.read().sum() == 12 * 70000  # 2 x 2 voxels and 8 beside them in plane
    held = load_samples([opened], 1 << 20)[0]
    assert in_memory(held)
    assert held.labels.dtype == np.uint8
    assert np.array_equal(held.labels.read() > 0, opened.labels.read() > 0)
    assert np.array_equal(held.image.read(), opened.image.read())
    assert held.fingerprint == opened.fingerprint


def test_ignored_labels_are_unknown(pair, tmp_path):
    """-1 beside a mask that knows the first 6 rows only; the instance and background stay."""
    labels = np.zeros((6, 8, 8), np.int32)
    labels[3, 3:5, 3:5] = 7
    labels[:, :, 5:] = -1
    mask = np.zeros((6, 8, 8), np.uint8)
    mask[:, :6] = 9
    own = {
        "labels": write(tmp_path / "signed.zarr", labels),
        "mask": write(tmp_path / "mask.zarr", mask, kind="image"),
    }
    opened = open_sample(Sample(name="a", **pair | own, ignore_label=-1, roi="2:6,1:,:"))
    assert np.array_equal(opened.labels.read(), labels[2:, 1:].clip(0))
    known = np.zeros((6, 8, 8), bool)
    known[:, :6, :5] = True
    assert np.array_equal(opened.mask.read(), known[2:, 1:])
    plain = open_sample(Sample(name="a", **pair))
    assert opened.fingerprint != plain.fingerprint
    with pytest.raises(InputError, match="label -1"):
        open_sample(Sample(name="a", **pair | own))
    sparse = open_sample(Sample(name="a", **pair, ignore_label=0))
    assert np.array_equal(sparse.mask.read(), plain.labels.read() > 0)


def test_stays_on_disk_without_room(pair):
    opened = open_samples([Sample(name="a", **pair), Sample(name="b", **pair)])
    one = sum(v.size * v.dtype.itemsize for v in (opened[0].image, opened[0].labels))
    assert [in_memory(o) for o in load_samples(opened, one)] == [True, False]
    assert [in_memory(o) for o in load_samples(opened, one - 1)] == [False, False]


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
    (kept,) = keep_on_disk([opened], tmp_path, Resources(1), 1 << 30)
    assert np.array_equal(kept.image.read(), opened.image.read())
    assert np.array_equal(kept.labels.read(), opened.labels.read())
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert keep_on_disk([opened], tmp_path, Resources(1), 1 << 30)[0].labels.fingerprint
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == written


@pytest.fixture
def slices(tmp_path):
    """Image and labels of 5 slices; each file decoded is noted."""
    arrays = {"image": np.arange(5 * 24 * 20).reshape(5, 24, 20).astype(np.uint8)}
    arrays["labels"] = (arrays["image"] // 50).astype(np.uint16)
    for name, array in arrays.items():
        (tmp_path / name).mkdir()
        for z, plane in enumerate(array):
            tifffile.imwrite(tmp_path / name / f"{z}.tif", plane)
    sample = Sample("s", str(tmp_path / "image"), str(tmp_path / "labels"), voxel_size_nm=SIZE)
    return sample, arrays


def test_planes_that_do_not_fit_are_decoded_once(slices, tmp_path, monkeypatch):
    sample, arrays = slices
    decoded = []
    monkeypatch.setattr(held, "PLANE_VOXELS", 24 * 20 - 1)
    monkeypatch.setattr(source, "PLANES", PlaneCache(0))
    monkeypatch.setattr(
        source, "decode_plane", lambda p, s: decoded.append(p) or decode_plane(p, s)
    )
    opened = open_sample(sample)
    decoded.clear()
    (same,) = keep_on_disk([opened], tmp_path / "kept", Resources(1), 1 << 30)
    assert same == opened
    (kept,) = keep_on_disk([opened], tmp_path / "kept", Resources(1), 0)
    # the sample of grey values is taken from the copy
    assert sorted(decoded.count(path) for path in set(decoded)) == [1] * 10
    decoded.clear()
    for name, array in arrays.items():
        assert np.array_equal(getattr(kept, name).read(), array)
    assert not decoded
    assert kept.image.voxel_size_nm == kept.labels.voxel_size_nm == SIZE


def test_planes_are_read_as_they_are_where_the_disk_is_full(slices, tmp_path, monkeypatch, caplog):
    def full(*_, **__):
        raise DiskSpaceError("no room")

    monkeypatch.setattr(held, "PLANE_VOXELS", 0)
    monkeypatch.setattr(held, "convert_volume", full)
    opened = open_sample(slices[0])
    assert keep_on_disk([opened], tmp_path / "kept", Resources(1), 0) == [opened]
    assert "read as it is, which is slow: no room" in caplog.text


def test_simulated_beside_sources():
    with pytest.raises(ConfigError, match="image given beside `simulate`"):
        open_sample(Sample(name="a", image="x.tif", simulate=SimulationConfig()))


def test_axes_and_series_of_sources_are_told_in_the_list(tmp_path):
    image = np.arange(4 * 5 * 6, dtype=np.uint8).reshape(4, 5, 6)
    labels = (image > 60).astype(np.uint8)
    for name, array in (("image", image), ("labels", labels)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["raw"] = array.T
    sample = Sample(
        "turned",
        image=str(tmp_path / "image.h5"),
        labels=str(tmp_path / "labels.h5"),
        voxel_size_nm=(30.0, 8.0, 8.0),
        axes="xyz",
    )
    opened = open_sample(sample)
    assert np.array_equal(opened.image.read(), image)
    assert np.array_equal(opened.labels.read(), labels)
    with pytest.raises(InputError, match="series"):
        open_sample(replace(sample, series="other"))
