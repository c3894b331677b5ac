"""Scratch: what the steps of a segmentation leave for one another, tables of plain arrays.

::

    SCRATCH/64x512x512/label-17   the table of block 17 (`BlockTable`)
                       budget     memory over which a component is cut, if any may be
                       plan       what each piece and seed of each block becomes (`Plan`)
                       flood-3    labelled runs of flood 3, by block, and their statistics
                       wide-17    labelled runs of block 17 after widening, and their statistics
                       spans      where the flooded runs of each block lie, and the first number
                                  of the instances that only a flood knows
                       overlap-17 voxels that instances of consecutive slices share in block 17
                       groups     rank of each instance, and which ranks are small
                       contact-17 contacts of small instances in block 17
                       number     final number of each instance
                       runs-0     final runs of the first layer of blocks

They lie in memory (`MemoryScratch`) or in files (`FolderScratch`).
The folder is named by the block shape: a segmentation resumed with other blocks starts its
tables anew, while the shards it has written stay. A file that is there and whole is done.
"""

import json
import math
import os
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Protocol

import numpy as np

from cristae.grid import Box, Triple, tile
from cristae.labels.runs import Ints, Raster
from cristae.segmentation.decoders import Decoding
from cristae.volumes.volume import Array, Volume

ALIGN = 64
"""Arrays in a file begin at multiples of so many bytes."""


