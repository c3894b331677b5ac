"""Padding: found, mirrored at, left out; and what comes of a padded image."""

from pathlib import Path

import numpy as np
import pytest

from cristae.engine.executors import Resources
from cristae.grid import Box
from cristae.volumes.convert import convert_volume
from cristae.volumes.formats import open_volume
from cristae.volumes.formats.ome_zarr_levels import pyramid_levels
from cristae.volumes.intensity import sample_intensity
from cristae.volumes.padding import Padding, content_mask, find_padding, read_content
from cristae.volumes.volume import array_volume, read_reflected

SERIAL = Resources(1)
PLAIN = np.random.default_rng(0).integers(1, 200, (5, 30, 24), dtype=np.uint8)
AROUND = ((1, 2), (7, 3), (0, 9))


def padded(value: int = 0) -> np.ndarray:
    return np.pad(PLAIN, AROUND, constant_values=value)


@pytest.mark.parametrize("value", [0, 255, 128])
def test_a_border_of_one_value_is_found(value):
    found = find_padding(array_volume(padded(value)), SERIAL)
    assert found is not None
    assert found.sections == (1, 6)
    assert list(found.runs(1, 6)) == [(1, 6, (7, 37, 0, 24))]
    assert Padding.from_dict(found.to_dict()) == found
    mask = content_mask(array_volume(padded(value)), found).read()
    assert np.array_equal(mask, np.pad(np.ones_like(PLAIN), AROUND))


@pytest.mark.parametrize("box", [Box((0, 0, 0), (8, 40, 33)), Box((-3, 2, -5), (9, 45, 60))])
def test_padded_and_plain_images_are_mirrored_alike(box):
    volume = array_volume(padded())
    there = box.shift((-1, -7, 0))
    found = read_content(volume, find_padding(volume, SERIAL), box)
    assert np.array_equal(found, read_reflected(array_volume(PLAIN), there))
    statistics = sample_intensity(volume, find_padding(volume, SERIAL))
    assert statistics == sample_intensity(array_volume(PLAIN))


def test_each_section_has_a_rectangle_of_its_own():
    """Aligned sections are shifted against one another; one inside is missing."""
    array = np.full((4, 40, 40), 9, np.uint8)
    corners = [(0, 0), (3, 5), (10, 16)]
    for z, (y, x) in zip((0, 1, 3), corners, strict=True):
        array[z, y : y + 30, x : x + 24] = PLAIN[z]
    volume = array_volume(array)
    found = find_padding(volume, SERIAL)
    assert found is not None
    assert [r for _, _, r in found.runs(0, 4)] == [
        (0, 30, 0, 24),
        (3, 33, 5, 29),
        (0, 40, 0, 40),
        (10, 40, 16, 40),
    ]
    expected = np.stack(
        [
            read_reflected(array_volume(PLAIN[z][None]), Box((0, -y, -x), (1, 40 - y, 40 - x)))[0]
            for z, (y, x) in zip((0, 1, 3), corners, strict=True)
        ]
    )
    assert np.array_equal(read_content(volume, found, volume.box)[[0, 1, 3]], expected)


@pytest.mark.parametrize("array", [PLAIN, np.zeros((3, 9, 9), np.uint8), np.full((3, 9, 9), 7)])
def test_what_has_no_border_or_nothing_else_has_no_padding(array):
    assert find_padding(array_volume(array), SERIAL) is None


def test_a_part_knows_its_own_padding():
    volume = array_volume(padded())
    whole = find_padding(volume, SERIAL)
    carrying = volume.with_(attributes={"padding": whole and whole.to_dict()})
    for box in (
        Box((0, 0, 0), (4, 20, 33)),
        Box((2, 9, 4), (8, 40, 30)),
        Box((1, 7, 0), (6, 37, 24)),
    ):
        part, alone = carrying.crop(box), array_volume(padded()[box.slices()])
        assert find_padding(part, SERIAL) == find_padding(alone, SERIAL)


def test_it_is_stored_once_and_known_at_every_level(tmp_path: Path):
    array = np.pad(np.tile(PLAIN, (2, 12, 12)), ((0, 0), (25, 40), (31, 64)))
    source = array_volume(array, voxel_size_nm=(30.0, 8.0, 8.0))
    image = convert_volume(source, tmp_path / "a.zarr", kind="image", resources=SERIAL)
    stored = image.attributes["padding"]
    assert Padding.from_dict(stored) == find_padding(source, SERIAL)
    again = convert_volume(image, tmp_path / "b.zarr", resources=SERIAL)
    assert again.attributes["padding"] == stored
    (level, step), *_ = pyramid_levels(image)
    coarser = Padding.from_dict(stored).coarser(level.shape, step)
    assert coarser is not None
    assert coarser.common == Box((0, 13, 16), (10, 192, 159))
    inside = level.read(coarser.common)
    assert inside.min() > 0
    plain = convert_volume(array_volume(PLAIN), tmp_path / "c.zarr", resources=SERIAL)
    assert plain.attributes["padding"] is None
    assert find_padding(open_volume(tmp_path / "c.zarr"), SERIAL) is None
