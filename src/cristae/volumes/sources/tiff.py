"""Multi-page TIFF: ``file.tif`` with one series of planes, ImageJ and OME files included.

Uncompressed series that lie in one piece are mapped into memory and cost nothing but what is read;
others are decoded page by page. Voxel sizes are those of ImageJ or OME metadata when all three are
given with a unit. Fingerprint: the file's size and time of change.
"""

import math
import os
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile

from cristae.engine.identity import file_identity
from cristae.errors import InputError, SourceNotFoundError
from cristae.grid import Box
from cristae.volumes.sources.axes import Axes, OpenOptions, arrange
from cristae.volumes.sources.pages import (
    PLANES,
    TIFF_SUFFIXES,
    data_end,
    plain_dtype,
    raise_capped,
)
from cristae.volumes.sources.units import known, to_nm
from cristae.volumes.volume import Array, Nanometres, Volume

SUFFIXES = TIFF_SUFFIXES


@dataclass(frozen=True)
class TiffReader:
    """Reads boxes of a series of planes.

    Attributes:
        path: The file.
        stamp: The file's time of change, so that no stale handle is used.
        axes: How the axes of the series are read.
        stored: Extents of the series, in stored order.
        plane: Extents of every plane, the last ones of the series.
        mapped: Where the whole series lies in the file and how (offset, number of planes, dtype),
            for one that can be mapped into memory; None otherwise.
    """

    path: str
    stamp: int
    axes: Axes
    stored: tuple[int, ...]
    plane: tuple[int, ...]
    mapped: tuple[int, int, str] | None

    def read(self, box: Box) -> Array:
        """The ([c,] z, y, x) array of a box.

        Raises:
            InputError: A page that cannot be decoded, with file and page.
        """
        select, depth = self.axes.select(box), len(self.stored) - len(self.plane)
        outer = np.arange(math.prod(self.stored[:depth])).reshape(self.stored[:depth])
        numbers = np.asarray(outer[select[:depth]])
        parts = np.array([self._plane(int(n))[select[depth:]] for n in numbers.ravel()])
        array: Array = self.axes.turn(parts.reshape(*numbers.shape, *parts.shape[1:]))
        return array.astype(plain_dtype(array.dtype), copy=False)

    def _plane(self, number: int) -> Array:
        if self.mapped is not None:
            planes = _map(self.path, self.stamp, self.mapped, self.plane)
            return np.asarray(planes[number])
        key = (self.path, self.stamp, number)
        return PLANES.get(key, lambda: self._decode(number))

    def _decode(self, number: int) -> Array:
        try:
            file = _open(self.path, self.stamp, os.getpid())
            plane = np.asarray(file.series[0].pages[number].asarray(maxworkers=1))
        except (OSError, ValueError, RuntimeError, IndexError, struct.error) as error:
            raise InputError(f"{self.path}, page {number}: cannot be decoded: {error}") from error
        if plane.shape != self.plane:
            raise InputError(
                f"{self.path}, page {number}: found shape {plane.shape}, expected {self.plane}"
            )
        return plane


@lru_cache(maxsize=16)
def _open(path: str, stamp: int, process: int) -> Any:
    file = tifffile.TiffFile(path)
    file.filehandle.set_lock(True)
    return file


@lru_cache(maxsize=16)
def _map(path: str, stamp: int, mapped: tuple[int, int, str], plane: tuple[int, ...]) -> Array:
    offset, count, dtype = mapped
    return np.memmap(path, np.dtype(dtype), "r", offset, (count, *plane))


