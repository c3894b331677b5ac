"""Voxel sizes in another unit, in another order, or given later."""

import json
import logging

import numpy as np
import pytest

from cristae.engine.executors import Resources
from cristae.errors import InputError, OutputExistsError, WorkerError
from cristae.measurement.measure import measure_instances
from cristae.segmentation.config import SegmentConfig
from cristae.segmentation.segment import segment_volume
from cristae.volumes import pyramid
from cristae.volumes.convert import convert_volume
from cristae.volumes.formats import open_volume
from cristae.volumes.plausible import doubt, far_from_model
from cristae.volumes.volume import array_volume

ONE = Resources(1, "serial")
ARRAY = np.random.default_rng(0).integers(0, 255, (20, 300, 300), dtype=np.uint8)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((0.03, 0.008, 0.008), "outside 0.5 to 500 nm: is it in micrometres (30 x 8 x 8 nm)?"),
        ((3e-5, 8e-6, 8e-6), "is it in millimetres (30 x 8 x 8 nm)?"),
        ((3e-8, 8e-9, 8e-9), "is it in metres (30 x 8 x 8 nm)?"),
        ((30000, 8000, 8000), "is it in picometres (30 x 8 x 8 nm)?"),
        ((8, 8, 30), "y and x differ; expected z, y, x: is it 30 x 8 x 8 nm?"),
        ((4, 40, 40), "z is much smaller than y and x"),
        ((1e-3, 8, 8), "outside 0.5 to 500 nm"),
    ],
)
def test_what_can_hardly_be_meant(size, words):
    assert words in doubt(size)


@pytest.mark.parametrize(
    "size", [(30, 8, 8), (5, 5, 5), (50, 4, 4), (8, 4.1, 4), (10, 16, 16), (500, 0.5, 0.5), None]
)
def test_what_may_be_meant(size):
    assert doubt(size) is None


def test_another_unit_than_the_models_is_refused_unless_a_person_gave_it():
    volume = array_volume(ARRAY, voxel_size_nm=(0.03, 0.008, 0.008))
    assert "in micrometres (30 x 8 x 8 nm)?" in far_from_model(volume, (None, 8.0, 8.0))
    assert far_from_model(volume, (None, None, None)) is None
    assert far_from_model(volume.with_(voxel_size_nm=(50, 16, 16)), (30.0, 8.0, 8.0)) is None
    given = open_volume(ARRAY, voxel_size_nm=(0.03, 0.008, 0.008))
    assert far_from_model(given, (None, 8.0, 8.0)) is None
    large = volume.with_(voxel_size_nm=(3e4, 8e3, 8e3))
    assert "in picometres" in far_from_model(large, (30.0, 8.0, 8.0))


def test_a_conversion_warns_once(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="cristae"):
        convert_volume(open_volume(ARRAY, voxel_size_nm=(8, 8, 30)), tmp_path / "a.zarr")
        assert caplog.text.count("y and x differ") == 1
        caplog.clear()
        convert_volume(open_volume(ARRAY, voxel_size_nm=(8, 8, 30)), tmp_path / "a.zarr")
        assert not caplog.text


def levels(path):
    tree = json.loads((path / "zarr.json").read_text())["attributes"]
    sets = tree["ome"]["multiscales"][0]["datasets"]
    return [[t[k] for t, k in zip(each["coordinateTransformations"], ("scale", "translation"),
             strict=True)] for each in sets], tree  # fmt: skip


def test_a_size_given_later_costs_no_second_conversion(tmp_path):
    out = tmp_path / "a.zarr"
    convert_volume(open_volume(ARRAY, roi="2:20,0:300,0:300"), out)
    written = (out / "0" / "zarr.json").stat().st_mtime_ns
    sized = open_volume(ARRAY, roi="2:20,0:300,0:300", voxel_size_nm=(30, 8, 8))
    made = convert_volume(sized, out)
    assert (made.voxel_size_nm, made.origin_nm) == ((30, 8, 8), (60, 0, 0))
    assert (out / "0" / "zarr.json").stat().st_mtime_ns == written
    found, tree = levels(out)
    assert found[0] == [[30, 8, 8], [60, 0, 0]]
    assert found[1] == [[60, 16, 16], [75, 4, 4]]  # without a size, all axes are halved
    assert tree["ome"]["multiscales"][0]["axes"][0]["unit"] == "nanometer"
    assert convert_volume(sized, out).voxel_size_nm == (30, 8, 8)
    other = open_volume(ARRAY, roi="2:20,0:300,0:300", voxel_size_nm=(30, 4, 4))
    with pytest.raises(OutputExistsError, match="voxel_size_nm"):
        convert_volume(other, out)


