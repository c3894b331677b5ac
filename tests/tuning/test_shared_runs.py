"""Settings that share their runs give what each alone gives."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.segmentation.helpers import decode, noise

from cristae.engine.executors import Resources
from cristae.errors import MemoryLimitError
from cristae.labels import blocks
from cristae.labels.runs import Raster, paint_into
from cristae.segmentation.config import SegmentConfig
from cristae.segmentation.decoders import resolve
from cristae.tuning.shared_runs import can_share, decode_settings
from cristae.volumes.volume import array_volume

SHAPE = (6, 14, 40)
SERIAL = Resources(1, "serial")
GRIDS = {
    "bc_watershed": {
        "seed_threshold": (0.3, 0.5, 0.7),
        "contour_threshold": (0.4, 0.8),
        "foreground_threshold": (0.25, 0.4),
    },
    "bcd_watershed": {"seed_threshold": (0.5, 0.7), "distance_seed_threshold": (-0.3, 0.1)},
    "binary_watershed": {"seed_threshold": (0.3, 0.6), "foreground_threshold": (0.2, 0.45)},
    "binary_connected": {"foreground_threshold": (0.3, 0.6), "min_size": (0, 5)},
}
LOW = {"bc_watershed", "bcd_watershed"}


def settings_of(decoder):
    fixed = {"min_size": 4} | ({} if "connected" in decoder else {"min_seed_size": 2})
    if decoder == "bcd_watershed":
        fixed["foreground_threshold"] = 0.3
    grid = GRIDS[decoder]
    for values in itertools.product(*grid.values()):
        yield {"decoder": decoder, **fixed, **dict(zip(grid, values, strict=True))}


def painted(found, shape):
    array = np.zeros(shape, np.uint32)
    paint_into(array, found.runs, found.label, array_volume(array).box, Raster(shape))
    return array


@pytest.mark.parametrize("decoder", GRIDS)
def test_equals_segmenting_with_every_setting(decoder, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_VOXELS", 400)
    prediction = noise(SHAPE, 4)
    volume = array_volume(prediction).with_(chunk_shape=(2, 5, 9))
    settings = list(settings_of(decoder))
    decodings = [resolve(SegmentConfig(**each), volume) for each in settings]
    assert all(can_share(each) for each in decodings)
    found = dict(decode_settings(volume, decodings, Resources(2)))
    assert sorted(found) == list(range(len(settings)))
    instances = 0
    for i, each in enumerate(settings):
        expected = decode(prediction, **each)
        instances += int(expected.max())
        np.testing.assert_array_equal(painted(found[i], SHAPE), expected)
    assert instances > 4 * len(settings)


@given(st.integers(0, 10_000))
def test_equals_segmenting_on_noise(seed):
    rng = np.random.default_rng(seed)
    prediction = noise((3, 5, 12), seed, levels=4, smooth=bool(seed % 2))
    setting = {
        "decoder": "bc_watershed",
        "seed_threshold": float(rng.choice([0.2, 0.6])),
        "contour_threshold": float(rng.choice([0.3, 0.9])),
        "foreground_threshold": float(rng.choice([0.1, 0.5])),
        "min_seed_size": int(rng.integers(0, 3)),
        "min_size": int(rng.integers(0, 3)),
    }
    volume = array_volume(prediction)
    ((_, found),) = decode_settings(volume, [resolve(SegmentConfig(**setting), volume)], SERIAL)
    np.testing.assert_array_equal(painted(found, volume.shape), decode(prediction, **setting))


def test_what_it_does_not_know_is_left_to_the_pipeline():
    volume = array_volume(noise(SHAPE, 1))
    assert not can_share(resolve(SegmentConfig(decoder="bc_connected"), volume))
    narrow = SegmentConfig(decoder="bc_connected", dilation=(1, 1, 1))
    assert can_share(resolve(narrow, volume))


def test_a_foreground_that_does_not_fit_is_refused():
    volume = array_volume(np.full((2, 64, 512, 512), 255, np.uint8))
    decoding = resolve(SegmentConfig(decoder="bc_watershed"), volume)
    with pytest.raises(MemoryLimitError, match=r"tune, reading: needs .* 0\.10 GiB are allowed"):
        list(decode_settings(volume, [decoding], Resources(1, "serial", memory_gib=0.1)))
