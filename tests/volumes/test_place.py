"""How two volumes lie on each other: answers derived by hand, and voxel by voxel."""

from fractions import Fraction
from itertools import product
from math import floor

import numpy as np
import pytest

from cristae.errors import InputError
from cristae.grid import Box
from cristae.samples.pairs import cut_to_common, lay_on_image
from cristae.volumes.place import (
    Overlay,
    common_part,
    laid_on,
    lay,
    part_under,
    spread_over,
)
from cristae.volumes.volume import array_volume

S, COARSE, THIRD = (30.0, 8.0, 8.0), (30.0, 16.0, 16.0), (30.0, 24.0, 24.0)
SHAPE, HALF = (4, 12, 12), (4, 6, 6)


def volume(shape=SHAPE, size=S, origin=(0, 0, 0), name="v", channels=None):
    """Voxels of 1, 2, ... in raster order."""
    whole = shape if channels is None else (channels, *shape)
    array = np.arange(1, np.prod(whole) + 1, dtype=np.uint16).reshape(whole)
    found = array_volume(array, name=name, voxel_size_nm=size)
    return found.with_(origin_nm=tuple(float(o) for o in origin))


ONE = (1, 1, 1)
FITS = {
    "same": (volume(), volume(), ONE, ONE, (0, 0, 0), "0:4,0:12,0:12"),
    "both elsewhere": (
        volume(origin=(9, 7, 3)),
        volume(origin=(9, 7, 3)),
        *(ONE, ONE, (0, 0, 0), "0:4,0:12,0:12"),
    ),
    "further in by whole voxels": (
        volume(),
        volume(origin=(60, 8, 24)),
        *(ONE, ONE, (2, 1, 3), "2:4,1:12,3:12"),
    ),
    "before it": (
        volume(),
        volume(origin=(-30, -16, 0)),
        *(ONE, ONE, (-1, -2, 0), "0:3,0:10,0:12"),
    ),
    "a part": (
        volume(),
        volume().crop(Box((1, 2, 3), (3, 7, 9))),
        *(ONE, ONE, (1, 2, 3), "1:3,2:7,3:9"),
    ),
    "of a part": (
        volume().crop(Box((1, 2, 3), (3, 7, 9))),
        volume(),
        *(ONE, ONE, (-1, -2, -3), "0:2,0:5,0:6"),
    ),
    # the mean over 2: its origin is half a voxel of the base, 4 nm, further in
    "coarser by 2": (
        volume(),
        volume(HALF, COARSE, (0, 4, 4)),
        *((1, 2, 2), ONE, (0, 0, 0), "0:4,0:12,0:12"),
    ),
    "coarser by 2 without the half voxel": (
        volume(),
        volume(HALF, COARSE),
        *((1, 2, 2), ONE, (0, 0, 0), "0:4,0:12,0:12"),
    ),
    "coarser by 2 without the half voxel, of a part": (
        volume(origin=(0, 8, 16)),
        volume(HALF, COARSE),
        *((1, 2, 2), ONE, (0, -1, -2), "0:4,0:11,0:10"),
    ),
    "coarser by 3": (
        volume(),
        volume((4, 4, 4), THIRD, (0, 8, 8)),
        *((1, 3, 3), ONE, (0, 0, 0), "0:4,0:12,0:12"),
    ),
    "coarser by 3 without the voxel": (
        volume(),
        volume((4, 4, 4), THIRD),
        *((1, 3, 3), ONE, (0, 0, 0), "0:4,0:12,0:12"),
    ),
    "coarser by 3, of a part": (
        volume().crop(Box((0, 4, 5), (4, 12, 12))),
        volume((4, 4, 4), THIRD),
        *((1, 3, 3), ONE, (0, -4, -5), "0:4,0:8,0:7"),
    ),
    "coarser by 2, one voxel of the base further in": (
        volume(),
        volume((4, 5, 5), COARSE, (0, 12, 12)),
        *((1, 2, 2), ONE, (0, 1, 1), "0:4,1:11,1:11"),
    ),
    "coarser by 2, rounded down": (
        volume((4, 13, 13)),
        volume(HALF, COARSE, (0, 4, 4)),
        *((1, 2, 2), ONE, (0, 0, 0), "0:4,0:12,0:12"),
    ),
    "finer by 2": (
        volume(HALF, COARSE, (0, 4, 4)),
        volume(),
        *(ONE, (1, 2, 2), (0, 0, 0), "0:4,0:6,0:6"),
    ),
    # of base voxel 0 only the first third lies before it, so its centre is covered
    "finer by 3, further in": (
        volume((4, 4, 4), THIRD, (0, 8, 8)),
        volume(origin=(0, 8, 16)),
        *(ONE, (1, 3, 3), (0, 1, 2), "0:4,0:4,1:4"),
    ),
    "finer along z, coarser along y": (
        volume((4, 4, 12)),
        volume((8, 2, 12), (15.0, 16.0, 8.0), (-7.5, 4, 0)),
        *((1, 2, 1), (2, 1, 1), (0, 0, 0), "0:4,0:4,0:12"),
    ),
    "both unknown": (
        volume(size=None),
        volume(size=None),
        *(ONE, ONE, (0, 0, 0), "0:4,0:12,0:12"),
    ),
    "one unknown": (
        volume(origin=(300, 2, 2)),
        volume(size=None),
        *(ONE, ONE, (0, 0, 0), "0:4,0:12,0:12"),
    ),
    "parts of unknown size": (
        volume(size=None).crop(Box((1, 2, 3), (3, 7, 9))),
        volume(size=None).crop(Box((1, 2, 3), (3, 7, 9))),
        *(ONE, ONE, (0, 0, 0), "0:2,0:5,0:6"),
    ),
}


