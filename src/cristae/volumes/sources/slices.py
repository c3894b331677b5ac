"""A folder or glob of PNG or TIFF slices, one plane a file, in natural order of their names.

``im2.png`` comes before ``im10.png``. All slices have one size and one dtype. Slices of three or
four samples a pixel are RGB-coded ids (R * 65536 + G * 256 + B) when opened as labels, and refused
otherwise. Fingerprint: names, sizes and times of change of all files.
"""

import glob
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cristae.engine.identity import Files, Identity
from cristae.engine.progress import log
from cristae.errors import InputError, SourceNotFoundError
from cristae.grid import Box
from cristae.volumes.sources.pages import (
    PLANES,
    SUFFIXES,
    PlaneHeader,
    decode_plane,
    files_fingerprint,
    raise_capped,
    read_headers,
    single_values,
)
from cristae.volumes.volume import Array, Kind, Volume

_NUMBERS = re.compile(r"(\d+)")


@dataclass(frozen=True)
class SlicesReader:
    """Reads boxes of a stack of image files.

    Attributes:
        folder: Folder the names count from.
        names: File of every z.
        stamp: Changes when any file does.
        dtype: Name of the dtype of the result.
        coded: Whether RGB is an id.
        plane: Height and width of every slice.
    """

    folder: str
    names: tuple[str, ...]
    stamp: str
    dtype: str
    coded: bool
    plane: tuple[int, int]

    def read(self, box: Box) -> Array:
        """The (z, y, x) array of a box.

        Raises:
            InputError: A slice that cannot be decoded, is cut off, or has another size now.
        """
        out = np.empty(box.shape, np.dtype(self.dtype))
        _, rows, columns = box.slices()
        for i, z in enumerate(range(box.start[0], box.stop[0])):
            out[i] = self._plane(z)[rows, columns]
        return out

    def _plane(self, z: int) -> Array:
        path = Path(self.folder, self.names[z])
        key = (str(path), self.stamp, self.coded)
        plane = PLANES.get(
            key, lambda: single_values(decode_plane(path), self.coded, np.dtype(self.dtype), path)
        )
        if plane.shape != self.plane:
            raise InputError(f"{path}: found a plane of {plane.shape}, expected {self.plane}")
        return plane


def open_slices(source: str | Path, kind: Kind | None = None) -> Volume:
    """Open a folder or a glob of slices.

    Args:
        source: A folder (all its PNG or TIFF files) or a glob pattern.
        kind: ``labels`` reads RGB slices as coded ids.

    Returns:
        The volume, of the slices in natural order of their names.

    Raises:
        SourceNotFoundError: No slice there.
        InputError: Slices of different sizes, dtypes or formats, unreadable or cut off; all at
            once.
    """
    paths = _find(str(source))
    headers = read_headers(paths)
    names = [path.name for path in paths]
    faults = [f"{n}: {h}" for n, h in zip(names, headers, strict=True) if isinstance(h, InputError)]
    good = [(n, h) for n, h in zip(names, headers, strict=True) if isinstance(h, PlaneHeader)]
    suffixes = sorted({path.suffix.lower() for path in paths})
    if len(suffixes) > 1:
        faults.append(f"slices of different formats ({', '.join(suffixes)}); give a glob of one")
    faults += _disagreements(good, kind)
    raise_capped(str(source), faults)
    _warn_of_gaps(str(source), names)
    first = good[0][1]
    coded = first.samples > 1
    folder = os.path.commonpath([str(path.parent) for path in paths])
    below = tuple(os.path.relpath(path, folder) for path in paths)
    fingerprint = files_fingerprint((n, h.size, h.modified_ns) for n, h in good)
    dtype = np.dtype(np.uint32) if coded else first.dtype
    return Volume(
        name=str(source),
        reader=SlicesReader(
            folder,
            below,
            fingerprint,
            dtype.name,
            coded,
            first.shape,
        ),
        shape=(len(paths), *first.shape),
        dtype=dtype,
        kind="labels" if coded else None,
        chunk_shape=(1, *first.shape),
        size_on_disk=sum(header.size for _, header in good),
        identity=Identity((Files(str(source), folder, below),)),
    )


def natural_key(name: str) -> list[Any]:
    """A sorting key under which numbers in names count as numbers."""
    return [int(part) if part.isdigit() else part.lower() for part in _NUMBERS.split(name)]


def has_slices(folder: Path) -> bool:
    """Whether a folder holds at least one file with a slice's suffix."""
    return any(entry.suffix.lower() in SUFFIXES for entry in folder.iterdir())


def _find(source: str) -> list[Path]:
    if os.path.isdir(source):
        entries = Path(source).iterdir()
        paths = [e for e in entries if e.suffix.lower() in SUFFIXES and e.name[0] != "."]
    else:
        paths = [Path(match) for match in glob.glob(_pattern(source), recursive=True)]
    if not paths:
        raise SourceNotFoundError(f"{source}: no slices ({', '.join(SUFFIXES)}) there")
    return sorted(paths, key=lambda path: natural_key(str(path)))


def _pattern(source: str) -> str:
    """The glob, in which a folder that has this very name stands for itself."""
    path = Path(source)
    there = next(folder for folder in path.parents if folder.exists())
    return os.path.join(glob.escape(str(there)), str(path.relative_to(there)))


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
