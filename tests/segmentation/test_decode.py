"""Decoding in memory gives the labels of `segment_volume`, whoever does the work."""

import numpy as np
import pytest
from tests.segmentation.helpers import decode as segmented
from tests.segmentation.helpers import noise

from cristae.engine.executors import Resources
from cristae.errors import ConfigError, InputError
from cristae.segmentation import decode as module
from cristae.segmentation.config import PRESETS, SegmentConfig
from cristae.segmentation.decode import decode
from cristae.volumes.formats.ome_zarr import create_ome_zarr
from cristae.volumes.volume import array_volume

THREADS = Resources(3, "threads")


@pytest.fixture
def in_slabs(monkeypatch):
    """Small volumes are labelled in slabs, one a thread."""
    monkeypatch.setattr(module, "SMALL", 0)
    monkeypatch.setattr(module, "ROWS", 4)


@pytest.mark.parametrize("decoder", PRESETS)
@pytest.mark.parametrize("small", ["background", "neighbor"])
def test_in_slabs_and_by_blocks(decoder, small, in_slabs):
    prediction = noise((9, 17, 21), 5, smooth=False)
    loose = {"min_seed_size": 1, "seed_threshold": 0.8, "foreground_threshold": 0.7}
    config = {name: v for name, v in loose.items() if name in PRESETS[decoder].defaults}
    config |= {"decoder": decoder, "min_size": 2, "small": small}
    expected = segmented(prediction, block_shape=(4, 8, 8), **config)
    assert expected.max() > 1
    found = decode(prediction, SegmentConfig(**config), resources=THREADS)
    np.testing.assert_array_equal(found, expected)


def test_what_does_not_fit_goes_through_files(in_slabs, monkeypatch):
    prediction = noise((9, 17, 21), 6)
    config = SegmentConfig(decoder="binary_connected", min_size=2)
    expected = decode(prediction, config)
    called = []
    monkeypatch.setattr(module, "memory_limit", lambda resources: 1000)
    whole = module.segment_volume
    monkeypatch.setattr(
        module, "segment_volume", lambda *a, **k: called.append(1) or whole(*a, **k)
    )
    np.testing.assert_array_equal(decode(prediction, config), expected)
    assert called


@pytest.mark.parametrize("kind", ["uint16", "float32", "float64", "mask", "path", "volume", "3D"])
def test_every_form_of_a_prediction(kind, tmp_path):
    levels = noise((4, 9, 12), 7, smooth=False)[:1]
    if kind == "mask":
        levels = np.where(levels > 200, 255, 0).astype(np.uint8)
    config = SegmentConfig(decoder="binary_connected", foreground_threshold=0.8, min_size=2)
    expected = decode(levels, config)
    assert expected.max() > 1
    given = {
        "uint16": lambda: levels.astype(np.uint16) * 257,
        "float32": lambda: levels.astype(np.float32) / 255,
        "float64": lambda: levels / 255.0,
        "mask": lambda: levels // 255,
        "path": lambda: written(tmp_path / "p.zarr", levels),
        "volume": lambda: array_volume(levels),
        "3D": lambda: levels[0],
    }[kind]()
    before = given.copy() if isinstance(given, np.ndarray) else None
    np.testing.assert_array_equal(decode(given, config), expected)
    if before is not None:
        np.testing.assert_array_equal(given, before)


def written(path, levels):
    volume = create_ome_zarr(
        path,
        shape=levels.shape[1:],
        dtype=np.uint8,
        kind="prediction",
        voxel_size_nm=None,
        channels=("mask",),
    )
    volume.write(volume.box, levels)
    return str(path)


def test_nothing_to_find():
    labels = decode(np.zeros((2, 3, 4, 5), np.uint8))
    assert labels.dtype == np.uint32
    assert labels.shape == (3, 4, 5)
    assert not labels.any()


def test_what_cannot_be_decoded_is_refused():
    with pytest.raises(ConfigError, match="1 channels found"):
        decode(np.zeros((1, 3, 4, 5), np.uint8), SegmentConfig(decoder="bc_watershed"))
    with pytest.raises(InputError, match="NaN"):
        decode(np.full((2, 3, 4, 5), np.nan, np.float32))
    with pytest.raises(InputError, match="expected"):
        decode(np.full((2, 3, 4, 5), 7, np.float32))
