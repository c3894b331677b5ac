"""Augmentation: all geometry in one interpolation, then defects and grey values on whole batches.

Geometry (`draw_warp`, `warp_patch`) turns, mirrors, scales, bends and shifts a patch in plane while
it is cut out of its source, image and labels by the same coordinates. Grey changes (`draw_grey`,
`apply_grey`) follow on batches of finished patches. Every random number is drawn from the patch's
own stream, so what happens to a patch does not depend on the batch it is in.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from cristae.configuration import config_dataclass
from cristae.grid import Triple

Array = NDArray[Any]
Random = np.random.Generator

CLIP = 1.25
"""Normalised grey values end at minus and plus this."""

ELASTIC_CELL_PX = 32
KERNEL_RADIUS = 4
ANTIALIAS_FROM = 1.2
"""Native voxels per working voxel above which each patch voxel is the mean of 2 x 2 samples."""


@config_dataclass
class GeometryConfig:
    """How patches are turned, scaled and bent; shares are probabilities of a patch.

    Attributes:
        turn: Share turned by any angle; the others by multiples of 90 degrees.
        flip: Whether patches are mirrored (x, and the order of sections).
        scale: Range of the in-plane scale; 2 shows an object twice as large.
        stretch: Standard deviation of the logarithm of height over width.
        elastic: Share bent by a smooth random field.
        elastic_px: Standard deviation of that field, in working voxels.
        shift: Share with sections that lie beside one another: one, or all from one on.
        shift_px: Largest shift along y and x, in working voxels.
        thick_sections: Share, of patches made of every k-th section, in which k are averaged.
        rescale: Share scaled further, along y and x independently.
        rescale_range: Range of that scale.
        elastic_sigma_px: Where above 0, the field is one of independent values, uniform in minus
            to plus ``elastic_alpha_px``, smoothed by a Gaussian of this width; ``elastic_px`` does
            not count then.
        elastic_alpha_px: See there.
        shift_turns: Share, of patches with shifted sections, whose sections are turned instead, by
            as much as moves a corner by ``shift_px`` at most.
        lost: Share with inner sections left out, labels and image.
        lost_sections: How many are.
    """

    turn: float = 0.6
    flip: bool = True
    scale: tuple[float, float] = (0.75, 1.4)
    stretch: float = 0.07
    elastic: float = 0.25
    elastic_px: float = 2.5
    shift: float = 0.15
    shift_px: int = 4
    thick_sections: float = 0.5
    rescale: float = 0.0
    rescale_range: tuple[float, float] = (0.8, 1.25)
    elastic_sigma_px: float = 0.0
    elastic_alpha_px: float = 16.0
    shift_turns: float = 0.0
    lost: float = 0.0
    lost_sections: int = 2

    @classmethod
    def still(cls) -> "GeometryConfig":
        """No change at all."""
        return cls(0.0, False, (1.0, 1.0), 0.0, 0.0, 0.0, 0.0, 0, 0.0)


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
class Warp:
    """In-plane geometry of a patch.

    A patch voxel at offset o (y, x) from the patch's centre shows the source at
    ``centre + matrix @ turned(o + shift of its section + bend at o)``, ``turned`` by the angle of
    its section; voxel i covers i to i + 1.

    Attributes:
        centre: Source position (y, x) of the patch's centre, in native voxels.
        matrix: (2, 2), native voxels per working voxel.
        shifts: Whole working voxels (y, x) by which each section is off, shape (z, 2).
        bend: Displacements (2, rows, columns) in working voxels on a lattice, or None.
        turns: Angle by which each section is off, shape (z,), or None.
    """

    centre: tuple[float, float]
    matrix: NDArray[np.float64]
    shifts: NDArray[np.int64]
    bend: NDArray[np.float32] | None
    turns: NDArray[np.float64] | None = None

    @property
    def margin(self) -> int:
        """Largest shift of a section."""
        return int(np.abs(self.shifts).max())

    def bounds(self, patch: Triple) -> tuple[tuple[int, int], tuple[int, int]]:
        """Native voxels (first, one after last) along y and x that the patch can show."""
        reach = self.margin + (0.0 if self.bend is None else float(np.abs(self.bend).max()))
        half = np.array([patch[1] / 2 + reach, patch[2] / 2 + reach])
        if self.turns is not None:
            half = half + np.sin(np.abs(self.turns).max()) * half[::-1]
        extent = np.abs(self.matrix) @ half
        low = np.floor(np.array(self.centre) - extent - 1).astype(int)
        high = np.ceil(np.array(self.centre) + extent + 1).astype(int)
        return (int(low[0]), int(high[0])), (int(low[1]), int(high[1]))


def draw_warp(
    centre: tuple[float, float],
    factors: tuple[float, float],
    patch: Triple,
    config: GeometryConfig,
    random: Random,
) -> Warp:
    """Choose the in-plane geometry of a patch.

    Args:
        centre: Source position (y, x) wanted; moved by less than a voxel so that a patch that is
            neither turned nor scaled needs no interpolation.
        factors: Native voxels per working voxel along y and x.
        patch: Extent (z, y, x) in working voxels.
        config: What may happen.
        random: The patch's own random numbers.
    """
    angle = math.pi / 2 * int(random.integers(4)) if config.flip or config.turn else 0.0
    if random.random() < config.turn:
        angle = random.uniform(0, 2 * math.pi)
    cosine, sine = round(math.cos(angle), 12), round(math.sin(angle), 12)
    mirror = -1.0 if config.flip and random.random() < 0.5 else 1.0
    scale = math.exp(random.uniform(math.log(config.scale[0]), math.log(config.scale[1])))
    stretch = math.exp(random.normal(0, config.stretch) / 2) if config.stretch else 1.0
    turned = np.array([[cosine, -sine], [sine, cosine]])
    zoom = np.diag([stretch / scale, mirror / (stretch * scale)])
    if config.rescale and random.random() < config.rescale:
        zoom = zoom / random.uniform(*config.rescale_range, 2)
    matrix = np.diag(factors) @ turned @ zoom
    corner = np.abs(matrix) @ np.array([patch[1] / 2, patch[2] / 2])
    y, x = np.round(np.array(centre) - corner) + corner
    shifts, turns = _draw_shifts(patch, config, random)
    return Warp((y, x), matrix, shifts, _draw_bend(patch, config, random), turns)


def warp_patch(
    image: Tensor,
    labels: Tensor,
    mask: Tensor | None,
    warp: Warp,
    corner: tuple[int, int],
    patch: Triple,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Cut a patch out of its source box.

    Args:
        image: float32 (z, y, x), sections as in the patch, native voxels in plane.
        labels: Integer ids below 2^24, the shape of ``image``.
        mask: float32 of the same shape, or None.
        warp: Where the patch lies.
        corner: Native voxel (y, x) that is voxel 0 of ``image``.
        patch: Extent (z, y, x) in working voxels.

    Returns:
        Image (linear), labels int32 and mask (both nearest), all of shape ``patch``.
    """
    margin = warp.margin
    canvas = (patch[1] + 2 * margin, patch[2] + 2 * margin)
    factor = math.sqrt(abs(float(np.linalg.det(warp.matrix))))
    fine = 2 if factor > ANTIALIAS_FROM else 1
    grids = _grids(warp, corner, canvas, fine, image.shape)
    seen = _sample(image, grids, "bilinear")
    if fine > 1:
        seen = functional.avg_pool2d(seen, fine)
        grids = _grids(warp, corner, canvas, 1, image.shape)
    ids = _sample(labels.float(), grids, "nearest")
    known = None if mask is None else _shift(_sample(mask, grids, "nearest"), warp, patch)
    return _shift(seen, warp, patch), _shift(ids, warp, patch).to(torch.int32), known


