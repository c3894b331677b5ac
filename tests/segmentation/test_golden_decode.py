"""Against what PyTorch Connectomics v1.0 returned for the same predictions."""

import numpy as np
import pytest

from cristae.engine.executors import Resources
from cristae.segmentation.decoders import SegmentConfig
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


def same_partition(a, b):
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


def agreement(ours, theirs):
    """Share of all voxels whose label is the partner, by most overlap, of the other's label."""
    pairs, counts = np.unique(np.stack([theirs.ravel(), ours.ravel()]), axis=1, return_counts=True)
    agree = counts[(pairs[0] == 0) & (pairs[1] == 0)].sum()
    for name in np.unique(pairs[0][pairs[0] > 0]):
        agree += counts[(pairs[0] == name) & (pairs[1] > 0)].max(initial=0)
    return agree / ours.size


@pytest.mark.parametrize("case", range(4))
def test_equals_the_reference(shared, tmp_path, case):
    data = np.load(shared / "golden" / "decode" / f"case{case}.npz")
    keys = [key for key in data if "__" in key]
    assert len(keys) == 6
    for key in keys:
        decoder, *numbers = key.replace("__", "_#").split("#")[0].rstrip("_"), *key.split("__")[1].split("_")
        *thresholds, size = map(float, numbers)
        config = SegmentConfig(
            decoder=decoder,
            min_size=int(size),
            **dict(zip(ORDER[decoder], thresholds, strict=True)),
        )
        out = tmp_path / f"{key}.zarr"
        prediction = array_volume(data["pred"])
        labels = segment_volume(
            prediction, out, config=config, block_shape=(17, 100, 90), resources=Resources(1, "serial")
        ).read()
        theirs = data[key]
        assert labels.max() == len(np.unique(theirs)) - 1, key
        if decoder.endswith("connected"):
            assert same_partition(labels, theirs), key
        else:
            assert agreement(labels, theirs) >= 0.999, (key, agreement(labels, theirs))
