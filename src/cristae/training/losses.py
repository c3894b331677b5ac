"""Losses on logits, summed over channels.

``logits``, ``target`` and ``weight`` have the shape (n, c, z, y, x); targets lie in [0, 1].
"""

import torch
from torch import Tensor
from torch.nn import functional

from cristae.configuration import config_dataclass

SMOOTH = 100.0
"""Added to numerator and denominator of Dice, so that empty patches have a loss of 0."""


@config_dataclass
class LossConfig:
    """What is minimised: for each channel, ``bce`` x cross-entropy + ``dice`` x Dice loss.

    Attributes:
        bce: Weight of the binary cross-entropy.
        dice: Weight of the Dice loss.
        channels: Weight of each channel; empty for 1 each.
        class_balance: Lift the rarer class of each patch in the cross-entropy.
        seam: Further weight in the cross-entropy of voxels near where two instances touch.
    """

    bce: float = 1.0
    dice: float = 1.0
    channels: tuple[float, ...] = ()
    class_balance: bool = False
    seam: float = 0.0


def weighted_bce(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy: the mean over all voxels of weight x loss; weights as they are."""
    return functional.binary_cross_entropy_with_logits(logits, target, weight)


def dice_loss(probability: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over samples of 1 - (2 I + 100) / (P + T + 100), where I = sum(p t).

    Args:
        probability: In [0, 1].
        target: In [0, 1].
        weight: Voxels of weight 0 are left out of all three sums.

    Returns:
        A scalar in [0, 1].
    """
    if weight is not None:
        probability, target = probability * weight, target * weight
    p, t = probability.flatten(1), target.flatten(1)
    overlap = (p * t).sum(1)
    return (1 - (2 * overlap + SMOOTH) / (p.sum(1) + t.sum(1) + SMOOTH)).mean()


def weighted_mse(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Sum of weight x squared error over the number of voxels, channels not counted."""
    voxels = prediction.numel() / prediction.shape[1]
    return (weight * (prediction - target) ** 2).sum() / voxels


def combined_loss(
    logits: Tensor,
    target: Tensor,
    config: LossConfig,
    *,
    valid: Tensor | None = None,
    weight: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch, and its parts.

    Args:
        logits: Output of the network.
        target: What it should be.
        config: Weights of the parts.
        valid: 0 where nothing is known, else 1, shape (n, 1, z, y, x); None where all is known.
        weight: Further weights of the cross-entropy, the shape of ``target``.

    Returns:
        The sum over channels, and ``bce`` and ``dice`` before their weights, detached.
    """
    if valid is not None:
        weight = valid.expand_as(target) if weight is None else weight * valid
    factors = config.channels or (1.0,) * target.shape[1]
    bce, dice = logits.new_zeros(()), logits.new_zeros(())
    for channel, factor in enumerate(factors):
        pick = slice(channel, channel + 1)
        one = None if weight is None else weight[:, pick]
        bce = bce + factor * weighted_bce(logits[:, pick], target[:, pick], one)
        probability = torch.sigmoid(logits[:, pick])
        dice = dice + factor * dice_loss(probability, target[:, pick], valid)
    return config.bce * bce + config.dice * dice, {"bce": bce.detach(), "dice": dice.detach()}
