"""A folder of prediction chunks as PyTorch Connectomics writes them, read as one volume.

Files are named ``NAME_z0-z1-y0-y1-x0-x1[_SUFFIX].h5`` by the voxels they hold (half-open, of the
whole volume, which begins at voxel 0), each with one (c, z, y, x) dataset. Together they must fill
a box without gap or overlap. The far end is not written anywhere: a whole last layer of chunks that
is missing cannot be noticed. A file that changes after it was opened is refused.
"""

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from cristae.engine.identity import Identity, SourceFiles
from cristae.errors import InputError
from cristae.grid import Box
from cristae.volumes.formats.axes import OpenOptions
from cristae.volumes.formats.format import Format
from cristae.volumes.formats.hdf5 import Dataset, find_dataset, open_file
from cristae.volumes.formats.pages import (
    State,
    check_unchanged,
    plain_dtype,
    raise_capped,
    state_of,
)
from cristae.volumes.volume import Array, Volume

PATTERN = re.compile(r"^(?P<name>.*?)_?(?P<bounds>\d+(?:-\d+){5})(?P<suffix>_\w+)?\.(?:h5|hdf5)$")
_NEARLY = re.compile(r"\d+-\d+-\d+.*\.(?:h5|hdf5)$")
_MOST_CELLS = 1 << 24
_MOST_OVERLAPS = 1000


@dataclass(frozen=True, order=True)
class Chunk:
    """One file: the voxels it holds, and the dataset they are in."""

    box: Box
    file: str
    dataset: str
    state: State


@dataclass(frozen=True)
class PredictionChunksReader:
    """Reads boxes across chunk files.

    Attributes:
        folder: The folder.
        chunks: All chunks, in raster order.
        channels: Number of channels.
        dtype: Name of the dtype.
    """

    folder: str
    chunks: tuple[Chunk, ...]
    channels: int
    dtype: str

    def read(self, box: Box) -> Array:
        """The (c, z, y, x) array of a box.

        Raises:
            InputError: Data that cannot be read, with the file.
        """
        out = np.empty((self.channels, *box.shape), np.dtype(self.dtype))
        for chunk in self.chunks:
            part = chunk.box.clip(box)
            if part.empty:
                continue
            path = os.path.join(self.folder, chunk.file)
            check_unchanged(path, chunk.state)
            try:
                dataset = open_file(path, chunk.state[1], os.getpid())[chunk.dataset]
                values = dataset[(..., *part.relative_to(chunk.box.start).slices())]
            except (OSError, KeyError, RuntimeError) as error:
                raise InputError(f"{path}, box {part}: {error}") from error
            check_unchanged(path, chunk.state)
            out[(..., *part.relative_to(box.start).slices())] = values
        return out


def is_chunk_folder(folder: Path) -> bool:
    """Whether a folder holds at least one file named like a prediction chunk."""
    return folder.is_dir() and any(_is_chunk(entry) for entry in folder.iterdir())


def _is_chunk(path: Path) -> bool:
    return PATTERN.match(path.name) is not None and not path.name.startswith(".")


def open_prediction_chunks(folder: Path, options: OpenOptions) -> Volume:
    """Open a folder of prediction chunks.

    Args:
        folder: The folder.
        options: Its dataset is that of each file; none where each has exactly one of 4 dimensions.

    Returns:
        A prediction (c, z, y, x) of all chunks.

    Raises:
        InputError: Chunks of several runs, unreadable, of other shapes than their names say, of
            different dtypes or channels, overlapping or missing; all at once.
    """
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    files = [entry for entry in entries if _is_chunk(entry)]
    if not files:
        raise InputError(f"{folder}: no prediction chunks (NAME_z0-z1-y0-y1-x0-x1.h5)")
    faults = [
        f"{entry.name}: expected a name that ends in z0-z1-y0-y1-x0-x1"
        for entry in entries
        if entry not in files and _NEARLY.search(entry.name)
    ]
    faults += _mixed(files)
    found: list[tuple[Chunk, Dataset]] = []
    for file in files:
        try:
            found.append(_inspect(file, options.dataset))
        except InputError as error:
            faults.append(f"{file.name}: {error}")
    faults += _disagreements(found)
    boxes = {_box(file): file.name for file in files}
    faults += [] if faults else _overlaps(boxes) or _gaps(list(boxes))
    raise_capped(str(folder), faults)
    chunks = tuple(sorted(chunk for chunk, _ in found))
    channels, dtype = found[0][1].shape[0], plain_dtype(found[0][1].dtype)
    whole = _union(list(boxes))
    sizes = [file.stat().st_size for file in files]
    return Volume(
        name=options.name,
        reader=PredictionChunksReader(str(folder), chunks, channels, dtype.name),
        shape=whole.stop,
        dtype=dtype,
        channels=tuple(f"channel_{i}" for i in range(channels)),
        kind="prediction",
        chunk_shape=chunks[0].box.shape,
        size_on_disk=sum(sizes),
        identity=Identity((SourceFiles(str(folder), str(folder), tuple(f.name for f in files)),)),
    )


