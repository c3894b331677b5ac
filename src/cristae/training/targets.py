"""What a network learns: instance labels turned into mask, contour, affinity, distance and weights.

A channel's name says its target:

====================  =========================================================================
``mask``              whether a voxel belongs to an instance
``contour``           whether it lies on an instance's border (`contour`)
``affinity_z``        whether it and the voxel before it along z are of one instance; so for y, x
``affinity_z4``       the same with the voxel 4 before it
``distance``          how deep inside an instance it lies, in [-1, 1] (`TargetsConfig.distance`)
``distance_level_0``  whether that depth within its instance is the lowest of 11 levels; so to 10
====================  =========================================================================

All functions take integer labels as a tensor of shape (..., z, y, x), 0 for background, and work
on any device and on whole batches. In-plane rules look at one section at a time. `mask`,
`contour`, `affinity`, `part_touching` and `class_balance_weight` give what PyTorch Connectomics
v1.0 gives for its options ``0``, ``4-t-b``, ``2``, label erosion and weight ``1``. Distances are
computed on the CPU (`cristae.training.distance`).
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from cristae.configuration import config_dataclass
from cristae.errors import ConfigError, raise_faults
from cristae.grid import Triple
from cristae.networks.channels import affinity_step
from cristae.training.distance import (
    LEVELS,
    distance_level,
    instance_distance,
    signed_distance,
)

AcrossSections = Literal["none", "touching", "all"]
Target = Literal["mask", "contour", "affinity", "distance", "distance_level"]

_DISTANCE_LEVELS = tuple(f"distance_level_{level}" for level in range(LEVELS))


@config_dataclass
class TargetsConfig:
    """Which targets labels are turned into.

    Attributes:
        contour_half_width: Voxels by which a border's two-voxel line is dilated on each side;
            1 gives a band of four voxels.
        contour_around: Whether borders to background count, or only those between two instances.
        contour_across_sections: Borders along z that count besides those in plane: ``none``,
            ``touching`` (one instance on top of another) or ``all`` (tops and bottoms, too).
        label_erosion: Half the side of the in-plane square within which voxels become background
            before anything else where it holds two instances or more (`part_touching`); 0: none.
        distance: ``signed``: distance to the border of the foreground, inside above 0; or
            ``instance``: depth inside each instance over its largest, -1 outside.
        distance_across_sections: Distances in three dimensions, not section by section.
        distance_z_scale: Pixels that a section counts for in three dimensions.
        distance_alpha_px: Scales of the signed distance inside and outside.
        distance_background_around: Whether a patch's border counts as background for the depth in
            an instance.
    """

    contour_half_width: int = 1
    contour_around: bool = True
    contour_across_sections: AcrossSections = "touching"
    label_erosion: int = 0
    distance: Literal["signed", "instance"] = "signed"
    distance_across_sections: bool = False
    distance_z_scale: float = 6.0
    distance_alpha_px: tuple[float, float] = (8.0, 50.0)
    distance_background_around: bool = False


def make_targets(labels: Tensor, channels: tuple[str, ...], config: TargetsConfig) -> Tensor:
    """The targets of a network's channels.

    Args:
        labels: Integer ids, shape (n, z, y, x).
        channels: Names, see the table on top of this module.
        config: How they are drawn.

    Returns:
        float32, 0 or 1, in [-1, 1] for ``distance``; shape (n, channels, z, y, x).

    Raises:
        ConfigError: A channel that no target is known for.
    """
    check_channels(channels)
    if config.label_erosion:
        labels = part_touching(labels, config.label_erosion)
    leveled = any(target_of(channel) == "distance_level" for channel in channels)
    levels = distance(labels, config, levels=True) if leveled else labels
    targets = []
    for channel in channels:
        kind = target_of(channel)
        if kind == "mask":
            one = mask(labels)
        elif kind == "contour":
            one = contour(
                labels,
                config.contour_half_width,
                around=config.contour_around,
                across_sections=config.contour_across_sections,
            )
        elif step := affinity_step(channel):
            one = affinity_along(labels, *step)
        elif kind == "distance":
            one = distance(labels, config)
        else:
            one = levels == int(channel.removeprefix("distance_level_"))
        targets.append(one)
    return torch.stack(targets, dim=1).float()


def target_of(channel: str) -> Target | None:
    """The kind of target a channel's name stands for; None where it stands for none."""
    if channel in ("mask", "contour", "distance"):
        return channel  # type: ignore[return-value]
    if affinity_step(channel):
        return "affinity"
    return "distance_level" if channel in _DISTANCE_LEVELS else None


