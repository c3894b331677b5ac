"""Losses on logits, summed over channels.

``logits``, ``target`` and ``weight`` have the shape (n, c, z, y, x). Targets lie in [0, 1] and a
sigmoid makes logits probabilities; but distances lie in [-1, 1], and ``tanh(logit / 2)`` is the
distance a logit means. So its sigmoid, which is what a prediction holds, is (distance + 1) / 2.
"""

from collections.abc import Sequence
from dataclasses import field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from cristae.configuration import config_dataclass
from cristae.training.targets import Target, class_balance_weight, target_of

SMOOTH = 100.0
"""Added to numerator and denominator of Dice, so that empty patches have a loss of 0."""


@config_dataclass
class TargetLoss:
    """What is minimised for the channels of one target, as the mean over them.

    Attributes:
        bce: Weight of the binary cross-entropy.
        dice: Weight of the Dice loss.
        mse: Weight of the squared error.
        class_balance: Lift the rarer class of each patch in the cross-entropy, counted over all
            channels of the target; ``dilated`` lifts the pixels around foreground, too.
    """

    bce: float = 0.0
    dice: float = 0.0
    mse: float = 0.0
    class_balance: bool | Literal["dilated"] = False


@config_dataclass
class LossConfig:
    """What is minimised: for each channel, ``bce`` x cross-entropy + ``dice`` x Dice loss.

    A target named in ``targets`` has its own; distances, where not named, the squared error.

    Attributes:
        bce: Weight of the binary cross-entropy.
        dice: Weight of the Dice loss.
        channels: Weight of each channel; empty for 1 each.
        class_balance: Lift the rarer class of each patch in the cross-entropy.
        seam: Further weight in the cross-entropy of voxels near where two instances touch.
        targets: By the name of a target (``mask``, ``contour``, ``affinity``, ``distance``,
            ``distance_level``), what is minimised for its channels in place of the first two and
            of ``class_balance``.
    """

    bce: float = 1.0
    dice: float = 1.0
    channels: tuple[float, ...] = ()
    class_balance: bool = False
    seam: float = 0.0
    targets: dict[Target, TargetLoss] = field(default_factory=dict)


_DISTANCE = TargetLoss(mse=1.0)


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
    channels: Sequence[str] | None = None,
    valid: Tensor | None = None,
    weight: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch, and its parts.

    Args:
        logits: Output of the network.
        target: What it should be.
        config: Weights of the parts.
        channels: Names of the channels; None: all are of one kind, as masks.
        valid: 0 where nothing is known, else 1, shape (n, 1, z, y, x); None where all is known.
        weight: Further weights of the cross-entropy, the shape of ``target``.

    Returns:
        The sum over channels; and ``bce`` and ``dice`` (and ``mse`` where there is one) before
        their weights, detached.
    """
    names = ("mask",) * target.shape[1] if channels is None else tuple(channels)
    factors = config.channels or (1.0,) * target.shape[1]
    further = weight
    if config.class_balance:
        balance = class_balance_weight(target)
        weight = balance if weight is None else balance * weight
    if valid is not None:
        weight = valid.expand_as(target) if weight is None else weight * valid
    bce, dice = logits.new_zeros(()), logits.new_zeros(())
    for channel, factor in enumerate(factors):
        if loss_of(names[channel], config) is not None:
            continue
        pick = slice(channel, channel + 1)
        one = None if weight is None else weight[:, pick]
        bce = bce + factor * weighted_bce(logits[:, pick], target[:, pick], one)
        probability = torch.sigmoid(logits[:, pick])
        dice = dice + factor * dice_loss(probability, target[:, pick], valid)
    loss = config.bce * bce + config.dice * dice
    parts = {"bce": bce.detach(), "dice": dice.detach()}
    for kind in dict.fromkeys(target_of(name) for name in names):
        picks = [i for i, name in enumerate(names) if target_of(name) == kind]
        own = loss_of(names[picks[0]], config)
        if own is None:
            continue
        terms = _target_terms(
            logits[:, picks],
            target[:, picks],
            own,
            [factors[i] for i in picks],
            valid,
            None if further is None else further[:, picks],
        )
        for name, term in terms.items():
            loss = loss + getattr(own, name) * term
            parts[name] = parts.get(name, 0) + term.detach()
    return loss, parts


def loss_of(channel: str, config: LossConfig) -> TargetLoss | None:
    """What is minimised for a channel where its target has its own; else None."""
    kind = target_of(channel)
    if kind is None:
        return None
    return config.targets.get(kind, _DISTANCE if kind == "distance" else None)


def _target_terms(
    logits: Tensor,
    target: Tensor,
    own: TargetLoss,
    factors: Sequence[float],
    valid: Tensor | None,
    further: Tensor | None,
) -> dict[str, Tensor]:
    """The parts asked for of one target's channels, each the mean over them."""
    channels = target.shape[1]
    weight = logits.new_tensor(factors).view(1, -1, 1, 1, 1).expand_as(target)
    if valid is not None:
        weight = weight * valid
    terms = {}
    if own.bce:
        lifted = weight if further is None else weight * further
        if own.class_balance:
            joined = target.flatten(1, 2)[:, None]  # one share over all channels
            balance = class_balance_weight(joined, dilate=own.class_balance == "dilated")
            lifted = lifted * balance.view_as(target)
        terms["bce"] = weighted_bce(logits, target, lifted)
    if own.dice:
        terms["dice"] = logits.new_zeros(())
        for channel, factor in enumerate(factors):
            pick = slice(channel, channel + 1)
            one = dice_loss(torch.sigmoid(logits[:, pick]), target[:, pick], valid)
            terms["dice"] = terms["dice"] + factor / channels * one
    if own.mse:
        terms["mse"] = weighted_mse(torch.tanh(logits / 2), target, weight) / channels
    return terms
