"""The names PyTorch Connectomics users know: the reference's own scripts run on ours."""

import glob

import h5py
import numpy as np
import pytest
from tests.segmentation.oracle import canonical, drop_small, to_neighbors
from tests.segmentation.test_golden_decode import agreement, same_partition

from cristae.errors import InputError
from cristae.pytc import (
    bc_connected,
    bc_watershed,
    bcd_watershed,
    binary_connected,
    binary_watershed,
    readvol,
)


def write_chunks(folder, prediction, chunk=(20, 130, 150)):
    """Prediction chunks as the reference's chunk inference leaves them."""
    shape = prediction.shape[1:]
    for z, y, x in np.ndindex(*(-(-n // c) for n, c in zip(shape, chunk, strict=True))):
        start = np.array((z, y, x)) * chunk
        stop = np.minimum(start + chunk, shape)
        place = "-".join(f"{a}-{b}" for a, b in zip(start, stop, strict=True))
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        with h5py.File(folder / f"result_{place}.h5", "w") as file:
            file.create_dataset("vol0", data=prediction[(slice(None), *box)], compression="gzip")


def test_the_reference_snippet_runs(shared, tmp_path):
    data = np.load(shared / "golden" / "decode" / "case0.npz")
    write_chunks(tmp_path, data["pred"][:2])
    output_files = str(tmp_path / "*.h5")

    # as in the reference's README, but for the import and the shape
    chunks = glob.glob(output_files)
    vol_shape = (2, *data["pred"].shape[1:])
    pred = np.ones(vol_shape, dtype=np.uint8)
    for x in chunks:
        pos = x.strip().split("/")[-1]
        pos = pos.split("_")[-1].split(".")[0].split("-")
        pos = list(map(int, pos))
        chunk = readvol(x)
        pred[:, pos[0] : pos[1], pos[2] : pos[3], pos[4] : pos[5]] = chunk
    segm = bc_watershed(pred, thres1=0.85, thres2=0.6, thres3=0.8, thres_small=1024)

    np.testing.assert_array_equal(pred, data["pred"][:2])
    theirs = data["bc_watershed__0.85_0.6_0.8_1024"]
    assert segm.shape == theirs.shape
    assert segm.dtype == np.uint8
    assert segm.max() == len(np.unique(theirs)) - 1
    assert agreement(segm.astype(np.uint32), theirs) >= 0.999


def test_chunk_folder_is_one_volume(shared):
    folder = shared / "golden" / "tiles"
    np.testing.assert_array_equal(readvol(folder / "chunks"), np.load(folder / "chunks_merged.npy"))


def test_defaults_are_the_reference_defaults(shared):
    data = np.load(shared / "golden" / "decode" / "case2.npz")
    calls = {
        "bc_watershed__0.9_0.8_0.85_128": lambda p: bc_watershed(p[:2]),
        "bcd_watershed__0.9_0.8_0.85_0.5_0.0_128": bcd_watershed,
        "binary_watershed__0.98_0.85_128": lambda p: binary_watershed(p[:1]),
    }
    for key, call in calls.items():
        ours = call(data["pred"])
        assert ours.max() == len(np.unique(data[key])) - 1, key
        assert agreement(ours.astype(np.uint32), data[key]) >= 0.999, key
    exact = (
        ("bc_connected__0.8_0.5_128", bc_connected),
        ("binary_connected__0.8_128", binary_connected),
    )
    for key, call in exact:
        assert same_partition(call(data["pred"]).astype(np.uint32), data[key]), key


def test_readvol_reads_a_named_dataset_and_drops_channels(tmp_path):
    array = np.random.default_rng(0).integers(0, 255, (2, 3, 4, 5), np.uint8)
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["a"], file["b"] = array, array[0]
    np.testing.assert_array_equal(readvol(tmp_path / "two.h5", "a"), array)
    mean = readvol(tmp_path / "two.h5", "a", drop_channel=True)
    np.testing.assert_array_equal(mean, array.mean(axis=0).astype(np.uint8))
    np.testing.assert_array_equal(readvol(tmp_path / "two.h5", "b", drop_channel=True), array[0])
    with pytest.raises(InputError, match="found 2 datasets"):
        readvol(tmp_path / "two.h5")


def test_none_keeps_small_instances():
    prediction = np.zeros((1, 3, 4, 5), np.uint8)
    prediction[0, 1, 1, 1] = 255
    assert binary_connected(prediction).max() == 0
    assert binary_connected(prediction, remove_small_mode="none").max() == 1


def test_neighbor_joins_small_instances_to_the_one_with_most_contact(shared):
    """On a prediction of the reference: the rule of its tutorials, applied to what ``none`` keeps.

    Instances that are widened touch, and their numbers rise as those of their components do.
    """
    prediction = np.load(shared / "golden" / "decode" / "case2.npz")["pred"]
    kept = bc_connected(prediction, remove_small_mode="none")
    size = int(np.median(np.bincount(kept.ravel())[1:]))
    found = bc_connected(prediction, thres_small=size, remove_small_mode="neighbor")
    dropped = bc_connected(prediction, thres_small=size)
    assert dropped.max() < kept.max()
    np.testing.assert_array_equal(found, canonical(drop_small(to_neighbors(kept, size), 1)))


@pytest.mark.parametrize("function", [bc_watershed, bcd_watershed, binary_watershed])
def test_neighbor_of_watersheds(function):
    """A body of two seeds, of which one is longer: the other's part joins that one's, or goes."""
    prediction = np.zeros((3, 3, 8, 20), np.uint8)
    prediction[0, :, 1:5, 2:18] = 225
    prediction[0, :, 2:4, 3:5], prediction[0, :, 2:4, 10:17] = 255, 255
    prediction[2] = 255
    parts = function(prediction, seed_thres=1, remove_small_mode="none")
    assert parts.max() == 2
    size = int(np.bincount(parts.ravel())[1:].max())
    for mode, count in (("neighbor", np.count_nonzero(parts)), ("background", size)):
        found = function(prediction, seed_thres=1, thres_small=size, remove_small_mode=mode)
        assert (found.max(), np.count_nonzero(found)) == (1, count)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("scale_factors", (1.0, 0.5, 0.5)),
        ("remove_small_mode", "neighbor_2d"),
        ("return_seed", True),
        ("precomputed_seed", np.ones((3, 4, 5))),
    ],
)
def test_unsupported_arguments_are_refused(argument, value):
    with pytest.raises(InputError, match=argument):
        bc_watershed(np.zeros((2, 3, 4, 5), np.uint8), **{argument: value})


def test_all_faults_at_once():
    prediction = np.zeros((1, 3, 4, 5), np.uint8)
    with pytest.raises(InputError, match=r"(?s)scale_factors.*remove_small_mode"):
        binary_connected(prediction, scale_factors=(2, 1, 1), remove_small_mode="neighbor_2d")
    with pytest.raises(InputError, match=r"(?s)foreground_threshold: 1.5.*contour_threshold: -0.1"):
        bc_connected(np.zeros((2, 3, 4, 5), np.uint8), thres1=1.5, thres2=-0.1)
    with pytest.raises(InputError, match=r"shape \(3, 4, 5\)"):
        binary_connected(prediction[0])
