"""Image files of one plane (PNG, TIFF): their headers, their grey values, and a small cache.

Headers are checked before any plane is decoded, so that a whole folder's faults are told at once.
A decoded plane is kept for a while, since neighbouring boxes are cut from the same planes.
"""

import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile

from cristae.engine.identity import fingerprint_of
from cristae.errors import InputError, raise_faults
from cristae.volumes.volume import Array

PNG_SUFFIXES = (".png",)
TIFF_SUFFIXES = (".tif", ".tiff")
SUFFIXES = (*PNG_SUFFIXES, *TIFF_SUFFIXES)

CACHE_BYTES = 512 << 20
FAULTS_SHOWN = 20
_HEADER_THREADS = 8
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_SAMPLES = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # by colour type; palettes decode to RGB
_CODED_CHANNELS = (3, 4)


State = tuple[int, int]
"""Size and time of change (ns) of a file."""


def state_of(path: str) -> State:
    """The state that a file has now.

    Raises:
        InputError: It is gone or may not be looked at.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {why(error)}") from error
    return status.st_size, status.st_mtime_ns


def check_unchanged(path: str, state: State) -> None:
    """Refuse a file that has another state than when it was opened.

    Raises:
        InputError: It has, or it is gone.
    """
    if state_of(path) != state:
        raise InputError(f"{path}: changed since it was opened; open it again")


@contextmanager
def open_unchanged(path: str, state: State | None) -> Iterator[int]:
    """A descriptor of a file that has a state, before and after.

    Raises:
        InputError: It has another one, is gone or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {why(error)}") from error
    try:
        before = os.fstat(descriptor)
        yield descriptor
        after = os.fstat(descriptor)
        known = (before.st_size, before.st_mtime_ns) if state is None else state
        for status in (before, after):
            if (status.st_size, status.st_mtime_ns) != known:
                raise InputError(f"{path}: changed since it was opened; open it again")
    finally:
        os.close(descriptor)


def why(error: OSError | ValueError) -> str:
    """What is wrong with a path, in a few words."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "no leave to read it"
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"


@dataclass(frozen=True)
class PlaneHeader:
    """What an image file says of itself.

    Attributes:
        shape: Height and width in pixels.
        samples: Values a pixel: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.
        dtype: Type of a value.
        size: Bytes of the file.
        modified_ns: Time of its last change.
    """

    shape: tuple[int, int]
    samples: int
    dtype: np.dtype[Any]
    size: int
    modified_ns: int


def read_header(path: Path) -> PlaneHeader:
    """Header of a PNG or TIFF file of one plane, without decoding it.

    Raises:
        InputError: No such file, another format, more than one plane, or a file that is cut off.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise InputError("no such file") from error
    if status.st_size == 0:
        raise InputError("empty file")
    if path.suffix.lower() in PNG_SUFFIXES:
        shape, samples, dtype = _png_header(path, status.st_size)
    elif path.suffix.lower() in TIFF_SUFFIXES:
        shape, samples, dtype = _tiff_header(path)
    else:
        raise InputError(f"found suffix {path.suffix!r}, expected one of {', '.join(SUFFIXES)}")
    return PlaneHeader(shape, samples, dtype, status.st_size, status.st_mtime_ns)


def read_headers(paths: Sequence[Path]) -> list[PlaneHeader | InputError]:
    """Headers of many files at once; a file at fault gives its error instead."""
    with ThreadPoolExecutor(_HEADER_THREADS) as pool:
        return list(pool.map(_header_or_fault, paths))


def raise_capped(what: str, faults: Sequence[str]) -> None:
    """Raise one error with up to 20 faults and the number of the others; none: return."""
    shown = list(faults[:FAULTS_SHOWN])
    if len(faults) > FAULTS_SHOWN:
        shown.append(f"and {len(faults) - FAULTS_SHOWN} more")
    raise_faults(what, shown)


def plain_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in this machine's byte order; uint8 for booleans."""
    return np.dtype(np.uint8) if dtype.kind == "b" else dtype.newbyteorder("=")


def files_fingerprint(files: Iterable[tuple[str, int, int]]) -> str:
    """Identity of a set of files: names, sizes and times of change, whatever their order."""
    return fingerprint_of(sorted(files))


def decode_plane(path: Path) -> Array:
    """All values of an image file of one plane: (y, x), or (y, x, sample).

    Raises:
        InputError: The data cannot be decoded, or is cut off; the file is named.
    """
    try:
        if path.suffix.lower() in PNG_SUFFIXES:
            return np.asarray(imagecodecs.png_decode(path.read_bytes()))
        with tifffile.TiffFile(path) as file:
            return np.asarray(file.pages[0].asarray())
    except (OSError, ValueError, RuntimeError, IndexError, struct.error) as error:
        raise InputError(f"{path}: cannot be decoded: {error}") from error


