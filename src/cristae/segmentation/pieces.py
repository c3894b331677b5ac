"""Pieces: decoders that take every component of a mask whole and split it by a function of theirs.

This is what most decoders of other packages need: `WholePieces` labels and joins the components,
block by block, and hands each to ``split``, of which nothing is asked but that it looks at nothing
else. So its instances depend on no block.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cristae.errors import InputError
from cristae.grid import Box, Triple
from cristae.labels.runs import Ints, Raster, Runs
from cristae.segmentation.batches import Extent, PieceBatch
from cristae.segmentation.block_table import BlockTable
from cristae.segmentation.components import (
    block_table,
    component_targets,
    join_contacts,
    label_pieces,
    no_seeds,
)
from cristae.segmentation.flood import flood_bytes, labelled_runs
from cristae.segmentation.job import Decoding, Joined, SegmentJob, Targets
from cristae.segmentation.multi_seed import Decoded, in_raster_order, multi_seed_runs, save_decoded
from cristae.segmentation.reading import read_layers, sample_rules
from cristae.segmentation.scanning import ThresholdRule, scan_layers

Bytes = NDArray[np.uint8]
Split = Callable[[Runs, Bytes, Raster], NDArray[np.int32]]
"""Label of each voxel of a piece, 0 for none, of its runs and the values of their voxels."""


@dataclass(frozen=True)
class WholePieces(Decoding):
    """Splits the 26-connected components of the voxels above ``foreground_threshold``."""

    ordered = False

    @abstractmethod
    def split(self, piece: Runs, value: Bytes, raster: Raster) -> NDArray[np.int32]:
        """Split a component into instances.

        Args:
            piece: Its runs, in raster order.
            value: Mask value of each of its voxels, one run after the other.
            raster: Numbering of the volume.

        Returns:
            Label of each voxel in the same order: 1, 2, ... by instance, 0 for background.
        """

    @property
    def rules(self) -> tuple[ThresholdRule, ...]:
        """The rule that a voxel of the foreground passes."""
        return (ThresholdRule(int(255 * self.parameters["foreground_threshold"])),)

    def label(self, job: SegmentJob, box: Box) -> BlockTable:
        """Components of a block, with the values of all voxels."""
        found = scan_layers(read_layers(job, box), job.raster, self.rules)
        pieces = label_pieces(found.runs, box, job.raster, 26)
        every = np.ones(pieces.n, bool)
        table = block_table(pieces, found.value, job.raster, every, no_seeds())
        return table._replace(contacts=every.astype(np.int64))

    def join(self, job: SegmentJob, base: Ints) -> tuple[Ints, int]:
        """Components of neighbouring blocks are one where they touch."""
        return join_contacts(job, base, 26)

    def targets(self, job: SegmentJob, joined: Joined) -> Targets:
        """Every component has to be split."""
        return component_targets(joined)

    def decode(self, job: SegmentJob, k: int, batch: PieceBatch) -> None:
        """Split components; leaves labelled runs by block."""
        split_pieces(job, k, batch, self.split)

    def sample(self, job: SegmentJob, box: Box) -> tuple[float, float]:
        """By the rule."""
        return sample_rules(job, box, self.rules)

    def piece_bytes(self, extent: Extent) -> int:
        """Memory to gather components; what ``split`` takes comes on top."""
        return flood_bytes(extent.voxels, extent.runs)


def paint_piece(piece: Runs, raster: Raster) -> tuple[NDArray[np.bool_], Triple]:
    """A piece as an array of its box and one voxel around it, and the box's first voxel (z, y, x).

    The true voxels, in raster order, are those of the runs, one after the other.
    """
    z, y, x = raster.locate(piece.start)
    low = (int(z.min()) - 1, int(y.min()) - 1, int(x.min()) - 1)
    high = (z.max() + 2, y.max() + 2, (x + piece.length).max() + 1)
    mask = np.zeros([int(b) - a for a, b in zip(low, high, strict=True)], bool)
    of_run = np.repeat(np.arange(piece.start.size), piece.length)
    along = np.arange(of_run.size) - np.repeat(np.cumsum(piece.length) - piece.length, piece.length)
    mask[z[of_run] - low[0], y[of_run] - low[1], x[of_run] + along - low[2]] = True
    return mask, (low[0] + 1, low[1] + 1, low[2] + 1)


def _values(value: Bytes) -> Bytes:
    return value


def split_pieces(
    job: SegmentJob,
    k: int,
    batch: PieceBatch,
    split: Split,
    confidence: Callable[[Bytes], Bytes] = _values,
) -> None:
    """Split the pieces of a batch, each on its own; leaves labelled runs by block.

    Args:
        job: The segmentation.
        k: Number of the batch.
        batch: The batch.
        split: Labels the voxels of a piece.
        confidence: What is summed over an instance, of each voxel, from the values of a piece.
    """
    found, block = multi_seed_runs(job, batch)
    width = job.decoding.width
    order, runs, value, bounds = in_raster_order(found, len(batch.pieces), width)
    results, instances, removed = [], 0, 0
    least = 1 if job.decoding.to_neighbor else max(1, job.decoding.min_size)
    for low, high, first, last in bounds:
        piece, its = runs.take(slice(low, high)), value[width * first : width * last]
        label = split(piece, its, job.raster)
        if label.shape != (last - first,):
            fault = f"{label.shape} labels found for {last - first} voxels"
            raise InputError(f"decoder {job.decoding.decoder}: {fault}")
        count = np.bincount(label)
        stays = count >= least  # an instance is whole here
        stays[0] = False
        number = np.where(stays, np.cumsum(stays) + instances, 0).astype(np.int32)
        instances += int(stays.sum())
        removed += int(np.count_nonzero(count[1:])) - int(stays.sum())
        name = number[label]
        cut, kept, source = labelled_runs(piece, name)
        results.append(Decoded(*cut, kept - 1, order[low:high][source], confidence(its)[name > 0]))
    save_decoded(job, k, batch, results, ~np.arange(instances), block, removed)
