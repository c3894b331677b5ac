"""Grey values of finished patches, changed on whole batches on the training device.

`draw_grey` chooses, `apply_grey` changes. Every random number is drawn from the patch's own stream,
so what happens to a patch does not depend on the batch it is in.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cristae.configuration import config_dataclass
from cristae.grid import Triple

Array = NDArray[Any]
Random = np.random.Generator

CLIP = 1.25
"""Normalised grey values end at minus and plus this."""

KERNEL_RADIUS = 4


@config_dataclass
class GreyConfig:
    """How grey values are changed; they run from 0 to 1 here, shares are probabilities of a patch.

    Attributes:
        tone: Share with another contrast, brightness and gamma.
        contrast: Contrast is multiplied by 1 minus or plus up to this.
        brightness: Largest change of brightness.
        gamma: Exponent 2 to the power of minus or plus up to this.
        blur: Share blurred.
        blur_px: Largest standard deviation of the blur.
        sharpen: Share sharpened.
        noise: Share with independent noise.
        noise_level: Largest standard deviation of noise.
        clouds: Share with correlated noise, of a grain of 2 to 64 voxels.
        sections: Share whose sections differ in contrast and brightness.
        missing: Share with sections that are blank, or the one before once more.
        holes: Share with blank rectangles in a section.
        noisy_boxes: Share with a box of much noise.
        contrast_about: Grey value that another contrast leaves as it is.
    """

    tone: float = 0.8
    contrast: float = 0.3
    brightness: float = 0.15
    gamma: float = 0.8
    blur: float = 0.25
    blur_px: float = 1.3
    sharpen: float = 0.15
    noise: float = 0.35
    noise_level: float = 0.1
    clouds: float = 0.3
    sections: float = 0.35
    missing: float = 0.1
    holes: float = 0.15
    noisy_boxes: float = 0.15
    contrast_about: float = 0.5


@dataclass(frozen=True)
class Grey:
    """Grey changes of one patch (z, y, x), drawn by `draw_grey`.

    Attributes:
        tone: Contrast, brightness and gamma.
        blur_px: Standard deviation of the blur.
        blend: Share of the blurred image in the result; below 0 it sharpens.
        sections: Contrast and brightness of each section, shape (2, z).
        order: Section whose image each section shows, shape (z,).
        blank: Grey value that replaces a section, NaN where none does, shape (z,).
        noise: What is added, shape (z, y, x), or None.
        holes: (section, y0, y1, x0, x1, grey value) of blank rectangles.
    """

    tone: tuple[float, float, float]
    blur_px: float
    blend: float
    sections: NDArray[np.float32]
    order: NDArray[np.int64]
    blank: NDArray[np.float32]
    noise: Tensor | None
    holes: tuple[tuple[int, int, int, int, int, float], ...]


def draw_grey(patch: Triple, config: GreyConfig, random: Random) -> Grey:
    """Choose the grey changes of a patch of this shape (z, y, x)."""
    tone = (1.0, 0.0, 1.0)
    if random.random() < config.tone:
        tone = (
            1 + random.uniform(-config.contrast, config.contrast),
            random.uniform(-config.brightness, config.brightness),
            2 ** random.uniform(-config.gamma, config.gamma),
        )
        shifted = (tone[0] - 1) * (0.5 - config.contrast_about)  # contrast turns about 0.5
        tone = (tone[0], tone[1] + shifted, tone[2])
    blur_px, blend = 0.0, 0.0
    if random.random() < config.blur:
        blur_px, blend = random.uniform(0.3, max(config.blur_px, 0.3)), 1.0
    elif random.random() < config.sharpen:
        blur_px, blend = 1.0, -random.uniform(0.2, 1.0)
    sections = np.stack([np.ones(patch[0]), np.zeros(patch[0])]).astype(np.float32)
    if random.random() < config.sections:
        sections[0] += random.uniform(-0.2, 0.2, patch[0])
        sections[1] += random.uniform(-0.1, 0.1, patch[0])
    order, blank = _draw_missing(patch, config, random)
    return Grey(
        tone,
        blur_px,
        blend,
        sections,
        order,
        blank,
        _draw_noise(patch, config, random),
        _draw_holes(patch, config, random),
    )


def apply_grey(images: Tensor, greys: Sequence[Grey]) -> Tensor:
    """Change the grey values of a batch.

    Args:
        images: Normalised grey values, shape (n, z, y, x).
        greys: What happens to each patch.

    Returns:
        New tensor of the same shape, clipped at -1.25 and 1.25.
    """
    device = images.device
    contrast, brightness, gamma = _column([g.tone for g in greys], device)  # (n, 1, 1, 1) each
    order = np.stack([g.order for g in greys])
    if (order != np.arange(order.shape[1])).any():
        images = torch.stack([image[o] for image, o in zip(images, order.tolist(), strict=True)])
    unit = _soften(images, greys).add(1).mul_(0.5)  # 0..1
    sections = torch.from_numpy(np.stack([g.sections for g in greys], axis=1)).to(device)
    unit.sub_(0.5).mul_(contrast * sections[0, :, :, None, None])
    unit.add_(0.5 + brightness + sections[1, :, :, None, None])
    noisy = [(i, g.noise) for i, g in enumerate(greys) if g.noise is not None]
    for i, noise in noisy:
        unit[i] += noise.to(device)
    if any(g.tone[2] != 1 for g in greys):
        unit = torch.where(gamma == 1, unit, unit.clamp(0, 1).pow_(gamma))
    _blank(unit, greys)
    return unit.mul_(2).sub_(1).clamp_(-CLIP, CLIP)


def _soften(images: Tensor, greys: Sequence[Grey]) -> Tensor:
    """Each image blended with its own in-plane Gaussian blur."""
    if not any(g.blend for g in greys):
        return images.clone()
    device = images.device
    position = torch.arange(-KERNEL_RADIUS, KERNEL_RADIUS + 1, device=device)
    sigma = torch.tensor([max(g.blur_px, 1e-3) for g in greys], device=device)
    kernel = torch.exp(-(position**2) / (2 * sigma[:, None] ** 2))
    kernel = kernel / kernel.sum(dim=1, keepdim=True)  # (n, taps)
    blurred = images
    for axis in (2, 3):
        pad = (0, 0, KERNEL_RADIUS, KERNEL_RADIUS) if axis == 2 else (KERNEL_RADIUS,) * 2 + (0, 0)
        padded = functional.pad(blurred, pad, mode="reflect")
        length = images.shape[axis]
        blurred = torch.zeros_like(images)
        for tap in range(kernel.shape[1]):
            weight = kernel[:, tap].view(-1, 1, 1, 1)
            blurred.addcmul_(padded.narrow(axis, tap, length), weight)
    blend = torch.tensor([g.blend for g in greys], device=device).view(-1, 1, 1, 1)
    return images + blend * (blurred - images)


def _blank(unit: Tensor, greys: Sequence[Grey]) -> None:
    for i, grey in enumerate(greys):
        for blank in np.flatnonzero(np.isfinite(grey.blank)).tolist():
            unit[i, blank] = float(grey.blank[blank])
        for section, y0, y1, x0, x1, value in grey.holes:
            unit[i, section, y0:y1, x0:x1] = value


def _column(rows: Sequence[tuple[float, ...]], device: torch.device) -> list[Tensor]:
    values = torch.tensor(rows, dtype=torch.float32, device=device)
    return [values[:, k].view(-1, 1, 1, 1) for k in range(values.shape[1])]


def _draw_missing(
    patch: Triple, config: GreyConfig, random: Random
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """One or two inner sections: blank, or showing their neighbour."""
    order = np.arange(patch[0], dtype=np.int64)
    blank = np.full(patch[0], np.nan, np.float32)
    if patch[0] < 4 or random.random() >= config.missing:
        return order, blank
    for section in random.integers(1, patch[0] - 1, size=int(random.integers(1, 3))).tolist():
        if random.random() < 0.5:
            blank[section] = random.choice([0.0, random.uniform(0.2, 0.8), 1.0])
        else:
            order[section] = order[section - 1]
    return order, blank


def _draw_noise(patch: Triple, config: GreyConfig, random: Random) -> Tensor | None:
    noise: Tensor | None = None
    if random.random() < config.noise:
        level = np.float32(random.uniform(0.01, max(config.noise_level, 0.01)))
        noise = torch.from_numpy(random.standard_normal(patch, dtype=np.float32) * level)
    if random.random() < config.clouds:
        grain = 2 ** random.uniform(1, 6)
        rows, columns = (max(2, math.ceil(n / grain) + 1) for n in patch[1:])
        level = np.float32(random.uniform(0.01, max(config.noise_level, 0.01)))
        coarse = random.standard_normal((patch[0], rows, columns), dtype=np.float32) * level
        if random.random() < 0.5:  # uneven light rather than grain: alike in all sections
            coarse[:] = coarse[:1]
        clouds = functional.interpolate(
            torch.from_numpy(coarse)[None], size=patch[1:], mode="bilinear", align_corners=True
        )[0]
        noise = clouds if noise is None else noise + clouds
    if random.random() < config.noisy_boxes:
        noise = torch.zeros(patch) if noise is None else noise
        start = [int(random.integers(n)) for n in patch]
        z, y, x = (
            slice(s, s + max(1, int(n * random.uniform(0.1, 0.4))))
            for s, n in zip(start, patch, strict=True)
        )
        part = noise[z, y, x]
        strong = random.standard_normal(tuple(part.shape), dtype=np.float32)
        part += torch.from_numpy(strong * np.float32(2 * config.noise_level))
    return noise


def _draw_holes(
    patch: Triple, config: GreyConfig, random: Random
) -> tuple[tuple[int, int, int, int, int, float], ...]:
    if random.random() >= config.holes:
        return ()
    holes = []
    for _ in range(int(random.integers(1, 5))):
        section, y0, x0 = (int(random.integers(n)) for n in patch)
        height, width = (int(v) for v in random.integers(4, 33, size=2))
        value = float(random.uniform(0, 1))
        holes.append((section, y0, y0 + height, x0, x0 + width, value))
    return tuple(holes)