@dataclass(frozen=True)
class Job:
    """One segmentation, as its tasks know it; small and picklable.

    Attributes:
        prediction: What is segmented.
        decoding: The decoder.
        block_shape: Extent (z, y, x) of the blocks.
        scratch: Where the steps leave their tables.
    """

    prediction: Volume
    decoding: Decoding
    block_shape: Triple
    scratch: "Scratch"

    @property
    def raster(self) -> Raster:
        """Numbering of the volume's voxels."""
        return Raster(self.prediction.shape, self.decoding.planar)

    @property
    def blocks(self) -> list[Box]:
        """All blocks in raster order."""
        return tile(self.prediction.box, self.block_shape)

    @property
    def name(self) -> str:
        """The block shape as messages and files say it."""
        return shape_name(self.block_shape)

    def block(self, index: int) -> Box:
        """The block of an index."""
        _, ny, nx = (
            -(-n // step) for n, step in zip(self.prediction.shape, self.block_shape, strict=True)
        )
        place = (index // (ny * nx), index // nx % ny, index % nx)
        z, y, x = (k * step for k, step in zip(place, self.block_shape, strict=True))
        block = Box((z, y, x), (z, y, x)).grow((0, 0, 0), self.block_shape)
        return block.clip(self.prediction.box)

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


def shape_name(shape: Triple) -> str:
    """``64x512x512``."""
    return "x".join(map(str, shape))


class Scratch(Protocol):
    """Tables by name, each of named arrays."""

    def save(self, table: str, arrays: Mapping[str, Array]) -> None:
        """Leave a table."""

    def load(self, table: str, *names: str) -> list[Array]:
        """Some arrays of a table; nobody changes them."""

    def rows(self, table: str, name: str, first: int, stop: int) -> Array:
        """Rows first..stop-1 of an array of a table."""

    def shapes(self, table: str, *names: str) -> list[list[int]]:
        """Shapes of some arrays of a table; none is read."""

    def holds(self, table: str) -> bool:
        """Whether a table is there, and whole."""


@dataclass(frozen=True)
class MemoryScratch:
    """Tables in memory."""

    tables: dict[str, Mapping[str, Array]] = field(default_factory=dict)

    def save(self, table: str, arrays: Mapping[str, Array]) -> None:
        """See `Scratch`."""
        self.tables[table] = arrays

    def load(self, table: str, *names: str) -> list[Array]:
        """See `Scratch`."""
        return [self.tables[table][name] for name in names]

    def rows(self, table: str, name: str, first: int, stop: int) -> Array:
        """See `Scratch`."""
        return self.tables[table][name][first:stop]

    def shapes(self, table: str, *names: str) -> list[list[int]]:
        """See `Scratch`."""
        return [list(self.tables[table][name].shape) for name in names]

    def holds(self, table: str) -> bool:
        """See `Scratch`."""
        return table in self.tables


@dataclass(frozen=True)
class FolderScratch:
    """Tables as files of a folder."""

    folder: Path

    def save(self, table: str, arrays: Mapping[str, Array]) -> None:
        """Write a file, which gets its name when it is complete.

        Nothing waits for the disk: after a power cut a file may be torn, and `holds` tells.
        """
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        entries, offset, check = [], 0, 0
        for name, array in whole.items():
            entries.append([name, array.dtype.str, array.shape, offset])
            offset += -(-array.nbytes // ALIGN) * ALIGN
            check = zlib.crc32(_bytes(array), check)
        header = json.dumps({"arrays": entries, "check": check}).encode()
        header += b" " * (-len(header) % ALIGN)
        temporary = self.folder / f".{table}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            with temporary.open("wb") as file:
                file.write(len(header).to_bytes(ALIGN, "little") + header)
                for array in whole.values():
                    file.write(_bytes(array))
                    file.write(b"\0" * (-array.nbytes % ALIGN))
            temporary.replace(self.folder / table)
        finally:
            temporary.unlink(missing_ok=True)

    def load(self, table: str, *names: str) -> list[Array]:
        """See `Scratch`."""
        with (self.folder / table).open("rb") as file:
            entries, _, begin = _read_header(file)
            return [_read(file, begin, *entries[name]) for name in names]

    def rows(self, table: str, name: str, first: int, stop: int) -> Array:
        """See `Scratch`."""
        with (self.folder / table).open("rb") as file:
            entries, _, begin = _read_header(file)
            dtype, (_, *rest), offset = entries[name]
            offset += first * math.prod(rest) * np.dtype(dtype).itemsize
            return _read(file, begin, dtype, [stop - first, *rest], offset)

    def shapes(self, table: str, *names: str) -> list[list[int]]:
        """See `Scratch`."""
        with (self.folder / table).open("rb") as file:
            entries, _, _ = _read_header(file)
        return [entries[name][1] for name in names]

    def holds(self, table: str) -> bool:
        """See `Scratch`."""
        path = self.folder / table
        if not path.is_file() or path.stat().st_size < ALIGN:
            return False
        found = 0
        try:
            with path.open("rb") as file:
                entries, check, begin = _read_header(file)
                for entry in entries.values():
                    found = zlib.crc32(_bytes(_read(file, begin, *entry)), found)
        except ValueError:  # a torn header, or less than it names
            return False
        return found == check


def load_table(job: Job, index: int, *names: str) -> list[Array]:
    """Some fields of the table of a block (`BlockTable`)."""
    return job.scratch.load(f"label-{index}", *names)


def targets_of(job: Job, index: int) -> tuple[Ints, Ints]:
    """What each piece, and what each seed of a block becomes (`Plan`)."""
    base = job.scratch.rows("plan", "base", index, index + 2)
    return job.scratch.rows("plan", "target", *base[:, 0]), job.scratch.rows(
        "plan", "seed", *base[:, 1]
    )


def _read_header(file: BufferedReader) -> tuple[dict[str, tuple[str, list[int], int]], int, int]:
    """(type, shape and offset of each array, check sum, first byte of the arrays)."""
    size = int.from_bytes(file.read(ALIGN)[:8], "little")
    _check_room(file, ALIGN + size)
    header = json.loads(file.read(size))
    entries = {name: (dtype, shape, offset) for name, dtype, shape, offset in header["arrays"]}
    return entries, header["check"], ALIGN + size


def _read(file: BufferedReader, begin: int, dtype: str, shape: list[int], offset: int) -> Array:
    _check_room(file, begin + offset + math.prod(shape) * np.dtype(dtype).itemsize)
    array = np.empty(shape, dtype)
    if array.size:
        file.seek(begin + offset)
        file.readinto(_bytes(array))
    return array


def _check_room(file: BufferedReader, stop: int) -> None:
    size = os.fstat(file.fileno()).st_size
    if stop > size:
        raise ValueError(f"{file.name}: {size} bytes found, expected {stop} or more")


def _bytes(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
