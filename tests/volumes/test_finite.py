"""NaN and infinity: found before the work with their place, or replaced."""

import logging

import h5py
import numpy as np
import pytest
import tifffile
import yaml
from typer.testing import CliRunner

from cristae.cli import app
from cristae.engine.executors import Resources
from cristae.errors import InputError
from cristae.evaluation.evaluate import evaluate_volume
from cristae.samples.dataset import Sample, open_sample
from cristae.segmentation.config import SegmentConfig
from cristae.segmentation.segment import segment_volume
from cristae.volumes import finite
from cristae.volumes.convert import convert_volume
from cristae.volumes.finite import FINITE, checked_voxels, voxel_fault, without_nan
from cristae.volumes.formats import open_volume
from cristae.volumes.volume import array_volume

ONE = Resources(1, "serial")
BINARY = SegmentConfig(decoder="binary_connected", min_size=1)
SHAPE = (5, 40, 30)


@pytest.fixture
def grey():
    return np.random.default_rng(0).random(SHAPE, dtype="f4")


def test_the_first_place_and_the_number_are_told(grey):
    grey[3, 7, 9], grey[3, 7, 2], grey[4, 0, 0] = np.nan, -np.inf, np.inf
    fault = voxel_fault(array_volume(grey), ONE)
    assert fault.startswith("3 voxels are not finite, the first -inf at voxel 3, 7, 2; --nan fill")
    part = open_volume(grey, roi="3:5,5:40,0:30")  # places are the file's
    assert "the first -inf at voxel 3, 7, 2" in voxel_fault(part, ONE)
    assert voxel_fault(array_volume(grey[:3]), ONE) is None


def test_channels_are_looked_at_together(grey):
    four = np.stack([grey, grey])
    four[0, 4, 4, 4] = four[1, 4, 4, 4] = np.nan
    assert "1 voxel is not finite, the first NaN at voxel 4, 4, 4" in voxel_fault(
        array_volume(four), ONE
    )


def test_probabilities_have_to_be_some(grey):
    grey[2, 3, 4] = 1.5
    volume = array_volume(grey)
    assert voxel_fault(volume, ONE) is None
    fault = voxel_fault(volume, ONE, probabilities=True)
    assert fault == "1 voxel is outside [0, 1], the first 1.5 at voxel 2, 3, 4; expected " + (
        "probabilities"
    )
    grey[2, 3, 4] = 1 + 5e-5
    assert voxel_fault(volume, ONE, probabilities=True) is None


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", ">f4"])
def test_every_float_is_filled(grey, kind):
    grey = grey.astype(kind)
    known = grey.copy()
    grey[1, 2, 3], grey[1, 2, 4] = np.nan, np.inf
    filled = without_nan(array_volume(grey), "fill")
    known[1, 2, 3] = known[1, 2, 4] = np.median(grey[np.isfinite(grey)].astype(kind))
    np.testing.assert_array_equal(filled.read(), known)
    given = without_nan(array_volume(grey), 0.25).read()
    assert given[1, 2, 3] == given[1, 2, 4] == np.float32(0.25)
    assert checked_voxels(filled, ONE) is filled


def test_the_number_is_part_of_the_identity(grey):
    volume = array_volume(grey)
    prints = {v.fingerprint for v in (volume, without_nan(volume, 0), without_nan(volume, 1))}
    assert len(prints) == 3


def test_probabilities_and_labels_are_filled_with_0(grey):
    grey[0, 0, 0] = np.nan
    for volume in (array_volume(grey[None]), array_volume(grey, kind="labels")):
        assert without_nan(volume, "fill").read().reshape(-1)[0] == 0


def test_what_cannot_fill_is_refused(grey):
    with pytest.raises(InputError, match="nan inf, expected fill or a finite number"):
        without_nan(array_volume(grey), np.inf)
    with pytest.raises(InputError, match="nan 1e\\+06 is too large for float16"):
        without_nan(array_volume(grey.astype("f2")), 1e6)
    with pytest.raises(InputError, match="no finite voxel in the sample"):
        without_nan(array_volume(np.full(SHAPE, np.nan)), "fill")


