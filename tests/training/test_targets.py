"""Targets against what PyTorch Connectomics v1.0 wrote for the same labels."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage import measure, morphology

from cristae.errors import ConfigError
from cristae.networks.channels import affinity_offsets
from cristae.training import distance, targets
from cristae.training.targets import TargetsConfig, make_targets


@pytest.fixture(params=["case0", "case1"])
def golden(shared, request):
    with np.load(shared / "golden" / "targets" / f"{request.param}.npz") as data:
        return dict(data)


def as_tensor(labels):
    return torch.from_numpy(labels.astype(np.int32))


@pytest.mark.parametrize(
    ("option", "half_width", "around"),
    [("4-1-1", 1, True), ("4-2-1", 2, True), ("4-1-0", 1, False)],
)
def test_contour_equals_reference(golden, option, half_width, around):
    found = targets.contour(as_tensor(golden["labels"]), half_width, around=around)
    assert np.array_equal(found.numpy(), golden[f"target__{option}"][0] > 0)


def test_mask_equals_reference(golden):
    found = targets.mask(as_tensor(golden["labels"]))
    assert np.array_equal(found.numpy(), golden["target__0"][0] > 0)


def test_affinity_equals_reference(golden):
    found = targets.affinity(as_tensor(golden["labels"]))
    assert np.array_equal(found.numpy(), golden["target__2"] > 0)


def test_signed_distance_equals_reference(golden):
    found = distance.signed_distance(golden["labels"])
    np.testing.assert_allclose(found, golden["target__6"][0], rtol=1e-6, atol=1e-6)


def test_instance_distance_equals_reference(golden):
    found = distance.instance_distance(golden["labels"])
    np.testing.assert_allclose(found, golden["target__5-2d-0-0-5.0-0"][0], rtol=1e-6, atol=1e-6)


def test_parting_equals_reference(golden):
    found = targets.part_touching(as_tensor(golden["labels"]))
    assert np.array_equal(found.numpy(), golden["widen_border_1"])


@pytest.mark.parametrize("option", ["0", "4-1-1"])
@pytest.mark.parametrize("dilate", [False, True])
def test_class_balance_equals_reference(golden, option, dilate):
    target = torch.from_numpy(golden[f"target__{option}"])[None]
    found = targets.class_balance_weight(target, dilate=dilate)[0].numpy()
    expected = golden[f"weight1{'-1' if dilate else ''}__{option}"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_seams_weigh_more():
    """Two squares side by side, a third on top of one of them, a fourth alone."""
    labels = torch.zeros((1, 3, 12, 24), dtype=torch.int32)
    labels[0, 0, 3:9, 3:8] = 1
    labels[0, 0, 3:9, 8:13] = 2
    labels[0, 1, 5, 4] = 3
    labels[0, 1:, 2:5, 18:21] = 4
    weight = targets.seam_weight(labels, 4.0, reach=2)
    assert weight.shape == (1, 1, 3, 12, 24)
    expected = torch.ones((3, 12, 24))
    # a pixel on each side of a seam counts as the seam, and is widened by one more
    expected[0, 1:11, 6:10] = 5
    expected[:2, 4:7, 3:6] = 5
    assert torch.equal(weight[0, 0], expected)


def test_batch_equals_one_by_one(golden):
    labels = as_tensor(golden["labels"])
    batch = torch.stack([labels, labels.flip(1)])
    found = targets.contour(batch, 1, around=False, across_sections="all")
    for one, expected in zip(found, batch, strict=True):
        alone = targets.contour(expected, 1, around=False, across_sections="all")
        assert torch.equal(one, alone)


def test_contour_across_sections():
    """Column of ids 0 0 1 1 2 2 0: ids 1 and 2 touch between sections 3 and 4."""
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 0]).view(7, 1, 1).expand(7, 5, 5)
    found = {
        rule: targets.contour(labels, 1, across_sections=rule)[:, 2, 2].int().tolist()
        for rule in ("none", "touching", "all")
    }
    assert found == {
        "none": [0, 0, 0, 0, 0, 0, 0],
        "touching": [0, 0, 0, 1, 1, 0, 0],
        "all": [0, 1, 1, 1, 1, 1, 1],
    }


def test_large_ids_are_told_apart():
    """Ids over 2^24 that differ by one, which float32 would take for the same."""
    labels = torch.full((1, 5, 6), 2**28, dtype=torch.int64)
    labels[..., 3:] += 1
    assert targets.contour(labels, 1, around=False)[0, 2].int().tolist() == [0, 0, 1, 1, 0, 0]


def test_make_targets_stacks_channels():
    labels = torch.zeros((2, 3, 8, 8), dtype=torch.int32)
    labels[:, :, 2:6, 2:6] = 1
    found = make_targets(labels, ("contour", "mask"), TargetsConfig())
    assert found.shape == (2, 2, 3, 8, 8)
    assert torch.equal(found[:, 1], (labels > 0).float())
    assert torch.equal(found[:, 0], targets.contour(labels, 1).float())


def test_unknown_channels_are_named():
    labels = torch.zeros((1, 1, 4, 4))
    with pytest.raises(ConfigError, match=r"(?s)'skeleton'.*'flow'.*'affinity_z0'"):
        make_targets(labels, ("mask", "skeleton", "flow", "affinity_z0"), TargetsConfig())


def test_offsets_say_what_an_affinity_holds():
    labels = torch.from_numpy(np.random.default_rng(4).integers(0, 3, (1, 5, 6, 7)))
    channels = ("affinity_y", "affinity_x3", "affinity_z", "affinity_z2")
    found = make_targets(labels, channels, TargetsConfig())[0]
    for channel, offset in zip(found, affinity_offsets(channels), strict=True):
        near = torch.roll(labels[0], tuple(-d for d in offset), (0, 1, 2))
        inside = tuple(slice(-d, None) for d in offset)
        expected = (labels[0] > 0) & (labels[0] == near)
        assert torch.equal(channel[inside], expected[inside].float())


def test_long_range_affinity():
    """A row 1 1 1 1 2 2: with range 3 a voxel looks past its neighbours; at the start it is 1."""
    labels = torch.tensor([1, 1, 1, 1, 2, 2, 0]).view(1, 1, 1, 7)
    row = {
        reach: targets.affinity_along(labels, 2, reach)[0, 0, 0].int().tolist()
        for reach in (1, 3, 9)
    }
    assert row == {
        1: [1, 1, 1, 1, 0, 1, 0],
        3: [1, 1, 1, 1, 0, 0, 0],
        9: [1, 1, 1, 1, 0, 0, 0],
    }
    found = make_targets(labels.transpose(1, 3), ("affinity_z3", "affinity_y"), TargetsConfig())
    assert found[0, 0, :, 0, 0].int().tolist() == row[3]
    assert found[0, 1, :, 0, 0].int().tolist() == [1, 1, 1, 1, 1, 1, 0]


def test_eroded_labels_make_every_target():
    labels = torch.zeros((1, 1, 7, 8), dtype=torch.int32)
    labels[..., 1:6, 1:4], labels[..., 1:6, 4:7] = 1, 2
    config = TargetsConfig(label_erosion=1)
    found = make_targets(labels, ("mask", "distance"), config)
    assert found[0, 0, 0, 3].int().tolist() == [0, 1, 1, 0, 0, 1, 1, 0]
    assert ((found[:, 1] > 0) == (found[:, 0] > 0)).all()


def test_signed_distance_by_hand():
    """One pixel in a section is 1 deep; 3 pixels away the distance is 3; full and empty: 5."""
    labels = np.zeros((3, 5, 7), np.uint8)
    labels[0, 2, 3] = 1
    labels[2] = 1
    found = distance.signed_distance(labels)
    assert found[0, 2, 3] == pytest.approx(np.tanh(1 / 8))
    assert found[0, 2, 0] == pytest.approx(np.tanh(-3 / 50))
    assert found[1, 0, 0] == pytest.approx(np.tanh(-5))
    assert found[2, 0, 0] == pytest.approx(np.tanh(5))
    deep = distance.signed_distance(labels, across_sections=True, z_scale=6.0)
    # the pixel's nearest background is beside it, 1 away; that pixel's section below is full
    assert deep[1, 2, 0] == pytest.approx(np.tanh(-6 / 50))
    assert deep[2, 0, 0] == pytest.approx(np.tanh(6 / 8))


@pytest.mark.parametrize("across_sections", [False, True])
@pytest.mark.parametrize("background_around", [False, True])
def test_instance_distance_is_that_of_whole_sections(golden, across_sections, background_around):
    """Boxes around instances give what distances over the whole array give."""
    labels = golden["labels"][:4]
    labels[1, 30, 30], labels[2] = 99, 7  # a single pixel, and a section of one instance
    labels[3, 10:40, 10:40], labels[3, 20:23, 20:25], labels[3, 30:34, 30:34] = 50, 0, 0
    found = distance.instance_distance(
        labels, across_sections=across_sections, background_around=background_around
    )
    wide = np.pad(labels, 2 * background_around)
    parts = [wide] if across_sections else list(wide)
    expected = np.stack([whole_depth(part, (5.0, 1.0, 1.0)[-part.ndim :]) for part in parts])
    if across_sections:
        expected = expected[0]
    if background_around:
        expected = expected[2:-2, 2:-2, 2:-2]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def whole_depth(labels, sampling):
    found = np.full(labels.shape, -1.0)
    parts = measure.label(labels, connectivity=labels.ndim)
    for one in range(1, parts.max() + 1):
        inside = morphology.remove_small_holes(parts == one, max_size=15, connectivity=1)
        depth = ndimage.distance_transform_edt(inside, sampling)
        found = np.where(inside, np.maximum(found, depth / (depth.max() + 1e-6)), found)
    return found


def test_distance_levels():
    depth = np.array([-1, 0, 0.05, 0.1, 0.55, 0.95, 1.0], np.float32)
    assert distance.distance_level(depth).tolist() == [0, 1, 1, 2, 6, 10, 10]
    labels = torch.zeros((1, 1, 9, 9), dtype=torch.int32)
    labels[..., 2:7, 2:7] = 3
    channels = tuple(f"distance_level_{level}" for level in range(11))
    found = make_targets(labels, channels, TargetsConfig())
    assert (found.sum(1) == 1).all()
    assert torch.equal(found[:, 0] > 0, labels == 0)
    assert found[0, 10, 0, 4, 4] == 1  # 3 of 3 deep
    assert found[0, 4, 0, 2, 2] == 1  # 1 of 3 deep