@pytest.mark.parametrize("case", FITS)
def test_what_fits(case):
    base, other, coarser, finer, shift, box = FITS[case]
    overlay = lay(base, other)
    assert (overlay.coarser, overlay.finer, overlay.shift) == (coarser, finer, shift)
    assert str(overlay.box) == box


def doubled(values, axis_factors):
    for axis, factor in enumerate(axis_factors):
        values = values.repeat(factor, axis)
    return values


@pytest.mark.parametrize("case", [c for c in FITS if "without" not in c and "unknown" not in c])
def test_voxels_are_those_under_each_centre(case):
    """Voxel by voxel, in fractions: the other's voxel that holds the centre of the base's."""
    base, other, *_ = FITS[case]
    if case == "coarser by 3, of a part":  # its origin is the base's: begins at the same edge
        other = other.with_(origin_nm=(0.0, 8.0, 8.0))
    values = other.read()
    expected = np.zeros(base.shape, values.dtype)
    for at in product(*map(range, base.shape)):
        point = [
            Fraction(o) + i * Fraction(s)
            for o, i, s in zip(base.origin_nm, at, base.voxel_size_nm, strict=True)
        ]
        index = tuple(
            floor((p - (Fraction(o) - Fraction(s) / 2)) / Fraction(s))
            for p, o, s in zip(point, other.origin_nm, other.voxel_size_nm, strict=True)
        )
        if all(0 <= i < n for i, n in zip(index, other.shape, strict=True)):
            expected[at] = values[index]
    overlay = lay(base, other)
    found = laid_on(base, other, overlay)
    assert np.array_equal(found.read(), expected[overlay.box.slices()])
    assert found.voxel_size_nm == base.voxel_size_nm
    assert found.origin_nm == pytest.approx(base.crop(overlay.box).origin_nm)
    whole = spread_over(base, other, overlay)
    if "rounded down" in case:  # the last voxel stands for the rest
        expected[:, -1], expected[:, :, -1] = expected[:, -2], expected[:, :, -2]
        expected[:, -1, -1] = expected[:, -2, -2]
    assert np.array_equal(whole.read(), expected)
    inner = Box((1, 1, 1), (2, 3, 4))
    assert np.array_equal(whole.read(inner), expected[inner.slices()])


