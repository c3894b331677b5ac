"""Targets against what PyTorch Connectomics v1.0 wrote for the same labels."""

import numpy as np
import pytest
import torch

from cristae.errors import ConfigError
from cristae.training import targets
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
    with pytest.raises(ConfigError, match=r"(?s)'skeleton'.*'flow'"):
        make_targets(torch.zeros((1, 1, 4, 4)), ("mask", "skeleton", "flow"), TargetsConfig())
