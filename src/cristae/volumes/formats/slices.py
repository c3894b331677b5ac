"""A folder or glob of PNG or TIFF slices, one plane a file, in natural order of their names.

``im2.png`` comes before ``im10.png``. All slices have one size and one dtype. Slices of three or
four samples a pixel are RGB-coded ids (R * 65536 + G * 256 + B) when opened as labels, and refused
otherwise; of indexed colours the index is the value.
"""

import glob
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cristae.engine.identity import Identity, SourceFiles
from cristae.engine.progress import log
from cristae.errors import InputError, SourceNotFoundError
from cristae.grid import Box
from cristae.volumes.formats.axes import OpenOptions
from cristae.volumes.formats.format import Format
from cristae.volumes.formats.pages import (
    PLANES,
    SUFFIXES,
    PlaneHeader,
    State,
    check_unchanged,
    decode_plane,
    raise_capped,
    read_headers,
    single_values,
    why,
)
from cristae.volumes.volume import Array, Kind, Volume

_NUMBERS = re.compile(r"(\d+)")


@dataclass(frozen=True)
class SlicesReader:
    """Reads boxes of a stack of image files.

    Attributes:
        folder: Folder the names count from.
        names: File of every z.
        states: State of every file; another one is refused.
        dtype: Name of the dtype of the result.
        coded: Whether RGB is an id.
        plane: Height and width of every slice.
    """

    folder: str
    names: tuple[str, ...]
    states: tuple[State, ...]
    dtype: str
    coded: bool
    plane: tuple[int, int]
    cached: ClassVar[bool] = True

    def read(self, box: Box) -> Array:
        """The (z, y, x) array of a box.

        Raises:
            InputError: A slice that cannot be decoded, is cut off, or changed since it was opened.
        """
        out = np.empty(box.shape, np.dtype(self.dtype))
        _, rows, columns = box.slices()
        for i, z in enumerate(range(box.start[0], box.stop[0])):
            out[i] = self._plane(z)[rows, columns]
        return out

    def _plane(self, z: int) -> Array:
        path, state = Path(self.folder, self.names[z]), self.states[z]
        check_unchanged(str(path), state)
        plane = PLANES.get(
            (str(path), state, self.coded),
            lambda: single_values(
                decode_plane(path, state), self.coded, np.dtype(self.dtype), path
            ),
        )
        if plane.shape != self.plane:
            raise InputError(f"{path}: found a plane of {plane.shape}, expected {self.plane}")
        return plane


def open_slices(path: Path, options: OpenOptions) -> Volume:
    """Open a folder or a glob of slices.

    Args:
        path: A folder (all its PNG or TIFF files) or a glob pattern; folders in it that are there
            as they are written may have brackets in their names.
        options: Of kind ``labels``, RGB slices are read as coded ids.

    Returns:
        The volume, of the slices in natural order of their names.

    Raises:
        SourceNotFoundError: No slice there.
        InputError: Slices of different sizes, dtypes or formats, unreadable or cut off; all at
            once.
    """
    source, kind = options.name, options.kind
    paths = _find(path)
    headers = read_headers(paths)
    folder = os.path.commonpath([str(path.parent) for path in paths])
    names = [os.path.relpath(path, folder) for path in paths]
    faults = [f"{n}: {h}" for n, h in zip(names, headers, strict=True) if isinstance(h, InputError)]
    good = [(n, h) for n, h in zip(names, headers, strict=True) if isinstance(h, PlaneHeader)]
    suffixes = sorted({path.suffix.lower() for path in paths})
    if len(suffixes) > 1:
        faults.append(f"slices of different formats ({', '.join(suffixes)}); give a glob of one")
    faults += _disagreements(good, kind)
    raise_capped(source, faults)
    _warn_of_gaps(source, names)
    first = good[0][1]
    coded = first.samples > 1
    dtype = np.dtype(np.uint32) if coded else first.dtype
    states = tuple(header.state for _, header in good)
    return Volume(
        name=source,
        reader=SlicesReader(folder, tuple(names), states, dtype.name, coded, first.shape),
        shape=(len(paths), *first.shape),
        dtype=dtype,
        kind="labels" if coded else None,
        chunk_shape=(1, *first.shape),
        size_on_disk=sum(size for size, _ in states),
        identity=Identity((SourceFiles(source, os.path.join(os.getcwd(), folder), tuple(names)),)),
    )


