"""Against what PyTorch Connectomics v1.0 returned for the same predictions."""

import numpy as np
import pytest

from cristae.engine.executors import Resources
from cristae.segmentation.config import SegmentConfig
from cristae.segmentation.segment import segment_volume
from cristae.volumes.volume import array_volume

ORDER = {
    "bc_watershed": ("seed_threshold", "contour_threshold", "foreground_threshold"),
    "bcd_watershed": (
        "seed_threshold",
        "contour_threshold",
        "foreground_threshold",
        "distance_seed_threshold",
        "distance_foreground_threshold",
    ),
    "binary_watershed": ("seed_threshold", "foreground_threshold"),
    "bc_connected": ("foreground_threshold", "contour_threshold"),
    "binary_connected": ("foreground_threshold",),
}


def overlaps(a, b):
    """(label in a, label in b, voxels) of every pair that meets."""
    keys, counts = np.unique(a.astype(np.int64) << 32 | b, return_counts=True)
    return keys >> 32, keys & 0xFFFFFFFF, counts


def same_partition(a, b):
    in_a, in_b, _ = overlaps(a, b)
    return len(np.unique(in_a)) == len(np.unique(in_b)) == len(in_a)


def agreement(ours, theirs):
    """Share of all voxels where our label is the one that overlaps theirs most."""
    names, partners, counts = overlaps(theirs, ours)
    agree = counts[(names == 0) & (partners == 0)].sum()
    for name in np.unique(names[names > 0]):
        agree += counts[(names == name) & (partners > 0)].max(initial=0)
    return agree / ours.size


def parse(key):
    """Decoder and parameters of a key like ``bc_watershed__0.85_0.6_0.8_1024``."""
    decoder, numbers = key.split("__")
    *thresholds, size = map(float, numbers.split("_"))
    named = dict(zip(ORDER[decoder], thresholds, strict=True))
    return SegmentConfig(decoder=decoder, min_size=int(size), **named)


@pytest.mark.parametrize("case", range(4))
def test_equals_the_reference(shared, tmp_path, case):
    data = np.load(shared / "golden" / "decode" / f"case{case}.npz")
    keys = [key for key in data if "__" in key]
    assert len(keys) == 6
    for key in keys:
        labels = segment_volume(
            array_volume(data["pred"]),
            tmp_path / f"{key}.zarr",
            config=parse(key),
            block_shape=(17, 100, 90),
            pyramid=False,
            resources=Resources(1, "serial"),
        ).read()
        theirs = data[key]
        assert labels.max() == len(np.unique(theirs)) - 1, key
        if key.split("__")[0].endswith("connected"):
            assert same_partition(labels, theirs), key
        else:
            assert agreement(labels, theirs) >= 0.999, key