def _grids(
    warp: Warp, corner: tuple[int, int], canvas: tuple[int, int], fine: int, source: torch.Size
) -> list[tuple[slice | list[int], Tensor]]:
    """The grid of each group of sections that are turned alike."""
    if warp.turns is None:
        return [(slice(None), _grid(warp, corner, canvas, fine, source[1:], 0.0))]
    return [
        (
            np.flatnonzero(warp.turns == angle).tolist(),
            _grid(warp, corner, canvas, fine, source[1:], angle),
        )
        for angle in np.unique(warp.turns).tolist()
    ]


def _grid(
    warp: Warp,
    corner: tuple[int, int],
    canvas: tuple[int, int],
    fine: int,
    source: torch.Size,
    angle: float,
) -> Tensor:
    """Sampling positions (1, y, x, 2) in the units of `torch.nn.functional.grid_sample`."""
    height, width = canvas
    rows = (torch.arange(height * fine, dtype=torch.float64) + 0.5) / fine - height / 2
    columns = (torch.arange(width * fine, dtype=torch.float64) + 0.5) / fine - width / 2
    offsets = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))  # (2, y, x)
    if warp.bend is not None:
        bend = torch.from_numpy(warp.bend)[None]
        size = (height * fine, width * fine)
        smooth = functional.interpolate(bend, size=size, mode="bicubic", align_corners=True)
        offsets = offsets + smooth[0]
    start = torch.tensor([warp.centre[0] - corner[0], warp.centre[1] - corner[1]])
    matrix = torch.from_numpy(warp.matrix)
    if angle:
        cosine, sine = math.cos(angle), math.sin(angle)
        matrix = matrix @ torch.tensor([[cosine, -sine], [sine, cosine]], dtype=torch.float64)
    position = torch.einsum("ij,jyx->yxi", matrix, offsets) + start - 0.5  # (y, x, 2), voxel index
    # grid_sample counts x first, from -1 at the first voxel's centre to 1 at the last one's
    last = torch.tensor([max(source[0] - 1, 1), max(source[1] - 1, 1)])
    return (2 * position / last - 1).flip(-1)[None].float()


