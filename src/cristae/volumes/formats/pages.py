"""Image files of one plane (PNG, TIFF): their headers, their grey values, and a small cache.

Headers are checked before any plane is decoded, so that a whole folder's faults are told at once.
A decoded plane is kept for a while, since neighbouring boxes are cut from the same planes.
"""

import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cristae.errors import InputError, raise_faults
from cristae.volumes.formats.png import SIGNATURE as PNG_SIGNATURE
from cristae.volumes.formats.png import decode_png, png_header
from cristae.volumes.formats.tiff_pages import FORMAT_ERRORS, decode_tiff, tiff_header
from cristae.volumes.volume import Array, Reader

PNG_SUFFIXES = (".png",)
TIFF_SUFFIXES = (".tif", ".tiff")
SUFFIXES = (*PNG_SUFFIXES, *TIFF_SUFFIXES)

CACHE_BYTES = 512 << 20
FAULTS_SHOWN = 20
_HEADER_THREADS = 8
_TIFF_BEGINS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
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


def check_unchanged(path: str, state: State, status: os.stat_result | None = None) -> None:
    """Refuse a file that has another state than when it was opened.

    Args:
        path: The file.
        state: What it must have.
        status: What it is now, where that is known.

    Raises:
        InputError: It has another one, or it is gone.
    """
    now = state_of(path) if status is None else (status.st_size, status.st_mtime_ns)
    if now != state:
        sizes = f" ({now[0]} bytes found, {state[0]} expected)" if now[0] != state[0] else ""
        raise InputError(f"{path}: changed since it was opened{sizes}; open it again")


@contextmanager
def open_unchanged(path: str, state: State | None) -> Iterator[int]:
    """A descriptor of a file that has a state, before and after.

    Raises:
        InputError: It has another one, is gone or cannot be read; in place of what went wrong while
            it was read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {why(error)}") from error
    try:
        before = os.fstat(descriptor)
        known = (before.st_size, before.st_mtime_ns) if state is None else state
        check_unchanged(path, known, before)
        try:
            yield descriptor
        finally:
            check_unchanged(path, known, os.fstat(descriptor))
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
        state: Size of the file and time of its last change.
    """

    shape: tuple[int, int]
    samples: int
    dtype: np.dtype[Any]
    state: State


def read_header(path: Path) -> PlaneHeader:
    """Header of a PNG or TIFF file of one plane, without decoding it; its name does not matter.

    Raises:
        InputError: No such file, another format, more than one plane, or a file that is cut off.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except (OSError, ValueError) as error:
        raise InputError(why(error)) from error
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise InputError("a folder, expected an image file")
        if status.st_size == 0:
            raise InputError("empty file")
        begin = os.pread(descriptor, 8, 0)
        if begin == PNG_SIGNATURE:
            shape, samples, dtype = png_header(descriptor, status.st_size)
        elif begin[:4] in _TIFF_BEGINS:
            shape, samples, dtype = tiff_header(descriptor, status.st_size)
        else:
            raise InputError(f"neither a PNG nor a TIFF file (begins with {begin!r})")
    except OSError as error:
        raise InputError(why(error)) from error
    finally:
        os.close(descriptor)
    state = (status.st_size, status.st_mtime_ns)
    return PlaneHeader(shape, samples, plain_dtype(dtype), state)


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


def decode_plane(path: Path, state: State | None = None) -> Array:
    """All values of an image file of one plane: (y, x), or (y, x, sample).

    Args:
        path: The file.
        state: State that it must have; None for the one it has when it is opened.

    Raises:
        InputError: The data cannot be decoded, is cut off, or changed; the file is named.
    """
    try:
        with open_unchanged(str(path), state) as descriptor:
            if os.pread(descriptor, 8, 0) != PNG_SIGNATURE:
                return decode_tiff(descriptor)
            with os.fdopen(os.dup(descriptor), "rb") as file:
                return decode_png(file.read())
    except InputError:
        raise
    except FORMAT_ERRORS as error:
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
        while self._bytes > self._most and len(self._planes) > 1:
            done = (key for key, future in self._planes.items() if future.done())
            oldest = next(done, None)
            if oldest is None or oldest == next(reversed(self._planes)):
                return
            self._bytes -= self._planes.pop(oldest).result().nbytes


PLANES = PlaneCache(CACHE_BYTES)


def is_cached(reader: Reader) -> bool:
    """Whether a reader keeps decoded planes for a while: what it says as ``cached``."""
    return bool(getattr(reader, "cached", False))


def _header_or_fault(path: Path) -> PlaneHeader | InputError:
    try:
        return read_header(path)
    except InputError as error:
        return error
