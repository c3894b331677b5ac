"""Axes that a person names, over sources that name none."""

import json
import pickle
from itertools import permutations
from pathlib import Path

import h5py
import imagecodecs
import numpy as np
import pytest

from cristae.errors import InputError
from cristae.grid import Box
from cristae.volumes.formats import open_volume

ARRAY = np.random.default_rng(0).integers(0, 255, (5, 6, 7)).astype(np.uint8)


def slices(folder: Path, array: np.ndarray) -> Path:
    folder.mkdir()
    for i, plane in enumerate(array):
        (folder / f"{i}.png").write_bytes(imagecodecs.png_encode(np.ascontiguousarray(plane)))
    return folder


@pytest.mark.parametrize("axes", ["".join(one) for one in permutations("zyx")])
def test_slices_cut_along_any_axis(tmp_path: Path, axes: str) -> None:
    folder = slices(tmp_path / "f", ARRAY.transpose(["zyx".index(a) for a in axes]))
    for source in (folder, f"{folder}/*.png"):
        volume = pickle.loads(pickle.dumps(open_volume(source, axes=axes)))
        assert volume.shape == ARRAY.shape
        assert np.array_equal(volume.read(), ARRAY)
        box = Box((1, 2, 3), (4, 6, 5))
        assert np.array_equal(volume.read(box), ARRAY[box.slices()])
    plain = open_volume(folder)
    if axes != "zyx":
        assert volume.fingerprint != plain.fingerprint
    assert volume.found["axes"] == f"--axes: {', '.join(axes)}"


def test_slices_that_are_channels_or_times(tmp_path: Path) -> None:
    folder = slices(tmp_path / "f", ARRAY)
    channels = open_volume(folder, axes="z=c")
    assert channels.channels is not None
    assert np.array_equal(channels.read(), ARRAY[:, None])
    assert np.array_equal(open_volume(folder, axes="tyx", index={"t": 3}).read(), ARRAY[3:4])
    with pytest.raises(InputError, match="--index t=0"):
        open_volume(folder, axes="tyx")
    with pytest.raises(InputError, match="there is no series"):
        open_volume(folder, series=1)


def test_tiles_and_chunks(tmp_path: Path) -> None:
    slices(tmp_path / "t", ARRAY.transpose(1, 0, 2))
    index = {
        "ndim": 1,
        "dtype": "uint8",
        "image": [f"t/{z}.png" for z in range(6)],
        "height": 5,
        "width": 7,
        "depth": 6,
        "tile_size": 9,
    }
    (tmp_path / "i.json").write_text(json.dumps(index))
    assert np.array_equal(open_volume(tmp_path / "i.json", axes="yzx").read(), ARRAY)
    (tmp_path / "c").mkdir()
    for start in (0, 3):
        part = ARRAY[start : start + 3]
        stop = start + len(part)
        with h5py.File(tmp_path / "c" / f"r_{start}-{stop}-0-6-0-7.h5", "w") as file:
            file["vol"] = np.array([part, 255 - part])
    assert np.array_equal(open_volume(tmp_path / "c").read(), [ARRAY, 255 - ARRAY])
    for number in (0, 1):
        volume = open_volume(tmp_path / "c", index={"c": number})
        assert volume.channels is None
        assert np.array_equal(volume.read(), 255 - ARRAY if number else ARRAY)
    turned = open_volume(tmp_path / "c", axes="cxyz")
    box = Box((1, 2, 3), (4, 6, 5))
    expected = np.array([ARRAY, 255 - ARRAY]).transpose(0, 3, 2, 1)
    assert np.array_equal(turned.read(box), expected[(slice(None), *box.slices())])
