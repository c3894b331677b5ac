"""Where a prediction is wanted at all: a mask of tissue, or cells that may hold something.

A region's voxels may be larger or smaller than the output's; an output voxel is inside where the
region's voxel under its centre is not 0. So what is 0 does not depend on tiles, and a tile without
a voxel inside need be neither read nor computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cristae.grid import Box, Triple, tile
from cristae.volumes.volume import Volume

Inside = NDArray[np.bool_]

CELL: Triple = (8, 64, 64)
"""Extent of the cells that `Occupancy` remembers."""


@dataclass(frozen=True, eq=False)
class Region:
    """A mask over the output.

    Attributes:
        mask: (z, y, x); 0 is outside. Its voxel edge at 0 is the output's.
        scale: Output voxel size over the mask's, along (z, y, x).
    """

    mask: Volume
    scale: tuple[float, float, float]

    def inside(self, box: Box) -> Inside:
        """Which voxels of a box of the output are inside: bool (z, y, x)."""
        z, y, x = (
            np.clip(((np.arange(a, b) + 0.5) * f).astype(np.int64), 0, n - 1)
            for a, b, f, n in zip(box.start, box.stop, self.scale, self.mask.shape, strict=True)
        )
        low = (int(z[0]), int(y[0]), int(x[0]))
        found = self.mask.read(Box(low, (int(z[-1]) + 1, int(y[-1]) + 1, int(x[-1]) + 1))) != 0
        if found.shape == box.shape and self.scale == (1.0, 1.0, 1.0):
            return np.asarray(found)
        return np.asarray(found[np.ix_(z - low[0], y - low[1], x - low[2])])


def inside_all(regions: Sequence[Region], box: Box) -> Inside | None:
    """Which voxels of a box are inside every region; None where all are, as there is no region."""
    found: Inside | None = None
    for region in regions:
        part = region.inside(box)
        found = part if found is None else np.logical_and(found, part, out=found)
        if not found.any():
            break
    return found


def region_bytes(regions: Sequence[Region], box: Triple) -> int:
    """Memory that `inside_all` takes for a box of the output."""
    voxels, total = box[0] * box[1] * box[2], 0.0
    for region in regions:
        read = 1.0
        for n, f in zip(box, region.scale, strict=True):
            read *= n * f + 2
        total = max(total, 2 * voxels + read * (region.mask.dtype.itemsize + 1))
    return int(total)


class Occupancy:
    """Which cells of the output hold a voxel inside every region; the regions are read once.

    Args:
        regions: At least one.
        shape: Extent (z, y, x) of the output.
    """

    def __init__(self, regions: Sequence[Region], shape: Triple) -> None:
        self._regions, self._shape = tuple(regions), shape

    @cached_property
    def _cells(self) -> Inside:
        counts = [-(-n // c) for n, c in zip(self._shape, CELL, strict=True)]
        cells = np.zeros(counts, bool)
        rows = (CELL[0], CELL[1] * 8, CELL[2] * 8)
        for box in tile(Box.of(self._shape), rows):
            inside = inside_all(self._regions, box)
            for cell in tile(box, CELL) if inside is not None and inside.any() else ():
                z, y, x = (a // c for a, c in zip(cell.start, CELL, strict=True))
                part = cell.relative_to(box.start).slices()
                cells[z, y, x] = inside is None or inside[part].any()
        return cells

    def reaches(self, box: Box) -> bool:
        """Whether a cell that a box touches is occupied; the box may reach outside the output."""
        part = box.clip(Box.of(self._shape))
        if part.empty:
            return False
        z, y, x = (
            slice(a // c, -(-b // c)) for a, b, c in zip(part.start, part.stop, CELL, strict=True)
        )
        return bool(self._cells[z, y, x].any())