def _sample(planes: Tensor, grids: list[tuple[slice | list[int], Tensor]], mode: str) -> Tensor:
    """Sections (z, y, x) seen at their grid's positions; those of one grid at once, as channels."""
    (_, *size, _) = grids[0][1].shape
    seen = planes.new_empty((len(planes), *size))
    for sections, grid in grids:
        seen[sections] = functional.grid_sample(
            planes[sections][None], grid, mode=mode, padding_mode="border", align_corners=True
        )[0]
    return seen


def _shift(planes: Tensor, warp: Warp, patch: Triple) -> Tensor:
    """The patch's part of each section of a canvas with a margin."""
    margin, (_, height, width) = warp.margin, patch
    if margin == 0:
        return planes
    parts = [
        plane[margin + dy : margin + dy + height, margin + dx : margin + dx + width]
        for plane, (dy, dx) in zip(planes, warp.shifts.tolist(), strict=True)
    ]
    return torch.stack(parts)


def _draw_shifts(
    patch: Triple, config: GeometryConfig, random: Random
) -> tuple[NDArray[np.int64], NDArray[np.float64] | None]:
    """Shifts of all sections, and their angles where they are turned instead."""
    shifts = np.zeros((patch[0], 2), np.int64)
    if config.shift_px and patch[0] > 1 and random.random() < config.shift:
        by = random.integers(-config.shift_px, config.shift_px, size=2, endpoint=True)
        section = int(random.integers(1, patch[0]))
        last = section + 1 if random.random() < 0.5 else patch[0]
        if config.shift_turns and random.random() < config.shift_turns:
            side = max(1, max(patch[1:]) - config.shift_px)
            largest = math.atan(config.shift_px / (math.sqrt(2) * side))
            turns = np.zeros(patch[0])
            turns[section:last] = random.uniform(-largest, largest)
            return shifts, turns
        shifts[section:last] = by
    return shifts, None


def _draw_bend(patch: Triple, config: GeometryConfig, random: Random) -> NDArray[np.float32] | None:
    if random.random() >= config.elastic:
        return None
    if config.elastic_sigma_px > 0:
        field = random.uniform(-1, 1, (2, *patch[1:])) * config.elastic_alpha_px
        sigma = (0, config.elastic_sigma_px, config.elastic_sigma_px)
        smooth: NDArray[np.float32] = ndimage.gaussian_filter(field, sigma).astype(np.float32)
        return smooth
    rows, columns = (n // ELASTIC_CELL_PX + 2 for n in patch[1:])
    return random.normal(0, config.elastic_px, (2, rows, columns)).astype(np.float32)


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
    order = torch.from_numpy(np.stack([g.order for g in greys])).to(device)
    if bool((order != torch.arange(order.shape[1], device=device)).any()):
        images = torch.stack([image[o] for image, o in zip(images, order, strict=True)])
    unit = _soften(images, greys).add(1).mul_(0.5)  # 0..1
    sections = torch.from_numpy(np.stack([g.sections for g in greys], axis=1)).to(device)
    unit.sub_(0.5).mul_(contrast * sections[0, :, :, None, None])
    unit.add_(0.5 + brightness + sections[1, :, :, None, None])
    noisy = [(i, g.noise) for i, g in enumerate(greys) if g.noise is not None]
    for i, noise in noisy:
        unit[i] += noise.to(device)
    if bool((gamma != 1).any()):
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
