"""What voxels mean: masks of two values, and probabilities that rounding moved."""

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from cristae import pytc
from cristae.engine.executors import Resources
from cristae.errors import InputError
from cristae.evaluation.evaluate import score_instances
from cristae.segmentation.config import SegmentConfig
from cristae.segmentation.segment import segment_volume
from cristae.tuning.tune import TuneConfig, tune_decoder
from cristae.volumes.formats import open_volume
from cristae.volumes.values import as_mask, mask_value, probabilities, settle_mask
from cristae.volumes.volume import array_volume

ONE = Resources(1, "serial")
BINARY = SegmentConfig(decoder="binary_connected", min_size=1)

MASK = np.zeros((6, 40, 40), bool)
MASK[1:4, 3:9, 3:12] = MASK[2:5, 20:33, 25:39] = True


def masks():
    """The mask in every type and value it comes in."""
    yield MASK
    for kind in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", ">u2", ">f4"):
        for value in (1, 255, 65535):
            if value <= float((np.finfo if "f" in kind else np.iinfo)(np.dtype(kind)).max):
                yield (MASK * float(value)).astype(kind)


@pytest.mark.parametrize("array", list(masks()), ids=lambda a: f"{a.dtype.str}-{a.max():g}")
def test_a_mask_of_two_values_is_a_mask_in_every_type(tmp_path, array):
    labels = segment_volume(array_volume(array), tmp_path / "o.zarr", config=BINARY, resources=ONE)
    np.testing.assert_array_equal(labels.read() > 0, MASK)
    assert labels.read().max() == 2


def test_files_of_one_bit_are_masks(tmp_path):
    tifffile.imwrite(tmp_path / "bit.tif", MASK, photometric="minisblack")
    zarr.create_array(str(tmp_path / "bool.zarr"), data=MASK)
    (tmp_path / "png").mkdir()
    for z, plane in enumerate(MASK):
        Image.fromarray(plane).convert("1").save(tmp_path / "png" / f"{z}.png")
    for name in ("bit.tif", "bool.zarr", "png"):
        volume = settle_mask(open_volume(tmp_path / name), ONE)
        np.testing.assert_array_equal(volume.read(), MASK * np.uint8(255))


def test_what_has_a_third_value_anywhere_is_no_mask():
    array = np.zeros((20, 900, 900), np.uint8)
    array[3, 40:60, 40:60] = 1
    volume = array_volume(array)
    assert mask_value(volume, ONE) == 1
    array[13, 777, 333] = 2  # the sample does not see it
    assert mask_value(volume, ONE) is None
    assert settle_mask(volume, ONE) is volume


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([0, 0], None),
        ([1, 1], 1),
        ([0, 255], None),  # certain as it is
        ([0, 128], None),
        ([1, 2], None),
        ([0, 1, 255], None),
    ],
)
def test_values_of_8_bits(values, found):
    assert mask_value(array_volume(np.array([[values]], np.uint8)), ONE) == found


@pytest.mark.parametrize("bad", [-1, 0.5, np.nan, np.inf])
def test_other_numbers_are_no_mask(bad):
    array = np.array([[[0, 255, bad]]], np.float32)
    assert mask_value(array_volume(array), ONE) is None


def test_a_prediction_of_ours_is_taken_at_its_word():
    volume = array_volume(MASK.astype(np.uint8)).with_(attributes={"quantisation": "rounded"})
    assert settle_mask(volume, ONE) is volume


@pytest.mark.parametrize("kind", ["i4", "u8", "i1"])
def test_other_types_have_to_be_masks(tmp_path, kind):
    array = array_volume(np.arange(8).reshape(2, 2, 2).astype(kind))
    with pytest.raises(InputError, match=f"{array.dtype} voxels found, expected a mask of two"):
        segment_volume(array, tmp_path / "o.zarr", config=BINARY, resources=ONE)
    assert not (tmp_path / "o.zarr").exists()


def test_a_part_of_a_mask_keeps_its_place():
    part = open_volume(MASK, roi="1:5,2:30,20:40", voxel_size_nm=(30, 8, 8))
    whole = as_mask(part, 1)
    np.testing.assert_array_equal(whole.read(), MASK[1:5, 2:30, 20:40] * np.uint8(255))
    assert whole.origin_nm == part.origin_nm == (30, 16, 160)


def test_a_mask_is_looked_at_once(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("looked at again")

    volume = array_volume(MASK.astype(np.uint8))
    segment_volume(volume, tmp_path / "o.zarr", config=BINARY, resources=ONE)
    monkeypatch.setattr("cristae.volumes.values.mask_value", refuse)
    again = segment_volume(volume, tmp_path / "o.zarr", config=BINARY, resources=ONE)
    assert again.read().max() == 2


def test_labels_of_0_and_1_stay_labels():
    truth = MASK.astype(np.uint8)
    scores = score_instances(truth, truth)
    assert scores.tables.truth["truth"].tolist() == [1]


def test_masks_rank_and_are_searched_and_decoded_in_memory():
    truth = (np.cumsum(MASK, axis=2) > 0).astype(np.uint8)
    scored = score_instances(MASK.astype(np.uint8), truth, scores=MASK.astype(np.uint8))
    assert scored.tables.prediction["score"].tolist() == [1.0]
    tuned = tune_decoder(
        array_volume(MASK.astype(np.uint16)),
        config=TuneConfig(segment=BINARY, grid={"foreground_threshold": (0.5, 0.9)}),
        resources=ONE,
    )
    assert [setting.instances for setting in tuned.settings] == [2, 2]
    assert pytc.binary_connected(MASK[None], thres_small=1).max() == 2


@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
def test_rounding_is_taken_for_rounding(kind):
    eps = 1e-4
    moved = np.array([-eps, 0.5, 1 + eps], kind)
    np.testing.assert_array_equal(probabilities(moved, "p"), [0, 0.5, 1])
    inside = np.array([0, 1], kind)
    assert probabilities(inside, "p") is inside


def test_more_than_rounding_is_refused_with_its_digits():
    with pytest.raises(InputError, match=r"p: values from 0 to 1\.00020003, expected \[0, 1\]"):
        probabilities(np.array([0, 1 + 2e-4], np.float32), "p")
    with pytest.raises(InputError, match=r"from -0\.0002"):
        probabilities(np.array([-2e-4, 1]), "p")


def test_rounding_in_every_stage(tmp_path):
    sure = np.where(MASK, np.float32(1.0000002), np.float32(-1e-5))
    labels = segment_volume(array_volume(sure), tmp_path / "o.zarr", config=BINARY, resources=ONE)
    assert labels.read().max() == 2
    scored = score_instances(labels.read(), labels.read(), scores=sure)
    assert scored.tables.prediction["score"].tolist() == [1.0, 1.0]
    tuned = tune_decoder(
        array_volume(sure),
        config=TuneConfig(segment=BINARY, grid={"foreground_threshold": (0.5,)}),
        resources=ONE,
    )
    assert tuned.settings[0].instances == 2
    assert pytc.binary_connected(sure[None], thres_small=1).max() == 2
