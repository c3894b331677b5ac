"""One tile: the image on the network's grid, through the network, and back on the source's grid."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

from cristae.errors import InputError
from cristae.grid import Box
from cristae.networks.ensemble import finish_fold, fold
from cristae.networks.runner import Runner
from cristae.networks.windows import Combine, Tta
from cristae.prediction.resample import (
    Factors,
    Floats,
    Taps,
    apply_taps,
    source_taps,
    working_taps,
)
from cristae.volumes.intensity import IntensityStatistics, normalise
from cristae.volumes.padding import Padding, read_content
from cristae.volumes.volume import Array, Volume

Variant = tuple[tuple[int, ...], bool]
"""Axes of (z, y, x) along which a tile is turned around; whether y and x are swapped after that."""

SLAB_VOXELS = 1 << 22
"""Voxels normalised and resampled in the plane at a time; one section at least."""


@dataclass(frozen=True, eq=False)
class ImageInput:
    """An image as a network sees it: normalised, on the working grid, endless.

    Attributes:
        source: The image, or a level of its pyramid.
        statistics: Of its grey values.
        rule: Intensity rule of the model.
        invert: Whether its contrast is turned around.
        factors: Working voxel size over the source's, along (z, y, x).
        padding: Of the source; the image is mirrored where its content ends.
    """

    source: Volume
    statistics: IntensityStatistics
    rule: str
    invert: bool
    factors: Factors
    padding: Padding | None = None

    def taps(self, box: Box) -> tuple[Taps | None, Taps | None, Taps | None]:
        """How a box of working voxels comes from the source along each axis; None: as it is."""
        z, y, x = (
            None if factor == 1 else working_taps(a, b, factor)
            for a, b, factor in zip(box.start, box.stop, self.factors, strict=True)
        )
        return z, y, x

    def source_box(self, box: Box) -> Box:
        """The source voxels needed for a box of working voxels; it may reach outside."""
        (z0, z1), (y0, y1), (x0, x1) = (
            (a, b) if taps is None else taps.reach
            for taps, a, b in zip(self.taps(box), box.start, box.stop, strict=True)
        )
        return Box((z0, y0, x0), (z1, y1, x1))

    def read(self, box: Box) -> Floats:
        """The image in a box of working voxels.

        What lies outside the volume, or in its padding, is mirrored at the border. Grey values are
        normalised first, then resampled, as in training.

        Args:
            box: Any box that is not empty, in working voxels.

        Returns:
            (z, y, x) float32, contiguous.
        """
        reach, (along_z, along_y, along_x) = self.source_box(box), self.taps(box)
        grey = read_content(self.source, self.padding, reach)
        image = np.empty((grey.shape[0], *box.shape[1:]), np.float32)
        for slab in _slabs(grey):
            plane = self._normalised(grey[slab], reach)
            if along_y is not None:
                plane = apply_taps(plane, 1, along_y, reach.start[1])
            if along_x is not None:
                plane = apply_taps(plane, 2, along_x, reach.start[2])
            image[slab] = plane
        return image if along_z is None else apply_taps(image, 0, along_z, reach.start[0])

    def _normalised(self, grey: Array, box: Box) -> Floats:
        try:
            found: Floats = normalise(grey, self.statistics, self.rule, self.invert)
        except InputError as error:
            raise InputError(f"{self.source.name}, box {box}: {error}") from error
        return found


def tta_flips(count: Tta) -> list[Variant]:
    """What a tile is turned into for test-time augmentation, the tile as it is first.

    Args:
        count: 1; 4, with flips along y and x; 8, also transposed in the plane; or 16, also with
            flips along z.
    """
    both = (False, True)
    flags = product(both[: 1 + (count > 1)], both[: 1 + (count > 1)], both[: 1 + (count > 8)])
    return [
        (tuple(axis for axis, flip in ((0, z), (1, y), (2, x)) if flip), transposed)
        for x, y, z in flags
        for transposed in both[: 1 + (count > 4)]
    ]


def tile_probabilities(
    runner: Runner,
    image: Floats,
    core: Box,
    tta: Tta = 1,
    combine: Combine = "mean",
) -> torch.Tensor:
    """Probabilities of a tile's core, combined over flips of the tile.

    Flipped about its own extent, a whole number of lattice steps, a tile stays on the lattice. So
    each variant is the same in any tiling, and so is what is combined, in a fixed order.

    Args:
        runner: The network, ready for inference.
        image: (z, y, x) normalised tile.
        core: The part wanted, in voxels of the tile.
        tta: See `tta_flips`.
        combine: What is taken of the outputs for the flips.

    Returns:
        (channels, z, y, x) float32 in [0, 1] of the core's shape, where the network computes.
    """
    total: torch.Tensor | None = None
    for axes, transposed in tta_flips(tta):
        turned = np.flip(image, axes)
        inside = _flip_box(core, axes, image.shape)
        if transposed:
            turned, inside = turned.swapaxes(1, 2), _transpose_box(inside)
        found = runner.probabilities(np.ascontiguousarray(turned), inside)
        found = found.transpose(2, 3) if transposed else found
        found = found.flip([axis + 1 for axis in axes]) if axes else found
        total = fold(total, found, combine)
    return finish_fold(total, tta, combine)


def to_source_grid(
    probabilities: torch.Tensor, working: Box, core: Box, factors: Factors
) -> torch.Tensor:
    """Probabilities of a core on the source's grid, interpolated linearly, where they are.

    Args:
        probabilities: (channels, z, y, x) of ``working``.
        working: Box of working voxels that holds all the core needs.
        core: Box of source voxels.
        factors: Working voxel size over the source's.

    Returns:
        (channels, z, y, x) of the core's shape.
    """
    for axis, factor in enumerate(factors):
        if factor != 1:
            taps = source_taps(core.start[axis], core.stop[axis], factor)
            take = _take_on_host if probabilities.device.type == "cpu" else _take
            probabilities = take(probabilities, axis + 1, taps, working.start[axis])
    return probabilities


def _take_on_host(array: torch.Tensor, axis: int, taps: Taps, start: int) -> torch.Tensor:
    return torch.from_numpy(apply_taps(array.numpy(), axis, taps, start))  # quicker than torch's


def _take(array: torch.Tensor, axis: int, taps: Taps, start: int) -> torch.Tensor:
    """What `apply_taps` does, on any device."""
    shape = [1] * array.dim()
    shape[axis] = -1
    total: torch.Tensor | None = None
    for index, weight in zip((taps.index - start).T, taps.weight.T, strict=True):
        places = torch.from_numpy(index.copy()).to(array.device)
        part = array.index_select(axis, places)
        part *= torch.from_numpy(weight.copy()).to(array.device).view(shape)
        total = part if total is None else total.add_(part)
    return array if total is None else total


def quantise(probabilities: torch.Tensor, truncate: bool = False) -> NDArray[np.uint8]:
    """Probabilities in [0, 1] as 256 levels: 255 p, rounded to the nearest or truncated.

    Args:
        probabilities: (channels, rows, ...) float32 on any device; only levels leave it.
        truncate: Truncate, not round.
    """
    levels = torch.empty_like(probabilities, dtype=torch.uint8)
    for channel, row in np.ndindex(probabilities.shape[:2]):
        scaled = probabilities[channel, row] * 255
        levels[channel, row] = scaled if truncate else scaled.round_()
    found: NDArray[np.uint8] = levels.cpu().numpy()
    return found


def _slabs(grey: Array) -> Iterator[slice]:
    step = max(1, SLAB_VOXELS // (grey.shape[1] * grey.shape[2]))
    return (slice(z, z + step) for z in range(0, grey.shape[0], step))


def _flip_box(box: Box, axes: tuple[int, ...], shape: tuple[int, ...]) -> Box:
    """The same voxels after the tile is turned around along some axes."""
    (z0, z1), (y0, y1), (x0, x1) = (
        (shape[axis] - b, shape[axis] - a) if axis in axes else (a, b)
        for axis, (a, b) in enumerate(zip(box.start, box.stop, strict=True))
    )
    return Box((z0, y0, x0), (z1, y1, x1))


def _transpose_box(box: Box) -> Box:
    """The same voxels after y and x of the tile are swapped."""
    (z0, y0, x0), (z1, y1, x1) = box.start, box.stop
    return Box((z0, x0, y0), (z1, x1, y1))
