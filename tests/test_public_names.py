"""Every name of the package can be had."""

import inspect
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import cristae

PAGE = Path(__file__).resolve().parents[1] / "docs" / "api.md"


def test_every_public_name_is_there():
    assert all(callable(getattr(cristae, name)) for name in cristae.__all__ if name[0] != "_")
    assert set(dir(cristae)) == set(cristae.__all__)


def test_the_page_lists_every_public_name():
    text = PAGE.read_text()
    listed = {
        name for line in re.findall(r"^\| (`.*?) \|", text, re.M) for name in line.split(", ")
    }
    assert listed == {f"`{name}`" for name in cristae.__all__ if name[0] != "_"}


def test_every_stage_takes_a_function_for_its_progress():
    stages = {"convert_volume", "decode", "evaluate_volume", "measure_instances", "predict_volume"}
    stages |= {"run", "score_instances", "segment_volume", "train_model", "tune_decoder"}
    for name in stages:
        assert "progress" in inspect.signature(getattr(cristae, name)).parameters, name


def test_numpy_reads_a_volume():
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    volume = cristae.array_volume(array)
    np.testing.assert_array_equal(np.asarray(volume), array)
    np.testing.assert_array_equal(np.asarray(volume, dtype=float), array.astype(float))
    assert np.asarray(volume).base is not array
    with pytest.raises(ValueError, match="a copy"):
        np.array(volume, copy=False)


def test_a_path_a_volume_and_an_array_are_the_same_to_every_stage(tmp_path):
    levels = np.zeros((1, 4, 8, 8), np.uint8)
    levels[:, 1:3, 1:4, 1:4] = levels[:, 1:3, 5:8, 5:8] = 255
    config = cristae.SegmentConfig(decoder="binary_connected", min_size=1)
    array = cristae.segment_volume(levels, tmp_path / "a.zarr", config=config)
    cristae.convert_volume(levels, tmp_path / "p.zarr")
    path = cristae.segment_volume(tmp_path / "p.zarr", tmp_path / "b.zarr", config=config)
    np.testing.assert_array_equal(array, path)
    np.testing.assert_array_equal(array, cristae.decode(tmp_path / "p.zarr", config))
    plain = cristae.EvaluateConfig(categories="none", bootstrap_samples=0)
    one = cristae.score_instances(array, np.asarray(path), config=plain)
    two = cristae.score_instances(tmp_path / "a.zarr", str(tmp_path / "b.zarr"), config=plain)
    assert one.to_dict() == two.to_dict()


def test_no_two_classes_have_one_name():
    package = Path(cristae.__file__).parent
    names = [
        name
        for file in package.rglob("*.py")
        for name in re.findall(r"^class ([A-Z]\w*)", file.read_text(), re.M)
    ]
    assert [name for name, count in Counter(names).items() if count > 1] == []
