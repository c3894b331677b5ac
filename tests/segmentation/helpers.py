"""Volumes made to be nasty, and one call that segments an array."""

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from cristae.engine.executors import Resources
from cristae.segmentation import decode as in_memory
from cristae.segmentation.config import SegmentConfig
from cristae.segmentation.segment import segment_volume
from cristae.volumes.volume import array_volume

MEMORY_DISK = "/dev/shm" if Path("/dev/shm").is_dir() else None
SERIAL = Resources(1, "serial")
EXECUTORS = st.sampled_from(
    [SERIAL, *(Resources(n, kind) for kind in ("threads", "processes") for n in (1, 2, 3, 4))]
)
"""Whoever does the work; tests that draw these use the fixture ``processes``."""


def decode(prediction, *, block_shape=None, resources=SERIAL, attributes=None, **parameters):
    """Labels of an array, through the whole out-of-core machinery; in memory they are the same."""
    volume = array_volume(prediction).with_(attributes=attributes or {})
    config = SegmentConfig(**parameters)
    with tempfile.TemporaryDirectory(dir=MEMORY_DISK) as folder:
        labels = segment_volume(
            volume,
            Path(folder) / "labels.zarr",
            config=config,
            block_shape=block_shape,
            pyramid=False,
            resources=resources,
        ).read()
    if not config.allow_approximate:
        whole = in_memory.decode(volume, config, resources=SERIAL)
        assert whole.dtype == labels.dtype
        np.testing.assert_array_equal(whole, labels)
    return labels


def noise(shape, seed, levels=12, smooth=True):
    """(3, z, y, x) uint8 with plateaus, in blobs or voxel by voxel."""
    rng = np.random.default_rng(seed)
    field = rng.random((3, *shape))
    if smooth:
        for axis in (1, 2, 3):
            field = (field + np.roll(field, 1, axis) + np.roll(field, -1, axis)) / 3
        field = (field - field.min()) / max(float(np.ptp(field)), 1e-9)
    return (field * levels).astype(np.uint8) * (255 // levels)