def _box(file: Path) -> Box:
    match = PATTERN.match(file.name)
    bounds = match["bounds"].split("-") if match else []
    z0, z1, y0, y1, x0, x1 = (int(part) for part in bounds)
    return Box((z0, y0, x0), (z1, y1, x1))


def _mixed(files: list[Path]) -> list[str]:
    """Chunks of more than one run in the same folder."""
    matches = [PATTERN.match(file.name) for file in files]
    runs = sorted({(m["name"], m["suffix"] or "") for m in matches if m})
    if len(runs) == 1:
        return []
    names = ", ".join(f"{name}_...{suffix}.h5" for name, suffix in runs)
    return [f"chunks of {len(runs)} runs ({names}), expected those of one"]


def _inspect(file: Path, dataset: str | None) -> tuple[Chunk, Dataset]:
    box, state = _box(file), state_of(str(file))
    if box.empty:
        raise InputError(f"the name says box {box}, expected one with voxels")
    try:
        with h5py.File(file, "r", locking="best-effort") as opened:
            found = find_dataset(opened, dataset, file.name)
    except OSError as error:
        raise InputError(f"cannot be read as HDF5: {error}") from error
    if len(found.shape) != 4 or found.shape[1:] != box.shape:
        expected = ", ".join(str(n) for n in box.shape)
        raise InputError(f"found shape {found.shape}, expected (c, {expected}) by its name")
    if found.dtype.kind not in "uifb":
        raise InputError(f"found dtype {found.dtype}, expected real numbers")
    return Chunk(box, file.name, found.name, state), found


def _disagreements(found: list[tuple[Chunk, Dataset]]) -> list[str]:
    """Chunks that differ from most in channels or dtype."""
    kinds = Counter((dataset.shape[0], dataset.dtype) for _, dataset in found)
    usual = kinds.most_common(1)[0][0] if kinds else None
    return [
        f"{chunk.file}: found {dataset.shape[0]} channels of {dataset.dtype}, "
        f"expected {usual[0]} of {usual[1]} as in most"
        for chunk, dataset in found
        if usual is not None and (dataset.shape[0], dataset.dtype) != usual
    ]


def _overlaps(boxes: dict[Box, str]) -> list[str]:
    ordered = sorted(boxes)
    starts = np.array([box.start for box in ordered])
    stops = np.array([box.stop for box in ordered])
    faults = []
    for i, box in enumerate(ordered):
        meet = (starts[i + 1 :] < stops[i]) & (stops[i + 1 :] > starts[i])
        for j in np.flatnonzero(meet.all(axis=1)) + i + 1:
            faults.append(f"{boxes[box]} and {boxes[ordered[j]]} overlap in {box.clip(ordered[j])}")
        if len(faults) > _MOST_OVERLAPS:
            break
    return faults


def _union(boxes: list[Box]) -> Box:
    stops = np.array([box.stop for box in boxes]).max(axis=0)
    return Box.of((int(stops[0]), int(stops[1]), int(stops[2])))


def _gaps(boxes: list[Box]) -> list[str]:
    """Boxes of the whole that no chunk holds; the chunks must not overlap."""
    whole = _union(boxes)
    missing = whole.size - sum(box.size for box in boxes)
    if not missing:
        return []
    edges = [
        np.unique([0, *(b.start[axis] for b in boxes), *(b.stop[axis] for b in boxes)])
        for axis in range(3)
    ]
    if np.prod([len(edge) for edge in edges]) > _MOST_CELLS:
        return [f"{missing} voxels of {whole} are in no chunk"]
    held = np.zeros([len(edge) - 1 for edge in edges], bool)
    for box in boxes:
        cells = [
            slice(*np.searchsorted(edge, (a, b)))
            for edge, a, b in zip(edges, box.start, box.stop, strict=True)
        ]
        held[tuple(cells)] = True
    faults = []
    for cell in np.argwhere(~held):
        start = tuple(int(edge[i]) for edge, i in zip(edges, cell, strict=True))
        stop = tuple(int(edge[i + 1]) for edge, i in zip(edges, cell, strict=True))
        faults.append(
            f"no chunk holds {Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))}"
        )
    return faults


FORMAT = Format(
    "folder of prediction chunks",
    "a folder of prediction chunks NAME_z0-z1-y0-y1-x0-x1.h5",
    open_prediction_chunks,
    marker=is_chunk_folder,
    reads=("dataset",),
)
