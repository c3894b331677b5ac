"""What predict says of NaN, of a voxel size in another unit, and of one that is given later."""

import logging

import numpy as np
import pytest

from cristae.engine.executors import Resources
from cristae.errors import InputError, MemoryLimitError, OutputExistsError
from cristae.prediction.predict import PredictConfig, predict_volume
from cristae.prediction.request import ask
from cristae.volumes.formats import open_volume
from cristae.volumes.volume import array_volume

FLOAT32 = PredictConfig(precision="float32")
ONE = Resources(workers=1)
SIZE = (30.0, 8.0, 8.0)


def predict(source, model, out, **options):
    return predict_volume(source, model, out, config=FLOAT32, resources=ONE, **options)


def test_nan_is_found_before_the_work_and_can_be_filled(make_model, texture, tmp_path):
    array, out = texture((3, 40, 48)).astype(np.float32), tmp_path / "p.zarr"
    array[1, 20, 30] = np.nan
    with pytest.raises(InputError, match=r"the first NaN at voxel 1, 20, 30; --nan fill"):
        predict(open_volume(array), make_model(), out)
    assert list(tmp_path.iterdir()) == []
    found = predict(open_volume(array, nan=7), make_model(), out).read()
    array[1, 20, 30] = 7
    filled = predict(open_volume(array), make_model(), tmp_path / "q.zarr").read()
    assert np.abs(found.astype(int) - filled).max() <= 1  # its 7 is no part of the statistics


@pytest.mark.parametrize(("times", "unit"), [(1e-3, "micrometres"), (1e3, "picometres")])
def test_a_voxel_size_in_another_unit_than_the_models(make_model, texture, tmp_path, times, unit):
    size, array = tuple(side * times for side in SIZE), texture((3, 40, 48))
    model = make_model(working_voxel_size_nm=(None, 8.0, 8.0))
    with pytest.raises(InputError, match=rf"the model works at .* is it in {unit} \(30 x 8 x 8 nm"):
        predict(array_volume(array, voxel_size_nm=size), model, tmp_path / "p.zarr")
    assert list(tmp_path.iterdir()) == []
    given = open_volume(array, voxel_size_nm=size)  # a person means it
    if times < 1:
        with pytest.raises(MemoryLimitError, match="what the network sees at once"):
            predict(given, model, tmp_path / "p.zarr")
    else:
        ask(given, model, tmp_path / "p.zarr", FLOAT32, None, None, ONE)


def test_a_voxel_size_given_later_costs_no_second_prediction(make_model, texture, tmp_path):
    array, out = texture((3, 40, 48)), tmp_path / "p.zarr"
    predict(open_volume(array), make_model(), out)
    voxels = [(path, path.stat().st_mtime_ns) for path in (out / "0" / "c").rglob("*")]
    made = predict(open_volume(array, voxel_size_nm=SIZE), make_model(), out)
    assert made.voxel_size_nm == SIZE
    assert [(path, path.stat().st_mtime_ns) for path in (out / "0" / "c").rglob("*")] == voxels
    with pytest.raises(OutputExistsError, match="voxel_size_nm"):
        predict(open_volume(array, voxel_size_nm=(30.0, 4.0, 4.0)), make_model(), out)


def test_one_warning_where_a_mask_says_its_place_and_the_image_does_not(
    make_model, texture, tmp_path, caplog
):
    array, ones = texture((6, 40, 48)), np.ones((3, 20, 24), np.uint8)
    source = open_volume(array, voxel_size_nm=SIZE)
    mask = array_volume(ones, voxel_size_nm=SIZE).with_(origin_nm=(90.0, 80.0, 80.0))
    with caplog.at_level(logging.WARNING, logger="cristae"):
        predict(source, make_model(), tmp_path / "p.zarr", mask=mask)
        told = [text for text in caplog.messages if "covers only 3:6,10:30,10:34" in text]
        assert len(told) == 1
        assert "origin 90, 80, 80 nm" in told[0]
        assert "which states no origin" in told[0]
        caplog.clear()
        stated = source.with_(found={"origin": "somewhere"})
        predict(stated, make_model(), tmp_path / "q.zarr", mask=mask)
        assert "covers only" not in caplog.text
