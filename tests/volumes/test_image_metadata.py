"""Absurd metadata of our own images: one message, quickly."""

import json
import shutil
import time

import numpy as np
import pytest

from cristae import measure_instances, score_instances
from cristae.errors import CristaeError, InputError
from cristae.segmentation.config import SegmentConfig
from cristae.segmentation.segment import segment_volume
from cristae.volumes.convert import convert_volume
from cristae.volumes.formats import open_volume
from cristae.volumes.formats.ome_zarr_levels import pyramid_levels
from cristae.volumes.volume import array_volume

HUGE = 2**62


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "a.zarr"
    convert_volume(array_volume(np.ones((4, 20, 300), np.uint8)), path)
    return path


def changed(plain, tmp_path, file, keys, value):
    """A copy of the image, where one value of its metadata is another."""
    path = shutil.copytree(plain, tmp_path / "a.zarr")
    tree = json.loads((path / file).read_text())
    part = tree
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    (path / file).write_text(json.dumps(tree))
    return path


OURS = ("attributes", "cristae")
GRID = ("chunk_grid", "configuration", "chunk_shape")
IMAGE = [
    (OURS, [1, 2]),
    (OURS, "text"),
    (OURS, 5),
    ((*OURS, "voxel_size_nm"), "8"),
    ((*OURS, "voxel_size_nm"), [8, 8]),
    ((*OURS, "voxel_size_nm"), [8, 8, -8]),
    ((*OURS, "voxel_size_nm"), [8, 8, True]),
    ((*OURS, "voxel_size_nm"), {"z": 8}),
    ((*OURS, "voxel_size_nm"), [8, 8, float("inf")]),
    ((*OURS, "origin_nm"), None),
    ((*OURS, "origin_nm"), [0, 0, float("nan")]),
    ((*OURS, "channels"), "mask"),
    ((*OURS, "channels"), [1]),
    ((*OURS, "channels"), ["a", "a"]),
    ((*OURS, "channels"), ["a"]),
    ((*OURS, "kind"), "picture"),
    ((*OURS, "kind"), ["image"]),
    ((*OURS, "record"), [1]),
    ((*OURS, "record"), {"stage": "convert"}),
]
ARRAY = [
    (("shape",), [HUGE, 20, 300]),
    (("shape",), [HUGE, HUGE, HUGE]),
    (("shape",), [0, 20, 300]),
    (("shape",), [4.5, 20, 300]),
    (("shape",), [-4, 20, 300]),
    (("shape",), [20, 300]),
    (("shape",), "4 x 20 x 300"),
    (("shape",), None),
    (GRID, [0, 0, 0]),
    (GRID, [4, 20]),
    (GRID, [5, 20, 300]),
    (("chunk_grid",), 3),
    (("codecs",), []),
    (("codecs",), [{"name": "sharding_indexed"}]),
    (("codecs",), [{"name": "bytes"}, {"name": "of_tomorrow"}]),
    (("codecs", 0, "configuration", "chunk_shape"), [0, 0, 0]),
    (("codecs", 0, "configuration", "codecs"), [{"name": "bytes"}, {"name": "of_tomorrow"}]),
    (("data_type",), "complex128"),
    (("data_type",), {"name": "numpy.datetime64"}),
    (("fill_value",), "blue"),
]


@pytest.mark.parametrize(
    ("file", "keys", "value"),
    [("zarr.json", *case) for case in IMAGE] + [("0/zarr.json", *case) for case in ARRAY],
)
def test_absurd_values_are_one_error(plain, tmp_path, file, keys, value):
    path = changed(plain, tmp_path, file, keys, value)
    start = time.thread_time()
    with pytest.raises(InputError, match=r"a\.zarr") as error:
        open_volume(path)
    assert time.thread_time() - start < 1
    assert len(str(error.value)) < 700


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 3000, "[1]", '"a"', b"\xff\xfe", "[" * 100_000 + "]" * 100_000]
)
@pytest.mark.parametrize("file", ["zarr.json", "0/zarr.json"])
def test_metadata_that_is_none_is_one_error(plain, tmp_path, file, text):
    path = changed(plain, tmp_path, file, ("x",), 1)
    (path / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CristaeError, match=r"a\.zarr"):
        open_volume(path)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "ome",
        {"multiscales": []},
        {"multiscales": [{"datasets": []}]},
        {"multiscales": [{"datasets": [{"path": "0"}, {"path": "1"}]}]},
    ],
)
def test_absurd_levels_are_one_error(plain, tmp_path, value):
    volume = open_volume(changed(plain, tmp_path, "zarr.json", ("attributes", "ome"), value))
    with pytest.raises(InputError, match="attribute ome: levels"):
        pyramid_levels(volume)


@pytest.mark.parametrize("scale", [[0, 0, 0], [1, 1, 0.001], ["a", 1, 1]])
@pytest.mark.parametrize("level", [0, 1])
def test_absurd_scales_are_one_error(plain, tmp_path, scale, level):
    keys = ("attributes", "ome", "multiscales", 0, "datasets", level)
    keys = (*keys, "coordinateTransformations", 0, "scale")
    volume = open_volume(changed(plain, tmp_path, "zarr.json", keys, scale))
    with pytest.raises(InputError, match="level"):
        pyramid_levels(volume)


def test_a_level_that_is_no_array_is_one_error(plain, tmp_path):
    path = changed(plain, tmp_path, "1/zarr.json", ("shape",), [4, 20, 140])
    volume = open_volume(path)
    with pytest.raises(InputError, match="this level has shape"):
        pyramid_levels(volume)
    (path / "1" / "zarr.json").unlink()
    with pytest.raises(InputError, match="no array"):
        pyramid_levels(volume)


def test_what_has_no_room_is_refused_before_it_is_looked_at(plain, tmp_path):
    """A million million chunks cannot even be listed."""
    path = changed(plain, tmp_path, "0/zarr.json", ("shape",), [2**19, 2**17, 2**17])
    volume = open_volume(path).with_(voxel_size_nm=(8, 8, 8))
    start = time.thread_time()
    with pytest.raises(CristaeError, match=r"b\.zarr: needs up to"):
        convert_volume(volume, tmp_path / "b.zarr")
    config = SegmentConfig(decoder="binary_connected")
    for call in (
        lambda: segment_volume(volume, tmp_path / "c.zarr", config=config),
        lambda: measure_instances(volume, tmp_path / "d.csv"),
        lambda: score_instances(volume, volume),
    ):
        with pytest.raises(CristaeError):
            call()
    assert time.thread_time() - start < 2
