"""Grey changes: nothing asked for changes nothing, and each does what it says."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from cristae.training.intensity import GreyConfig, apply_grey, draw_grey

PATCH = (6, 48, 40)
SHARES = (
    "tone", "blur", "sharpen", "noise", "clouds", "sections", "missing", "holes", "noisy_boxes",
)  # fmt: skip
NOTHING = GreyConfig(**dict.fromkeys(SHARES, 0.0))


@pytest.fixture
def image():
    random = np.random.default_rng(0)
    return torch.from_numpy(random.uniform(-0.9, 0.9, (2, *PATCH)).astype(np.float32))


def draw(config, number=0):
    return draw_grey(PATCH, config, np.random.default_rng(number))


def test_shares_are_all_named():
    assert set(SHARES) <= {field.name for field in fields(GreyConfig)}


def test_nothing_changes_nothing(image):
    found = apply_grey(image, [draw(NOTHING), draw(NOTHING)])
    torch.testing.assert_close(found, image, atol=1e-6, rtol=0)


@pytest.mark.parametrize("share", SHARES)
def test_each_change_changes_the_image(image, share):
    config = replace(NOTHING, **{share: 1.0})
    before = image.clone()
    found = apply_grey(image, [draw(config, 1), draw(config, 2)])
    assert torch.equal(image, before)
    for k in range(2):
        assert float((found[k] - image[k]).abs().mean()) > 1e-3
    assert float(found.abs().max()) <= 1.25


def test_batch_does_not_matter(image):
    """What happens to a patch does not depend on the batch it is in."""
    greys = [draw(GreyConfig(), 3), draw(GreyConfig(missing=1.0, blur=1.0), 4)]
    both = apply_grey(image, greys)
    for k in range(2):
        alone = apply_grey(image[k : k + 1], greys[k : k + 1])
        torch.testing.assert_close(both[k], alone[0], atol=1e-6, rtol=0)


def test_blur_keeps_the_mean_and_lowers_the_spread(image):
    grey = replace(draw(NOTHING), blur_px=1.0, blend=1.0)
    found = apply_grey(image, [grey, grey])
    inner = np.s_[..., 8:-8, 8:-8]
    assert float(found[inner].std()) < 0.4 * float(image[inner].std())
    assert float(found.mean()) == pytest.approx(float(image.mean()), abs=0.01)


def test_missing_sections(image):
    blank = np.full(6, np.nan, np.float32)
    blank[2] = 0.75
    order = np.array([0, 1, 2, 3, 3, 5])
    grey = replace(draw(NOTHING), blank=blank, order=order)
    found = apply_grey(image[:1], [grey])[0]
    assert torch.allclose(found[2], torch.tensor(0.5))
    torch.testing.assert_close(found[4], image[0, 3], atol=1e-6, rtol=0)
    torch.testing.assert_close(found[5], image[0, 5], atol=1e-6, rtol=0)


def test_gamma(image):
    """Grey .25 with an exponent of .5 is .5."""
    quarter = torch.full((1, *PATCH), -0.5)
    found = apply_grey(quarter, [replace(draw(NOTHING), tone=(1.0, 0.0, 0.5))])
    torch.testing.assert_close(found, torch.zeros_like(found), atol=1e-6, rtol=0)


def test_contrast_about_black():
    """The reference multiplies grey values, so black stays black before brightness is added."""
    grey = GreyConfig(**dict.fromkeys(SHARES, 0.0) | {"tone": 1.0}, gamma=0.0, contrast_about=0.0)
    contrast, brightness, _ = draw(replace(grey, brightness=0.0), 5).tone
    black = apply_grey(torch.full((1, *PATCH), -1.0), [draw(replace(grey, brightness=0.0), 5)])
    assert contrast != 1
    assert brightness != 0
    torch.testing.assert_close(black, torch.full_like(black, -1.0), atol=1e-5, rtol=0)
