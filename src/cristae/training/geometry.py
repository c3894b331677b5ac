"""Geometry: how a patch is turned, mirrored, scaled, bent and shifted, all at once.

`draw_warp` chooses, every random number from the patch's own stream; `turning` makes the patches of
a batch, image and labels by the same places.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cristae.configuration import config_dataclass
from cristae.grid import Triple

Array = NDArray[Any]
Random = np.random.Generator

ELASTIC_CELL_PX = 32


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


@dataclass(frozen=True)
class SectionGroup:
    """Sections of a patch that lie alike.

    Attributes:
        sections: Their numbers, ascending.
        shift: Whole working voxels (y, x) by which they are off.
        matrix: (2, 2), native voxels per working voxel, their angle in it.
    """

    sections: list[int]
    shift: tuple[int, int]
    matrix: NDArray[np.float64]


@dataclass(frozen=True)
class Warp:
    """In-plane geometry of a patch.

    A patch voxel at offset o (y, x) from the patch's centre shows the source at
    ``centre + matrix @ turned(o + shift of its section + bend at o)``, ``turned`` by the angle of
    its section; voxel i covers i to i + 1. All sections have the same bend.

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

    def groups(self) -> list[SectionGroup]:
        """The sections, those together that are shifted and turned alike."""
        turns = np.zeros(len(self.shifts)) if self.turns is None else self.turns
        numbers: dict[tuple[int, int, float], list[int]] = {}
        for section, ((y, x), turn) in enumerate(
            zip(self.shifts.tolist(), turns.tolist(), strict=True)
        ):
            numbers.setdefault((y, x, turn), []).append(section)
        return [
            SectionGroup(sections, (y, x), self.matrix @ _rotation(turn) if turn else self.matrix)
            for (y, x, turn), sections in numbers.items()
        ]

    def bounds(self, patch: Triple) -> tuple[tuple[int, int], tuple[int, int]]:
        """Native voxels (first, one after last) along y and x that the patch can show."""
        reach = np.abs(self.shifts).max() + (
            0.0 if self.bend is None else float(np.abs(self.bend).max())
        )
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


def _rotation(angle: float) -> NDArray[np.float64]:
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([[cosine, -sine], [sine, cosine]])


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
