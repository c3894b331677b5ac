"""Losses against what PyTorch Connectomics v1.0 gave for the same logits."""

import numpy as np
import pytest
import torch

from cristae.training import losses
from cristae.training.losses import LossConfig, TargetLoss, combined_loss


@pytest.fixture
def golden(shared):
    with np.load(shared / "golden" / "losses.npz") as data:
        return {key: torch.from_numpy(np.asarray(data[key])) for key in data}


def test_losses_equal_reference(golden):
    logits, target, weight = golden["logits"], golden["target"], golden["weight"]
    bce = losses.weighted_bce(logits, target, weight)
    dice = losses.dice_loss(torch.sigmoid(logits), target)
    mse = losses.weighted_mse(torch.tanh(logits), target, weight)
    assert float(bce) == pytest.approx(float(golden["bce_with_logits"]), rel=1e-5)
    assert float(dice) == pytest.approx(float(golden["dice_of_sigmoid"]), rel=1e-5)
    assert float(mse) == pytest.approx(float(golden["weighted_mse_of_tanh"]), rel=1e-5)


def test_channels_are_summed_with_their_weights(golden):
    logits, target = golden["logits"], golden["target"]
    one, _ = combined_loss(logits, target, LossConfig())
    config = LossConfig(channels=(1.0, 3.0))
    both, parts = combined_loss(logits.repeat(1, 2, 1, 1, 1), target.repeat(1, 2, 1, 1, 1), config)
    assert float(both) == pytest.approx(4 * float(one), rel=1e-6)
    assert float(parts["bce"] + parts["dice"]) == pytest.approx(float(both), rel=1e-6)


def test_unknown_voxels_do_not_count(golden):
    """Where nothing is known the logits may be anything."""
    logits, target = golden["logits"], golden["target"]
    valid = torch.ones_like(target)
    valid[..., :4] = 0
    other = torch.where(valid > 0, logits, -5 * logits)
    first, _ = combined_loss(logits, target, LossConfig(), valid=valid)
    second, _ = combined_loss(other, target, LossConfig(), valid=valid)
    assert float(first) == float(second)
    whole, _ = combined_loss(logits, target, LossConfig())
    assert float(first) != float(whole)


def test_default_is_the_plain_sum_to_the_bit(golden):
    """The order of the sums is part of a run: it must be the same wherever a run goes on."""
    logits, target = (golden[k].repeat(1, 2, 1, 1, 1) for k in ("logits", "target"))
    config = LossConfig(bce=0.7, dice=0.3, channels=(1.0, 2.0))
    found, _ = combined_loss(logits, target, config, channels=("mask", "contour"))
    bce, dice = logits.new_zeros(()), logits.new_zeros(())
    for c, factor in enumerate((1.0, 2.0)):
        bce = bce + factor * losses.weighted_bce(logits[:, c : c + 1], target[:, c : c + 1])
        probability = torch.sigmoid(logits[:, c : c + 1])
        dice = dice + factor * losses.dice_loss(probability, target[:, c : c + 1])
    assert float(found) == float(0.7 * bce + 0.3 * dice)


def test_a_target_has_its_own_loss(golden):
    """Distances: the squared error of tanh(logit / 2). Three affinities: the mean over them."""
    logits, target = golden["logits"], golden["target"]
    three, true = logits.repeat(1, 3, 1, 1, 1), target.repeat(1, 3, 1, 1, 1)
    own = LossConfig(targets={"distance": TargetLoss(mse=5.0), "affinity": TargetLoss(bce=1.0)})
    distance, parts = combined_loss(2 * logits, target, own, channels=("distance",))
    plain = losses.weighted_mse(torch.tanh(logits), target, torch.ones_like(target))
    assert float(distance) == pytest.approx(5 * float(plain), rel=1e-6)
    assert float(parts["mse"]) == pytest.approx(float(plain), rel=1e-6)
    names = ("affinity_z", "affinity_y", "affinity_x4")
    affinity, _ = combined_loss(three, true, own, channels=names)
    assert float(affinity) == pytest.approx(float(losses.weighted_bce(logits, target)), rel=1e-6)
    mixed, _ = combined_loss(
        torch.cat([logits, three, 2 * logits], 1),
        torch.cat([target, true, target], 1),
        own,
        channels=("mask", *names, "distance"),
    )
    alone, _ = combined_loss(logits, target, own, channels=("mask",))
    assert float(mixed) == pytest.approx(float(alone + affinity + distance), rel=1e-6)


@pytest.mark.parametrize("balance", [True, "dilated"])
def test_class_balance_of_a_target(golden, balance):
    """One share of foreground for all channels of a target, as the reference counts it."""
    logits = golden["logits"].repeat(1, 2, 1, 1, 1)
    target = torch.cat([(golden["target"] > 0.8).float(), (golden["target"] > 0.95).float()], 1)
    own = LossConfig(targets={"affinity": TargetLoss(bce=1.0, class_balance=balance)})
    found, _ = combined_loss(logits, target, own, channels=("affinity_z", "affinity_y"))
    share = target.mean((1, 2, 3, 4), keepdim=True).clamp(0.05, 0.95)
    lifted = target > 0
    if balance == "dilated":
        flat = torch.nn.functional.max_pool2d(target.flatten(0, 2)[:, None], 3, 1, 1)
        lifted = flat.view_as(target) > 0
    weight = torch.where(lifted, (1 - share) / share, torch.ones_like(share))
    assert float(share.max()) < 0.5
    expected = losses.weighted_bce(logits, target, weight)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_unknown_voxels_do_not_count_in_any_target(golden):
    logits = golden["logits"].repeat(1, 2, 1, 1, 1)
    target = golden["target"].repeat(1, 2, 1, 1, 1)
    valid = torch.ones_like(golden["target"])
    valid[..., :4] = 0
    other = torch.where(valid > 0, logits, -5 * logits)
    own = LossConfig(targets={"affinity": TargetLoss(bce=1.0, dice=1.0)})
    names = ("affinity_z", "distance")
    first, second = (
        float(combined_loss(one, target, own, channels=names, valid=valid)[0])
        for one in (logits, other)
    )
    assert first == second
