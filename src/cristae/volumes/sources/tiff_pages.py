"""Pages of TIFF files as tifffile knows them: where their values lie, and how they are decoded."""

import logging
import math
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from cristae.volumes.volume import Array

FORMAT_ERRORS = (
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    MemoryError,
    struct.error,
    tifffile.TiffFileError,
)
"""What reading of a damaged image file may raise, by tifffile, imagecodecs or Pillow."""

_JPEG = (6, 7, 34892, 33007)
_MOST_EXPANSION = 1 << 16  # bytes of a plane from one byte of a file; more is damage
_FREE_EXPANSION = 1 << 28


def page_path(page: Any) -> str:
    """The file that a page lies in."""
    return str(page.parent.filehandle.path)


def page_fault(page: Any) -> str | None:
    """What is wrong with the place of a page's data in its file."""
    keyframe, size = page.keyframe, page.parent.filehandle.size
    segments = math.prod(keyframe.chunked)
    if keyframe.is_contiguous and len(page.dataoffsets):
        end = page.dataoffsets[0] + keyframe.nbytes
    else:
        ends = (a + n for a, n in zip(page.dataoffsets, page.databytecounts, strict=False))
        end = max(ends, default=0)
        if min(len(page.dataoffsets), len(page.databytecounts)) < segments:
            return f"found {len(page.dataoffsets)} strips or tiles, expected {segments}"
    if end > size:
        return f"cut off, its data ends at {end} of {size} bytes"
    held = sum(page.databytecounts) * _MOST_EXPANSION + _FREE_EXPANSION
    if keyframe.nbytes > held:
        return f"found {sum(page.databytecounts)} bytes for a plane of {keyframe.nbytes}: damaged"
    return None


def chain_faults(path: Path) -> list[str]:
    """The directory of every page must lie inside the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        order = "<" if head[:2] == b"II" else ">"
        big = struct.unpack(order + "H", head[2:4])[0] == 43
        count_form, offset_form, entry = ("Q", "Q", 20) if big else ("H", "I", 12)
        at = struct.unpack_from(order + offset_form, head, 8 if big else 4)[0]
        width, seen = struct.calcsize(offset_form), set()
        while at and at not in seen:
            seen.add(at)
            file.seek(at)
            count = file.read(struct.calcsize(count_form))
            if at >= size or len(count) < struct.calcsize(count_form):
                break
            file.seek(struct.unpack(order + count_form, count)[0] * entry, os.SEEK_CUR)
            following = file.read(width)
            if len(following) < width:
                break
            at = struct.unpack(order + offset_form, following)[0]
        else:
            return []
    return [f"cut off: {len(seen)} pages begin in it, the last or next lies beyond {size} bytes"]


def decode_page(page: Any, descriptor: int) -> Array:
    """The values of a page as tifffile decodes them, read from an open file."""
    keyframe = page.keyframe
    if keyframe.is_final:
        data = _bytes(descriptor, page.dataoffsets[0], keyframe.nbytes)
        stored = keyframe.dtype.newbyteorder(keyframe.parent.byteorder)
        return np.frombuffer(data, stored).reshape(keyframe.shape)
    out = np.empty(keyframe.shaped, keyframe.dtype)
    options = {}
    if keyframe.compression in _JPEG:
        options = {"jpegtables": page.jpegtables, "jpegheader": keyframe.jpegheader}
    places = zip(page.dataoffsets, page.databytecounts, strict=False)
    for index, (offset, count) in enumerate(places):
        if index == math.prod(keyframe.chunked):
            break
        stored_bytes = _bytes(descriptor, offset, count) if offset and count else None
        segment, (sample, z, y, x, _), (depth, height, width, _) = keyframe.decode(
            stored_bytes, index, **options
        )
        target = out[sample, z : z + depth, y : y + height, x : x + width]
        if segment is None:  # a strip or tile that is not stored
            target[...] = keyframe.nodata
        else:
            target[...] = segment[: target.shape[0], : target.shape[1], : target.shape[2]]
    return out.reshape(keyframe.shape)


def _bytes(descriptor: int, offset: int, count: int) -> bytes:
    data = os.pread(descriptor, count, offset)
    while len(data) < count:  # a system reads at most 2 GiB at once
        more = os.pread(descriptor, count - len(data), offset + len(data))
        if not more:
            raise ValueError(f"{count} bytes expected at {offset}, {len(data)} found")
        data += more
    return data


@contextmanager
def quiet_tifffile() -> Iterator[None]:
    """Keep what tifffile says of a file in this thread from the log: it is told as one error."""
    thread, logger = threading.get_ident(), logging.getLogger("tifffile")

    def other_thread(record: logging.LogRecord) -> bool:
        return record.thread != thread

    logger.addFilter(other_thread)
    try:
        yield
    finally:
        logger.removeFilter(other_thread)
