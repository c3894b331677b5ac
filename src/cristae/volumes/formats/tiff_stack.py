"""The planes of a TIFF file or set of files: which series is read, where it lies, what is missing.

tifffile finds series and pages. Its handles serve one thread at a time, so the files are closed
again here and planes are read and decoded by `Stack.plane`, from a descriptor of its own.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile

from cristae.errors import InputError
from cristae.volumes.formats.pages import State, open_unchanged, raise_capped, state_of
from cristae.volumes.formats.tiff_pages import (
    FORMAT_ERRORS,
    chain_faults,
    check_decoder,
    decode_page,
    page_fault,
    page_path,
    quiet_tifffile,
)
from cristae.volumes.formats.tiff_series import Series, choose, said_by_tifffile, series_of
from cristae.volumes.volume import Array

_MOST_PLANES, _DIGITS = 1 << 20, 19

RESOLUTION_TAGS = ("XResolution", "YResolution", "ResolutionUnit")


@dataclass(frozen=True, eq=False)
class TiffSeries:
    """A series of planes; its files are closed.

    Attributes:
        path: The file it was opened by.
        number: Which series of the file it is.
        name: Its name, where it has one.
        kind: Which form of TIFF tifffile takes it for.
        shape: Extents in stored order.
        axes: tifffile's letter of every axis.
        outer: How many axes count planes; the others lie in a plane.
        dtype: Type of the values, in this machine's byte order.
        offset: Byte where all values begin, one after the other and not compressed; None where
            they do not lie so.
        pages: tifffile's page of every plane; empty where there is an offset.
        first: tifffile's page with the tags.
        files: Every file that says something of the series, the one it was opened by first.
        ome: The OME-XML, where there is any.
        metadata: What ImageJ, LSM, STK, or tifffile in its own form says of the whole file.
        resolution: Values of the resolution tags.
        states: States of the files when they were looked into.
        transform: What tifffile does to decoded values.
    """

    path: str
    number: int
    name: str
    kind: str
    shape: tuple[int, ...]
    axes: str
    outer: int
    dtype: np.dtype[Any]
    offset: int | None
    pages: tuple[Any, ...]
    first: Any
    files: tuple[str, ...]
    ome: ElementTree.Element | None
    metadata: dict[str, Any]
    resolution: dict[str, Any]
    states: tuple[State, ...]
    transform: Any = None

    def plane(self, number: int, state: State) -> Array:
        """The values of one plane, decoded; safe from several threads.

        Args:
            number: The plane, counted in stored order.
            state: State that its file must have.

        Raises:
            InputError: It cannot be decoded, or the file has changed; file and page are named.
        """
        page = self.pages[number]
        path = page_path(page)
        try:
            with open_unchanged(path, state) as descriptor:
                plane = decode_page(page, descriptor)
        except InputError:
            raise
        except FORMAT_ERRORS as error:
            raise InputError(f"{path}, page {page.index}: cannot be decoded: {error}") from error
        plane = plane if self.transform is None else np.asarray(self.transform(plane))
        return plane.reshape(self.shape[self.outer :])


_LOADING = threading.Lock()
_LOADED: OrderedDict[tuple[str, str | None], TiffSeries] = OrderedDict()
_MOST_LOADED = 8


def load_stack(
    path: str, series: str | None, states: tuple[State, ...] | None = None
) -> TiffSeries:
    """A series of a file, found once a process as long as none of its files changes.

    Args:
        path: The file.
        series: Number or name of the series.
        states: States that its files must have; None for those they have now.

    Raises:
        InputError: See `find_stack`; or the files have changed.
    """
    with _LOADING:
        stack = _LOADED.pop((path, series), None)
        if stack is None or stack.states != (states or _states(stack.files)):
            stack = find_stack(Path(path), series)
        if states is not None and stack.states != states:
            raise InputError(f"{path}: a file of it has changed since it was opened")
        _LOADED[path, series] = stack
        if len(_LOADED) > _MOST_LOADED:
            _LOADED.popitem(last=False)
        return stack


def _states(files: Sequence[str]) -> tuple[State, ...] | None:
    try:
        return tuple(state_of(file) for file in files)
    except InputError:
        return None


def find_stack(path: Path, series: str | None) -> TiffSeries:
    """The series of a TIFF file that is named, or the only one.

    Raises:
        InputError: No TIFF file; no such series, or several and none named; metadata that cannot
            be read; planes or files that are announced and not there, or cut off.
    """
    try:
        with quiet_tifffile(), _opened(path) as (file, ome, companion):
            _refuse_countless(path, ome)
            found = series_of(file)
            chosen = choose(str(path), found, series)
            faults = [*chain_faults(path), *_announced_faults(file, chosen)]
            faults += _missing(path, chosen, ome) or _data_faults(chosen)
            raise_capped(str(path), faults)
            return _stack(path, file, chosen, ome, companion)
    except InputError:
        raise
    except FORMAT_ERRORS as error:
        raise InputError(f"{path}: cannot be read as TIFF: {error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, ElementTree.Element | None, Path | None]]:
    """A TIFF file, its OME-XML, and the file that this lies in where it is another one."""
    with tifffile.TiffFile(path) as file:
        ome = _ome_root(path, _description(file))
        binary = None if ome is None else next((e for e in ome if _is(e, "BinaryOnly")), None)
        if binary is None:
            yield file, ome, None
            return
    companion = path.parent / binary.get("MetadataFile", "")
    if not companion.is_file():
        raise InputError(f"{path}: its planes are described in {companion}: no such file")
    try:
        is_tiff = companion.suffix.lower() in (".tif", ".tiff")
        text = None if is_tiff else companion.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{companion}: cannot be read: {error}") from error
    root = None if text is None else _ome_root(companion, text)
    with tifffile.TiffFile(companion if text is None else path, omexml=text) as file:
        if root is None:
            root = _ome_root(companion, _description(file))
        yield file, root, companion


def _description(file: Any) -> str:
    return str(file.pages[0].description) if len(file.pages) else ""


def _ome_root(path: Path, text: str) -> ElementTree.Element | None:
    if "<OME" not in text or "openmicroscopy" not in text.lower():
        return None
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(f"{path}: found OME-XML that cannot be read: {error}") from error


def _refuse_countless(path: Path, ome: ElementTree.Element | None) -> None:
    """Refuse more planes than any set has: tifffile would make a list of them.

    Raises:
        InputError: How many are announced.
    """
    for pixels in (e for e in (ome.iter() if ome is not None else ()) if _is(e, "Pixels")):
        sides = [pixels.get(f"Size{axis}", "1") for axis in "ZCT"]
        counts = [e.get("PlaneCount", "1") for e in pixels if _is(e, "TiffData")]
        announced = max(math.prod(map(_count, sides)), *map(_count, counts), 0)
        if announced > _MOST_PLANES:
            raise InputError(
                f"{path}: {announced} planes announced in the OME-XML, expected {_MOST_PLANES} at "
                "most"
            )


def _count(text: str) -> int:
    if not text.isdecimal():
        return 0  # tifffile says what is wrong with it
    return int(text) if len(text) < _DIGITS else 1 << 62


def _is(element: ElementTree.Element, name: str) -> bool:
    return element.tag.rpartition("}")[2] == name


def _stack(
    path: Path, file: Any, series: Series, ome: ElementTree.Element | None, companion: Path | None
) -> TiffSeries:
    if series.keyframe.dtype is None:
        raise InputError(f"{path}: found values of a type that cannot be read, expected numbers")
    mapped = series.offset is not None
    pages = () if mapped else tuple(series.pages)
    for keyframe in {id(page.keyframe): page.keyframe for page in pages}.values():
        check_decoder(keyframe)  # while the file is open: it may look into it
    planes = 1 if mapped else len(pages)
    outer = 0 if mapped else _outer(str(path), series, planes)
    files = dict.fromkeys([str(path), *map(page_path, pages)])
    if companion is not None:
        files[str(companion)] = None
    return TiffSeries(
        path=str(path),
        number=series.number,
        name=series.name,
        kind=series.kind,
        shape=tuple(int(n) for n in series.shape),
        axes=series.axes,
        outer=outer,
        dtype=np.dtype(series.keyframe.dtype),
        offset=series.offset,
        pages=pages,
        first=series.keyframe,
        files=tuple(files),
        ome=ome,
        metadata=_metadata(file),
        resolution={tag: series.keyframe.tags.valueof(tag) for tag in RESOLUTION_TAGS},
        states=tuple(state_of(name) for name in files),
        transform=series.transform,
    )


def _metadata(file: Any) -> dict[str, Any]:
    if file.is_imagej:
        return dict(file.imagej_metadata or {})
    if file.is_lsm:
        return dict(file.lsm_metadata or {})
    if file.is_stk:
        return dict(file.stk_metadata or {})
    if file.is_shaped:
        return said_by_tifffile(file.pages[0])
    return {}


def _outer(name: str, series: Series, planes: int) -> int:
    for outer in range(len(series.shape) + 1):
        if math.prod(series.shape[:outer]) == planes:
            return outer
    raise InputError(f"{name}: found {planes} planes, expected {series.shape} ({series.axes})")


def _missing(path: Path, series: Series, ome: ElementTree.Element | None) -> list[str]:
    """Planes that metadata announce and that are not there, and files not found."""
    faults = []
    named = [e.get("FileName") for e in (ome.iter() if ome is not None else ()) if _is(e, "UUID")]
    for file in dict.fromkeys(name for name in named if name):
        if not (path.parent / file).is_file():
            faults.append(f"{path.parent / file}: no such file, named in the OME-XML")
    if series.offset is not None:
        return faults
    size = math.prod(series.keyframe.shape)
    planes = math.prod(series.shape) // max(1, size)
    there = list(series.pages)
    gone = [i for i in range(planes) if i >= len(there) or there[i] is None]
    if gone:
        outer = next(
            (k for k in range(len(series.shape)) if math.prod(series.shape[:k]) == planes), 0
        )
        places = [np.unravel_index(i, series.shape[:outer]) for i in gone[:10]]
        told = "; ".join(
            ", ".join(f"{a.lower()} {n}" for a, n in zip(series.axes, place, strict=False))
            for place in places
        )
        more = f" and {len(gone) - 10} more" if len(gone) > 10 else ""
        faults.append(
            f"{planes} planes announced, {planes - len(gone)} there: missing {told}{more}"
        )
    return faults


def _announced_faults(file: Any, series: Series) -> list[str]:
    """A stack of ImageJ's that was cut: tifffile takes what is left for a file of one plane."""
    said = file.imagej_metadata if file.is_imagej and series.kind != "ome" else None
    if not said:
        return []
    sides = [said.get(key, 1) for key in ("channels", "slices", "frames")]
    if not all(isinstance(n, int) and n > 0 for n in sides):
        return [f"found {sides} channels, slices and frames in ImageJ's metadata, expected numbers"]
    announced = math.prod(sides)
    there = math.prod(series.shape) // max(1, math.prod(series.keyframe.shape[-2:]))
    if series.keyframe.axes.endswith("S"):
        there = math.prod(series.shape) // max(1, math.prod(series.keyframe.shape))
    if there < announced:
        fits = series.keyframe.parent.filehandle.size - series.keyframe.dataoffsets[0]
        there = max(there, fits // max(1, series.keyframe.nbytes)) if there == 1 else there
        return [f"cut off: ImageJ announces {announced} planes, {there} are there"]
    return []


def _data_faults(series: Series) -> list[str]:
    """Values that lie beyond the end of their file, or that are too few."""
    if series.offset is not None:
        size = series.keyframe.parent.filehandle.size
        end = series.offset + math.prod(series.shape) * series.keyframe.dtype.itemsize
        return [f"cut off: the data ends at {end} of {size} bytes"] if end > size else []
    faults = []
    for page in series.pages:
        fault = page_fault(page)
        if fault:
            faults.append(f"{page_path(page)}, page {page.index}: {fault}")
    return faults
