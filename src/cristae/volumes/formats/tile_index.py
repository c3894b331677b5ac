"""The tile index of PyTorch Connectomics: a JSON file that lists image tiles, read as one volume.

Keys: ``depth``, ``height``, ``width`` (voxels), ``image`` (one path, or pattern with ``{row}`` and
``{column}``, for every z), ``tile_size`` (one number, or height and width, after zooming),
``tile_ratio`` (zoom of every tile: linear for images, nearest for labels), ``tile_st`` (row and
column of the first tile), ``ndim`` (3: RGB), ``dtype`` (of the labels). Relative paths count from
the JSON's folder, or from a root given. With a root, absolute paths of another machine are looked
for below it: ``/path/to/MitoEM-R/im/im0000.png`` with root ``data`` may be ``data/im/im0000.png``.

Labels in RGB are ids, R * 65536 + G * 256 + B; an image's grey value is its first sample. An index
does not say which of the two it lists: with ``ndim`` 3 or a ``dtype`` wider than 8 bits it is
taken for labels, otherwise for an image.

Equal to ``tile2volume`` of PyTC v1.0, but for two things. Tiles that are missing or of another size
are errors here, where it fills in grey 128. And where rounding puts the last row or column of a
zoomed tile beyond its border (some sizes at a ratio under 1) it is the border here, and 0 there.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import scipy

from cristae.engine.identity import Facts, Identity, Named, Place, file_facts
from cristae.errors import InputError
from cristae.grid import Box, tile
from cristae.volumes.formats.axes import OpenOptions
from cristae.volumes.formats.format import Format
from cristae.volumes.formats.pages import (
    PLANES,
    PlaneHeader,
    State,
    check_unchanged,
    decode_plane,
    raise_capped,
    read_headers,
    single_values,
    state_of,
)
from cristae.volumes.formats.tile_json import load_index
from cristae.volumes.formats.tile_paths import at_home, fill, fill_all, is_pattern, missing
from cristae.volumes.volume import Array, Kind, Volume

_MOST_TILES = 1 << 24
_ALL_HEADERS = 1 << 13
"""Tiles of which every header is looked at; of more, those of a part."""

_SAMPLED_HEADERS = 1 << 11


@dataclass(frozen=True)
class TileIndexReader:
    """Reads boxes across the tiles of an index.

    Attributes:
        root: Folder that relative paths count from.
        patterns: Path or pattern of every z.
        plane: Height and width of a slice in voxels.
        tile_shape: Height and width of a whole tile in voxels, after zooming.
        first: Row and column of the first tile.
        ratio: Zoom of every tile.
        dtype: Name of the dtype of the result.
        labels: Whether the tiles are labels.
        states: State of every tile in raster order; another one is refused. Of very many tiles,
            which take long to look at, none.
    """

    root: str
    patterns: tuple[str, ...]
    plane: tuple[int, int]
    tile_shape: tuple[int, int]
    first: tuple[int, int]
    ratio: float
    dtype: str
    labels: bool
    states: tuple[State, ...] = ()
    cached: ClassVar[bool] = True

    def read(self, box: Box) -> Array:
        """The (z, y, x) array of a box.

        Raises:
            InputError: A tile that cannot be decoded, is cut off, or has another size now.
        """
        out = np.empty(box.shape, np.dtype(self.dtype))
        for z in range(box.start[0], box.stop[0]):
            whole = Box((z, box.start[1], box.start[2]), (z + 1, box.stop[1], box.stop[2]))
            for part in self.cells(whole):
                cell = Box(part.start, part.stop)
                row, column = (part.start[i + 1] // self.tile_shape[i] for i in (0, 1))
                corner = (z, row * self.tile_shape[0], column * self.tile_shape[1])
                plane = self._tile(z, row, column)
                self._check_cover(plane.shape, z, row, column)
                _, rows, columns = cell.relative_to(corner).slices()
                out[cell.relative_to(box.start).slices()] = plane[rows, columns]
        return out

    def cells(self, box: Box) -> list[Box]:
        """A box cut at the borders of tiles."""
        grid = (1, *self.tile_shape)
        low = (box.start[0], *(box.start[i] // grid[i] * grid[i] for i in (1, 2)))
        around = Box((low[0], low[1], low[2]), box.stop)
        return [cell.clip(box) for cell in tile(around, grid)]

    def path(self, z: int, row: int, column: int) -> Path:
        """File of a tile, its row and column counted from 0."""
        pattern = fill(self.patterns[z], row + self.first[0], column + self.first[1])
        return Path(self.root, pattern)

    @property
    def grid(self) -> tuple[int, int]:
        """Number of rows and columns of tiles."""
        rows, columns = (-(-n // s) for n, s in zip(self.plane, self.tile_shape, strict=True))
        return rows, columns

    def place(self, number: int) -> tuple[int, int, int]:
        """Section, row and column of a tile by its number in raster order."""
        rows, columns = self.grid
        return number // (rows * columns), number // columns % rows, number % columns

    def paths(self) -> list[str]:
        """Path of every tile, in raster order."""
        rows, columns = (range(a, a + n) for a, n in zip(self.first, self.grid, strict=True))
        paths: list[str] = []
        for pattern in self.patterns:
            folder = "" if os.path.isabs(pattern) else os.path.join(self.root, "")
            paths += [folder + path for path in fill_all(pattern, rows, columns)]
        return paths

    def expected(self, row: int, column: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Height and width a tile must have at least, and those of a whole tile."""
        height, width = (
            min(self.tile_shape[i], self.plane[i] - index * self.tile_shape[i])
            for i, index in enumerate((row, column))
        )
        return (height, width), self.tile_shape

    def _tile(self, z: int, row: int, column: int) -> Array:
        path = self.path(z, row, column)
        number = (z * self.grid[0] + row) * self.grid[1] + column
        state = self.states[number] if self.states else state_of(str(path))
        if self.states:
            check_unchanged(str(path), state)
        key = (str(path), state, self.ratio, self.labels, self.dtype)
        return PLANES.get(key, lambda: self._decode(path, state))

    def _decode(self, path: Path, state: State) -> Array:
        dtype = np.dtype(self.dtype)
        plane = single_values(decode_plane(path, state), self.labels, dtype, path)
        if self.ratio == 1:
            return plane
        if not self.labels:
            return np.asarray(scipy.ndimage.zoom(plane, self.ratio, order=1, mode="nearest"))
        rows, columns = (nearest_indices(n, self.ratio) for n in plane.shape)
        return np.asarray(plane[np.ix_(rows, columns)])

    def _check_cover(self, shape: tuple[int, ...], z: int, row: int, column: int) -> None:
        least, _ = self.expected(row, column)
        if shape[0] < least[0] or shape[1] < least[1]:
            path = self.path(z, row, column)
            raise InputError(f"{path}: found a tile of {shape} voxels, expected {least}")


