"""Measurements against brute force, hand-made numbers, and their scaling laws."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cristae.engine.executors import Resources
from cristae.engine.identity import Identity
from cristae.errors import InputError, OutputExistsError
from cristae.labels import blocks
from cristae.measurement.measure import measure_instances, read_measurements
from cristae.volumes.volume import array_volume

SERIAL = Resources(workers=1, executor="serial")
SIZE = (30.0, 8.0, 8.0)


def labels_of(seed, shape=(6, 9, 11), ids=4):
    return np.random.default_rng(seed).integers(0, ids, shape).astype(np.uint16)


def measured(array, voxel_size_nm=SIZE, **changes):
    volume = array_volume(array, voxel_size_nm=voxel_size_nm, kind="labels").with_(**changes)
    return measure_instances(volume, resources=SERIAL)


def test_a_bar_of_known_size():
    """2 x 3 x 4 voxels of 30 x 8 x 8 nm at z 1, y 2, x 3: 24 x 1920 nm3 = 46,080 nm3.

    Centroid (1.5, 3, 4.5) voxels; with the origin at (300, 80, 0) nm that is
    (345, 104, 36) nm. Diameter (6 x 46,080 / pi)^(1/3) = 44.481 nm.
    """
    array = np.zeros((4, 6, 8), np.uint8)
    array[1:3, 2:5, 3:7] = 7
    (row,) = measured(array, origin_nm=(300.0, 80.0, 0.0)).to_dict("records")
    assert row["instance"] == 7
    assert row["volume_voxels"] == 24
    assert row["volume_um3"] == pytest.approx(4.608e-5)
    assert row["equivalent_diameter_nm"] == pytest.approx(44.481, abs=1e-3)
    assert [row[f"centroid_{a}_vx"] for a in "zyx"] == [1.5, 3.0, 4.5]
    assert [row[f"centroid_{a}_nm"] for a in "zyx"] == [345.0, 104.0, 36.0]
    assert [row[f"box_{a}{i}_vx"] for a in "zyx" for i in (0, 1)] == [1, 3, 2, 5, 3, 7]
    assert [row[f"extent_{a}_nm"] for a in "zyx"] == [60.0, 24.0, 32.0]
    assert not row["cut_by_border"]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("side", [0, -1])
def test_cut_at_every_face(axis, side):
    array = np.zeros((5, 5, 5), np.uint8)
    array[2, 2, 2] = 1
    index = [2, 2, 2]
    index[axis] = side
    array[tuple(index)] = 2
    assert measured(array)["cut_by_border"].tolist() == [False, True]


@given(st.integers(0, 2**32 - 1))
def test_equals_brute_force(seed):
    array = labels_of(seed)
    table = measured(array)
    assert table["instance"].tolist() == np.unique(array[array > 0]).tolist()
    for row in table.to_dict("records"):
        where = np.argwhere(array == row["instance"])
        assert row["volume_voxels"] == len(where)
        found = [row[f"centroid_{a}_vx"] for a in "zyx"]
        np.testing.assert_allclose(found, where.mean(axis=0), rtol=1e-12)
        assert [row[f"box_{a}0_vx"] for a in "zyx"] == where.min(axis=0).tolist()
        assert [row[f"box_{a}1_vx"] for a in "zyx"] == (where.max(axis=0) + 1).tolist()


@pytest.mark.parametrize("executor", ["serial", "threads"])
@pytest.mark.parametrize("chunk", [(1, 1, 1), (2, 3, 5), (6, 9, 11)])
def test_blocks_and_workers_change_nothing(monkeypatch, chunk, executor):
    monkeypatch.setattr(blocks, "BLOCK_VOXELS", 40)
    array = labels_of(3)
    volume = array_volume(array, voxel_size_nm=SIZE)
    table = measure_instances(
        volume.with_(chunk_shape=chunk), resources=Resources(workers=3, executor=executor)
    )
    pd.testing.assert_frame_equal(table, measured(array), check_exact=True)


def test_twice_the_voxel_size():
    array = labels_of(5)
    one, two = measured(array), measured(array, voxel_size_nm=(60.0, 16.0, 16.0))
    pd.testing.assert_series_equal(two["volume_um3"], 8 * one["volume_um3"])
    for name in ("equivalent_diameter_nm", "centroid_y_nm", "extent_z_nm"):
        pd.testing.assert_series_equal(two[name], 2 * one[name])
    for name in ("volume_voxels", "centroid_y_vx", "box_x1_vx", "cut_by_border"):
        pd.testing.assert_series_equal(two[name], one[name])


def test_a_crop_keeps_its_place():
    array = np.zeros((4, 10, 10), np.uint8)
    array[1:3, 5:7, 6:8] = 1
    volume = array_volume(array, voxel_size_nm=SIZE)
    part = volume.crop(volume.box.clip(volume.box.shift((1, 4, 4))))
    whole, cropped = (measure_instances(v, resources=SERIAL) for v in (volume, part))
    for axis in "zyx":
        assert cropped[f"centroid_{axis}_nm"].tolist() == whole[f"centroid_{axis}_nm"].tolist()


def test_no_instances_give_an_empty_table():
    table = measured(np.zeros((2, 3, 4), np.uint8))
    assert len(table) == 0
    assert "volume_um3" in table.columns


def test_an_unknown_voxel_size_is_asked_for():
    volume = array_volume(np.ones((2, 2, 2), np.float64), name="seg.tif")
    with pytest.raises(InputError, match=r"seg\.tif: its voxel size is unknown.*--voxel-size"):
        measure_instances(volume)


def test_all_faults_at_once():
    volume = array_volume(np.ones((2, 2, 2, 2), np.uint8), name="seg.h5")
    volume = volume.with_(dtype=np.dtype(np.complex64))
    with pytest.raises(InputError, match=r"(?s)3 faults.*channels.*complex64.*--voxel-size"):
        measure_instances(volume)


def test_negative_labels_are_refused():
    with pytest.raises(InputError, match="label -1"):
        measured(np.full((2, 2, 2), -1, np.int32))


def test_a_table_is_written_once(tmp_path):
    out = tmp_path / "instances.csv"
    volume = array_volume(labels_of(1), voxel_size_nm=SIZE).with_(identity=Identity.of("one"))
    table = measure_instances(volume, out, resources=SERIAL)
    pd.testing.assert_frame_equal(read_measurements(out), table, check_exact=True)
    written = out.stat().st_mtime_ns
    pd.testing.assert_frame_equal(measure_instances(volume, out), table, check_exact=True)
    assert out.stat().st_mtime_ns == written
    with pytest.raises(OutputExistsError, match="one"):
        measure_instances(volume.with_(identity=Identity.of("two")), out)
    assert (
        len(measure_instances(volume.with_(identity=Identity.of("two")), out, overwrite=True)) == 3
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "instances.csv",
        "instances.csv.cristae.json",
    ]


class Interrupted(BaseException):
    pass


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_VOXELS", 99)
    volume = array_volume(labels_of(2), voxel_size_nm=SIZE)
    volume = volume.with_(identity=Identity.of("one"), chunk_shape=(1, 9, 11))
    reads = []

    class Counting:
        def __init__(self, stop_at):
            self.stop_at = stop_at

        def read(self, box):
            if box.start[0] == self.stop_at:
                raise Interrupted
            reads.append(box.start[0])
            return volume.reader.read(box)

    out = tmp_path / "instances.csv"
    with pytest.raises(Interrupted):
        measure_instances(volume.with_(reader=Counting(3)), out, resources=SERIAL)
    assert not out.exists()
    assert reads == [0, 1, 2]
    table = measure_instances(volume.with_(reader=Counting(None)), out, resources=SERIAL)
    assert reads == [0, 1, 2, 3, 4, 5]
    expected = measure_instances(volume, resources=SERIAL)
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
