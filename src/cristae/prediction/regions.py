"""Where a prediction is wanted at all: a mask of tissue, or cells that may hold something.

A region's voxels may be larger or smaller than the output's; an output voxel is inside where the
region's voxel under its centre is not 0. So what is 0 does not depend on tiles, and a tile without
a voxel inside need be neither read nor computed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cristae.grid import Box, Triple, snap, tile
from cristae.volumes.volume import Volume

Inside = NDArray[np.bool_]

Spans = tuple[tuple[int, int], ...]
"""Half-open intervals along an axis."""

Hulls = tuple[NDArray[np.int64], NDArray[np.int64]]
"""First voxels and ends of boxes: two (n, 3) arrays."""

NOWHERE = np.iinfo(np.int32).max

CELL: Triple = (8, 64, 64)
MOST_CELLS = 1 << 20
"""Extent of the cells that `Occupancy` remembers, twice or more of it where these were too many."""


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


def wanted_part(inside: Inside, box: Box) -> Box | None:
    """The part of a box that holds its voxels inside, in whole cells; None where it has none."""
    ends = [np.flatnonzero(inside.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    if not ends[0].size:
        return None
    (z0, z1), (y0, y1), (x0, x1) = ((int(e[0]), int(e[-1]) + 1) for e in ends)
    return snap(Box((z0, y0, x0), (z1, y1, x1)).shift(box.start), CELL).clip(box)


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

    Attributes:
        cell: Extent of a cell.
    """

    def __init__(self, regions: Sequence[Region], shape: Triple) -> None:
        self._regions, self._shape, self.cell = tuple(regions), shape, CELL
        while math.prod(self._counts) > MOST_CELLS:
            self.cell = (2 * self.cell[0], 2 * self.cell[1], 2 * self.cell[2])
        self._recent: dict[int, tuple[tuple[Spans, ...], NDArray[np.int32]]] = {}

    @property
    def _counts(self) -> list[int]:
        return [-(-n // c) for n, c in zip(self._shape, self.cell, strict=True)]

    @cached_property
    def _cells(self) -> Inside:
        cells = np.zeros(self._counts, bool)
        rows = (self.cell[0], max(512, self.cell[1]), max(512, self.cell[2]))
        for box in tile(Box.of(self._shape), rows):
            found = inside_all(self._regions, box)
            if found is not None and found.any():
                for axis, cell in enumerate(self.cell):
                    starts = np.arange(0, box.shape[axis], cell)
                    found = np.logical_or.reduceat(found, starts, axis)
                cells[self._touched(box)] = found
        return cells

    def _touched(self, box: Box) -> tuple[slice, ...]:
        """The cells that a box touches."""
        ends = zip(box.start, box.stop, self.cell, strict=True)
        return tuple(slice(a // cell, -(-b // cell)) for a, b, cell in ends)

    def reaches(self, box: Box) -> bool:
        """Whether a cell that a box touches is occupied; the box may reach outside the output."""
        part = box.clip(Box.of(self._shape))
        if part.empty:
            return False
        return bool(self._cells[self._touched(part)].any())

    def hulls(self, spans: tuple[Spans, Spans, Spans]) -> Hulls:
        """What is occupied of each box that spans along z, y and x make, as one box of cells.

        Args:
            spans: First voxels and ends of the boxes along each axis.

        Returns:
            First voxels and ends of the occupied boxes: two (n, 3) arrays, in raster order, clipped
            to the boxes; those without an occupied cell are left out.
        """
        extremes = self._extremes(spans)
        edges = [np.array(along) for along in spans]
        low, high = (
            np.stack(np.meshgrid(*(each[:, end] for each in edges), indexing="ij"))
            for end in (0, 1)
        )
        low, high = np.maximum(low, extremes[:3]), np.minimum(high, -extremes[3:])
        kept = (low < high).all(axis=0)
        return low[:, kept].T, high[:, kept].T

    def _extremes(self, spans: tuple[Spans, ...]) -> NDArray[np.int32]:
        """Least first voxel of occupied cells, then least negative end, along z, y and x.

        What was found for the spans along z and y is kept for the next ones along x.
        """
        if not spans:
            found = np.full((6, *self._cells.shape), NOWHERE, np.int32)
            for axis, along in enumerate(np.nonzero(self._cells)):
                found[axis][self._cells] = along * self.cell[axis]
                found[3 + axis][self._cells] = -(along + 1) * self.cell[axis]
            return found
        axis = len(spans)
        if self._recent.get(axis, (None,))[0] != spans:
            before = self._extremes(spans[:-1])
            self._recent[axis] = (spans, _least(before, axis, spans[-1], self.cell[axis - 1]))
        return self._recent[axis][1]


def _least(values: NDArray[np.int32], axis: int, spans: Spans, cell: int) -> NDArray[np.int32]:
    """The least value of the cells along an axis that each span touches."""
    bounds = [edge for a, b in spans for edge in (a // cell, -(-b // cell))]
    end = np.full_like(values.take([0], axis), NOWHERE)  # so that a span may end with the last
    reduced = np.minimum.reduceat(np.concatenate([values, end], axis), bounds, axis)
    found: NDArray[np.int32] = reduced.take(range(0, len(bounds), 2), axis)
    return found
