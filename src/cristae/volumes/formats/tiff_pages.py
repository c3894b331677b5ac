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

from cristae.errors import InputError
from cristae.volumes.formats.spans import read_bytes
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


def check_decoder(keyframe: Any) -> None:
    """Raise what decoding a page would, where tifffile has nothing that decodes it.

    Raises:
        ValueError: A compression, predictor or type of values that is not known.
    """
    if not keyframe.is_final:
        keyframe.decode(None, 0)  # of a strip or tile that is not stored


def decode_page(page: Any, descriptor: int) -> Array:
    """The values of a page as tifffile decodes them, read from an open file."""
    keyframe = page.keyframe
    if keyframe.is_final:
        data = read_bytes(descriptor, page.dataoffsets[0], keyframe.nbytes)
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
        stored_bytes = read_bytes(descriptor, offset, count) if offset and count else None
        segment, (sample, z, y, x, _), (depth, height, width, _) = keyframe.decode(
            stored_bytes, index, **options
        )
        target = out[sample, z : z + depth, y : y + height, x : x + width]
        if segment is None:  # a strip or tile that is not stored
            target[...] = keyframe.nodata
        else:
            target[...] = segment[: target.shape[0], : target.shape[1], : target.shape[2]]
    return out.reshape(keyframe.shape)


def _aloud(_: logging.LogRecord) -> bool:
    return not getattr(_QUIET, "depth", 0)


_QUIET = threading.local()
logging.getLogger("tifffile").addFilter(_aloud)


@contextmanager
def quiet_tifffile() -> Iterator[None]:
    """Keep what tifffile says of a file in this thread from the log: it is told as one error."""
    _QUIET.depth = getattr(_QUIET, "depth", 0) + 1
    try:
        yield
    finally:
        _QUIET.depth -= 1


def black_from_white(page: Any) -> int | None:
    """What values are to be taken from, where 0 is white; None where it is black.

    Numbers with a fraction have no blackest value and stay as they are.
    """
    if page.photometric != 0 or page.dtype is None or page.dtype.kind not in "uib":
        return None
    if not isinstance(page.bitspersample, int):
        return None
    return -1 if page.dtype.kind == "i" else (1 << int(page.bitspersample)) - 1


def turn_white(array: Array, white: int | None) -> Array:
    """Values of which 0 is black, in the type they have; see `black_from_white`."""
    if white is None:
        return array
    return ~array if array.dtype.kind == "b" else np.subtract(white, array, dtype=array.dtype)


Header = tuple[tuple[int, int], int, np.dtype[Any]]


def tiff_header(descriptor: int, size: int) -> Header:
    """Height and width, samples a pixel, and type of the values of an open TIFF file of one plane.

    Raises:
        InputError: It is damaged, cut off, or holds more than one plane.
    """
    return _plain_header(descriptor, size) or _any_header(descriptor, size)


def decode_tiff(descriptor: int) -> Array:
    """Values of an open TIFF file of one plane: (y, x), or (y, x, sample); 0 is black."""
    with _tifffile_of(descriptor) as file:
        page = file.pages[0]
        fault = page_fault(page)
        if fault:
            raise ValueError(fault)
        return turn_white(decode_page(page, descriptor), black_from_white(page))


@contextmanager
def _tifffile_of(descriptor: int) -> Iterator[Any]:
    with (
        quiet_tifffile(),
        os.fdopen(os.dup(descriptor), "rb") as stream,
        tifffile.TiffFile(stream, name="stream.tif", offset=0) as file,
    ):
        yield file


