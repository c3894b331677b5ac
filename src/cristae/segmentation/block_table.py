"""The table that a block leaves once it is labelled alone (`cristae.segmentation.components`)."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cristae.labels.runs import Ints, Runs
from cristae.labels.statistics import Statistics


class BlockTable(NamedTuple):
    """What a block keeps between the steps; local numbers are those of the block alone.

    Attributes:
        start: Places of the runs of the pieces kept, in raster order.
        length: Their lengths.
        piece: Local piece of each run.
        voxels: Voxels of each piece in this block.
        probability_sum: Sum of the mask channel over them.
        first: Place of each piece's first voxel in this block.
        low: First voxel (z, y, x) of each piece's box in this block.
        high: Last voxel of it, plus one.
        face: Places, lengths and local pieces of the runs on faces that another block adjoins;
            (3, n).
        seed_voxels: Voxels of each local seed in this block.
        seed_first: Place of its first voxel in this block.
        seed_face: Places, lengths and local seeds of seed runs on such faces; (3, n).
        pairs: (piece, seed) that share a voxel, each pair once; (n, 2).
        keeps_values: Whether the values of a piece's voxels are kept: it may hold several seeds.
        value: Those values, one run after the other; of an agglomeration the three edges that
            end in each voxel, z, y, x.
        seed_overlap: Places, lengths and local seeds of the seeds' voxels in those pieces; (3, n).
        overlap_piece: Local piece of each.
        removed: Whole instances dropped because they are small.
        cross: Affinity path: places of voxels that an edge joins to another block, and how far
            before it the edge ends; (2, n).
        contacts: Agglomeration: at most so many edges between fragments of each piece end here.
    """

    start: Ints
    length: NDArray[np.int32]
    piece: NDArray[np.int32]
    voxels: Ints
    probability_sum: Ints
    first: Ints
    low: Ints
    high: Ints
    face: Ints
    seed_voxels: Ints
    seed_first: Ints
    seed_face: Ints
    pairs: Ints
    keeps_values: NDArray[np.bool_]
    value: NDArray[np.uint8]
    seed_overlap: Ints
    overlap_piece: Ints
    removed: Ints
    cross: Ints
    contacts: Ints

    @property
    def runs(self) -> Runs:
        """Runs of the pieces."""
        return Runs(self.start, self.length)

    @property
    def statistics(self) -> Statistics:
        """Statistics of the pieces in this block."""
        return Statistics(self.voxels, self.probability_sum, self.first, self.low, self.high)
