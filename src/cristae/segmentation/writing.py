"""Writing: the shards of the labels, and the runs of the table, from what every block became."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cristae.engine.kernels import njit
from cristae.grid import Box, Triple
from cristae.labels.runs import Ints, Raster, Runs, locate
from cristae.segmentation.job import SegmentJob
from cristae.segmentation.steps import instance_runs
from cristae.volumes.formats.ome_zarr import Layout
from cristae.volumes.formats.shards import encode_chunk, write_shard
from cristae.volumes.volume import Array, Volume


def final_runs(job: SegmentJob, index: int) -> tuple[Runs, Ints]:
    """Runs of a block after everything, in any order, and the final number of each."""
    return instance_runs(job, index, job.scratch.load("number", "number")[0])


def write_step(job: SegmentJob, labels: Volume, box: Box) -> int:
    """Write one shard of the labels; a shard without instances is left out. Gives its runs.

    Chunks are painted a band at a time, and encoded one by one: no array of a shard is held, and
    what is empty is never touched::

        band: the chunks of one row along x   | chunk | chunk | chunk | chunk |
    """
    parts = [final_runs(job, index) for index, _ in job.blocks_in(box)]
    runs = Runs(*(_joined([part[0][field] for part in parts]) for field in range(2)))
    name = _joined([name for _, name in parts])
    del parts
    chunk, shard = labels.chunk_shape, labels.shard_shape or labels.chunk_shape
    nz, ny, nx = (a // b for a, b in zip(shard, chunk, strict=True))
    shape = (nx, chunk[0] * chunk[1], chunk[2])
    painted = _in_bands(*runs, name.astype(labels.dtype), job.raster, box, chunk, (nz, ny))
    del runs, name
    canvas, touched = np.zeros(shape, labels.dtype), np.zeros(nx, np.bool_)
    chunks = {}
    for band in np.flatnonzero(np.diff(painted.first)).tolist():
        low, high = painted.first[band : band + 2]
        touched[:] = False
        _paint(*painted[1:], (low, high), False, canvas, touched)
        for k in np.flatnonzero(touched).tolist():
            chunks[(*divmod(band, ny), k)] = encode_chunk(canvas[k])
        _paint(*painted[1:], (low, high), True, canvas, touched)
    write_shard(labels, box, chunks)
    return int(painted.first[-1])


def band_bytes(layout: Layout) -> int:
    """Memory of a band of chunks in uint32, and of a chunk while it is encoded."""
    z, y, x = layout.chunk
    return 4 * z * y * (layout.shard[2] + x)


def _joined(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


class Painted(NamedTuple):
    """Runs in a shard, band by band.

    Attributes:
        first: First run of each band, and the end.
        row: Row of each in its band, all planes counted.
        start: First voxel along x, from the shard's border.
        stop: Last voxel plus one.
        name: What is painted.
    """

    first: Ints
    row: NDArray[np.int32]
    start: NDArray[np.int32]
    stop: NDArray[np.int32]
    name: Array


def _in_bands(
    start: Ints,
    length: NDArray[np.int32],
    name: Array,
    raster: Raster,
    box: Box,
    chunk: Triple,
    bands: tuple[int, int],
) -> Painted:
    """Runs that meet a shard, clipped to it and sorted by band, (z, y)."""
    columns = (np.array(box.start), np.array(box.stop), raster.plane, raster.row)
    return Painted(*_sort_into_bands(start, length, name, columns, chunk, bands))


@njit(nogil=True, cache=True)
def _sort_into_bands(start, length, name, columns, chunk, bands):  # type: ignore[no-untyped-def]
    low, high, plane, row = columns
    nz, ny = bands
    band = np.empty(start.size, np.int32)
    first = np.empty(nz * ny + 1, np.int64)
    first[:] = 0  # compiled more quickly than `np.zeros`
    z = y = 0
    begin = np.int64(-row)  # of the row of the run before, which is often this one's
    for i in range(start.size):
        if start[i] < begin or start[i] >= begin + row:
            z, y, x = locate(start[i], plane, row)
            begin = start[i] - x
        inside = low[0] <= z < high[0] and low[1] <= y < high[1]
        band[i] = -1
        if inside and start[i] - begin < high[2] and start[i] - begin + length[i] > low[2]:
            band[i] = (z - low[0]) // chunk[0] * ny + (y - low[1]) // chunk[1]
            first[band[i] + 1] += 1
    for b in range(nz * ny):
        first[b + 1] += first[b]
    rows = np.empty(first[-1], np.int32)
    starts, stops = np.empty_like(rows), np.empty_like(rows)
    names = np.empty(rows.size, name.dtype)
    free = first.copy()
    begin = np.int64(-row)
    here = np.int64(0)
    for i in range(start.size):
        if band[i] < 0:
            continue
        if start[i] < begin or start[i] >= begin + row:
            z, y, x = locate(start[i], plane, row)
            begin = start[i] - x
            here = (z - low[0]) % chunk[0] * chunk[1] + (y - low[1]) % chunk[1]
        k = free[band[i]]
        free[band[i]] += 1
        x = start[i] - begin - low[2]
        rows[k], names[k] = here, name[i]
        starts[k], stops[k] = max(x, 0), min(x + length[i], high[2] - low[2])
    return first, rows, starts, stops, names


@njit(nogil=True, cache=True)
def _paint(rows, starts, stops, names, band, erase, canvas, touched):  # type: ignore[no-untyped-def]
    """Paint the runs of a band into its chunks, (x, row, x), or erase them; marks the chunks."""
    width = canvas.shape[2]
    for i in range(band[0], band[1]):
        name = names[i]
        if erase:
            name = canvas.dtype.type(0)
        for k in range(starts[i] // width, (stops[i] - 1) // width + 1):
            touched[k] = True
            line = canvas[k, rows[i]]
            for x in range(max(starts[i] - k * width, 0), min(stops[i] - k * width, width)):
                line[x] = name


def slab_step(job: SegmentJob, layer: int, slab: Box) -> None:
    """Gather the final runs of one layer of blocks, in raster order and whole along x.

    Leaves the columns ``z``, ``y``, ``x0``, ``x1`` and ``id``, and ``count``, the runs of a plane.
    """
    parts = [final_runs(job, index) for index, _ in job.blocks_in(slab)]
    start = np.concatenate([runs.start for runs, _ in parts])
    length = np.concatenate([runs.length for runs, _ in parts])
    name = np.concatenate([name for _, name in parts])
    del parts
    raster = job.raster
    first_row = slab.start[0] * (raster.plane // raster.row)
    rows = slab.shape[0] * (raster.plane // raster.row)
    order = sort_by_row(start, raster.row, first_row, rows)
    columns, name = _columns(start, length, name, order, raster.plane, raster.row)
    count = np.bincount(columns[0] - slab.start[0], minlength=slab.shape[0])
    columns = dict(zip(("z", "y", "x0", "x1"), columns, strict=True))
    job.scratch.save(f"runs-{layer}", {**columns, "id": name, "count": count})


@njit(nogil=True, cache=True)
def sort_by_row(start, row, first_row, rows):  # type: ignore[no-untyped-def]
    """Raster order of runs given in any order, most in their row's, none overlapping another.

    ``first_row`` is the row of the first voxel there may be, counted over all planes of the raster.
    """
    first = np.empty(rows + 1, np.int64)
    first[:] = 0
    for i in range(start.size):
        first[start[i] // row - first_row + 1] += 1
    for r in range(rows):
        first[r + 1] += first[r]
    order = np.empty(start.size, np.int64)
    for i in range(start.size):
        r = start[i] // row - first_row
        order[first[r]] = i
        first[r] += 1  # ends as the end of its row
    low = 0
    for r in range(rows):
        _sort_row(order[low : first[r]], start)
        low = first[r]
    return order


@njit(nogil=True, cache=True)
def _sort_row(order, start):  # type: ignore[no-untyped-def]
    """Shell's sort: most rows are short, and compiling a library's takes seconds."""
    gap = 1
    while 9 * gap < order.size:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(gap, order.size):
            mine, k = order[i], i
            while k >= gap and start[order[k - gap]] > start[mine]:
                order[k] = order[k - gap]
                k -= gap
            order[k] = mine
        gap //= 3


@njit(nogil=True, cache=True)
def _columns(start, length, name, order, plane, row):  # type: ignore[no-untyped-def]
    """z, y, x0, x1 and number of runs in an order; those that meet and have one number are one."""
    columns = np.empty((4, order.size), np.int32)
    number = np.empty(order.size, name.dtype)
    n, stop = 0, -1
    for i in order:
        if start[i] == stop and number[n - 1] == name[i]:
            columns[3, n - 1] += length[i]
        else:
            z, y, x = locate(start[i], plane, row)
            columns[0, n], columns[1, n], columns[2, n], columns[3, n] = z, y, x, x + length[i]
            number[n] = name[i]
            n += 1
        stop = start[i] + length[i]
    return columns[:, :n], number[:n]


def layers(job: SegmentJob) -> list[Box]:
    """The layers of blocks along z, each over the whole plane."""
    shape: Triple = job.prediction.shape
    step = job.block_shape[0]
    return [
        Box((z, 0, 0), (min(z + step, shape[0]), shape[1], shape[2]))
        for z in range(0, shape[0], step)
    ]
