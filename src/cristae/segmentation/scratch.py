"""Scratch: what the steps of a segmentation leave for one another, as files of plain arrays.

::

    SCRATCH/64x512x512/label-17.npz   the table of block 17 (`BlockTable`)
                       target.npy     instance of each piece of each block, see `Plan`
                       seed.npy       instance of each seed of each block
                       flood-3.npy    labelled runs of flood 3, grouped by block; flood-3.npz: index
                       wide-17.npz    labelled runs of block 17 after widening
                       number.npy     final number of each instance
                       runs-0.npz     final runs of the first slab of blocks

The folder is named by the block shape: a segmentation resumed with other blocks starts its
tables anew, while the shards it has written stay.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cristae.engine.files import write_atomic
from cristae.grid import Box, Triple, tile
from cristae.segmentation.components import BlockTable
from cristae.segmentation.decoders import Decoding
from cristae.segmentation.runs import Raster
from cristae.volumes.volume import Array, Volume


@dataclass(frozen=True)
class Job:
    """One segmentation, as its tasks know it; small and picklable.

    Attributes:
        prediction: What is segmented.
        decoding: The decoder.
        block_shape: Extent (z, y, x) of the blocks.
        folder: Where the steps leave their files.
    """

    prediction: Volume
    decoding: Decoding
    block_shape: Triple
    folder: Path

    @property
    def raster(self) -> Raster:
        """Numbering of the volume's voxels."""
        return Raster(self.prediction.shape)

    @property
    def blocks(self) -> list[Box]:
        """All blocks in raster order."""
        return tile(self.prediction.box, self.block_shape)

    @property
    def name(self) -> str:
        """The block shape as messages and files say it."""
        return shape_name(self.block_shape)

    def index_of(self, block: Box) -> int:
        """Index of a block."""
        at = 0
        for start, step, extent in zip(
            block.start, self.block_shape, self.prediction.shape, strict=True
        ):
            at = at * -(-extent // step) + start // step
        return at

    def blocks_in(self, box: Box) -> list[tuple[int, Box]]:
        """The blocks that share voxels with a box, with their indices."""
        nz, ny, nx = (
            range(a // step, -(-b // step))
            for a, b, step in zip(box.start, box.stop, self.block_shape, strict=True)
        )
        sz, sy, sx = self.block_shape
        corners = [(z * sz, y * sy, x * sx) for z in nz for y in ny for x in nx]
        found = [Box(c, c).grow((0, 0, 0), self.block_shape) for c in corners]
        clipped = [block.clip(self.prediction.box) for block in found]
        return [(self.index_of(block), block) for block in clipped]

    def path(self, name: str) -> Path:
        """Place of a scratch file."""
        return self.folder / name


def shape_name(shape: Triple) -> str:
    """``64x512x512``."""
    return "x".join(map(str, shape))


def save_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write named arrays into one file, atomically."""
    named: dict[str, Any] = dict(arrays)
    write_atomic(path, lambda file: np.savez(file, **named))


def load_arrays(path: Path, *names: str) -> list[Array]:
    """Read some of the arrays of a file."""
    with np.load(path, allow_pickle=False) as file:
        return [file[name] for name in names]


def save_array(path: Path, array: Array) -> None:
    """Write one array into a file that can be mapped into memory, atomically."""
    write_atomic(path, lambda file: np.save(file, array, allow_pickle=False))


def map_array(path: Path) -> Any:
    """One array of a file, read where it is touched."""
    return np.load(path, mmap_mode="r", allow_pickle=False)


def save_table(job: Job, index: int, table: BlockTable) -> None:
    """Keep the table of a block."""
    save_arrays(job.path(f"label-{index}.npz"), table._asdict())


def load_table(job: Job, index: int, *names: str) -> list[Array]:
    """Read some fields of the table of a block."""
    return load_arrays(job.path(f"label-{index}.npz"), *names)