def test_a_size_given_later_does_not_hide_other_differences(tmp_path):
    out = tmp_path / "a.zarr"
    convert_volume(open_volume(ARRAY), out)
    with pytest.raises(OutputExistsError, match="pyramid"):
        convert_volume(open_volume(ARRAY, voxel_size_nm=(30, 8, 8)), out, pyramid=False)
    with pytest.raises(OutputExistsError, match="source"):
        convert_volume(open_volume(ARRAY[1:], voxel_size_nm=(30, 8, 8)), out)
    assert open_volume(out).voxel_size_nm is None


def test_a_size_given_to_a_conversion_that_was_cut_off(tmp_path, monkeypatch):
    out = tmp_path / "a.zarr"
    with monkeypatch.context() as patched:
        patched.setattr("cristae.volumes.convert.build_pyramid", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            convert_volume(open_volume(ARRAY), out)
    made = convert_volume(open_volume(ARRAY, voxel_size_nm=(30, 8, 8)), out)
    assert made.voxel_size_nm == (30, 8, 8)
    assert levels(out)[0][1][0] == [30, 16, 16]
    np.testing.assert_array_equal(made.read(), ARRAY)


@pytest.mark.parametrize("cut", ["write_shard", "name_levels"])
def test_a_size_given_to_a_conversion_that_was_cut_off_among_its_levels(tmp_path, monkeypatch, cut):
    """Levels made without a size are made anew, so that the bytes are those of one conversion."""
    out, sized = tmp_path / "a.zarr", open_volume(ARRAY, voxel_size_nm=(30, 8, 8))
    step = getattr(pyramid, f"_{cut}")
    with monkeypatch.context() as patched:
        patched.setattr(pyramid, f"_{cut}", lambda *given: step(*given) or 1 / 0)
        with pytest.raises((ZeroDivisionError, WorkerError)):
            convert_volume(open_volume(ARRAY), out, resources=ONE)
    made = convert_volume(sized, out, resources=ONE)
    assert made.voxel_size_nm == (30, 8, 8)
    whole = convert_volume(sized, tmp_path / "b.zarr", resources=ONE)
    assert levels(out)[0] == levels(tmp_path / "b.zarr")[0]
    made_of, others = (path / "0" / "manifest.txt" for path in (out, tmp_path / "b.zarr"))
    assert made_of.read_text() == others.read_text()
    np.testing.assert_array_equal(made.read(), whole.read())
    assert convert_volume(sized, out).voxel_size_nm == (30, 8, 8)


def test_a_foreign_file_among_levels_that_would_be_made_anew_stays(tmp_path, monkeypatch):
    out = tmp_path / "a.zarr"
    with monkeypatch.context() as patched:
        patched.setattr(pyramid, "_name_levels", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            convert_volume(open_volume(ARRAY), out, resources=ONE)
    (out / "1" / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"1/notes\.txt"):
        convert_volume(open_volume(ARRAY, voxel_size_nm=(30, 8, 8)), out, resources=ONE)
    assert (out / "1" / "notes.txt").read_text() == "mine"


def test_labels_follow_and_can_be_measured(tmp_path):
    mask = np.zeros((4, 20, 20), np.uint8)
    mask[1:3, 2:9, 2:9] = 255
    config = SegmentConfig(decoder="binary_connected", min_size=1)
    labels = segment_volume(array_volume(mask), tmp_path / "l.zarr", config=config)
    with pytest.raises(InputError, match="--voxel-size"):
        measure_instances(labels)
    sized = array_volume(mask, voxel_size_nm=(30, 8, 8))
    labels = segment_volume(sized, tmp_path / "l.zarr", config=config)
    assert labels.voxel_size_nm == (30, 8, 8)
    assert measure_instances(labels, resources=ONE)["volume_voxels"].tolist() == [98]
