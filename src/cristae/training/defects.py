"""Defects of sections and of imaging, drawn for each patch and put on batches of finished patches.

Those of PyTorch Connectomics v1 (lost parts, motion blur, cut-blur, cut-noise) and three that real
stacks have besides: sections of uneven thickness, jumps of contrast, and bands of charging. Labels
stay as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cristae.configuration import config_dataclass
from cristae.grid import Box, Triple

Array = NDArray[Any]
Random = np.random.Generator


@config_dataclass
class DefectsConfig:
    """Which defects patches get; shares are probabilities of a patch, grey values run from 0 to 1.

    Attributes:
        lost_parts: Share with bands across sections that show the section's mean.
        lost_parts_sections: Probability that a section has one; never two in a row.
        lost_parts_px: Half the width of a band.
        motion_blur: Share with sections that are blurred along y or x.
        motion_blur_px: Length of that blur.
        motion_blur_sections: Number of such sections.
        cut_blur: Share with a box of 2 to 8 times coarser pixels.
        cut_noise: Share with a box of noise.
        cut_noise_level: Largest change of a grey value there.
        cut_extent: Extent of both boxes, as a share of the patch's.
        thickness: Share whose sections are not evenly spaced.
        thickness_jitter: Largest error of a section's place, in sections, below 1/2.
        contrast_jump: Share with another contrast and brightness from one section on.
        contrast_jump_level: Largest change of contrast; brightness changes by up to half of it.
        charging: Share with sections that have a bright or dark band along x.
        charging_level: Largest change of a grey value there.
    """

    lost_parts: float = 0.0
    lost_parts_sections: float = 0.9
    lost_parts_px: int = 64
    motion_blur: float = 0.0
    motion_blur_px: int = 11
    motion_blur_sections: int = 2
    cut_blur: float = 0.0
    cut_noise: float = 0.0
    cut_noise_level: float = 0.3
    cut_extent: float = 0.4
    thickness: float = 0.0
    thickness_jitter: float = 0.4
    contrast_jump: float = 0.0
    contrast_jump_level: float = 0.3
    charging: float = 0.0
    charging_level: float = 0.3


def defects_faults(config: DefectsConfig) -> list[str]:
    """Values out of range."""
    faults = []
    shares = "lost_parts lost_parts_sections motion_blur cut_blur cut_noise cut_extent"
    for name in f"{shares} thickness contrast_jump charging".split():
        value = getattr(config, name)
        if not 0 <= value <= 1:
            faults.append(f"defects.{name} {value}: expected a number in [0, 1]")
    for name in ["lost_parts_px", "motion_blur_px", "motion_blur_sections"]:
        if getattr(config, name) < 1:
            faults.append(f"defects.{name} {getattr(config, name)}: expected at least 1")
    if not 0 <= config.thickness_jitter < 0.5:
        faults.append(
            f"defects.thickness_jitter {config.thickness_jitter}: expected a number in [0, 0.5): "
            "beyond it labels would be those of another section"
        )
    return faults


@dataclass(frozen=True)
class Defects:
    """Defects of one patch (z, y, x), drawn by `draw_defects`; None or empty: not this one.

    Attributes:
        places: Error of each section's place, in sections, shape (z,).
        noise: A box, and what is added there to normalised grey values.
        coarse: A box, and how many pixels become one.
        motion: (section, axis, length) of blurs; axis 0 is y, 1 is x.
        lost: (section, band), the band bool of shape (y, x).
        jump: (section, contrast, brightness) from that section on.
        charging: (section, what is added to each row of normalised grey values).
    """

    places: NDArray[np.float32] | None = None
    noise: tuple[Box, Tensor] | None = None
    coarse: tuple[Box, int] | None = None
    motion: tuple[tuple[int, int, int], ...] = ()
    lost: tuple[tuple[int, NDArray[np.bool_]], ...] = ()
    jump: tuple[int, float, float] | None = None
    charging: tuple[tuple[int, NDArray[np.float32]], ...] = ()

    @property
    def present(self) -> bool:
        """Whether there is any."""
        single = (self.places, self.noise, self.coarse, self.jump)
        several = self.motion or self.lost or self.charging
        return bool(several) or any(one is not None for one in single)


def draw_defects(patch: Triple, config: DefectsConfig, random: Random) -> Defects:
    """Choose the defects of a patch of this shape (z, y, x)."""
    z = patch[0]
    places, noise, coarse, jump = None, None, None, None
    motion: tuple[tuple[int, int, int], ...] = ()
    if random.random() < config.thickness and z > 1:
        jitter = config.thickness_jitter
        places = random.uniform(-jitter, jitter, z).astype(np.float32)
    if random.random() < config.cut_noise:
        box = _draw_box(patch, config.cut_extent, random)
        level = 2 * config.cut_noise_level  # normalised grey values run from -1 to 1
        added = random.uniform(-level, level, box.shape).astype(np.float32)
        noise = (box, torch.from_numpy(added))
    if random.random() < config.cut_blur:
        coarse = (_draw_box(patch, config.cut_extent, random), int(random.integers(2, 9)))
    if random.random() < config.motion_blur:
        axis = int(random.integers(2))
        sections = random.permutation(z)[: config.motion_blur_sections].tolist()
        motion = tuple((section, axis, config.motion_blur_px) for section in sections)
    lost = _draw_lost(patch, config, random) if random.random() < config.lost_parts else ()
    if random.random() < config.contrast_jump and z > 1:
        level = config.contrast_jump_level
        contrast = 1 + random.uniform(-level, level)
        jump = (int(random.integers(1, z)), contrast, random.uniform(-level, level) / 2)
    charging = _draw_charging(patch, config, random) if random.random() < config.charging else ()
    return Defects(places, noise, coarse, motion, lost, jump, charging)


def apply_defects(images: Tensor, defects: Sequence[Defects]) -> Tensor:
    """Put defects on a batch.

    Args:
        images: Normalised grey values, shape (n, z, y, x).
        defects: Those of each patch.

    Returns:
        A tensor of the same shape; the one given where there is nothing to do.
    """
    if not any(one.present for one in defects):
        return images
    return torch.stack([_apply(image, one) for image, one in zip(images, defects, strict=True)])


def _apply(image: Tensor, defects: Defects) -> Tensor:
    image = image.clone() if defects.places is None else _displaced(image, defects.places)
    if defects.noise is not None:
        box, added = defects.noise
        part = image[box.slices()]
        part.add_(added.to(image.device)).clamp_(-1, 1)
    if defects.coarse is not None:
        box, factor = defects.coarse
        image[box.slices()] = _coarser(image[box.slices()], factor)
    for section, axis, length in defects.motion:
        image[section] = _smeared(image[section], axis, length)
    for section, band in defects.lost:
        lost = torch.from_numpy(band).to(image.device)
        image[section].masked_fill_(lost, image[section].mean())
    if defects.jump is not None:
        section, contrast, brightness = defects.jump
        image[section:] = image[section:] * contrast + 2 * brightness
    for section, rows in defects.charging:
        image[section] += torch.from_numpy(rows).to(image.device)[:, None]
    return image


def _displaced(image: Tensor, places: NDArray[np.float32]) -> Tensor:
    """Each section blended with the neighbour it is displaced towards."""
    index = np.arange(len(places))
    beside = np.clip(index + np.sign(places).astype(int), 0, len(places) - 1)
    share = torch.from_numpy(np.abs(places)).to(image.device)[:, None, None]
    return image + share * (image[torch.from_numpy(beside).to(image.device)] - image)


def _coarser(part: Tensor, factor: int) -> Tensor:
    """Sections (z, y, x) seen at a ``factor`` coarser pixel, and enlarged again."""
    size = part.shape[1:]
    small = tuple(max(1, round(n / factor)) for n in size)
    coarse = functional.interpolate(part[None], small, mode="bilinear", antialias=True)
    return functional.interpolate(coarse, size, mode="bilinear")[0]


def _smeared(plane: Tensor, axis: int, length: int) -> Tensor:
    """The mean over ``length`` pixels along an axis; beyond the border the last one is repeated."""
    before, after = (length - 1) // 2, length // 2
    pad = (0, 0, before, after) if axis == 0 else (before, after, 0, 0)
    padded = functional.pad(plane[None, None], pad, mode="replicate")
    kernel = (length, 1) if axis == 0 else (1, length)
    return functional.avg_pool2d(padded, kernel, stride=1)[0, 0]


def _draw_box(patch: Triple, share: float, random: Random) -> Box:
    z, y, x = (max(1, int(share * n)) for n in patch)
    start = (
        int(random.integers(patch[0] - z + 1)),
        int(random.integers(patch[1] - y + 1)),
        int(random.integers(patch[2] - x + 1)),
    )
    return Box(start, (start[0] + z, start[1] + y, start[2] + x))


def _draw_lost(
    patch: Triple, config: DefectsConfig, random: Random
) -> tuple[tuple[int, NDArray[np.bool_]], ...]:
    """Bands along lines from one side of a section to the opposite one."""
    _, height, width = patch
    lost: list[tuple[int, NDArray[np.bool_]]] = []
    rows, columns = np.mgrid[:height, :width]
    for section in range(patch[0]):
        if lost and lost[-1][0] == section - 1:
            continue
        if random.random() >= config.lost_parts_sections:
            continue
        upright = random.random() < 0.5
        along, across = (rows, columns) if upright else (columns, rows)
        length, extent = (height, width) if upright else (width, height)
        first, last = random.uniform(0, extent, 2)
        slope = (last - first) / length
        away = np.abs(across - first - slope * along) / np.hypot(1, slope)
        lost.append((section, away <= config.lost_parts_px))
    return tuple(lost)


def _draw_charging(
    patch: Triple, config: DefectsConfig, random: Random
) -> tuple[tuple[int, NDArray[np.float32]], ...]:
    """One or two sections with a band of soft edges and streaks."""
    bands = []
    for section in random.permutation(patch[0])[: int(random.integers(1, 3))].tolist():
        rows = np.arange(patch[1])
        centre, width = random.uniform(0, patch[1]), random.uniform(2, max(3, patch[1] / 6))
        level = 2 * random.uniform(-config.charging_level, config.charging_level)
        streaks = random.uniform(0.6, 1.0, patch[1])
        band = level * streaks * np.exp(-0.5 * ((rows - centre) / width) ** 2)
        bands.append((int(section), band.astype(np.float32)))
    return tuple(bands)
