"""Defects: none asked for changes nothing, and each does what it says."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cristae.grid import Box
from cristae.training.defects import (
    Defects,
    DefectsConfig,
    apply_defects,
    defects_faults,
    draw_defects,
)

PATCH = (6, 48, 40)
SHARES = (
    "lost_parts", "motion_blur", "cut_blur", "cut_noise", "thickness", "contrast_jump", "charging",
)  # fmt: skip


@pytest.fixture
def image():
    random = np.random.default_rng(0)
    return torch.from_numpy(random.uniform(-0.9, 0.9, (2, *PATCH)).astype(np.float32))


def draw(config, number=0, patch=PATCH):
    return draw_defects(patch, config, np.random.default_rng(number))


def changed(image, found):
    """Sections of each patch in which anything is different."""
    return [np.flatnonzero(d).tolist() for d in (found != image).flatten(2).any(2).numpy()]


def test_nothing_is_drawn_by_default(image):
    assert not draw(DefectsConfig()).present
    assert apply_defects(image, [draw(DefectsConfig())] * 2) is image


@pytest.mark.parametrize("share", SHARES)
def test_each_defect_changes_its_own_patch_only(image, share):
    """And the same drawn again is the same."""
    config = replace(DefectsConfig(lost_parts_px=4), **{share: 1.0})
    before = image.clone()
    found = apply_defects(image, [draw(config, 1), Defects()])
    assert torch.equal(image, before)
    assert torch.equal(found[1], image[1])
    assert changed(image, found)[0]
    again = apply_defects(image[:1], [draw(config, 1)])
    assert torch.equal(again[0], found[0])


@pytest.mark.parametrize("share", SHARES)
def test_thin_patches(share):
    """One section of few pixels takes every defect, or none."""
    config = replace(DefectsConfig(), **{share: 1.0})
    image = torch.rand((1, 1, 8, 8))
    for number in range(5):
        found = apply_defects(image, [draw(config, number, (1, 8, 8))])
        assert found.shape == image.shape
        assert torch.isfinite(found).all()


def test_lost_parts(image):
    """Bands of the section's mean, never in two sections in a row."""
    config = DefectsConfig(lost_parts=1.0, lost_parts_sections=1.0, lost_parts_px=5)
    defects = draw(config, 2)
    found = apply_defects(image[:1], [defects])
    assert changed(image[:1], found) == [[0, 2, 4]]
    for section, band in defects.lost:
        assert torch.allclose(found[0, section][band], image[0, section].mean())
        assert torch.equal(found[0, section][~band], image[0, section][~band])
        ends = band[0].sum() + band[-1].sum() + band[:, 0].sum() + band[:, -1].sum()
        assert ends >= 2 * 5  # from side to side
        # 11 pixels wide across the line, a little less where a corner cuts it
        assert band.sum() <= 12 * np.hypot(*PATCH[1:])


def test_motion_blur(image):
    """A point is smeared over 5 pixels along one axis of two sections."""
    points = torch.zeros((1, *PATCH))
    points[:, :, 20, 20] = 1
    defects = draw(DefectsConfig(motion_blur=1.0, motion_blur_px=5), 1)
    found = apply_defects(points, [defects])
    assert len(changed(points, found)[0]) == 2
    for section, axis, _ in defects.motion:
        line = found[0, section, :, 20] if axis == 0 else found[0, section, 20]
        assert line[18:23].tolist() == pytest.approx([0.2] * 5)
        assert float(found[0, section].sum()) == pytest.approx(1)


def test_cut_boxes_have_their_extent(image):
    for share, level in (("cut_blur", 2.0), ("cut_noise", 0.6)):
        config = replace(DefectsConfig(cut_extent=0.5), **{share: 1.0})
        found = apply_defects(image[:1], [draw(config, 3)])
        places = np.argwhere((found != image[:1])[0].numpy())
        assert (np.ptp(places, axis=0) + 1).tolist() == [3, 24, 20]
        assert float((found - image[:1]).abs().max()) <= level
    noise = (Box((0, 0, 0), (1, 1, 1)), torch.full((1, 1, 1), 5.0))
    assert float(apply_defects(image[:1], [Defects(noise=noise)])[0, 0, 0, 0]) == 1


def test_cut_blur_keeps_level_and_loses_detail(image):
    flat = torch.full((1, *PATCH), 0.3)
    coarse = (Box((0, 0, 0), PATCH), 4)
    torch.testing.assert_close(apply_defects(flat, [Defects(coarse=coarse)]), flat)
    found = apply_defects(image[:1], [Defects(coarse=coarse)])
    assert float(found.std()) < 0.5 * float(image[:1].std())


def test_uneven_thickness_blends_neighbours():
    """Grey values that grow by 1 a section show each section's place."""
    ramp = torch.arange(6.0)[None, :, None, None].expand(1, 6, 4, 4)
    places = np.array([0.1, -0.2, 0.3, 0, 0.4, 0.25], np.float32)
    found = apply_defects(ramp, [Defects(places=places)])
    # beyond the last section it is repeated
    assert found[0, :, 0, 0].tolist() == pytest.approx([0.1, 0.8, 2.3, 3, 4.4, 5])


def test_contrast_jump_and_charging():
    flat = torch.full((1, *PATCH), 0.5)
    found = apply_defects(flat, [Defects(jump=(2, 1.2, 0.1))])
    assert found[0, :, 0, 0].tolist() == pytest.approx([0.5, 0.5, 0.8, 0.8, 0.8, 0.8])
    defects = draw(DefectsConfig(charging=1.0, charging_level=0.25), 4)
    found = apply_defects(flat, [defects])
    for section, rows in defects.charging:
        assert torch.allclose(found[0, section, :, 0], 0.5 + torch.from_numpy(rows))
        assert (found[0, section] == found[0, section, :, :1]).all()
        assert np.abs(rows).max() <= 0.5


def test_faults_are_named():
    bad = DefectsConfig(cut_noise=1.5, motion_blur_px=0, thickness_jitter=0.5)
    text = " ".join(defects_faults(bad))
    for part in ("cut_noise 1.5", "motion_blur_px 0", "thickness_jitter 0.5"):
        assert part in text
    assert defects_faults(DefectsConfig()) == []