REFUSED = {
    "half a voxel": (volume(), volume(origin=(0, 4, 4)), r"\(0.0, 0.5, 0.5\) voxels from v"),
    "a quarter": (volume(), volume(origin=(0, 2, 2)), r"an origin of 0, 0, 0 nm"),
    "coarser and a quarter": (volume(), volume(HALF, COARSE, (0, 6, 6)), "whole voxels"),
    "1.5 times": (volume(), volume(size=(30.0, 12.0, 12.0)), "a whole number of times"),
    "nearly twice": (volume(), volume(HALF, (30.0, 16.1, 16.1)), "a whole number of times"),
    "elsewhere": (volume(), volume(origin=(3000, 0, 0)), "do not meet"),
    "side by side": (volume(), volume(origin=(0, 96, 0)), "do not meet"),
    "unknown, another shape": (volume(), volume(HALF, None), r"expected \(4, 12, 12\)"),
    "both unknown, another shape": (
        volume(size=None),
        volume(HALF, None),
        r"voxel size unknown: expected \(4, 12, 12\)",
    ),
    "unknown, another part": (
        volume(size=None).crop(Box((0, 0, 0), (2, 12, 12))),
        volume(size=None).crop(Box((1, 0, 0), (3, 12, 12))),
        "at the same place",
    ),
    "no number": (volume(), volume(origin=(0, float("nan"), 0)), "whole voxels"),
    "no size": (volume(), volume(size=(30.0, 0.0, 8.0)), "a whole number of times"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_names_both_places(case):
    base, other, message = REFUSED[case]
    with pytest.raises(InputError, match=message) as caught:
        lay(base, other.with_(name="other.tif"))
    text = str(caught.value)
    assert text.startswith(f"other.tif: shape {other.shape}, voxel size ")
    assert f"does not fit v: shape {base.shape}, voxel size " in text
    assert text.count("origin") >= 2
    by_voxels = base.shape == other.shape or case == "coarser and a quarter"
    assert ("--align voxels" in text) == by_voxels


@pytest.mark.parametrize("case", [c for c in REFUSED if REFUSED[c][1].shape == SHAPE])
def test_the_voxel_grid_can_be_trusted(case):
    base, other, _ = REFUSED[case]
    assert lay(base, other, "voxels") == Overlay(SHAPE, SHAPE)
    assert lay(base, other, "corner") == Overlay(SHAPE, SHAPE)
    found = laid_on(base, other, lay(base, other, "voxels"))
    assert np.array_equal(found.read(), other.read())
    assert lay(base, found) == Overlay(SHAPE, SHAPE)


def test_trusted_grids_of_whole_factors_share_the_first_edge():
    odd = volume(HALF, COARSE, (0, 6, 6))
    overlay = lay(volume(), odd, "voxels")
    assert (overlay.coarser, overlay.shift, overlay.same) == ((1, 2, 2), (0, 0, 0), True)
    under = part_under(volume(), odd, Box((0, 1, 3), (2, 6, 8)), "voxels")
    assert np.array_equal(under.read(), doubled(odd.read(), (1, 2, 2))[0:2, 1:6, 3:8])
    assert under.origin_nm == (0.0, 8.0, 24.0)


def test_other_shapes_are_trusted_only_as_parts():
    small = volume(HALF)
    with pytest.raises(InputError, match=r"laid by voxel number: expected \(4, 12, 12\)"):
        lay(volume(), small.with_(origin_nm=(1.0, 1.0, 1.0)), "voxels")
    assert str(lay(volume(), small, "voxels", crop=True).box) == "0:4,0:6,0:6"
    unknown = volume((9, 9, 9), None)
    assert str(lay(volume(), unknown, crop=True).box) == "0:4,0:9,0:9"


def test_channels_are_kept():
    other = volume(HALF, COARSE, (0, 4, 4), channels=2)
    base = volume()
    found = laid_on(base, other, lay(base, other)).read(Box((1, 3, 3), (2, 8, 6)))
    assert np.array_equal(found, other.read().repeat(2, 2).repeat(2, 3)[:, 1:2, 3:8, 3:6])


def test_the_same_grid_stays_what_it_was():
    """Records name inputs by their fingerprint, which a mere part of the same grid keeps."""
    base, other, corner = volume(), volume(), Box((0, 0, 0), (2, 2, 2))
    assert laid_on(base, other, lay(base, other)).identity == other.identity
    assert part_under(base, other, corner).identity == other.crop(corner).identity
    coarse = [
        laid_on(base, each, lay(base, each)).fingerprint
        for each in (volume(HALF, COARSE), volume(HALF, COARSE, (0, 12, 4)))
    ]
    assert coarse[0] != coarse[1]


def test_what_is_common_to_several():
    parts = [volume(), volume().crop(Box((1, 0, 0), (4, 9, 12))), volume(HALF, COARSE, (0, 12, 4))]
    one, two, three = common_part(parts)
    assert one.shape == two.shape == three.shape == (3, 8, 12)
    assert np.array_equal(one.read(), two.read())
    assert np.array_equal(three.read(), doubled(parts[2].read(), (1, 2, 2))[1:4, :8])
    apart = [volume(), volume().crop(Box((0, 0, 0), (2, 9, 9))), volume(origin=(60, 0, 0))]
    with pytest.raises(InputError, match="common to all"):
        common_part(apart)


def test_labels_of_another_crop_are_refused_and_parts_used(caplog):
    image = volume()

    def beside(labels, roi=None):
        return lay_on_image({"image": image, "labels": labels}, roi, "origin")

    _, faults = beside(volume((4, 12, 13), name="large"))
    assert len(faults) == 1
    assert faults[0].startswith("labels large: shape (4, 12, 13)")
    assert "begins where the image begins and ends beyond it" in faults[0]
    laid, faults = beside(volume((5, 20, 20), origin=(-30, -8, -8)), "0:2,1:12,:")
    assert faults == []
    assert laid["labels"].shape == laid["image"].shape == (2, 11, 12)
    labels = beside(volume().crop(Box((1, 0, 0), (3, 12, 12))))[0]["labels"]
    with caplog.at_level("WARNING", "cristae"):
        cut, kept, mask = cut_to_common("a", image, labels, None)
    assert mask is None
    assert np.array_equal(cut.read(), kept.read())
    assert "'a'" in caplog.text
    assert "(2, 12, 12)" in caplog.text


def test_nothing_under_a_roi_is_refused():
    small = volume().crop(Box((0, 0, 0), (2, 12, 12)))
    with pytest.raises(InputError, match="nothing of it lies under 2:4"):
        part_under(volume(), small, Box((2, 0, 0), (4, 9, 9)))
