"""Writing: the shards of the labels, and the runs of the table, from what every block became."""

import threading

import numpy as np
from numba import njit

from cristae.grid import Box, Triple
from cristae.segmentation.runs import Ints, Runs, paint_into
from cristae.segmentation.scratch import Job, load_arrays, save_arrays
from cristae.segmentation.steps import instance_runs
from cristae.volumes.volume import Array, Volume

SHORT = 64
"""Runs of a row that are sorted by insertion: nearly all are in order."""


def final_runs(job: Job, index: int) -> tuple[Runs, Ints]:
    """Runs of a block after everything, in any order, and the final number of each."""
    (number,) = load_arrays(job.path("number"), "number")
    runs, instance = instance_runs(job, index)
    name = number[instance]
    there = name > 0
    return (runs, name) if there.all() else (runs.take(there), name[there])


def write_step(job: Job, labels: Volume, box: Box) -> int:
    """Write one shard of the labels; a shard without instances is left out. Gives its runs."""
    parts = [final_runs(job, index) for index, _ in job.blocks_in(box)]
    count = sum(name.size for _, name in parts)
    if count:
        canvas = _take_canvas(labels)
        array = canvas[: box.size].reshape(box.shape)
        for runs, name in parts:
            paint_into(array, runs, name, box, job.raster)
        labels.write(box, array)
        for runs, name in parts:
            paint_into(array, runs, np.zeros_like(name), box, job.raster)
        _CANVASES.canvas = canvas
    return count


_CANVASES = threading.local()
"""Zeros for a shard, for each thread: clean pages cost more than painting a few voxels."""


def _take_canvas(labels: Volume) -> Array:
    canvas: Array | None = _CANVASES.__dict__.pop("canvas", None)
    size = Box.of(labels.shard_shape or labels.chunk_shape).size
    if canvas is None or canvas.size < size or canvas.dtype != labels.dtype:
        return np.zeros(size, labels.dtype)
    return canvas


def drop_canvas() -> None:
    """Give back what `write_step` keeps for this thread."""
    _CANVASES.__dict__.clear()


def slab_step(job: Job, layer: int, slab: Box) -> None:
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
    place, name = _columns(start, length, name, order, raster.plane, raster.row)
    count = np.bincount(place[0] - slab.start[0], minlength=slab.shape[0])
    columns = dict(zip(("z", "y", "x0", "x1"), place, strict=True))
    save_arrays(job.path(f"runs-{layer}"), {**columns, "id": name, "count": count})


@njit(nogil=True, cache=True)
def sort_by_row(start, row, first_row, rows):  # type: ignore[no-untyped-def]
    """Raster order of runs given in any order, most in their row's, none overlapping another.

    ``first_row`` is the row of the first voxel there may be, counted over all planes of the raster.
    """
    first = np.zeros(rows + 1, np.int64)
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
    if order.size > SHORT:
        order[:] = order[np.argsort(start[order])]
        return
    for i in range(1, order.size):
        mine, k = order[i], i
        while k > 0 and start[order[k - 1]] > start[mine]:
            order[k] = order[k - 1]
            k -= 1
        order[k] = mine


@njit(nogil=True, cache=True)
def _columns(start, length, name, order, plane, row):  # type: ignore[no-untyped-def]
    """z, y, x0, x1 and number of runs in an order; those that meet and have one number are one."""
    place = np.empty((4, order.size), np.int32)
    number = np.empty(order.size, name.dtype)
    n, stop = 0, -1
    for i in order:
        if start[i] == stop and number[n - 1] == name[i]:
            place[3, n - 1] += length[i]
        else:
            z = start[i] // plane
            y = (start[i] - z * plane) // row
            x = start[i] - z * plane - y * row
            place[0, n], place[1, n], place[2, n], place[3, n] = z, y, x, x + length[i]
            number[n] = name[i]
            n += 1
        stop = start[i] + length[i]
    return place[:, :n], number[:n]


def layers(job: Job) -> list[Box]:
    """The layers of blocks along z, each over the whole plane."""
    shape: Triple = job.prediction.shape
    step = job.block_shape[0]
    return [
        Box((z, 0, 0), (min(z + step, shape[0]), shape[1], shape[2]))
        for z in range(0, shape[0], step)
    ]
