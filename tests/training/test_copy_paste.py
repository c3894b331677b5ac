"""Copies touch another instance, have ids of their own, and change no instance that was there."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from cristae.training.copy_paste import CopyPasteConfig, copy_paste_touching
from cristae.training.targets import contour


@pytest.fixture
def patch():
    """Two discs, darker inside, with a dark line around, far from each other."""
    labels = np.zeros((6, 96, 96), np.int32)
    y, x = np.mgrid[:96, :96]
    image = np.full((6, 96, 96), 0.5, np.float32)
    for i, (cy, cx, r) in enumerate([(30, 30, 12), (66, 64, 9)], start=1):
        distance = np.hypot(y - cy, x - cx)
        labels[1:5, distance <= r] = i
        image[1:5, distance <= r] = -0.7
        image[1:5, distance <= r - 2] = -0.1
    return image, labels


ALWAYS = CopyPasteConfig(share=1.0)


def pasted(patch, seed):
    return copy_paste_touching(*patch, ALWAYS, np.random.default_rng(seed))


def test_copies_touch_and_nothing_else_changes(patch):
    image, labels = patch
    before = image.copy(), labels.copy()
    made = 0
    for seed in range(20):
        grey, ids = pasted(patch, seed)
        assert np.array_equal(image, before[0])
        assert np.array_equal(labels, before[1])
        assert np.array_equal(ids[labels > 0], labels[labels > 0])
        assert np.array_equal(grey[labels > 0], image[labels > 0])
        for new in range(3, ids.max() + 1):
            around = ndimage.maximum_filter(ids == new, size=(1, 3, 3)) & (ids != new)
            assert (ids[around] > 0).any()
            made += 1
    assert made > 20


def test_contact_is_dark_on_the_copys_side(patch):
    for seed in range(20):
        grey, ids = pasted(patch, seed)
        if ids.max() == 3:
            break
    old = ndimage.maximum_filter((ids > 0) & (ids < 3), size=(1, 3, 3))
    seam = old & (ids == 3)
    assert seam.any()
    assert grey[seam].mean() < -0.4
    between = contour(torch.from_numpy(ids), 1, around=False).numpy()
    assert between[seam].all()


def test_share(patch):
    config = CopyPasteConfig(share=0.5)
    drawn = [
        copy_paste_touching(*patch, config, np.random.default_rng(s))[1].max() for s in range(100)
    ]
    assert 30 <= sum(highest > 2 for highest in drawn) <= 60
    never = CopyPasteConfig(share=0.0)
    assert copy_paste_touching(*patch, never, np.random.default_rng(0))[1] is patch[1]


def test_no_room_or_no_instance(patch):
    image, labels = patch
    full = np.where(labels == 0, 7, labels).astype(np.int32)
    assert np.array_equal(
        copy_paste_touching(image, full, ALWAYS, np.random.default_rng(0))[1], full
    )
    empty = np.zeros_like(labels)
    assert copy_paste_touching(image, empty, ALWAYS, np.random.default_rng(0))[1] is empty