def open_tiff(path: str | Path, options: OpenOptions | None = None) -> Volume:
    """Open a multi-page TIFF file.

    Args:
        path: The file.
        options: How it is to be read.

    Returns:
        The volume; a channel axis of more than one element stays, without names.

    Raises:
        SourceNotFoundError: No such file.
        InputError: Not a TIFF file, pages of different sizes, pages cut off, or axes that cannot
            be arranged as ([c,] z, y, x).
    """
    path, options = Path(path), options or OpenOptions(str(path))
    if not path.is_file():
        raise SourceNotFoundError(f"{path}: no such file")
    status = path.stat()
    try:
        with tifffile.TiffFile(path) as file:
            faults = _faults(file, path, status.st_size)
            raise_capped(str(path), faults)
            series = file.series[0]
            axes = _arrange(series, options)
            stored = tuple(int(n) for n in series.shape)
            dtype, mapped = np.dtype(series.dtype), _mapping(series)
            size_nm = _imagej_size(file) or _ome_size(file)
            chunk_rows = int(getattr(series.keyframe, "rowsperstrip", 0) or series.shape[-2])
    except (OSError, ValueError, IndexError, RuntimeError, struct.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read as TIFF: {error}") from error
    if dtype.kind not in "uifb":
        raise InputError(f"{path}: found dtype {dtype}, expected real numbers")
    plane, size = stored[-2:], axes.shape
    rows = min(chunk_rows, size[1]) if mapped and axes.plain else size[1]
    return Volume(
        name=options.name,
        reader=TiffReader(str(path), status.st_mtime_ns, axes, stored, plane, mapped),
        shape=axes.shape,
        dtype=plain_dtype(dtype),
        channels=tuple(f"channel_{i}" for i in range(axes.channels)) or None,
        voxel_size_nm=size_nm,
        chunk_shape=(1, rows, size[2]),
        size_on_disk=status.st_size,
        identity=file_identity(path).read_as(*options.reading),
    )


def _faults(file: Any, path: Path, size: int) -> list[str]:
    """Pages that differ in size or are cut off."""
    pages = list(file.pages)
    faults = []
    if len(file.series) != 1:
        listed = "; ".join(f"{s.shape} {s.dtype} ({s.axes})" for s in file.series[:8])
        faults.append(f"found {len(file.series)} series of planes, expected one: {listed}")
    if not _chain_is_whole(path, size):
        faults.append(f"cut off: {len(pages)} pages are there, the next lies beyond {size} bytes")
    for number, page in enumerate(pages):
        if (end := data_end(page)) > size:
            faults.append(f"page {number}: cut off, its data ends at {end} of {size} bytes")
    series = file.series[0]
    if series.dataoffset is not None and series.dataoffset + series.nbytes > size:
        end = series.dataoffset + series.nbytes
        faults.append(f"cut off: the data ends at {end} of {size} bytes")
    return faults


def _chain_is_whole(path: Path, size: int) -> bool:
    """Whether every page's directory lies inside the file."""
    with path.open("rb") as file:
        head = file.read(16)
        order = "<" if head[:2] == b"II" else ">"
        big = struct.unpack(order + "H", head[2:4])[0] == 43
        count_form, offset_form, entry = ("Q", "Q", 20) if big else ("H", "I", 12)
        at = struct.unpack_from(order + offset_form, head, 8 if big else 4)[0]
        width = struct.calcsize(offset_form)
        seen: set[int] = set()
        while at and at not in seen:
            seen.add(at)
            file.seek(at)
            count = file.read(struct.calcsize(count_form))
            if at >= size or len(count) < struct.calcsize(count_form):
                return False
            file.seek(struct.unpack(order + count_form, count)[0] * entry, os.SEEK_CUR)
            following = file.read(width)
            if len(following) < width:
                return False
            at = struct.unpack(order + offset_form, following)[0]
    return True


def _arrange(series: Any, options: OpenOptions) -> Axes:
    letters, name = series.axes.lower(), options.name
    if letters.endswith("yxs"):
        raise InputError(f"{name}: {series.shape[-1]} colours a pixel found, expected grey values")
    lead = letters[:-2] if letters.endswith("yx") else letters
    # pages of no known meaning (Q, I, ...) are z where there is no z
    if "z" not in lead:
        unknown = [a for a in lead if a not in "tcs"] or [a for a in lead if a == "t"]
        letters = letters.replace(unknown[0], "z", 1) if len(unknown) == 1 else letters
    return arrange(letters, series.shape, options)


def _mapping(series: Any) -> tuple[int, int, str] | None:
    if series.dataoffset is None:
        return None
    planes = int(np.prod(series.shape[:-2], dtype=np.int64))
    order = series.keyframe.parent.byteorder
    return int(series.dataoffset), planes, np.dtype(series.dtype).newbyteorder(order).str


def _imagej_size(file: Any) -> Nanometres | None:
    metadata = file.imagej_metadata if file.is_imagej else None
    if not metadata or "spacing" not in metadata:
        return None
    unit = str(metadata.get("unit", ""))
    tags = file.pages[0].tags
    sizes: list[float | None] = [to_nm(float(metadata["spacing"]), unit)]
    for tag, axis in (("YResolution", "yunit"), ("XResolution", "xunit")):
        per_unit = tags[tag].value if tag in tags else (0, 1)
        size = per_unit[1] / per_unit[0] if per_unit[0] else 0.0
        sizes.append(to_nm(size, str(metadata.get(axis, unit))))
    return known(sizes)


def _ome_size(file: Any) -> Nanometres | None:
    if not file.is_ome or not file.ome_metadata:
        return None
    for element in ElementTree.fromstring(file.ome_metadata).iter():
        if element.tag.endswith("}Pixels"):
            return known([_ome_length(element, axis) for axis in "ZYX"])
    return None


def _ome_length(pixels: ElementTree.Element, axis: str) -> float | None:
    value = pixels.get(f"PhysicalSize{axis}")
    return to_nm(float(value), pixels.get(f"PhysicalSize{axis}Unit", "µm")) if value else None