def natural_key(name: str) -> list[Any]:
    """A sorting key under which numbers in names count as numbers."""
    parts = _NUMBERS.split(name)  # every second one is a number
    return [int(part) if i % 2 else part.lower() for i, part in enumerate(parts)]


def are_slices(path: Path) -> bool:
    """Whether a path is a folder with at least one slice, or a pattern."""
    if path.is_dir():
        return any(_is_slice(entry) for entry in path.iterdir())
    return not path.exists() and any(letter in str(path) for letter in "*?[")


def _is_slice(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _find(source: Path) -> list[Path]:
    try:
        if source.is_dir():
            paths = [path for path in source.iterdir() if _is_slice(path)]
        else:
            paths = [Path(match) for match in _matches(source)]
    except (OSError, ValueError) as error:
        raise InputError(f"{source}: {why(error)}") from error
    if not paths:
        raise SourceNotFoundError(f"{source}: no slices ({', '.join(SUFFIXES)}) there")
    return sorted(paths, key=lambda path: natural_key(str(path)))


def _matches(pattern: Path) -> list[str]:
    """Files of a pattern; brackets in what is there as it is written are no part of it."""
    parts = pattern.parts
    there = max((i for i in range(len(parts)) if os.path.isdir(Path(*parts[:i]))), default=0)
    folder, rest = glob.escape(str(Path(*parts[:there]))), os.path.join(*parts[there:])
    literal = rest.replace("[", "[[]")
    for tried in (rest, literal) if literal != rest else (rest,):
        found = glob.glob(os.path.join(folder, tried), recursive=True)
        if found:
            return found
    return []


def _disagreements(good: list[tuple[str, PlaneHeader]], kind: Kind | None) -> list[str]:
    """Slices that differ from the first in size, samples or dtype, or have colours."""
    if not good:
        return []
    name, first = good[0]
    faults = []
    if first.samples > 1 and (kind != "labels" or first.samples == 2):
        faults.append(
            f"{name}: found {first.samples} samples a pixel, expected one grey value "
            "(RGB-coded ids need --kind labels)"
        )
    for other, header in good[1:]:
        found = (header.shape, header.samples, header.dtype)
        if found != (first.shape, first.samples, first.dtype):
            faults.append(f"{other}: found {_text(header)}, expected {_text(first)} as in {name}")
    return faults


def _text(header: PlaneHeader) -> str:
    height, width = header.shape
    return f"{height} x {width} pixels of {header.samples} {header.dtype}"


def _warn_of_gaps(source: str, names: list[str]) -> None:
    """Say where the last number in the names leaves out slices that others have."""
    matches = [re.search(r"(\d+)(?=\D*$)", os.path.splitext(name)[0]) for name in names]
    numbers = [int(match[1]) for match in matches if match]
    if len(numbers) != len(names) or len(names) < 3:
        return
    steps = np.diff(numbers)
    usual = int(np.median(steps))
    gaps = [f"{names[i]} to {names[i + 1]}" for i in np.flatnonzero(steps > usual)]
    if gaps and usual > 0:
        more = f" and {len(gaps) - 5} more" if len(gaps) > 5 else ""
        log.warning("%s: slices seem to be missing, from %s%s", source, "; ".join(gaps[:5]), more)


FORMAT = Format(
    "image slices", "a folder or glob of PNG or TIFF slices", open_slices, marker=are_slices
)