@dataclass(frozen=True)
class Tiles:
    """The tiles of an index, as the content of a source.

    Attributes:
        name: The source, for messages.
        reader: Knows where they lie.
    """

    name: str
    reader: TileIndexReader

    def places(self) -> list[Place]:
        """The folders that hold tiles, and the index."""
        folders = {os.path.dirname(path) for path in self.reader.paths()}
        return [(self.name, False), *((folder, False) for folder in sorted(folders))]

    def facts(self) -> Facts:
        """See `file_facts`."""
        paths = self.reader.paths()
        return file_facts(self.name, zip(map(str, range(len(paths))), paths, strict=True))


@lru_cache(maxsize=64)
def nearest_indices(length: int, ratio: float) -> Array:
    """Which element each one of an axis zoomed with nearest neighbours is, as SciPy has it."""
    zoomed = scipy.ndimage.zoom(np.arange(length, dtype=np.float64), ratio, order=0, mode="nearest")
    return np.asarray(zoomed.astype(np.intp))


def open_tile_index(path: Path, options: OpenOptions) -> Volume:
    """Open a tile index.

    Args:
        path: The JSON file.
        options: Of no kind it is what `assumed_kind` takes it for. Its root is the folder that
            relative paths count from, and below which absolute ones are looked for; by default the
            JSON's folder, and absolute paths as they are.

    Returns:
        The volume; its attribute ``kind_from`` says why it was taken for its kind.

    Raises:
        SourceNotFoundError: No such file.
        InputError: An index that cannot be used, or tiles that are missing, cut off, or of another
            size or dtype than the index says; all at once.
    """
    kind, root = options.kind, options.root
    index = load_index(path)
    taken = kind if kind is not None else assumed_kind(index)
    height, width = int(index["height"]), int(index["width"])
    size = index["tile_size"]
    sides = (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))
    row, column = index.get("tile_st", (0, 0))
    reader = TileIndexReader(
        root=str(Path(root) if root is not None else path.parent),
        patterns=_below(index["image"], root, (int(row), int(column))),
        plane=(height, width),
        tile_shape=(min(sides[0], height), min(sides[1], width)),
        first=(int(row), int(column)),
        ratio=float(index.get("tile_ratio", 1)),
        dtype=str(index["dtype"]),
        labels=taken == "labels",
    )
    states = _check_tiles(str(path), reader, index, sides)
    described = Named(json.dumps(index, sort_keys=True))
    contents = (described, Tiles(options.name, reader))
    reason = "given" if kind is not None else f"ndim {index['ndim']}, dtype {index['dtype']}"
    return Volume(
        name=options.name,
        reader=replace(reader, states=states),
        shape=(int(index["depth"]), height, width),
        dtype=np.dtype(reader.dtype),
        kind=taken,
        chunk_shape=(1, *reader.tile_shape),
        attributes={"kind_from": f"tile index: {reason}"},
        size_on_disk=sum(size for size, _ in states) if states else None,
        identity=Identity(contents, (_reading(reader.labels),)),
    )


