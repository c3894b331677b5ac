"""Label volumes as runs: from voxels, or from the run table that a segmentation holds.

Runs are what overlap tables, connected components and threshold searches start from where they
are at hand: a tenth of the voxels' bytes, and no voxel is looked at twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cristae.engine.executors import Resources, run_tasks
from cristae.engine.kernels import njit
from cristae.engine.memory import Promise
from cristae.engine.progress import log
from cristae.engine.records import is_unfinished
from cristae.grid import Box, tile
from cristae.labels.blocks import TABLE_BYTES, blocks_of, read_block
from cristae.labels.overlap_kernels import FACTS, row_ends
from cristae.labels.overlap_table import LabelRuns, Labels, OverlapTable, as_labels, check_signs
from cristae.labels.run_table import runs_of_planes
from cristae.labels.runs import (
    Ints,
    Lengths,
    Raster,
    Runs,
    grown,
    label_runs,
    merge_ends,
    no_runs,
    paint_into,
)
from cristae.volumes.formats.ome_zarr import ZarrReader
from cristae.volumes.formats.ome_zarr_levels import is_current
from cristae.volumes.volume import Array, Volume

RELABEL_BYTES, READ_RUN_BYTES = 120, 110
"""Memory of labelling components and of reading them, for each run (measured)."""

SLAB_RUNS, SLAB_RUN_BYTES = 1 << 20, 160
"""Runs of a slab that are counted at a time, and the memory of each while they are (measured)."""


class LabelledRuns(NamedTuple):
    """Runs of a volume in raster order, and the label of each (uint64, none 0)."""

    runs: Runs
    label: Labels

    def rows(self, raster: Raster) -> LabelRuns:
        """The same runs by row, as `overlaps_of_runs` takes them."""
        z, y, x = raster.locate(self.runs.start)
        start = x.astype(np.int32)
        return LabelRuns(z * raster.shape[1] + y, start, start + self.runs.length, self.label)


@dataclass(frozen=True, eq=False)
class RunsReader:
    """Reads boxes of labels that are held as runs.

    Attributes:
        found: The labels.
        raster: Numbering of the volume.
    """

    found: LabelledRuns
    raster: Raster

    def read(self, box: Box) -> Array:
        """The (z, y, x) uint64 labels of a box."""
        start, plane = self.found.runs.start, self.raster.plane
        low, high = np.searchsorted(start, [box.start[0] * plane, box.stop[0] * plane])
        here = slice(int(low), int(high))
        array = np.zeros(box.shape, np.uint64)
        paint_into(array, self.found.runs.take(here), self.found.label[here], box, self.raster)
        return array


def runs_volume(found: LabelledRuns, like: Volume, name: str) -> Volume:
    """Labels held as runs as a volume, in the place of another of the same shape."""
    return Volume(
        name=name,
        reader=RunsReader(found, Raster(like.shape)),
        shape=like.shape,
        dtype=np.dtype(np.uint64),
        chunk_shape=like.chunk_shape,
        identity=like.identity,
        voxel_size_nm=like.voxel_size_nm,
        origin_nm=like.origin_nm,
        kind="labels",
    )


@dataclass(frozen=True, eq=False)
class TableReader:
    """Reads boxes of a segmentation by its run table: a tenth of the bytes, nothing decoded.

    Attributes:
        folder: The segmentation, whose table is complete.
        labels: Its level 0.
    """

    folder: Path
    labels: Volume

    def read(self, box: Box) -> Array:
        """The (z, y, x) labels of a box."""
        rows = table_rows(self.folder, self.labels, (box.start[0], box.stop[0]))
        array = np.zeros(box.shape, self.labels.dtype)
        corner = np.array(box.start, np.int64)
        _paint_rows(
            rows.row, rows.start, rows.stop, rows.label, array, corner, self.labels.shape[1]
        )
        return array


@njit(nogil=True, cache=True)
def _paint_rows(row, start, stop, label, array, corner, rows):  # type: ignore[no-untyped-def]
    for i in range(row.size):
        z = row[i] // rows
        y = row[i] - z * rows - corner[1]
        if 0 <= y < array.shape[1]:
            line = array[z - corner[0], y]
            low, high = max(start[i] - corner[2], 0), min(stop[i] - corner[2], array.shape[2])
            for x in range(low, high):
                line[x] = label[i]


def volume_runs(
    volume: Volume, resources: Resources, promise: Promise | None = None
) -> LabelledRuns:
    """All runs of a label volume: from its run table, else from its voxels.

    Args:
        volume: Labels (z, y, x).
        resources: Workers and executor, for reading voxels.
        promise: Told of the memory as runs are found.

    Raises:
        InputError: Labels that are negative or fractional.
    """
    raster, promise = Raster(volume.shape), promise or Promise(resources)
    folder = run_table_of(volume)
    if folder is not None:
        rows = table_rows(folder, volume, (0, volume.shape[0]))
        promise(f"runs of {volume.name}", READ_RUN_BYTES * len(rows.row))
        z, y = np.divmod(rows.row, volume.shape[1])
        start = z * raster.plane + y * raster.row + rows.start
        return LabelledRuns(Runs(start, rows.stop - rows.start), rows.label)
    scan, parts, count = partial(block_runs, volume), [], 0
    for _, part in run_tasks(scan, blocks_of([volume]), resources):
        parts.append(part)
        count += len(part[1])
        promise(f"runs of {volume.name}", READ_RUN_BYTES * count)
    if not parts:
        return LabelledRuns(no_runs(), np.zeros(0, np.uint64))
    start, length, label = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(start, kind="stable")
    return LabelledRuns(*merge_ends(Runs(start[order], length[order]), label[order]))


def block_runs(
    volume: Volume, block: Box, mask: Volume | None = None
) -> tuple[Ints, Lengths, Labels]:
    """Places, lengths and labels of the runs of one block.

    Args:
        volume: Labels (z, y, x).
        block: A box of it.
        mask: Of the same shape; voxels where it is 0 are left out.

    Raises:
        InputError: Labels that are negative or fractional.
    """
    array = read_block(volume, block)
    labels = as_labels(array, volume.name, block)
    if mask is not None:
        labels = labels * (read_block(mask, block) != 0)
    raster = Raster(volume.shape)
    start, length, label = _scan_labels(
        labels.reshape(-1), labels.shape, raster.voxel_index(*block.start), raster.plane, raster.row
    )
    signed = OverlapTable(label[:, None], np.zeros((0, FACTS), np.int64), block.size)
    check_signs(signed, 0, array.dtype, volume.name, block)
    return start, length, label


def run_table_of(volume: Volume) -> Path | None:
    """The segmentation whose run table describes a volume; None where there is no such table.

    There is none, either, where the labels were edited since; then a line says so.
    """
    if not isinstance(volume.reader, ZarrReader):
        return None
    array = Path(volume.reader.path)
    whole = array.name == "0" and (array.parent / "runs" / "zarr.json").is_file()
    if not whole or is_unfinished(array.parent):
        return None
    if not is_current(array.parent):
        log.info("%s: edited after it was finished, so its voxels are read anew", volume.name)
        return None
    return array.parent


def table_rows(folder: Path, volume: Volume, planes: tuple[int, int]) -> LabelRuns:
    """Runs of some planes of a volume, from the run table of its segmentation.

    Args:
        folder: From `run_table_of`.
        volume: The segmentation, or a part of it.
        planes: First and last z of the volume, exclusive.

    Returns:
        The runs, clipped to the volume and counted from its voxel 0.
    """
    (cz, cy, cx), (_, ny, nx) = volume.corner, volume.shape
    table = runs_of_planes(folder, (planes[0] + cz, planes[1] + cz))
    y, start, stop = table["y"] - cy, table["x0"] - cx, table["x1"] - cx
    row = (table["z"].astype(np.int64) - cz) * ny + y
    label = table["id"].astype(np.uint64)
    start, stop = np.maximum(start, 0), np.minimum(stop, nx)
    inside = (y >= 0) & (y < ny) & (start < stop)
    if inside.all():
        return LabelRuns(row, start, stop, label)
    return LabelRuns(row[inside], start[inside], stop[inside], label[inside])


def slabs_of_runs(folders: Sequence[Path], volumes: Sequence[Volume]) -> list[Box]:
    """Planes of volumes of one shape with about `SLAB_RUNS` runs, judged by a few planes.

    Args:
        folders: From `run_table_of`.
        volumes: The segmentations, or parts of them.
    """
    shape = volumes[0].shape
    sampled = {0, shape[0] // 4, shape[0] // 2, 3 * shape[0] // 4, shape[0] - 1}
    most = max(
        len(table_rows(folder, volume, (z, z + 1)).row)
        for folder, volume in zip(folders, volumes, strict=True)
        for z in sampled
    )
    return tile(Box.of(shape), (max(1, SLAB_RUNS // max(most, 1)), *shape[1:]))


def slab_bytes(slabs: Sequence[Box], tables: int, resources: Resources) -> int:
    """Memory of counting overlaps in slabs of so many run tables."""
    parallel = min(resources.workers, len(slabs))
    return parallel * tables * SLAB_RUNS * SLAB_RUN_BYTES + TABLE_BYTES


def connected_labels(found: LabelledRuns, raster: Raster) -> LabelledRuns:
    """Every connected part of every label as an instance of its own.

    Args:
        found: Runs of the labels.
        raster: Numbering of the volume.

    Returns:
        The same runs, labelled 1..n by 26-connected component in order of the first voxel;
        touching instances of different labels stay apart.
    """
    if len(found.label) == 0:
        return found
    # each label in a volume of its own, one behind the other, so that only its own runs touch
    names, number = np.unique(found.label, return_inverse=True)
    shift = number.astype(np.int64) * (raster.shape[0] + 1) * raster.plane
    order = np.lexsort((found.runs.start, number))
    apart = Runs((found.runs.start + shift)[order], found.runs.length[order])
    far = Raster((len(names) * (raster.shape[0] + 1), *raster.shape[1:]))
    component = np.empty(len(order), np.int64)
    component[order], count = label_runs(apart, far, 26)
    return LabelledRuns(found.runs, renumber(component, count).astype(np.uint64))


def relabelled(volume: Volume, resources: Resources) -> Volume:
    """A label volume whose every 26-connected part of an id is an instance, see above.

    Raises:
        InputError: Labels that are negative or fractional.
        MemoryLimitError: Its runs do not fit.
    """
    promise = Promise(resources)
    found = volume_runs(volume, resources, promise)
    promise("evaluate, relabel", RELABEL_BYTES * len(found.label))
    return runs_volume(connected_labels(found, Raster(volume.shape)), volume, volume.name)


def renumber(component: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Numbers 0..count-1 of runs in raster order as 1..n in the order in which they first occur."""
    first = np.full(count, len(component), np.int64)
    np.minimum.at(first, component, np.arange(len(component)))
    rank = np.empty(count, np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(1, count + 1)
    return rank[component]


@njit(nogil=True, cache=True)
def _scan_labels(labels, shape, corner, plane, row):  # type: ignore[no-untyped-def]
    ny, nx = shape[1], shape[2]
    start = np.empty(1024 + nx, np.int64)
    length = np.empty(1024 + nx, np.int32)
    name = np.empty(1024 + nx, np.uint64)
    ends = np.empty(nx, np.uint64)
    n = 0
    for z in range(shape[0]):
        for y in range(ny):
            if n + nx > start.size:
                start, length, name = grown(start, 0), grown(length, 0), grown(name, 0)
            begin = np.uint64((z * ny + y) * nx)
            at = begin
            for i in range(row_ends(labels, labels, begin, begin + np.uint64(nx), ends)):
                if labels[at] != 0:
                    start[n] = corner + z * plane + y * row + np.int64(at - begin)
                    length[n] = ends[i] - at
                    name[n] = labels[at]
                    n += 1
                at = ends[i]
    return start[:n].copy(), length[:n].copy(), name[:n].copy()