def test_integers_have_none(caplog):
    volume = array_volume(np.ones(SHAPE, np.uint8))
    with caplog.at_level(logging.INFO, logger="cristae"):
        assert without_nan(volume, "fill") is volume
    assert "none of which can be NaN" in caplog.text
    assert checked_voxels(volume, ONE) is volume


def test_every_stage_finds_it_before_it_writes(grey, tmp_path):
    grey[3, 7, 2] = np.nan
    place = "NaN at voxel 3, 7, 2"
    bad, out = array_volume(grey, voxel_size_nm=(30, 8, 8)), tmp_path / "o.zarr"
    with pytest.raises(InputError, match=place):
        convert_volume(bad, out)
    with pytest.raises(InputError, match=place):
        segment_volume(bad, out, config=BINARY)
    labels = array_volume(np.ones(SHAPE, np.uint8))
    with pytest.raises(InputError, match=place):
        evaluate_volume(labels, labels, tmp_path / "s.json", scores=bad)
    assert not list(tmp_path.iterdir())


def test_a_source_is_looked_at_once(grey, tmp_path, monkeypatch):
    volume = array_volume(grey)
    made = convert_volume(volume, tmp_path / "o.zarr", resources=ONE)
    segment_volume(volume, tmp_path / "l.zarr", config=BINARY, resources=ONE)
    monkeypatch.setattr(finite, "voxel_fault", lambda *_, **__: pytest.fail("looked at again"))
    convert_volume(volume, tmp_path / "o.zarr", resources=ONE)
    segment_volume(volume, tmp_path / "l.zarr", config=BINARY, resources=ONE)
    assert made.attributes[FINITE] is True  # and so is what is made of it
    convert_volume(made, tmp_path / "p.zarr", resources=ONE)


def test_samples_of_a_training(grey, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grey[3, 7, 2] = np.nan
    tifffile.imwrite("a.tif", grey, photometric="minisblack")
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:3, 5:20, 5:20] = 1
    tifffile.imwrite("l.tif", labels, photometric="minisblack")
    sample = Sample("a", image="a.tif", labels="l.tif", voxel_size_nm=(30, 8, 8))
    with pytest.raises(InputError, match=r"a\.tif: 1 voxel is not finite, .* voxel 3, 7, 2"):
        open_sample(sample)
    filled = open_sample(Sample(**{**vars(sample), "nan": "fill"}))
    assert np.isfinite(filled.image.read()).all()
    assert open_sample(Sample(**{**vars(sample), "nan": 0.5})).image.read()[3, 7, 2] == 0.5


def call(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit | InputError)
    return result


def test_the_option_in_the_commands(grey, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grey[3, 7, 2] = np.nan
    with h5py.File("a.h5", "w") as file:
        file["a"] = grey
    assert isinstance(call("convert", "a.h5", "a.zarr").exception, InputError)
    assert call("convert", "a.h5", "a.zarr", "--nan", "fill").exit_code == 0
    stored = open_volume("a.zarr").read()
    assert stored[3, 7, 2] == np.median(grey[np.isfinite(grey)])
    segment = ("segment", "a.h5", "l.zarr", "--decoder", "binary_connected")
    assert isinstance(call(*segment).exception, InputError)
    assert call(*segment, "--nan", "fill", "--set", "min_size=1").exit_code == 0
    assert open_volume("l.zarr").read()[3, 7, 2] == 0
    assert "NaN at voxel 3, 7, 2" in call("info", "a.h5").output
    assert "NaN" not in call("info", "a.h5", "--nan", "0").output
    assert "expected fill or a number" in str(call("info", "a.h5", "--nan", "x").exception)


def test_a_configuration_takes_it(tmp_path):
    tree = yaml.safe_load("{name: a, image: a.tif, labels: l.tif, nan: fill}")
    assert Sample(**tree).nan == "fill"
