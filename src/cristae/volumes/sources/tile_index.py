"""The tile index of PyTorch Connectomics: a JSON file that lists image tiles, read as one volume.

Keys: ``depth``, ``height``, ``width`` (voxels), ``image`` (one path, or pattern with ``{row}`` and
``{column}``, for every z), ``tile_size`` (one number, or height and width, after zooming),
``tile_ratio`` (zoom of every tile: linear for images, nearest for labels), ``tile_st`` (row and
column of the first tile), ``ndim`` (3: RGB), ``dtype`` (of the labels). Relative paths count from
the JSON's folder, or from a root given. With a root, absolute paths of another machine are looked
for below it: ``/path/to/MitoEM-R/im/im0000.png`` with root ``data`` may be ``data/im/im0000.png``.

Labels in RGB are ids, R * 65536 + G * 256 + B; an image's grey value is its first sample. An index
does not say which of the two it lists: with ``ndim`` 3 or a ``dtype`` wider than 8 bits it is
taken for labels, otherwise for an image. Fingerprint: the index, and size and time of change of
all tiles.

Equal to ``tile2volume`` of PyTC v1.0, but for two things. Tiles that are missing or of another size
are errors here, where it fills in grey 128. And where rounding puts the last row or column of a
zoomed tile beyond its border (some sizes at a ratio under 1) it is the border here, and 0 there.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from cristae.engine.identity import Facts, Identity, Named, file_facts, fingerprint_of
from cristae.errors import InputError, SourceNotFoundError, raise_faults
from cristae.grid import Box, tile
from cristae.volumes.sources.pages import (
    PLANES,
    PlaneHeader,
    decode_plane,
    files_fingerprint,
    raise_capped,
    read_headers,
    single_values,
)
from cristae.volumes.volume import Array, Kind, Volume

DTYPES = ("uint8", "uint16", "uint32", "uint64")


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
        stamp: Changes when the index or a tile does.
    """

    root: str
    patterns: tuple[str, ...]
    plane: tuple[int, int]
    tile_shape: tuple[int, int]
    first: tuple[int, int]
    ratio: float
    dtype: str
    labels: bool
    stamp: str = ""

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
        pattern = self.patterns[z]
        if is_pattern(pattern):
            at = {"row": row + self.first[0], "column": column + self.first[1]}
            pattern = pattern.format(**at)
        return Path(self.root, pattern)

    def tiles(self) -> Iterator[tuple[str, str]]:
        """Name and path of every tile, in raster order."""
        counts = [-(-n // side) for n, side in zip(self.plane, self.tile_shape, strict=True)]
        for z in range(len(self.patterns)):
            for row, column in np.ndindex(counts[0], counts[1]):
                yield f"{z}/{row}/{column}", str(self.path(z, row, column))

    def expected(self, row: int, column: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Height and width a tile must have at least, and those of a whole tile."""
        height, width = (
            min(self.tile_shape[i], self.plane[i] - index * self.tile_shape[i])
            for i, index in enumerate((row, column))
        )
        return (height, width), self.tile_shape

    def _tile(self, z: int, row: int, column: int) -> Array:
        path = self.path(z, row, column)
        key = (str(path), self.stamp, self.ratio, self.labels)
        return PLANES.get(key, lambda: self._decode(path))

    def _decode(self, path: Path) -> Array:
        dtype = np.dtype(self.dtype)
        plane = single_values(decode_plane(path), self.labels, dtype, path)
        if self.ratio == 1:
            return plane
        if not self.labels:
            return np.asarray(ndimage.zoom(plane, self.ratio, order=1, mode="nearest"))
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

    def facts(self) -> Facts:
        """See `file_facts`."""
        return file_facts(self.name, self.reader.tiles())


@lru_cache(maxsize=64)
def nearest_indices(length: int, ratio: float) -> Array:
    """Which element each one of an axis zoomed with nearest neighbours is, as SciPy has it."""
    zoomed = ndimage.zoom(np.arange(length, dtype=np.float64), ratio, order=0, mode="nearest")
    return np.asarray(zoomed.astype(np.intp))


def is_pattern(path: str) -> bool:
    """Whether a path stands for one tile of several."""
    return "{row}" in path or "{column}" in path


def open_tile_index(
    path: str | Path,
    *,
    kind: Kind | None = None,
    root: str | Path | None = None,
    name: str | None = None,
) -> Volume:
    """Open a tile index.

    Args:
        path: The JSON file.
        kind: ``labels`` or ``image``; None for what `assumed_kind` takes it for.
        root: Folder that relative paths count from, and below which absolute ones are looked for;
            by default the JSON's folder, and absolute paths as they are.
        name: The source as the user wrote it; the path by default.

    Returns:
        The volume; its attribute ``kind_from`` says why it was taken for its kind.

    Raises:
        SourceNotFoundError: No such file.
        InputError: An index that cannot be used, or tiles that are missing, cut off, or of another
            size or dtype than the index says; all at once.
    """
    path = Path(path)
    index = _load(path)
    raise_faults(str(path), _index_faults(index))
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
    files = _check_tiles(str(path), reader, index, sides)
    stamp = fingerprint_of([index, reader.root, files_fingerprint(files)])
    contents = (Named(json.dumps(index, sort_keys=True)), Tiles(name or str(path), reader))
    reason = "given" if kind is not None else f"ndim {index['ndim']}, dtype {index['dtype']}"
    return Volume(
        name=name or str(path),
        reader=replace(reader, stamp=stamp),
        shape=(int(index["depth"]), height, width),
        dtype=np.dtype(reader.dtype),
        kind=taken,
        chunk_shape=(1, *reader.tile_shape),
        attributes={"kind_from": f"tile index: {reason}"},
        size_on_disk=sum(size for _, size, _ in files),
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


def _load(path: Path) -> dict[str, Any]:
    try:
        index = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(index, dict):
        raise InputError(f"{path}: found a JSON {type(index).__name__}, expected a tile index")
    return index


def _index_faults(index: dict[str, Any]) -> list[str]:
    """Everything wrong with the index itself."""
    required = ("ndim", "dtype", "image", "height", "width", "depth", "tile_size")
    faults = [f"key {key!r} is missing" for key in required if key not in index]
    for key in ("height", "width", "depth"):
        if key in index and not _whole(index[key]):
            faults.append(f"{key}: found {index[key]!r}, expected a whole number above 0")
    if index.get("ndim", 1) not in (1, 3):
        faults.append(f"ndim: found {index['ndim']!r}, expected 1 or 3")
    if index.get("dtype", "uint8") not in DTYPES:
        faults.append(f"dtype: found {index['dtype']!r}, expected one of {', '.join(DTYPES)}")
    size = index.get("tile_size", 1)
    if not _whole(size) and not (_pair(size) and all(_whole(n) for n in size)):
        faults.append(f"tile_size: found {size!r}, expected a whole number, or two")
    start = index.get("tile_st", [0, 0])
    if not (_pair(start) and all(isinstance(n, int) for n in start)):
        faults.append(f"tile_st: found {start!r}, expected [row, column]")
    ratio = index.get("tile_ratio", 1)
    if not isinstance(ratio, int | float) or isinstance(ratio, bool) or not ratio > 0:
        faults.append(f"tile_ratio: found {ratio!r}, expected a number above 0")
    return faults + _image_faults(index)


def _image_faults(index: dict[str, Any]) -> list[str]:
    images, depth = index.get("image", []), index.get("depth")
    if not isinstance(images, list) or not all(isinstance(path, str) for path in images):
        return ["image: expected a list of paths"]
    if "image" in index and _whole(depth) and len(images) != depth:
        return [f"image: found {len(images)} paths, expected {depth} (depth)"]
    return []


def _below(patterns: list[str], root: str | Path | None, first: tuple[int, int]) -> tuple[str, ...]:
    """Paths of an index, absolute ones cut to the part that lies below a root.

    All lose as many leading folders as the first one must to be found below the root.
    """
    absolute = [path for path in patterns if os.path.isabs(path)]
    if root is None or not absolute:
        return tuple(patterns)
    row, column = first
    tile_path = absolute[0]
    if is_pattern(tile_path):
        tile_path = tile_path.format(row=row, column=column)
    parts = Path(tile_path).parts
    found = (k for k in range(1, len(parts)) if Path(root, *parts[k:]).is_file())
    cut = next(found, None)
    if cut is None:
        raise InputError(f"{absolute[0]}: no trailing part of this path is there below {root}")
    return tuple(
        str(Path(*Path(path).parts[cut:])) if os.path.isabs(path) else path for path in patterns
    )


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


def _check_tiles(
    name: str, reader: TileIndexReader, index: Mapping[str, Any], sides: tuple[int, int]
) -> list[tuple[str, int, int]]:
    """Name, size and time of change of every tile; all faulty ones are one error."""
    height, width = reader.plane
    several = height > sides[0] or width > sides[1]
    if several and not all(is_pattern(path) for path in reader.patterns):
        raise InputError(
            f"{name}: {height} x {width} voxels in tiles of {sides[0]} x {sides[1]}, "
            "expected paths with {row} and {column}"
        )
    places = list(_places(reader))
    paths = [reader.path(*place) for place in places]
    faults, files = [], []
    for place, path, header in zip(places, paths, read_headers(paths), strict=True):
        fault = _tile_fault(reader, index, sides, place, header)
        if fault:
            faults.append(f"{path}: {fault}")
        if isinstance(header, PlaneHeader):
            files.append((str(path), header.size, header.modified_ns))
    if len(faults) == len(places) and all(os.path.isabs(path) for path in reader.patterns):
        name += " (--root FOLDER looks for absolute paths below another folder)"
    raise_capped(name, faults)
    return files


def _places(reader: TileIndexReader) -> Iterator[tuple[int, int, int]]:
    for z in range(len(reader.patterns)):
        for row in range(-(-reader.plane[0] // reader.tile_shape[0])):
            for column in range(-(-reader.plane[1] // reader.tile_shape[1])):
                yield z, row, column


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
