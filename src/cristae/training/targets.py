"""What a network learns: instance labels turned into mask, contour, affinity and weights.

All functions take integer labels as a tensor of shape (..., z, y, x), 0 for background, and work
on any device and on whole batches. In-plane rules look at one section at a time. `mask`,
`contour`, `affinity`, `part_touching` and `class_balance_weight` give what PyTorch Connectomics
v1.0 gives for its options ``0``, ``4-t-b``, ``2``, label erosion and weight ``1``.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from cristae.configuration import config_dataclass
from cristae.errors import ConfigError, raise_faults

AcrossSections = Literal["none", "touching", "all"]


@config_dataclass
class TargetsConfig:
    """Which targets labels are turned into.

    Attributes:
        contour_half_width: Voxels by which a border's two-voxel line is widened on each side;
            1 gives a band of four voxels.
        contour_around: Whether borders to background count, or only those between two instances.
        contour_across_sections: Borders along z that count besides those in plane: ``none``,
            ``touching`` (one instance on top of another) or ``all`` (tops and bottoms, too).
    """

    contour_half_width: int = 1
    contour_around: bool = True
    contour_across_sections: AcrossSections = "touching"


def make_targets(labels: Tensor, channels: tuple[str, ...], config: TargetsConfig) -> Tensor:
    """The targets of a network's channels.

    Args:
        labels: Integer ids, shape (n, z, y, x).
        channels: Names out of ``mask`` and ``contour``.
        config: How the contour is drawn.

    Returns:
        float32 0 or 1, shape (n, channels, z, y, x).

    Raises:
        ConfigError: A channel that no target is known for.
    """
    check_channels(channels)
    parts = {
        "mask": lambda: mask(labels),
        "contour": lambda: contour(
            labels,
            config.contour_half_width,
            around=config.contour_around,
            across_sections=config.contour_across_sections,
        ),
    }
    return torch.stack([parts[channel]() for channel in channels], dim=1).float()


def check_channels(channels: tuple[str, ...]) -> None:
    """Raise a `ConfigError` for channels that no target is known for."""
    known = ("mask", "contour")
    faults = [f"{c!r} found, expected one of {known}" for c in channels if c not in known]
    raise_faults("channels", faults, ConfigError)


def mask(labels: Tensor) -> Tensor:
    """Whether a voxel belongs to any instance; bool, the shape of ``labels``."""
    return labels > 0


def contour(
    labels: Tensor,
    half_width: int = 1,
    *,
    around: bool = True,
    across_sections: AcrossSections = "none",
) -> Tensor:
    """The border of every instance, in plane.

    With ``around`` (option ``4-t-1``): a pixel is an edge where its two neighbours along y or
    along x differ (beyond the section the last pixel is repeated); edges are widened to squares of
    side ``2 half_width + 1``. Without (``4-t-0``): a pixel whose square holds two instances or
    more (beyond the section pixels are reflected).

    Args:
        labels: Integer ids, shape (..., z, y, x).
        half_width: Half the side of the square, in voxels.
        around: Whether borders to background count.
        across_sections: Which borders along z are added, see `TargetsConfig`; they are one voxel
            wide on each side and as wide in plane as the contact.

    Returns:
        bool, the shape of ``labels``.
    """
    if around:
        edge = _differs(labels, -2) | _differs(labels, -1)
        border = _dilate(edge, half_width)
    else:
        border = _holds_two(labels, half_width)
    if across_sections == "none" or labels.shape[-3] < 2:
        return border
    above, below = labels[..., :-1, :, :], labels[..., 1:, :, :]
    change = above != below
    if across_sections == "touching":
        change &= (above > 0) & (below > 0)
    border = border.clone()
    border[..., :-1, :, :] |= change
    border[..., 1:, :, :] |= change
    return border


def part_touching(labels: Tensor, half_width: int = 1) -> Tensor:
    """Labels with background wherever the square around a pixel holds two instances or more."""
    return labels.masked_fill(_holds_two(labels, half_width), 0)


def affinity(labels: Tensor) -> Tensor:
    """Whether a voxel and the one before it along z, y and x belong to one instance.

    The first plane of each axis, which has none before it, holds the mask.

    Args:
        labels: Integer ids, shape (..., z, y, x).

    Returns:
        bool, shape (..., 3, z, y, x).
    """
    foreground = labels > 0
    channels = []
    for axis in (-3, -2, -1):
        same = foreground.clone()
        length = labels.shape[axis]
        here, before = labels.narrow(axis, 1, length - 1), labels.narrow(axis, 0, length - 1)
        same.narrow(axis, 1, length - 1).logical_and_(here == before)
        channels.append(same)
    return torch.stack(channels, dim=-4)


def seam_weight(labels: Tensor, extra: float, *, reach: int = 3) -> Tensor:
    """Loss weights that lift the voxels around the seam of two touching instances.

    Seams are few among all borders, and one that is missed costs two instances (after the weights
    of the U-Net, Ronneberger et al. 2015, which lift narrow gaps).

    Args:
        labels: Integer ids, shape (n, z, y, x).
        extra: What is added to a weight of 1.
        reach: Voxels in plane, on each side.

    Returns:
        float32, shape (n, 1, z, y, x).
    """
    seam = _holds_two(labels, 1)
    above, below = labels[..., :-1, :, :], labels[..., 1:, :, :]
    change = (above != below) & (above > 0) & (below > 0)
    seam[..., :-1, :, :] |= change
    seam[..., 1:, :, :] |= change
    return 1 + extra * _dilate(seam, reach - 1)[:, None].float()


def class_balance_weight(target: Tensor, *, dilate: bool = False) -> Tensor:
    """Loss weights that lift the rarer of foreground and background.

    With f the share of foreground, clipped to [.05, .95], voxels of the rarer class weigh
    max(f, 1 - f) / min(f, 1 - f), at most 19, the others 1. A target of one class weighs 1.

    Args:
        target: 0 or 1, shape (n, c, z, y, x); the share is that of each sample and channel.
        dilate: Count the 8 neighbours in plane of foreground as foreground where it is lifted; the
            share is still that of the target itself.

    Returns:
        float32, the shape of ``target``.
    """
    foreground = target > 0
    voxels = (-3, -2, -1)
    share = foreground.double().mean(dim=voxels, keepdim=True)
    single = (share == 0) | (share == 1)
    share = share.clamp(0.05, 0.95)
    factor = torch.maximum(share, 1 - share) / torch.minimum(share, 1 - share)
    lifted = _dilate(foreground, 1) if dilate else foreground
    rarer = torch.where(share < 0.5, lifted, ~lifted)
    return torch.where(rarer & ~single, factor, torch.ones_like(factor)).float()


def _differs(labels: Tensor, axis: int) -> Tensor:
    """Whether the two neighbours along an axis differ; beyond the end the last is repeated."""
    length = labels.shape[axis]
    index = torch.arange(length, device=labels.device)
    before = labels.index_select(axis, (index - 1).clamp(min=0))
    after = labels.index_select(axis, (index + 1).clamp(max=length - 1))
    return before != after


def _dilate(flags: Tensor, half_width: int) -> Tensor:
    """Flags widened to in-plane squares of side ``2 half_width + 1``."""
    if half_width == 0:
        return flags
    sections = flags.reshape(-1, 1, *flags.shape[-2:]).float()
    side = 2 * half_width + 1
    wide = functional.max_pool2d(sections, side, stride=1, padding=half_width)
    return wide.reshape(flags.shape) > 0


def _holds_two(labels: Tensor, half_width: int) -> Tensor:
    """Whether the in-plane square around a pixel holds two instances or more."""
    highest = _slide_maximum(labels, half_width)
    top = labels.amax() + 1 if labels.numel() else 1
    # with ids turned round, the highest of the square is the lowest id in it
    lowest = top - _slide_maximum(torch.where(labels > 0, top - labels, 0), half_width)
    return (highest > 0) & (highest != lowest)


def _slide_maximum(labels: Tensor, half_width: int) -> Tensor:
    for axis in (-2, -1):
        length = labels.shape[axis]
        index = torch.arange(-half_width, length + half_width, device=labels.device).abs()
        index = torch.where(index < length, index, 2 * (length - 1) - index).clamp(min=0)
        padded = labels.index_select(axis, index)
        best = padded.narrow(axis, 0, length)
        for shift in range(1, 2 * half_width + 1):
            best = torch.maximum(best, padded.narrow(axis, shift, length))
        labels = best
    return labels
