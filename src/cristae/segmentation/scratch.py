"""Scratch: what the steps of a segmentation leave for one another, tables of plain arrays.

::

    SCRATCH/64x512x512/label-17   the table of block 17 (`BlockTable`)
                       budget     memory over which a component is cut, if any may be
                       plan       what each piece and seed of each block becomes (`Plan`)
                       flood-3    labelled runs of flood 3, by block, and their statistics
                       wide-17    labelled runs of block 17 after dilation, and their statistics
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
from typing import Any, Protocol

import numpy as np

from cristae.volumes.volume import Array

ALIGN = 64
"""Arrays in a file begin at multiples of so many bytes."""


class Scratch(Protocol):
    """Tables by name, each of named arrays."""

    def save(self, table: str, arrays: Mapping[str, Array]) -> None:
        """Leave a table."""

    def load(self, table: str, *names: str) -> list[Array]:
        """Some arrays of a table; read only."""

    def rows(self, table: str, name: str, first: int, stop: int) -> Array:
        """Rows first..stop-1 of an array of a table."""

    def shapes(self, table: str, *names: str) -> list[list[int]]:
        """Shapes of some arrays of a table; none is read."""

    def holds(self, table: str) -> bool:
        """Whether a table is there, and whole."""

    def done(self, step: str) -> Mapping[str, Any]:
        """The tables of a step that are there; see `cristae.engine.tasks.Record`."""

    def mark(self, step: str, key: str, value: Any = None) -> None:
        """Nothing: a table tells of itself."""


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

    def done(self, step: str) -> Mapping[str, Any]:
        """See `Scratch`."""
        return {}

    def mark(self, step: str, key: str, value: Any = None) -> None:
        """See `Scratch`."""


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

    def done(self, step: str) -> Mapping[str, Any]:
        """See `Scratch`."""
        names = (path.name for path in self.folder.glob(f"{step}-*"))
        return {name: None for name in names if self.holds(name)}

    def mark(self, step: str, key: str, value: Any = None) -> None:
        """See `Scratch`."""

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
