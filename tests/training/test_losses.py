"""Losses against what PyTorch Connectomics v1.0 gave for the same logits."""

import numpy as np
import pytest
import torch

from cristae.training import losses
from cristae.training.losses import LossConfig, combined_loss


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
