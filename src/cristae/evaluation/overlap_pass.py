"""Counting how the instances of two label volumes overlap, in one pass over both, in blocks.

Counts are integers, so the table is the same for any blocks, workers and scheduling. Where both
volumes have run tables, these are counted and no voxel is looked at.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cristae.engine.executors import Resources
from cristae.engine.ledger import Ledger
from cristae.engine.memory import promise_memory
from cristae.evaluation.overlaps import Overlaps, overlaps_of_table
from cristae.evaluation.placement import FLOAT_UNIT, Compared, place_volumes
from cristae.grid import Box, Triple, tile
from cristae.labels.blocks import (
    blocks_of,
    memory_of,
    overlaps_of_blocks,
    pieces_of,
    read_block,
)
from cristae.labels.label_runs import run_table_of, slab_bytes, slabs_of_runs, table_rows
from cristae.labels.overlap_table import (
    LabelRuns,
    OverlapTable,
    as_labels,
    check_extent,
    check_signs,
    merge_overlap_tables,
    overlaps_of_block,
    overlaps_of_parts,
    overlaps_of_runs,
)
from cristae.volumes.formats.shards import Chunks, chunks_of
from cristae.volumes.place import Align
from cristae.volumes.values import probabilities
from cristae.volumes.volume import Volume


def overlap_table(
    compared: Compared,
    *,
    crop: bool = False,
    align: Align = "origin",
    block_shape: Triple | None = None,
    resources: Resources | None = None,
    ledger: Ledger | None = None,
) -> Overlaps:
    """Count how the instances of two label volumes overlap.

    Two segmentations with run tables are compared by these, without looking at a voxel.

    Args:
        compared: The volumes.
        crop: Compare the common part of volumes that do not cover the same place.
        align: ``origin`` places the volumes by voxel size and origin, ``voxels`` lays voxel 0 on
            voxel 0 (``corner``: its older name).
        block_shape: Voxels (z, y, x) read at a time, also where there are run tables; by default
            whole chunks of all volumes.
        resources: Workers and executor.
        ledger: Remembers finished blocks.

    Returns:
        The table, independent of blocks and workers.

    Raises:
        InputError: Volumes of different places or voxel sizes, offsets that are not whole voxels,
            labels that are negative or fractional; all faults of the volumes at once.
        MemoryLimitError: A block does not fit.
    """
    resources = Resources() if resources is None else resources
    box, placed = place_volumes(compared, crop, align)
    unit = compared.score_unit
    check_extent(compared.prediction.shape, compared.prediction.name, unit or 1)
    by_runs = None if block_shape else _pass_of_runs(placed, box.start, compared.prediction.shape)
    if by_runs is not None:
        blocks = slabs_of_runs(by_runs.folders, by_runs.volumes)
        needed = slab_bytes(blocks, 2, resources)
    else:
        volumes = list(placed.volumes.values())
        whole = Box.of(placed.prediction.shape)
        blocks = tile(whole, block_shape) if block_shape else blocks_of(volumes)
        pieces = [piece for block in blocks for piece in pieces_of(block, volumes)]
        needed = memory_of(pieces, placed.bytes_per_voxel, resources)
    promise_memory("evaluate", needed, resources)
    chunks = None if block_shape else _chunks_of(placed)
    counted = overlaps_of_blocks(
        by_runs or _Pass(placed, box.start, compared.prediction.shape, chunks),
        blocks,
        description="overlaps",
        resources=resources,
        ledger=ledger,
        stage="evaluate",
        block_bytes=needed,
    )
    return overlaps_of_table(counted, box, compared.prediction.shape, unit)


@dataclass(frozen=True)
class _Pass:
    """Reads one block of every volume and counts its overlaps; the volumes have one shape."""

    compared: Compared
    corner: Triple
    extent: Triple
    chunks: tuple[Chunks, Chunks] | None = None

    def __call__(self, block: Box) -> OverlapTable:
        if self.chunks is not None:
            counted = overlaps_of_parts(self._parts(block, *self.chunks), block.size, self.extent)
            return self._checked(counted, block)
        pieces = pieces_of(block, list(self.compared.volumes.values()))
        return (
            merge_overlap_tables(map(self._counted, pieces))
            if len(pieces) > 1
            else self._counted(block)
        )

    def _counted(self, block: Box) -> OverlapTable:
        prediction, truth = self.compared.prediction, self.compared.truth
        first = as_labels(read_block(prediction, block), prediction.name, block)
        second = as_labels(read_block(truth, block), truth.name, block)
        left_out = 0
        if self.compared.mask is not None:
            inside = read_block(self.compared.mask, block) != 0
            first, second = first * inside, second * inside
            left_out = inside.size - int(np.count_nonzero(inside))
        scores = self.compared.scores
        weights = None if scores is None else _weights(scores, block, self.compared.score_channel)
        corner = block.shift(self.corner).start
        counted = overlaps_of_block(first, second, weights, corner=corner, extent=self.extent)
        self._checked(counted, block)
        return OverlapTable(counted.labels, counted.facts, counted.voxels - left_out)

    def _parts(
        self, block: Box, first: Chunks, second: Chunks
    ) -> Iterator[tuple[NDArray[Any], NDArray[Any], Triple]]:
        """The labels of both chunk by chunk, where either has any."""
        prediction, truth = self.compared.prediction, self.compared.truth
        for (box, one), (_, two) in zip(first.read(block), second.read(block), strict=True):
            if one is None and two is None:
                continue
            one = np.zeros(box.shape, prediction.dtype) if one is None else one
            two = np.zeros(box.shape, truth.dtype) if two is None else two
            labels = as_labels(one, prediction.name, box), as_labels(two, truth.name, box)
            yield *labels, box.shift(self.corner).start

    def _checked(self, counted: OverlapTable, block: Box) -> OverlapTable:
        for column, volume in enumerate((self.compared.prediction, self.compared.truth)):
            check_signs(counted, column, volume.dtype, volume.name, block)
        return counted


@dataclass(frozen=True)
class _RunPass:
    """Counts overlaps in whole planes of two segmentations from their run tables."""

    volumes: tuple[Volume, Volume]
    folders: tuple[Path, Path]
    corner: Triple
    extent: Triple

    def __call__(self, slab: Box) -> OverlapTable:
        first, second = (
            _moved(table_rows(folder, volume, (slab.start[0], slab.stop[0])), self, volume.shape)
            for folder, volume in zip(self.folders, self.volumes, strict=True)
        )
        counted = overlaps_of_runs(first, second, self.extent)
        return OverlapTable(counted.labels, counted.facts, slab.size)


def _chunks_of(placed: Compared) -> tuple[Chunks, Chunks] | None:
    """The chunks of both volumes where these lie on one another and nothing else is read."""
    first, second = chunks_of(placed.prediction), chunks_of(placed.truth)
    if first is None or second is None or placed.scores is not None or placed.mask is not None:
        return None
    sides = zip(first.corner, second.corner, first.chunk, strict=True)
    same = first.chunk == second.chunk and all((a - b) % c == 0 for a, b, c in sides)
    return (first, second) if same else None


def _pass_of_runs(placed: Compared, corner: Triple, extent: Triple) -> _RunPass | None:
    """How to compare by run tables; None where a volume has none, or voxels have to be read."""
    if placed.scores is not None or placed.mask is not None:
        return None
    first, second = run_table_of(placed.prediction), run_table_of(placed.truth)
    if first is None or second is None:
        return None
    return _RunPass((placed.prediction, placed.truth), (first, second), corner, extent)


def _moved(rows: LabelRuns, to: _RunPass, shape: Triple) -> LabelRuns:
    """Runs of a part of a volume, counted in the whole of it."""
    if to.corner == (0, 0, 0) and shape == to.extent:
        return rows
    z, y = np.divmod(rows.row, shape[1])
    row = (z + to.corner[0]) * to.extent[1] + y + to.corner[1]
    dx = np.int32(to.corner[2])
    return LabelRuns(row, rows.start + dx, rows.stop + dx, rows.label)


def _weights(scores: Volume, block: Box, channel: int | None) -> NDArray[Any]:
    """(c, z, y, x) integer scores of a block."""
    array = read_block(scores, block)
    array = array[None] if array.ndim == 3 else array
    array = array if channel is None else array[channel : channel + 1]
    if array.dtype.kind != "f":
        return array
    array = probabilities(array, f"{scores.name}, box {block}: scores")
    return np.rint(np.multiply(array, FLOAT_UNIT, dtype=np.float64)).astype(np.int64)