def _reading(labels: bool) -> str:
    return "RGB ids" if labels else "grey values"


def assumed_kind(index: Mapping[str, Any]) -> Kind:
    """What an index is taken for: labels with ``ndim`` 3 or a dtype wider than 8 bits."""
    wide = np.dtype(index["dtype"]).itemsize > 1
    return "labels" if index["ndim"] == 3 or wide else "image"


def taken_as(volume: Volume, kind: Kind) -> Volume:
    """The same tiles read as another kind; volumes of other sources only change their name."""
    reader = volume.reader
    if not isinstance(reader, TileIndexReader) or volume.kind == kind:
        return volume.with_(kind=kind)
    labels = kind == "labels"
    _, *others = volume.identity.reading
    return volume.with_(
        kind=kind,
        reader=replace(reader, labels=labels),
        attributes={**volume.attributes, "kind_from": "tile index: given"},
        identity=replace(volume.identity, reading=(_reading(labels), *others)),
    )


def _below(patterns: list[str], root: str | Path | None, first: tuple[int, int]) -> tuple[str, ...]:
    """Paths of an index, absolute ones cut to the part that lies below a root.

    All lose as many leading folders as the first one must to be found below the root.
    """
    patterns = [at_home(path) for path in patterns]
    absolute = [path for path in patterns if os.path.isabs(path)]
    if root is None or not absolute:
        return tuple(patterns)
    row, column = first
    tile_path = absolute[0]
    parts = Path(fill(tile_path, row, column)).parts
    found = (k for k in range(1, len(parts)) if Path(root, *parts[k:]).is_file())
    cut = next(found, None)
    if cut is None:
        raise InputError(f"{absolute[0]}: no trailing part of this path is there below {root}")
    return tuple(
        str(Path(*Path(path).parts[cut:])) if os.path.isabs(path) else path for path in patterns
    )


def _check_tiles(
    name: str, reader: TileIndexReader, index: Mapping[str, Any], sides: tuple[int, int]
) -> tuple[State, ...]:
    """State of every tile; all faulty ones are one error. Very many: all must be there, that is it.

    Of very many tiles the headers of a part are looked at, spread over all.
    """
    height, width = reader.plane
    several = height > sides[0] or width > sides[1]
    if several and not all(is_pattern(path) for path in reader.patterns):
        raise InputError(
            f"{name}: {height} x {width} voxels in tiles of {sides[0]} x {sides[1]}, "
            "expected paths with {row} and {column}"
        )
    count = len(reader.patterns) * math.prod(reader.grid)
    if count > _MOST_TILES:
        raise InputError(f"{name}: found {count:,} tiles, expected {_MOST_TILES:,} at most")
    paths = reader.paths()
    gone = set(missing(paths)) if count > _ALL_HEADERS else set()
    faults = [f"{paths[number]}: no such file" for number in sorted(gone)]
    step = -(-count // _SAMPLED_HEADERS) if count > _ALL_HEADERS else 1
    looked = [number for number in range(0, count, step) if number not in gone]
    headers = read_headers([Path(paths[number]) for number in looked])
    for number, header in zip(looked, headers, strict=True):
        fault = _tile_fault(reader, index, sides, reader.place(number), header)
        if fault:
            faults.append(f"{paths[number]}: {fault}")
    if len(faults) == count and all(os.path.isabs(path) for path in reader.patterns):
        name += " (--root FOLDER looks for absolute paths below another folder)"
    raise_capped(name, faults)
    if step > 1:
        return ()
    return tuple(header.state for header in headers if isinstance(header, PlaneHeader))


def _tile_fault(
    reader: TileIndexReader,
    index: Mapping[str, Any],
    sides: tuple[int, int],
    place: tuple[int, int, int],
    header: PlaneHeader | InputError,
) -> str | None:
    if isinstance(header, InputError):
        return str(header)
    least, _ = reader.expected(place[1], place[2])
    zoomed = tuple(round(n * reader.ratio) for n in header.shape)
    slack = 0 if reader.ratio == 1 else max(1, math.ceil(reader.ratio) - 1)
    if any(
        not (least[i] <= zoomed[i] <= least[i] + slack or zoomed[i] == sides[i]) for i in (0, 1)
    ):
        zoom = f", {zoomed} zoomed by {reader.ratio:g}" if reader.ratio != 1 else ""
        return f"found {header.shape} pixels{zoom}, expected {least} by the index"
    if (header.samples > 1) != (index["ndim"] == 3):
        return f"found {header.samples} samples a pixel, expected ndim {index['ndim']}"
    dtype = np.dtype(reader.dtype)
    if not np.can_cast(header.dtype, dtype, "safe"):
        return f"found {header.dtype}, expected values that fit {dtype}"
    return None


FORMAT = Format(
    "tile index", "a tile index .json", open_tile_index, suffixes=(".json",), reads=("root",)
)