def _any_header(descriptor: int, size: int) -> Header:
    try:
        with _tifffile_of(descriptor) as file:
            count, page = len(file.pages), file.pages[0]
            shape, dtype, fault = page.shape, page.dtype, page_fault(page)
            check_decoder(page.keyframe)
    except FORMAT_ERRORS as error:
        raise InputError(f"cannot be read as TIFF: {error}") from error
    if count != 1:
        raise InputError(f"{count} pages, expected one")
    if fault:
        raise InputError(fault)
    if dtype is None or dtype.kind not in "uifb" or len(shape) not in (2, 3):
        raise InputError(f"plane of shape {shape} and dtype {dtype}, expected real (y, x)")
    if min(shape) < 1:
        raise InputError(f"a plane of {shape} pixels, expected at least one")
    samples = shape[2] if len(shape) == 3 else 1
    return (int(shape[0]), int(shape[1])), int(samples), np.dtype(dtype)


_TYPES = {3: "H", 4: "I", 16: "Q"}  # of the tags that count here
_KINDS = {1: "u", 2: "i", 3: "f"}
_USUAL_COMPRESSIONS = (1, 5, 8, 32773, 32946, 50000)  # none, LZW, deflate, PackBits, Zstandard


def _plain_header(descriptor: int, size: int) -> Header | None:
    """The header of a file of one usual grey plane, in a tenth of tifffile's time; else None."""
    tags = _only_directory(descriptor, size)
    if tags is None or not all(tags.get(code) for code in (256, 257, 258)):
        return None
    width, height, bits = (tags[code][0] for code in (256, 257, 258))
    kind = _KINDS.get((tags.get(339) or (1,))[0])
    offsets = tags.get(273, tags.get(324, ()))
    counts = tags.get(279, tags.get(325, ()))
    if tags.get(322):
        across, down = -(-width // max(1, tags[322][0])), (tags.get(323) or (0,))[0]
        segments = across * -(-height // max(1, down))
    else:
        segments = -(-height // min(height or 1, (tags.get(278) or (height,))[0] or 1))
    usual = (
        kind is not None
        and bits in (8, 16, 32, 64)
        and tags.get(277, (1,)) == (1,)
        and (tags.get(259) or (1,))[0] in _USUAL_COMPRESSIONS
        and (tags.get(317) or (1,))[0] in (1, 2, 3)
        and min(width, height) > 0
        and len(offsets) == len(counts) == segments
        and not {32997, 33628, 34412, 330} & set(tags)
    )
    if not usual:
        return None
    stored = width * height * bits // 8
    whole = (
        sum(counts) >= stored
        if tags.get(259, (1,)) == (1,)
        else (stored <= sum(counts) * _MOST_EXPANSION + _FREE_EXPANSION)
    )
    if not whole or max(a + n for a, n in zip(offsets, counts, strict=True)) > size:
        return None
    return (height, width), 1, np.dtype(f"{kind}{bits // 8}")


def _only_directory(descriptor: int, size: int) -> dict[int, tuple[int, ...]] | None:
    """Whole numbers of the tags of a classic TIFF file of one page; None where it is another."""
    head = os.pread(descriptor, 8, 0)
    if head[:4] not in (b"II*\0", b"MM\0*") or len(head) < 8:
        return None
    order = "<" if head[:2] == b"II" else ">"
    at = struct.unpack(order + "I", head[4:])[0]
    count = int.from_bytes(os.pread(descriptor, 2, at), "little" if order == "<" else "big")
    entries = os.pread(descriptor, count * 12 + 4, at + 2)
    if at >= size or len(entries) < count * 12 + 4 or entries[-4:] != b"\0\0\0\0":
        return None
    tags: dict[int, tuple[int, ...]] = {}
    for i in range(count):
        code, kind, number = struct.unpack_from(order + "HHI", entries, i * 12)
        if kind not in _TYPES:
            tags[code] = ()
            continue
        form = f"{order}{number}{_TYPES[kind]}"
        length = struct.calcsize(form)
        where = struct.unpack_from(order + "I", entries, i * 12 + 8)[0]
        if length > 4 and where + length > size:
            return None
        start = entries[i * 12 + 8 : i * 12 + 12]
        data = start[:length] if length <= 4 else os.pread(descriptor, length, where)
        tags[code] = struct.unpack(form, data)
    return tags