def single_values(plane: Array, coded: bool, dtype: np.dtype[Any], path: Path) -> Array:
    """One value a pixel.

    Args:
        plane: (y, x), or (y, x, sample).
        coded: RGB is an id, R * 65536 + G * 256 + B; otherwise the first sample is the grey value.
        dtype: Type of the result.
        path: For messages.

    Returns:
        (y, x) of ``dtype``.

    Raises:
        InputError: Ids that do not fit the dtype.
    """
    if plane.ndim == 2:
        return plane.astype(dtype, copy=False)
    if not coded or plane.shape[-1] not in _CODED_CHANNELS:
        return np.ascontiguousarray(plane[..., 0]).astype(dtype, copy=False)
    red, green, blue = (plane[..., i].astype(np.uint32) for i in range(3))
    ids = (red << 16) | (green << 8) | blue
    if ids.size and ids.max() > np.iinfo(dtype).max:
        raise InputError(f"{path}: found RGB-coded id {ids.max()}, expected ids that fit {dtype}")
    return ids.astype(dtype, copy=False)


class PlaneCache:
    """Decoded planes of this process, the least recently used dropped first; thread-safe.

    Threads that ask for a plane another one is decoding wait for it.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._lock = threading.Lock()
        self._planes: OrderedDict[Any, Future[Array]] = OrderedDict()
        self._bytes = 0

    def get(self, key: Any, make: Callable[[], Array]) -> Array:
        """The plane of a key, made when it is not there. Do not write into it."""
        with self._lock:
            future = self._planes.get(key)
            mine = future is None
            if future is None:
                future = self._planes[key] = Future()
            self._planes.move_to_end(key)
        if mine:
            self._fill(key, future, make)
        return future.result()

    def _fill(self, key: Any, future: "Future[Array]", make: Callable[[], Array]) -> None:
        try:
            plane = make()
        except BaseException as error:
            with self._lock:
                self._planes.pop(key, None)
            future.set_exception(error)
            raise
        future.set_result(plane)
        with self._lock:
            self._bytes += plane.nbytes
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        for key, future in list(self._planes.items())[:-1]:
            if self._bytes <= self._most:
                return
            if future.done():
                self._bytes -= self._planes.pop(key).result().nbytes


PLANES = PlaneCache(CACHE_BYTES)


def _header_or_fault(path: Path) -> PlaneHeader | InputError:
    try:
        return read_header(path)
    except InputError as error:
        return error


def _png_header(path: Path, size: int) -> tuple[tuple[int, int], int, np.dtype[Any]]:
    with path.open("rb") as file:
        head = file.read(29)
        file.seek(max(0, size - 12))
        tail = file.read(12)
    if head[:8] != _PNG_SIGNATURE or len(head) < 29:
        raise InputError("not a PNG file")
    if tail[4:8] != b"IEND":
        raise InputError("cut off (a PNG file without its end)")
    width, height, depth, colour = struct.unpack(">IIBB", head[16:26])
    return (height, width), _PNG_SAMPLES.get(colour, 0), np.dtype(f"u{max(1, depth // 8)}")


def _tiff_header(path: Path) -> tuple[tuple[int, int], int, np.dtype[Any]]:
    try:
        with tifffile.TiffFile(path) as file:
            count, page = len(file.pages), file.pages[0]
            shape, dtype = page.shape, page.dtype
            end = data_end(page)
    except (OSError, ValueError, IndexError, RuntimeError, struct.error) as error:
        raise InputError(f"cannot be read as TIFF: {error}") from error
    if count != 1:
        raise InputError(f"{count} pages, expected one")
    if end > path.stat().st_size:
        raise InputError(f"cut off ({path.stat().st_size} bytes, its data ends at {end})")
    if dtype is None or len(shape) not in (2, 3):
        raise InputError(f"plane of shape {shape} and dtype {dtype}, expected (y, x)")
    samples = shape[2] if len(shape) == 3 else 1
    return (int(shape[0]), int(shape[1])), int(samples), plain_dtype(np.dtype(dtype))


def data_end(page: Any) -> int:
    """Byte behind the last one of a TIFF page's data."""
    ends = (a + n for a, n in zip(page.dataoffsets, page.databytecounts, strict=True))
    return int(max(ends, default=0))
