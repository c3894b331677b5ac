"""TIFF files of many planes: ``file.tif`` and sets of files, ImageJ and OME-TIFF included.

A file may hold several series; one is read, by number or name (``--series``). Pages that were
written one by one and are alike are one stack. Of values that lie in one piece only what is needed
is read; others are decoded page by page. Where 0 is white, values are turned. The identity covers
every file of a set.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cristae.engine.identity import Identity, SourceFiles
from cristae.engine.progress import log
from cristae.errors import InputError, SourceNotFoundError
from cristae.grid import Box
from cristae.volumes.formats.axes import Axes, OpenOptions, arrange
from cristae.volumes.formats.format import Format
from cristae.volumes.formats.pages import (
    PLANES,
    TIFF_SUFFIXES,
    State,
    check_unchanged,
    open_unchanged,
    plain_dtype,
)
from cristae.volumes.formats.spans import read_box
from cristae.volumes.formats.tiff_pages import black_from_white, page_path, turn_white
from cristae.volumes.formats.tiff_size import find_place
from cristae.volumes.formats.tiff_stack import TiffSeries, load_stack
from cristae.volumes.volume import Array, Volume

SUFFIXES = TIFF_SUFFIXES


@dataclass(frozen=True)
class TiffReader:
    """Reads boxes of a series of planes.

    Attributes:
        path: The file.
        series: Number or name of the series, as a person gave it.
        files: Every file of the series, `path` first.
        states: Their states; other ones are refused.
        axes: How the axes of the series are read.
        stored: Extents of the series, in stored order.
        outer: How many of its axes count planes.
        piece: Where the whole series lies in the file and how (offset, dtype), for one that lies
            there in one piece; None otherwise.
        white: What values are taken from where 0 is white; None where it is black.
    """

    path: str
    series: str | None
    files: tuple[str, ...]
    states: tuple[State, ...]
    axes: Axes
    stored: tuple[int, ...]
    outer: int
    piece: tuple[int, str] | None
    white: int | None

    @property
    def cached(self) -> bool:
        """Whether decoded planes are kept for a while."""
        return self.piece is None

    def read(self, box: Box) -> Array:
        """The ([c,] z, y, x) array of a box.

        Raises:
            InputError: A page that cannot be decoded, with file and page; a file that changed
                since it was opened.
        """
        select = self.axes.select(box)
        array = self._planes(select) if self.piece is None else self._part(self.piece, select)
        array = self.axes.turn(array).astype(plain_dtype(array.dtype), copy=False)
        return turn_white(array, self.white)

    def _part(self, piece: tuple[int, str], select: tuple[int | slice, ...]) -> Array:
        offset, dtype = piece
        try:
            with open_unchanged(self.path, self.states[0]) as descriptor:
                return read_box(descriptor, offset, np.dtype(dtype), self.stored, select)
        except InputError:
            raise
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path}: cannot be read: {error}") from error

    def _planes(self, select: tuple[int | slice, ...]) -> Array:
        sides = self.stored[: self.outer]
        numbers = np.asarray(np.arange(math.prod(sides)).reshape(sides)[select[: self.outer]])
        stack = load_stack(self.path, self.series, self.states)
        states = dict(zip(self.files, self.states, strict=True))
        inner = select[self.outer :]
        parts = [self._plane(stack, int(n), states)[inner] for n in numbers.ravel()]
        return np.array(parts).reshape(*numbers.shape, *parts[0].shape)

    def _plane(self, stack: TiffSeries, number: int, states: dict[str, State]) -> Array:
        path = page_path(stack.pages[number])
        state = states[path]
        check_unchanged(path, state)
        key = (path, state, self.path, self.series, number)
        return PLANES.get(key, lambda: stack.plane(number, state))


def open_tiff(path: str | Path, options: OpenOptions | None = None) -> Volume:
    """Open a TIFF file of planes, or a set of files by one of them.

    Args:
        path: The file.
        options: How it is to be read.

    Returns:
        The volume; a channel axis of more than one element stays, without names.

    Raises:
        SourceNotFoundError: No such file.
        InputError: Not a TIFF file; several series and none named; planes or files that are
            missing or cut off; axes that cannot be arranged as ([c,] z, y, x).
    """
    path, options = Path(path), options or OpenOptions(str(path))
    if not path.is_file():
        raise SourceNotFoundError(f"{path}: no such file")
    stack = load_stack(str(path), options.series)
    if stack.dtype.kind not in "uifb":
        raise InputError(f"{path}: found dtype {stack.dtype}, expected real numbers")
    axes = _arrange(stack, options)
    white = _white(stack, options.name)
    place = find_place(stack, axes)
    reader = TiffReader(
        path=str(path),
        series=options.series,
        files=stack.files,
        states=stack.states,
        axes=axes,
        stored=stack.shape,
        outer=stack.outer,
        piece=_piece(stack),
        white=white,
    )
    files = [os.path.realpath(file) for file in stack.files]
    folder = os.path.commonpath([os.path.dirname(file) for file in files])
    names = tuple(os.path.relpath(file, folder) for file in files)
    reading = options.reading + (("0 is white",) if white is not None else ())
    return Volume(
        name=options.name,
        reader=reader,
        shape=axes.shape,
        dtype=plain_dtype(stack.dtype),
        channels=tuple(f"channel_{i}" for i in range(axes.channels)) or None,
        voxel_size_nm=place.size_nm,
        origin_nm=place.origin_nm,
        found={**place.found, "axes": f"{axes.source}: {', '.join(axes.names)}"},
        chunk_shape=_chunk(stack, axes),
        size_on_disk=sum(size for size, _ in stack.states),
        identity=Identity((SourceFiles(str(path), folder, names),)).read_as(*reading),
    )


def _arrange(stack: TiffSeries, options: OpenOptions) -> Axes:
    letters = stack.axes.lower()
    source = {"ome": "OME-XML", "imagej": "ImageJ"}.get(stack.kind, "TIFF")
    if options.axes is None:
        if letters.endswith("yxs") and "s" not in options.index:
            sections = ", --axes s=z where they are sections" if "z" not in letters else ""
            raise InputError(
                f"{options.name}: {stack.shape[-1]} colours a pixel found, expected grey values; "
                f"--index s=0 takes one of them{sections}"
            )
        # pages of no known meaning (Q, I, ...) are z where there is no z
        lead = letters[:-2] if letters.endswith("yx") else letters
        unknown = [a for a in lead if a not in "tcs"] or [a for a in lead if a == "t"]
        if "z" not in lead and len(unknown) == 1 and unknown[0] not in options.index:
            letters = letters.replace(unknown[0], "z", 1)
    return arrange(letters, stack.shape, options, source)


def _piece(stack: TiffSeries) -> tuple[int, str] | None:
    if stack.offset is None:
        return None
    order = stack.first.parent.byteorder
    return int(stack.offset), stack.dtype.newbyteorder(order).str


def _white(stack: TiffSeries, name: str) -> int | None:
    white = None if stack.transform is not None else black_from_white(stack.first)
    if white is not None:
        log.info("%s: 0 is white in this file; its values are turned", name)
    elif stack.first.photometric == 0:
        log.warning("%s: 0 is white, but numbers with a fraction have no black: not turned", name)
    return white


def _chunk(stack: TiffSeries, axes: Axes) -> tuple[int, int, int]:
    """What is read at least: some rows of a plane of a stack in one piece, else whole planes."""
    whole = [1] * stack.outer + list(stack.shape[stack.outer :])
    if stack.offset is not None:
        rows = int(getattr(stack.first, "rowsperstrip", 0) or stack.shape[-2])
        whole = [1] * len(stack.shape)
        for name, i in ((name, axes.names.index(name)) for name in "yx" if name in axes.names):
            whole[i] = min(rows, stack.shape[i]) if name == "y" else stack.shape[i]
    z, y, x = axes.spatial(whole)
    return int(z), int(y), int(x)


FORMAT = Format("multi-page TIFF", "file.tif", open_tiff, SUFFIXES, reads=("axes",))