def check_channels(channels: tuple[str, ...]) -> None:
    """Raise a `ConfigError` for channels that no target is known for."""
    faults = [
        f"{c!r} found, expected mask, contour, distance, distance_level_0 to "
        f"distance_level_{LEVELS - 1}, affinity_z, affinity_y, affinity_x, or with a range such as "
        "affinity_z4"
        for c in channels
        if target_of(c) is None
    ]
    raise_faults("channels", faults, ConfigError)


def foreground_channels(channels: tuple[str, ...]) -> list[int]:
    """Channels any of which says that a voxel is foreground: the mask, else all affinities.

    Empty where there are neither.
    """
    kinds = [target_of(channel) for channel in channels]
    found = "mask" if "mask" in kinds else "affinity"
    return [i for i, kind in enumerate(kinds) if kind == found]


def needs_cpu(channels: tuple[str, ...]) -> bool:
    """Whether a target of these channels is computed on the CPU, and better made ahead."""
    return any(target_of(channel) in ("distance", "distance_level") for channel in channels)


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
    along x differ (beyond the section the last pixel is repeated); edges are dilated to squares of
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


def affinity(labels: Tensor, reach: Triple = (1, 1, 1)) -> Tensor:
    """Whether a voxel and the one before it along z, y and x belong to one instance.

    Args:
        labels: Integer ids, shape (..., z, y, x).
        reach: How many voxels before, along z, y and x (option ``2-z-y-x-v1``).

    Returns:
        bool, shape (..., 3, z, y, x).
    """
    channels = [affinity_along(labels, axis, step) for axis, step in enumerate(reach)]
    return torch.stack(channels, dim=-4)


def affinity_along(labels: Tensor, axis: int, reach: int = 1) -> Tensor:
    """Whether a voxel and the one ``reach`` before it along an axis belong to one instance.

    Beyond the first plane that plane is repeated, so the first plane itself holds the mask.

    Args:
        labels: Integer ids, shape (..., z, y, x).
        axis: 0, 1 or 2 for z, y, x.
        reach: In voxels.

    Returns:
        bool, the shape of ``labels``.
    """
    index = torch.arange(labels.shape[axis - 3], device=labels.device) - reach
    return (labels > 0) & (labels == labels.index_select(axis - 3, index.clamp(min=0)))


def distance(labels: Tensor, config: TargetsConfig, *, levels: bool = False) -> Tensor:
    """Depth inside instances of a batch, as `TargetsConfig` defines it.

    Args:
        labels: Integer ids, shape (n, z, y, x).
        config: Which distance.
        levels: The depth in its instance as one of 11 levels, whatever `TargetsConfig.distance`.

    Returns:
        float32 in [-1, 1] (int64 from 0 to 10 for levels), the shape and device of ``labels``.
    """
    found = []
    for one in labels.cpu().numpy():
        if levels or config.distance == "instance":
            depth = instance_distance(
                one,
                across_sections=config.distance_across_sections,
                z_scale=config.distance_z_scale,
                background_around=config.distance_background_around,
            )
        else:
            depth = signed_distance(
                one,
                config.distance_alpha_px,
                across_sections=config.distance_across_sections,
                z_scale=config.distance_z_scale,
            )
        found.append(torch.from_numpy(distance_level(depth) if levels else depth))
    return torch.stack(found).to(labels.device)


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
    seam = contour(labels, 1, around=False, across_sections="touching")
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
    """Flags dilated to in-plane squares of side ``2 half_width + 1``."""
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
