"""Overlap tables of whole volumes: block after block, resumed where a ledger remembers them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cristae.engine.executors import Resources, run_tasks
from cristae.engine.files import write_atomic
from cristae.engine.ledger import Ledger
from cristae.engine.memory import Promise
from cristae.engine.progress import track
from cristae.engine.tasks import block_tasks, run_step
from cristae.grid import Box, Triple, snap, tile
from cristae.labels.overlap_table import OverlapTable, merge_overlap_tables
from cristae.volumes.volume import Array, ArrayReader, Volume

BLOCK_VOXELS = 1 << 23
"""Voxels a block grows to from whole chunks; 8 M keep two uint64 label blocks at 128 MiB."""

PIECE_VOXELS = 1 << 21
"""Voxels of a block that are looked at at a time."""

TABLE_BYTES = 16 << 20
"""Memory counted for the table itself: fifty thousand pairs, with a copy while merging."""


def blocks_of(volumes: Sequence[Volume]) -> list[Box]:
    """Blocks of whole chunks that volumes of one shape are read in, in raster order.

    A block is a multiple of every volume's chunk where that is small enough, so that no chunk is
    decoded twice, and lies on the chunk grid of the first volume's source. It grows along x first,
    then y, then z, up to `BLOCK_VOXELS`: long rows make long runs.
    """
    shape = volumes[0].shape
    z, y, x = _grown(volumes, BLOCK_VOXELS)
    whole = Box.of(shape).shift(volumes[0].corner)
    grid = tile(snap(whole, (z, y, x)), (z, y, x))
    return [b.clip(whole).relative_to(volumes[0].corner) for b in grid]


def pieces_of(block: Box, volumes: Sequence[Volume]) -> list[Box]:
    """Parts of a block of `blocks_of` to look at one after the other, in raster order.

    They fit into the cache, and memory for them is used again: large arrays would be fetched from
    the system and given back each time. Of arrays in memory nothing is copied, so the block is
    one piece.
    """
    if all(isinstance(volume.reader, ArrayReader) for volume in volumes):
        return [block]
    return tile(block, _grown(volumes, PIECE_VOXELS))


def _grown(volumes: Sequence[Volume], most: int) -> Triple:
    """Whole chunks of all volumes, or of the largest, grown along x, then y, then z."""
    shape = volumes[0].shape
    chunks = [[min(c, n) for c, n in zip(v.chunk_shape, shape, strict=True)] for v in volumes]
    unit = [
        min(math.lcm(*sides), n) for sides, n in zip(zip(*chunks, strict=True), shape, strict=True)
    ]
    if math.prod(unit) > BLOCK_VOXELS:
        unit = [max(sides) for sides in zip(*chunks, strict=True)]
    block = list(unit)
    for axis in (2, 1, 0):
        others = math.prod(block) // block[axis]
        fitting = most // (others * unit[axis])
        block[axis] = max(block[axis], min(fitting * unit[axis], shape[axis]))
    z, y, x = block
    return z, y, x


def read_block(volume: Volume, block: Box) -> Array:
    """A block to look at and not to write to: of an array in memory it is a view."""
    if isinstance(volume.reader, ArrayReader) and volume.box.contains(block):
        return volume.reader.array[(..., *block.shift(volume.corner).slices())]
    return volume.read(block)


ROW_BYTES = 780
"""Memory of a row of the table while it is merged, sorted and written (measured)."""


def memory_of(blocks: Sequence[Box], bytes_per_voxel: int, resources: Resources) -> int:
    """Upper bound of the bytes an overlap table takes: a block a worker, and the table."""
    largest = max((block.size for block in blocks), default=0)
    workers = 1 if resources.executor == "serial" else max(1, resources.workers)
    return min(workers, len(blocks)) * largest * bytes_per_voxel + TABLE_BYTES


def overlaps_of_blocks(
    function: Callable[[Box], OverlapTable],
    blocks: Sequence[Box],
    *,
    description: str,
    resources: Resources,
    ledger: Ledger | None = None,
    stage: str = "measure",
    block_bytes: int = 0,
    promise: Promise | None = None,
) -> OverlapTable:
    """Count every block and merge.

    How many rows the table has is known block by block, so memory is promised again where they
    need more than was promised before: of an interrupted run before anything is merged.

    Args:
        function: Gives the overlap table of a block; picklable where the executor is ``processes``.
        blocks: Blocks without overlap.
        description: What progress says.
        resources: Workers and executor.
        ledger: Where finished blocks are remembered, so that an interrupted run goes on.
        stage: What promises memory.
        block_bytes: Of `memory_of`.
        promise: That of the stage; by default ``block_bytes`` has been promised.

    Returns:
        The overlap table of all blocks together, the same for any blocks and workers.
    """
    promise = promise or Promise(resources, max(block_bytes, TABLE_BYTES))
    table = TablePromise(stage, block_bytes, promise)
    if ledger is None:
        return merge_overlap_tables(_in_memory(function, blocks, description, resources), table)
    each = max(block_bytes - TABLE_BYTES, 0) // max(1, min(resources.workers, len(blocks)))
    rows = run_step(
        "overlaps",
        block_tasks(blocks, each),
        _Saved(function, ledger.scratch),
        record=ledger,
        resources=resources,
        description=description,
    )
    table(sum(rows.values()))
    return merge_overlap_tables(_load(ledger.scratch / _file_of(block)) for block in blocks)


class TablePromise:
    """Promises memory for a table whose rows become known bit by bit.

    Args:
        stage: What promises memory.
        block_bytes: Of `memory_of`.
        promise: That of the stage.
    """

    def __init__(self, stage: str, block_bytes: int, promise: Promise) -> None:
        self.part, self.promise = f"{stage}, table", promise
        self.needed = max(block_bytes - TABLE_BYTES, 0)

    def __call__(self, rows: int) -> None:
        """Promise so many rows."""
        self.promise(self.part, self.needed + ROW_BYTES * rows)


@dataclass(frozen=True)
class _Saved:
    """Writes the overlap table of a block."""

    function: Callable[[Box], OverlapTable]
    folder: Path

    def __call__(self, block: Box) -> int:
        counted = self.function(block)
        path = self.folder / _file_of(block)
        columns = {
            "labels": counted.labels,
            "facts": counted.facts,
            "voxels": np.int64(counted.voxels),
        }
        write_atomic(path, lambda file: np.savez(file, **columns), alone=True)  # type: ignore[arg-type]
        return len(counted.labels)


def _in_memory(
    function: Callable[[Box], OverlapTable],
    blocks: Sequence[Box],
    description: str,
    resources: Resources,
) -> Iterator[OverlapTable]:
    with track(description, sum(block.size for block in blocks), "voxels") as advance:
        for block, counted in run_tasks(function, blocks, resources):
            yield counted
            advance(block.size)


def _file_of(block: Box) -> str:
    """Name of a block's table; blocks that begin at one place need not end at one."""
    return "overlaps-{}-{}-{}-{}-{}-{}.npz".format(*block.start, *block.stop)


def _load(path: Path) -> OverlapTable:
    with np.load(path) as columns:
        return OverlapTable(columns["labels"], columns["facts"], int(columns["voxels"]))
